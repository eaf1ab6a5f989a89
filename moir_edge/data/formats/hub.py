"""Data sets as `datasets.load_dataset` takes them: an id on the Hugging Face hub, or a folder of Parquet, Arrow or images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.bundle.reader import file_sha256
from moir_edge.data.formats.columns import answers_of, check_roles, choose_columns, text_of
from moir_edge.data.formats.files import caption_request, worded
from moir_edge.data.formats.local import refuse_odd_files, refuse_remote_files
from moir_edge.data.formats.pictures import picture_file
from moir_edge.data.formats.source import DatasetFormat, PlacedRow, attempt, register
from moir_edge.data.rows import DEFAULT_TASK, Row, parse_row
from moir_edge.environment import require
from moir_edge.errors import DataError
from moir_edge.temporary import TemporaryFolder
from moir_edge.weights.libraries import naming_files

if TYPE_CHECKING:
    from moir_edge.data.formats.source import DataSource

__all__ = ["HubTable"]

Columns = Mapping[str, tuple[str, ...]]
_ON_DISK = ("dataset_dict.json", "state.json")
_LOCAL_STARTS = (".", "/", "~")


@register
class HubTable(DatasetFormat):
    """A table with one row per question, streamed: what is not read is not downloaded.

    Columns are found by their names (`COLUMN_NAMES`) or by `DataSource.columns`. Pictures inside the table are written
    to a temporary folder as they are read. Needs the extra `hub`.

    Source: https://huggingface.co/docs/datasets, "Load" and "Stream".
    """

    name = "hub"
    takes_images = False
    takes_columns = True

    def scan(self, source: DataSource) -> Iterator[PlacedRow]:
        """Give the rows of the split in their order."""
        self.check(source)
        check_roles(source.columns, source.field_name("columns"))
        table, split = _open(source)
        place = f"{source.path} ({split})"
        features = _features(table, place)
        pictures = [name for name, feature in features.items() if _holds_images(feature)]
        columns = choose_columns(
            features, pictures, source.columns, place, source.field_name("columns")
        )
        if source.task != "caption" and "prompt" not in columns:
            raise DataError(
                f"{place} has no column with a known name for the question (it has {', '.join(features)}); "
                f"name it with {source.field_name('columns')} prompt=COLUMN, or give {source.field_name('task')} caption"
            )
        for number, record in enumerate(_records(table, pictures, place)):
            where = f"{place} row {number}"
            yield attempt(where, partial(_row, record, where, str(number), columns, features, source))  # fmt: skip

    def check(self, source: DataSource) -> None:
        """Refuse a local folder that is not there, and a missing `datasets`; a hub id is not looked up."""
        require("datasets")
        if source.path.is_file():
            raise DataError(
                f"{source.path} is a file; give the folder that holds it, or another {source.field_name('format')}"
            )
        name = str(source.path)
        if not source.path.is_dir() and (name.startswith(_LOCAL_STARTS) or name.count("/") > 1):
            raise DataError(
                f"{name} does not exist; give a folder, or an id on the hub such as user/name"
            )

    def sha256(self, source: DataSource) -> str:
        """Hash the files of a folder with their names; of a hub data set its id and commit."""
        if source.path.is_dir():
            files = sorted(path for path in source.path.rglob("*") if path.is_file())
            parts = [f"{file.relative_to(source.path)} {file_sha256(file)}" for file in files]
        else:
            import datasets

            builder = _guarded(source, datasets.load_dataset_builder, _address(source), source.subset)  # fmt: skip
            parts = [_address(source), str(builder.hash)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _open(source: DataSource) -> tuple[Any, str]:
    """Return the table of one split, and the split's name."""
    import datasets

    if source.path.is_dir():
        refuse_odd_files(source.path)
        refuse_remote_files(source.path)
    if any((source.path / name).is_file() for name in _ON_DISK):
        loaded = _guarded(source, datasets.load_from_disk, _address(source))
    else:
        kept = {"cache_dir": str(_scratch().path)} if source.path.is_dir() else {}
        loaded = _guarded(
            source, datasets.load_dataset, _address(source), source.subset, streaming=True, **kept
        )
    # a single split that was saved to disk stands alone
    splits = dict(loaded) if isinstance(loaded, Mapping) else {str(loaded.split or "all"): loaded}
    split = source.split or (next(iter(splits)) if len(splits) == 1 else None)
    if split not in splits:
        asked = "several splits" if split is None else f"no split {split!r}"
        raise DataError(
            f"{source.path} has {asked}: give {source.field_name('split')} with one of {', '.join(splits)}"
        )
    return splits[split], split


@cache
def _scratch() -> TemporaryFolder:
    """Return a folder that goes with the process: the library keeps a file with the path of each local data set."""
    return TemporaryFolder()


def _address(source: DataSource) -> str:
    """Return what `datasets` is told: an absolute path is never looked for on the hub."""
    return str(source.path.resolve()) if source.path.is_dir() else source.path.as_posix()


def _guarded(source: DataSource, load: Any, *arguments: Any, **options: Any) -> Any:
    with naming_files(f"{source.path} cannot be loaded as a data set"):
        return load(*arguments, **options)


def _features(table: Any, place: str) -> dict[str, Any]:
    """Return column to type; where a stream declares none, those of the first record, without a type."""
    if table.features is not None:
        return dict(table.features)
    with naming_files(f"{place} cannot be read"):
        return dict.fromkeys(next(iter(table.take(1)), {}))


def _holds_images(feature: Any) -> bool:
    import datasets

    inner = feature.feature if isinstance(feature, datasets.List) else feature
    return isinstance(inner, datasets.Image)


def _records(table: Any, pictures: Iterable[str], place: str) -> Iterator[dict[str, Any]]:
    """Give the records with the pictures as stored, which are decoded later and once."""
    import datasets

    for name in pictures:
        stored: Any = datasets.Image(decode=False)
        is_list = isinstance(table.features[name], datasets.List)
        table = table.cast_column(name, datasets.List(stored) if is_list else stored)
    with naming_files(f"{place} cannot be read further"):
        yield from table


def _row(
    record: Mapping[str, Any],
    where: str,
    name: str,
    columns: Columns,
    features: Mapping[str, Any],
    source: DataSource,
) -> Row:
    def cell(role: str) -> Any:
        """Return the value in the column of a role; a class as its name."""
        if role not in columns:
            return None
        column = columns[role][0]
        value = record.get(column)
        named = hasattr(features.get(column), "int2str") and isinstance(value, int)
        with naming_files(f"{where}: column {column!r} names no class"):
            return features[column].int2str(value) if named else value

    task = source.task or cell("task") or DEFAULT_TASK
    found = {
        "id": cell("id"),
        "task": task,
        "images": [str(path) for path in _pictures(record, columns["images"], where, source)],
        "prompt": _prompt(cell("prompt"), task, where, source),
        "context": cell("context") or None,
        "answers": answers_of(cell("answers")) if source.answers else [],
        "group": cell("group"),
    }
    return parse_row(found, where, source.path, name)


def _prompt(value: Any, task: str, where: str, source: DataSource) -> str:
    if task == "caption" and "prompt" not in source.columns:
        return caption_request(source)
    if value is None:
        raise DataError(f"{where}: the question is empty")
    return worded(source, text_of(value))


def _pictures(
    record: Mapping[str, Any], columns: Iterable[str], where: str, source: DataSource
) -> list[Path]:
    cells = [record.get(column) for column in columns]
    values = [one for cell in cells for one in (cell if isinstance(cell, list) else [cell])]
    return [picture_file(value, source.path, where) for value in values if value is not None]
