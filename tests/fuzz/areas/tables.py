"""Data sets as tables: Parquet, CSV and the layout of `datasets`, altered as bytes, as text and in their records."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, register
from tests.fuzz.mutate.json_text import alter_json
from tests.fuzz.mutate.raw import alter_bytes, replace_file

_CELLS = (
    "", ",", '"', '""', "a" * 100_000, "\0", "../../etc/hostname", "/dev/zero", "3", "nan", "[]", "é", "\n", '"a\nb"', "1,2,3,4,5", "True",
    "http://localhost:9/x.png", "file:///etc/hostname", "zip://a::b", "x://", "\u202e",
)  # fmt: skip


@register
class Tables(Area):
    """Local folders that `--data-format hub` reads."""

    name = "tables"
    share = 400
    needs = ("tables",)

    def warm(self) -> None:
        # Arrow's own allocator would start a thread.
        os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
        home = tempfile.mkdtemp(prefix="fuzz-tables-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HF_HOME"] = home
        import datasets  # noqa: F401  (what a case would import)

        import moir_edge.data.formats  # noqa: F401

    def strategies(self) -> Sequence[Strategy]:
        return (self._csv, self._bytes, self._record, self._odd_file, self._options)

    def attempt(self, payload: Any) -> None:
        from moir_edge.data.formats import read_dataset

        read_dataset(format="hub", **payload)

    def _copy(self, kind: str, folder: Path) -> Path:
        return shutil.copytree(self.seeds / "tables" / kind, folder / "table")

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        kind = rng.choice(("parquet", "disk", "csv"))
        copy = self._copy(kind, folder)
        path = rng.choice(sorted(one for one in copy.iterdir() if one.is_file()))
        content, how = alter_bytes(rng, path.read_bytes())
        path.write_bytes(content)
        return Case(f"{kind}/{path.name}: {how}", {"data": copy})

    def _csv(self, rng: random.Random, folder: Path) -> Case:
        copy = self._copy("csv", folder)
        path = copy / "train.csv"
        rows = [line.split(",") for line in path.read_text().splitlines()]
        row = rng.choice(rows)
        at = rng.randrange(len(row))
        row[at] = rng.choice(_CELLS)
        text = "\n".join(",".join(one) for one in rows)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return Case(f"csv: {row[at][:40]!a} in column {at}", {"data": copy})

    def _record(self, rng: random.Random, folder: Path) -> Case:
        copy = self._copy("disk", folder)
        path = copy / rng.choice(("state.json", "dataset_info.json"))
        text, how = alter_json(rng, path.read_text(), largest=1 << 16)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return Case(f"{path.name}: {how}", {"data": copy})

    def _odd_file(self, rng: random.Random, folder: Path) -> Case:
        kind = rng.choice(("parquet", "disk", "csv"))
        copy = self._copy(kind, folder)
        path = rng.choice(sorted(one for one in copy.iterdir() if one.is_file()))
        return Case(f"{kind}/{path.name}: {replace_file(rng, path)}", {"data": copy})

    def _options(self, rng: random.Random, folder: Path) -> Case:
        odd = (
            None,
            "",
            "x",
            "train",
            3,
            [],
            "image",
            "question",
            "image,image",
            "answers",
            {"a": 1},
            "caption",
            "vqa",
            "\0",
            "../..",
        )
        named: dict[str, Any] = {"data": self._copy(rng.choice(("parquet", "csv", "disk")), folder)}
        for name in rng.sample(
            ("split", "subset", "task", "limit", "prompt"), rng.choice((0, 1, 2))
        ):
            named[name] = rng.choice(odd)
        if rng.random() < 0.7:
            named["columns"] = {
                rng.choice(("images", "prompt", "answers", "id", "task", "x")): rng.choice(odd)
            }
        return Case(ascii({key: one for key, one in named.items() if key != "data"})[:120], named)
