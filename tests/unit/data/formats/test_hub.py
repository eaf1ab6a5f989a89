"""Data sets as the hub's library takes them, from folders that the tests write: Parquet, Arrow, and image folders."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moir_edge.data.formats import DataSource, read_dataset
from moir_edge.data.formats.columns import COLUMN_NAMES
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, EnvironmentProblem, UnsupportedError

datasets = pytest.importorskip("datasets", reason="needs the extra hub")

PROMPTS = ("Which digit?", "What colour?", "How many?")


def _picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6 + seed, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _table(**columns: Any) -> Any:
    """A table of three rows whose image columns have the type that the hub shows as images."""
    features = {name: _feature(name, values[0]) for name, values in columns.items()}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _feature(name: str, value: Any) -> Any:
    if isinstance(value, Image.Image):
        return datasets.Image()
    if isinstance(value, list):
        return datasets.List(_feature(name, value[0]))
    if isinstance(value, dict):
        return {key: _feature(key, inner) for key, inner in value.items()}
    if name == "label" and isinstance(value, int):
        return datasets.ClassLabel(names=["cat", "dog"])
    return datasets.Value({str: "string", int: "int64", bool: "bool"}[type(value)])


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write one Parquet file per split into a folder, as a hub repository holds them."""

    def write(*splits: str, **columns: Any) -> Path:
        folder = tmp_path / "table"
        (folder / "data").mkdir(parents=True)
        for split in splits or ("train",):
            table = _table(**(columns or {"image": list(map(_picture, range(3))), "question": list(PROMPTS)}))  # fmt: skip
            table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
        return folder

    return write


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _read(folder: Path, **options: Any) -> list[Row]:
    return read_dataset(folder, format="hub", **options)


def test_parquet_with_pictures_inside(parquet: Callable[..., Path]) -> None:
    folder = parquet(
        image=[_picture(seed) for seed in range(3)],
        question=list(PROMPTS),
        context=["There is a 3.", "", "Two are red."],
        answers=[["3", "three"], ["red"], ["2"]],
        question_id=[7, 8, 9],
    )
    rows = _read(folder)
    assert [(row.id, row.task, row.prompt) for row in rows] == [
        ("7", "vqa", "Which digit?"),
        ("8", "vqa", "What colour?"),
        ("9", "vqa", "How many?"),
    ]
    assert [row.context for row in rows] == ["There is a 3.", None, "Two are red."]
    assert rows[0].answers == ("3", "three")
    for seed, row in enumerate(rows):
        (path,) = row.images
        assert np.array_equal(_pixels(path), np.asarray(_picture(seed)))


def test_the_stored_bytes_are_the_files_bytes(parquet: Callable[..., Path]) -> None:
    """A JPEG is not decoded and encoded again, and one picture of many rows is one file."""
    buffer = io.BytesIO()
    _picture(1).save(buffer, format="JPEG")
    stored = {"bytes": buffer.getvalue(), "path": "one.jpg"}
    table = datasets.Dataset.from_dict({"image": [stored] * 2, "question": ["a", "b"]})
    folder = parquet()
    table = table.cast_column("image", datasets.Image())
    table.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    first, second = _read(folder)
    assert first.images == second.images
    assert first.images[0].suffix == ".jpg"
    assert first.images[0].read_bytes() == buffer.getvalue()


def test_lists_of_pictures_and_pairs_of_columns(parquet: Callable[..., Path]) -> None:
    pictures = [_picture(seed) for seed in range(4)]
    columns = {
        "left": pictures[:3],
        "right": pictures[1:],
        "images": [pictures[:2], pictures[1:3], pictures[2:]],
        "sentence": ["Both are red."] * 3,
        "label": ["True", "False", "True"],
    }
    folder = parquet(**columns)
    listed = _read(folder, task="statement")
    assert [len(row.images) for row in listed] == [2, 2, 2]
    assert [row.answers for row in listed] == [("true",), ("false",), ("true",)]
    paired = _read(folder, task="statement", columns={"images": "right,left"})
    shown = [np.asarray(_picture(seed)) for seed in (1, 0)]
    assert all(
        np.array_equal(_pixels(path), pixels)
        for path, pixels in zip(paired[0].images, shown, strict=True)
    )


