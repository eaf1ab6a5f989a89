"""Commands on forged bundles, and outputs that stand on folders of someone else."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, Unnoticed, register
from tests.fuzz.folders import link_copy, prove_again, rewrite, seal_again
from tests.fuzz.mutate.json_text import alter_json
from tests.fuzz.mutate.raw import alter_bytes, replace_file
from tests.fuzz.verdict import is_plain

_USAGE_ERROR = 2
_ENGINE = {
    "component": "decoder", "target": "rtx-3050", "path": "engines/rtx-3050/decoder.engine", "builder": "tensorrt_rtx",
    "builder_version": "1.7.1.116", "compute_capability": "8.6", "compute": "fp16", "graph_sha256": "0" * 64,
    "profiles_sha256": "0" * 64, "build_seconds": 3.0, "bytes": 100,
}  # fmt: skip


@register
class Inspect(Area):
    """The command line's `inspect`, on manifests and reports of someone else."""

    name = "inspect"
    share = 800
    sliced = 30
    needs = ("int4",)

    def warm(self) -> None:
        self.attempt(["inspect", str(self.seeds / "int4"), "--quantization"])

    def strategies(self) -> Sequence[Strategy]:
        return (self._manifest, self._report, self._engine)

    def attempt(self, payload: Any) -> None:
        from moir_edge.cli.main import main

        shown, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
            code = main(payload)
        _check(code, shown.getvalue(), said.getvalue())

    def _manifest(self, rng: random.Random, folder: Path) -> Case:
        copy = link_copy(self.seeds / "int4", folder / "bundle")
        path = copy / "manifest.json"
        content, how = alter_json(rng, path.read_text())
        rewrite(path, content)
        seal_again(path)
        return _case(rng, copy, f"manifest: {how}")

    def _report(self, rng: random.Random, folder: Path) -> Case:
        copy = link_copy(self.seeds / "int4", folder / "bundle")
        path = (
            copy / "reports" / rng.choice(("quantization.json", "quantization.json", "parity.json"))
        )
        content, how = alter_json(rng, path.read_text())
        rewrite(path, content)
        prove_again(copy)
        return _case(rng, copy, f"{path.name}: {how}")

    def _engine(self, rng: random.Random, folder: Path) -> Case:
        copy = link_copy(self.seeds / "int4", folder / "bundle")
        path = copy / "manifest.json"
        manifest = json.loads(path.read_text())
        text, how = alter_json(rng, json.dumps(_ENGINE))
        engine = copy / str(_ENGINE["path"])
        engine.parent.mkdir(parents=True)
        engine.write_bytes(bytes(100))
        manifest["files"].append({"path": _ENGINE["path"], "bytes": 100, "sha256": "0" * 64})
        manifest["engines"] = ["@@"]
        rewrite(path, json.dumps(manifest).replace('"@@"', text))
        with contextlib.suppress(ValueError, RecursionError):
            prove_again(copy)
        return _case(rng, copy, f"engine: {how}")


