"""Write rows as tasks of lmms-eval, VLMEvalKit and AIPerf, so that these tools ask a server the questions of `compare`."""

from __future__ import annotations

import argparse
import base64
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Result, new_parser, run
from moir_edge.data.rows import Row, read_rows
from moir_edge.errors import DataError
from moir_edge.finite import json_text
from moir_edge.progress import Progress
from moir_edge.whole_files import write_whole

__all__ = ["aiperf_lines", "lmms_eval_files", "main", "vlmevalkit_table", "write_tasks"]

_TASK = "moir_rows"
_YAML = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.images
doc_to_text: !function functions.question
doc_to_target: answer
generation_kwargs:
  max_new_tokens: {tokens}
  temperature: 0
  do_sample: false
process_results: !function functions.score
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 1.0
"""
_FUNCTIONS = '''\
"""Functions of the task."""

from PIL import Image


def images(doc):
    return [Image.open(path).convert("RGB") for path in doc["images"]]


def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def score(doc, results):
    said = results[0].strip().rstrip(".").lower()
    return {"exact_match": float(said in [one.lower() for one in doc["answers"]])}
'''


def lmms_eval_files(rows: Sequence[Row], folder: Path, *, tokens: int) -> dict[str, str]:
    """Return the files of a task for `lmms-eval --include_path`, by name.

    Args:
        rows: Each with at least one answer.
        folder: Where the files will lie: the task names its rows by their whole path.
        tokens: Most tokens of an answer.
    """
    # JSON is YAML: a path with blanks or colons stays one value.
    task = _YAML.format(
        task=_TASK, rows=json_text(str(folder.resolve() / "rows.jsonl")), tokens=tokens
    )
    records = [
        {
            "id": row.id,
            "question": row.text,
            "images": [str(path.resolve()) for path in row.images],
            "answers": list(row.answers),
            "answer": row.target,
        }
        for row in rows
    ]
    return {f"{_TASK}.yaml": task, "functions.py": _FUNCTIONS, "rows.jsonl": _lines(records)}


def vlmevalkit_table(rows: Sequence[Row]) -> str:
    """Return a table for VLMEvalKit's data folder: tab-separated, images in base64."""
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(("index", "question", "answer", "image"))
    for index, row in enumerate(rows):
        pictures = [base64.b64encode(path.read_bytes()).decode() for path in row.images]
        image = pictures[0] if len(pictures) == 1 else str(pictures)
        writer.writerow((index, row.text, row.target, image))
    return table.getvalue()


def aiperf_lines(rows: Sequence[Row]) -> str:
    """Return requests for `aiperf profile --custom-dataset-type single_turn`, one a line."""
    return _lines(
        {"texts": [row.text], "images": [str(path.resolve()) for path in row.images]}
        for row in rows
    )


def write_tasks(options: argparse.Namespace, progress: Progress) -> Result:
    """Write all three.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        DataError: A row has no answer, or the rows cannot be read.
    """
    progress("rows", 0, 1)
    rows = read_rows(options.rows)
    for row in rows:
        if not row.answers:
            raise DataError(
                f"{row.place}: the row has no answers, and a task is scored by them; add them"
            )
    folder: Path = options.folder
    files = {
        f"lmms-eval/{name}": text
        for name, text in lmms_eval_files(
            rows, folder / "lmms-eval", tokens=options.max_new_tokens
        ).items()
    }
    files |= {
        f"vlmevalkit/{_TASK}.tsv": vlmevalkit_table(rows),
        "aiperf/requests.jsonl": aiperf_lines(rows),
    }
    for name, text in files.items():
        write_whole(folder / name, text)
    progress("rows", 1, 1)
    return Result(text="\n".join(str(folder / name) for name in files))


def _lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json_text(record, ensure_ascii=False)}\n" for record in records)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("task_files", __doc__, writes_json=False)
    parser.add_argument("rows", type=Path, help="data file, as `compare --data` takes it")
    parser.add_argument("folder", type=Path, help="folder for the tasks")
    parser.add_argument(
        "--max-new-tokens", type=int, default=16, help="most tokens of an answer (default: 16)"
    )
    return run(parser, write_tasks, arguments)


if __name__ == "__main__":
    sys.exit(main())