def test_votes_classes_and_captions(parquet: Callable[..., Path]) -> None:
    votes = [[{"answer": word, "answer_id": at} for at in range(10)] for word in ("3", "red", "2")]
    folder = parquet(
        image=[_picture(seed) for seed in range(3)],
        question=list(PROMPTS),
        answers=votes,
        label=[0, 1, 1],
        caption=["a cat", "a dog", "a dog"],
    )
    assert _read(folder)[1].answers == ("red",) * 10
    named = _read(folder, columns={"answers": "label"})
    assert [row.answers for row in named] == [("cat",), ("dog",), ("dog",)]
    captions = _read(folder, task="caption", columns={"answers": "caption"})
    assert captions[0].prompt == "Describe the image in one sentence."
    asked = _read(folder, task="caption", columns={"answers": "caption"}, prompt="What is it?")
    assert {row.prompt for row in asked} == {"What is it?"}
    worded = _read(folder, prompt="{text} One word.")
    assert worded[0].prompt == "Which digit? One word."


@pytest.mark.parametrize("name", [n for n in COLUMN_NAMES["prompt"] if n != "prompt"])
def test_known_names_need_no_mapping(parquet: Callable[..., Path], name: str) -> None:
    folder = parquet(picture=[_picture(1)] * 3, **{name: list(PROMPTS)})
    assert [row.prompt for row in _read(folder)] == list(PROMPTS)


def test_a_column_of_pictures_by_any_name_is_found_by_its_type(
    parquet: Callable[..., Path],
) -> None:
    folder = parquet(photograph=[_picture(1)] * 3, question=list(PROMPTS))
    assert len(_read(folder)[0].images) == 1


def test_splits(parquet: Callable[..., Path]) -> None:
    folder = parquet("train", "validation")
    with pytest.raises(
        DataError, match=r"several splits: give `data\.split` with one of train, val"
    ):
        _read(folder)
    with pytest.raises(
        DataError, match=r"no split 'dev': give `data\.split` with one of train, val"
    ):
        _read(folder, split="dev")
    assert len(_read(folder, split="validation")) == 3
    assert len(_read(folder, split="train", limit=2)) == 2


def test_arrow_saved_to_disk(tmp_path: Path) -> None:
    table = _table(image=[_picture(seed) for seed in range(3)], question=list(PROMPTS))
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "two"))
    assert [row.prompt for row in _read(tmp_path / "one")] == list(PROMPTS)
    assert len(_read(tmp_path / "two", split="test")) == 3