@register
class Outputs(Area):
    """An output with `force=True` where a folder stands whose record is altered: nothing of someone else's may go."""

    name = "outputs"
    share = 600
    sliced = 40

    def warm(self) -> None:
        import moir_edge.bundle
        import moir_edge.staging  # noqa: F401  (what a case would import)

    def strategies(self) -> Sequence[Strategy]:
        return (self._record, self._marker, self._odd, self._listing)

    def attempt(self, payload: Any) -> None:
        from moir_edge.staging import staged_folder

        output, kind, is_shared = payload
        outside = output.parent / "outside.txt"
        try:
            with staged_folder(output, kind, force=True) as folder:
                (folder / kind.marker).write_text("{}")
        finally:
            if outside.read_text() != "mine":
                raise Unnoticed("a file outside the output is gone or another")
        if is_shared and not (output / "src" / "mine.py").is_file():
            raise Unnoticed("a file of someone else was deleted")

    def _record(self, rng: random.Random, folder: Path) -> Case:
        output, kind = _output(rng, folder)
        files = [
            kind.marker,
            "report.html",
            "../outside.txt",
            str(folder / "outside.txt"),
            "src/../../outside.txt",
        ]
        content, how = alter_json(rng, json.dumps({"kind": kind.name, "files": files}))
        (output / ".moir-edge.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        return Case(f"record of a {kind.name}: {how}", (output, kind, (output / "src").exists()))

    def _marker(self, rng: random.Random, folder: Path) -> Case:
        output, kind = _output(rng, folder)
        content, how = alter_json(rng, (output / kind.marker).read_text())
        if rng.random() < 0.3:
            raw, how = alter_bytes(rng, (output / kind.marker).read_bytes())
        else:
            raw = content.encode("utf-8", "surrogatepass")
        rewrite(output / kind.marker, raw)
        return Case(f"marker of a {kind.name}: {how}", (output, kind, (output / "src").exists()))

    def _odd(self, rng: random.Random, folder: Path) -> Case:
        output, kind = _output(rng, folder)
        how = replace_file(rng, output / kind.marker)
        return Case(f"marker of a {kind.name}: {how}", (output, kind, (output / "src").exists()))

    def _listing(self, rng: random.Random, folder: Path) -> Case:
        """Name files of someone else, and of no one, in a bundle's manifest."""
        from moir_edge.bundle.writer import BUNDLE

        output = folder / "output"
        _foreign(rng, output)
        names = (
            "../outside.txt",
            str(folder / "outside.txt"),
            ".",
            "..",
            "",
            "\0",
            "a" * 5000,
            "src",
            "src/",
            "é",
            3,
            None,
            [],
        )
        listed = [{"path": rng.choice(names), "bytes": 1, "sha256": "0" * 64} for _ in range(3)]
        manifest = {"schema_version": 1, "created_with": {}, "components": {}, "files": listed}
        (output / BUNDLE.marker).write_text(json.dumps(manifest))
        return Case(
            f"listed: {ascii([one['path'] for one in listed])[:100]}",
            (output, BUNDLE, (output / "src").exists()),
        )


def _case(rng: random.Random, copy: Path, how: str) -> Case:
    options = rng.sample(("--quantization", "--json", "--no-verify"), rng.randint(0, 2))
    return Case(f"{how}, {' '.join(options)}", ["inspect", str(copy), *options])


def _check(code: int, shown: str, said: str) -> None:
    """Refuse what no command may print: a traceback, more than one line of error, characters that steer a terminal."""
    from moir_edge.errors import DataError

    if not all(is_plain(line) for line in (shown + said).split("\n")):
        raise Unnoticed("characters that steer a terminal were printed")
    if code == _USAGE_ERROR:
        lines = said.strip().split("\n")
        if len(lines) != 1 or not lines[0].startswith("error: ") or "for the traceback" in lines[0]:
            raise Unnoticed(f"not one line of error: {said[-300:]}")
        raise DataError(lines[0])
    if code != 0 or said:
        raise Unnoticed(f"ended with {code}: {said[-300:]}")


def _output(rng: random.Random, folder: Path) -> tuple[Path, Any]:
    """Return a folder as a report or a checkpoint of moir-edge leaves it, with files of someone else inside and beside."""
    from moir_edge.evaluation.writing import report_kind
    from moir_edge.ownership import CHECKPOINT

    kind = rng.choice((CHECKPOINT, report_kind("report", "report", "settings")))
    output = folder / "output"
    _foreign(rng, output)
    marker = {"moir_router": {}, "schema_version": 1, "version": "0.1.0", "settings": {}}
    (output / kind.marker).write_text(json.dumps(marker))
    return output, kind


def _foreign(rng: random.Random, output: Path) -> None:
    output.mkdir()
    if rng.random() < 0.5:
        (output / "src").mkdir()
        (output / "src" / "mine.py").write_text("mine")
    (output.parent / "outside.txt").write_text("mine")
