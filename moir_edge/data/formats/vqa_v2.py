"""VQA-v2: a questions file, an annotations file with ten answers per question, and COCO images named by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.data.formats.files import (
    find_image,
    listed,
    read_json,
    record_place,
    typed,
    worded,
    words,
)
from moir_edge.data.formats.source import DatasetFormat, PlacedRow, attempt, register
from moir_edge.data.rows import Row
from moir_edge.errors import DataError

if TYPE_CHECKING:
    from moir_edge.data.formats.source import DataSource

__all__ = ["VqaV2"]

Answers = dict[int, tuple[str, ...]]


@register
class VqaV2(DatasetFormat):
    """`v2_OpenEnded_mscoco_val2014_questions.json` with `v2_mscoco_val2014_annotations.json` and `val2014/`.

    An image is `COCO_{split}_{image_id:012d}.jpg` in the folder or in its sub-folder `{split}`; test-dev2015 uses the
    images of test2015. The test splits have no annotations and give rows without answers. Of the ten answers, the
    official most frequent one stands first, so that `Row.target` breaks ties as the data set does.

    Source: https://visualqa.org/download.html.
    """

    name = "vqa-v2"
    takes_annotations = True

    def scan(self, source: DataSource) -> Iterator[PlacedRow]:
        """Give one row per question."""
        content = _content(source.path, "questions", "annotations", source)
        split = _split(content, source.path)
        questions = listed(content, "questions", str(source.path))
        answers = None
        if source.annotations is not None:
            answers = _answers(source.annotations, split, source)
            _check_pairing(questions, answers, source)
        elif source.answers and not split.startswith("test"):
            raise DataError(
                f"{source.path} holds questions of {split}, whose answers are in a separate file: "
                f"give {source.field_name('annotations')}"
            )
        for at, record in enumerate(questions):
            where = record_place(source.path, "questions", at, record, "question_id")
            yield attempt(where, partial(_row, record, where, split, answers, source))


def _row(
    record: Mapping[str, Any],
    where: str,
    split: str,
    answers: Answers | None,
    source: DataSource,
) -> Row:
    name = typed(record, "question_id", int, where)
    number = typed(record, "image_id", int, where)
    # test-dev2015 is a part of test2015
    folder = split.replace("-dev", "")
    image = f"COCO_{folder}_{number:012d}.jpg"
    return Row(
        id=str(name),
        task="vqa",
        images=(find_image(source, (image, f"{folder}/{image}"), where),),
        prompt=worded(source, words(record, "question", where)),
        answers=() if answers is None else answers[name],
    )


def _content(path: Path, key: str, other: str, source: DataSource) -> dict[str, Any]:
    """Read one of the two files, telling them apart."""
    content = read_json(path)
    if key not in content and other in content:
        raise DataError(
            f"{path} holds the {other}, expected the {key}; "
            f"the questions file is {source.field_name('path')}, the annotations file {source.field_name('annotations')}"
        )
    return content


def _split(content: Mapping[str, Any], path: Path) -> str:
    kind = content.get("data_type", "mscoco")
    if kind != "mscoco":
        raise DataError(f"{path} is about {kind} images; only files on COCO images can be read")
    return typed(content, "data_subtype", str, str(path))


def _question_id(record: Mapping[str, Any], path: Path, key: str, at: int) -> int:
    return typed(record, "question_id", int, f"{path}: {key}[{at}]")


def _answers(path: Path, split: str, source: DataSource) -> Answers:
    """Return the answers by question id."""
    content = _content(path, "annotations", "questions", source)
    own = _split(content, path)
    if own != split:
        raise DataError(f"{path} holds annotations of {own}, but the questions are of {split}")
    answers = {}
    for at, record in enumerate(listed(content, "annotations", str(path))):
        name = _question_id(record, path, "annotations", at)
        where = f"{path}: annotation of question {name}"
        votes = [typed(one, "answer", str, where) for one in listed(record, "answers", where)]
        if not votes:
            raise DataError(f"{where}: there is no answer; VQA-v2 has ten")
        most = record.get("multiple_choice_answer")
        answers[name] = tuple(sorted(votes, key=lambda vote: vote != most))
    return answers


def _check_pairing(questions: list[dict[str, Any]], answers: Answers, source: DataSource) -> None:
    """Refuse questions without annotation and annotations without question."""
    asked = {
        _question_id(record, source.path, "questions", at) for at, record in enumerate(questions)
    }
    for name in answers:
        if name not in asked:
            raise DataError(
                f"{source.annotations}: question {name} is not in {source.path}; give the two files of one split"
            )
    for name in asked:
        if name not in answers:
            raise DataError(
                f"{source.path}: question {name} has no annotation in {source.annotations}; "
                "give the two files of one split"
            )