def test_image_folder_keeps_its_files(tmp_path: Path) -> None:
    lines = []
    for seed in range(2):
        _picture(seed).save(tmp_path / f"{seed}.png")
        lines.append(json.dumps({"file_name": f"{seed}.png", "question": PROMPTS[seed]}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    rows = _read(tmp_path)
    assert [row.images[0].resolve() for row in rows] == [
        (tmp_path / f"{seed}.png").resolve() for seed in range(2)
    ]


def test_json_lines_without_types_name_files(tmp_path: Path) -> None:
    _picture(1).save(tmp_path / "a.png")
    (tmp_path / "rows").mkdir()
    lines = [{"picture": "a.png", "query": "What?", "answer": "1"}, {"picture": "b.png", "query": "What?", "answer": "1"}]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = DataSource(path=tmp_path, format="hub").scan()
    assert isinstance(first[1], Row)
    assert first[1].images == (tmp_path / "a.png",)
    assert str(second[1]).endswith("row 1: image " + f"{tmp_path / 'b.png'} does not exist")


def test_pictures_that_a_stream_only_names_are_fetched() -> None:
    import fsspec

    from moir_edge.data.formats.pictures import picture_file

    buffer = io.BytesIO()
    _picture(2).save(buffer, format="PNG")
    fsspec.filesystem("memory").pipe("/pictures/a.png", buffer.getvalue())
    value = {"path": "memory://pictures/a.png", "bytes": None}
    path = picture_file(value, Path("."), "row 0")
    assert np.array_equal(_pixels(path), np.asarray(_picture(2)))
    assert path.read_bytes() == buffer.getvalue()
    with pytest.raises(DataError, match=r"row 1: image memory://pictures/b\.png cannot be read"):
        picture_file({"path": "memory://pictures/b.png", "bytes": None}, Path("."), "row 1")


def test_a_picture_that_a_stream_names_is_fetched_up_to_the_bytes_of_an_image() -> None:
    import fsspec

    from moir_edge.data.formats.pictures import picture_file
    from moir_edge.image_limit import limited_image_pixels

    fsspec.filesystem("memory").pipe("/pictures/large.png", bytes(1_100_000))
    value = {"path": "memory://pictures/large.png", "bytes": None}
    message = r"row 0: image memory://pictures/large\.png has more than 1048976 bytes; leave it out"
    with limited_image_pixels(100), pytest.raises(DataError, match=message):
        picture_file(value, Path("."), "row 0")


def test_the_name_of_a_stored_picture_does_not_become_a_path() -> None:
    from moir_edge.data.formats.pictures import picture_file

    for name in ("a.p\0ng", "a." + "x" * 300, "a.p/../ng", 7, None):
        path = picture_file({"path": name, "bytes": b"pixels"}, Path("."), "row 0")
        assert path.suffix == ""
        assert path.read_bytes() == b"pixels"


def test_bad_rows_name_their_place(parquet: Callable[..., Path]) -> None:
    folder = parquet(image=[_picture(1)] * 3, question=["What?", "", "What?"], number=[1, 2, 3])
    found = list(DataSource(path=folder, format="hub").scan())
    assert [type(row) for _, row in found] == [Row, DataError, Row]
    assert str(found[1][1]).startswith(f"{folder} (train) row 1: 'prompt' is empty")
    number = dict(list(DataSource(path=folder, format="hub", columns={"images": "number"}).scan()))
    assert "got int for an image, expected an image" in str(number[f"{folder} (train) row 0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"prompt": "text"}}, r"no column 'text' for `data.columns` prompt=: .*question"),
        ({"columns": {"question": "x"}}, "`data.columns` question=: "),
        ({"task": "captions"}, "unknown task 'captions'"),
        ({"subset": "none"}, "cannot be loaded as a data set: BuilderConfig 'none' not found"),
        ({"prompt": "no place"}, "does not mark the question"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(
    parquet: Callable[..., Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((DataError, UnsupportedError), match=message) as error:
        _read(parquet(), **options)
    assert "\n" not in str(error.value)


def test_tables_without_what_is_needed(parquet: Callable[..., Path], tmp_path: Path) -> None:
    folder = parquet(image=[_picture(1)] * 3, number=[1, 2, 3])
    with pytest.raises(DataError, match=r"known name for the question \(it has image, number\)"):
        _read(folder)
    (tmp_path / "texts").mkdir()
    datasets.Dataset.from_dict({"question": ["a"]}).to_parquet(str(tmp_path / "texts" / "a.parquet"))  # fmt: skip
    with pytest.raises(DataError, match=r"known name for images \(it has question\)"):
        _read(tmp_path / "texts")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty cannot be loaded as a data set: "):
        _read(tmp_path / "empty")


def test_a_pipe_in_the_folder_is_refused_and_not_waited_for(parquet: Callable[..., Path]) -> None:
    folder = parquet()
    os.mkfifo(folder / "more.parquet")
    with pytest.raises(DataError) as caught:
        _read(folder)
    assert str(caught.value) == (
        f"{folder / 'more.parquet'} is not a regular file; take it out of the data set's folder"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,question\na.png,caf\xe9\n", "cannot be read: "),
        ("image,question\na.png,b\na.png,b,c,d\n", "cannot be read"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "train.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_record_of_the_library_is_one_line(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"image": ["a.png"], "question": ["a"]})
    table.save_to_disk(str(tmp_path / "disk"))
    path = tmp_path / "disk" / "state.json"
    path.write_text(path.read_text().replace("_output_all_columns", "other"))
    with pytest.raises(
        DataError, match="disk cannot be loaded as a data set: '_output_all_columns'"
    ):
        _read(tmp_path / "disk")


def test_what_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="gone does not exist; give a folder, or an id on the hub"):
        _read(tmp_path / "gone")
    (tmp_path / "file.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"file\.parquet is a file; give the folder that holds it"):
        _read(tmp_path / "file.parquet")

    def offline(path: str, *_: Any, **__: Any) -> None:
        assert path == "nobody/nothing"
        raise ConnectionError(f"Couldn't reach '{path}' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(DataError, match="nobody/nothing cannot be loaded as a data set: Couldn't"):
        _read(Path("nobody/nothing"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'moir-edge\[hub\]'"):
        _read(tmp_path)


def test_identity_follows_content_split_and_columns(
    parquet: Callable[..., Path], tmp_path: Path
) -> None:
    folder = parquet("train", "test")
    base = DataSource(path=folder, format="hub", split="train")
    other = DataSource(path=folder, format="hub", split="test")
    assert base.identity() != other.identity()
    assert base.identity()["sha256"] == other.identity()["sha256"]
    before = base.identity()
    moved = folder.rename(tmp_path / "moved")
    assert DataSource(path=moved, format="hub", split="train").identity() == before
    named = DataSource(path=moved, format="hub", split="train", columns={"prompt": "question"})
    assert named.identity()["columns"] == "prompt=question"
    assert json.loads(json.dumps(named.record())) == named.record()


def test_a_hub_data_set_is_told_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Builder:
        hash = "0" * 40

    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_: Builder)
    source = DataSource(path=Path("user/name"), format="hub")
    first = source.identity()["sha256"]
    monkeypatch.setattr(Builder, "hash", "1" * 40)
    assert source.identity()["sha256"] != first


@pytest.mark.parametrize("beside", [None, '{"image": "a.png", "question": "?"}\n'])
def test_code_that_a_data_set_brings_is_not_run(tmp_path: Path, beside: str | None) -> None:
    """From `datasets` 4.0 on nothing can be said to allow it."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    if beside:
        (folder / "data.jsonl").write_text(beside)
    with pytest.raises(
        DataError, match=r"cannot be loaded as a data set: .* scripts are no longer"
    ):
        list(DataSource(path=folder, format="hub").scan())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["image", "picture"])
def test_a_local_data_set_sends_for_no_picture(tmp_path: Path, key: str) -> None:
    line = {key: "https://example.org/a.png", "question": "What?", "answer": "1"}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    ((_, row),) = DataSource(path=tmp_path, format="hub").scan()
    assert isinstance(row, DataError)
    assert str(row) == (
        f"{tmp_path} (train) row 0: image https://example.org/a.png lies on the network, and {tmp_path} is a local "
        "data set, for which nothing is fetched; download the image and name its file"
    )


@pytest.mark.parametrize(
    "address", ["https://example.org/a.jsonl", "hf://datasets/a/b/c.jsonl", "zip://a::s3://b/c.zip"]
)
@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_local_data_set_sends_for_no_file(
    tmp_path: Path, name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was loaded"))
    (tmp_path / "a.jsonl").write_text("{}\n")
    configs = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '{address}'\n"
    (tmp_path / name).write_text(f"---\n{configs}---\n" if name == "README.md" else configs)
    with pytest.raises(
        DataError, match=rf"{name} names files on the network \({address}\), and no"
    ):
        list(DataSource(path=tmp_path, format="hub").scan())


def test_a_card_that_names_files_beside_it(tmp_path: Path) -> None:
    _picture(1).save(tmp_path / "a.png")
    line = {"picture": "a.png", "query": "What?", "answer": "1"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: rows.jsonl\n---\nSee https://example.org.\n"
    )
    ((_, row),) = DataSource(path=tmp_path, format="hub").scan()
    assert isinstance(row, Row)
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(DataError, match=r"README.md cannot be read: "):
        list(DataSource(path=tmp_path, format="hub").scan())
