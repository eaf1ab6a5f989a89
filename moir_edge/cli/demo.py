"""`moir-edge demo`: the whole chain on the checkpoint that ships inside the package."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from moir_edge.cli.common_options import force_option, json_option, output_option
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.terminal import print_json, say
from moir_edge.cli.threads_option import Threads
from moir_edge.finite import json_text
from moir_edge.precisions import FP32, INT4, INT8_WEIGHT_ONLY
from moir_edge.progress import Progress

__all__ = ["register"]

PRECISIONS = (FP32, INT8_WEIGHT_ONLY, INT4)
_SEED = 0
_MARK = ".moir-edge-demo"
# What a demo leaves that was killed, or was written by a version that kept no record.
_NAMES = (
    "data/data.jsonl",
    "data/images/*.png",
    "bundle-*/*.onnx",
    "bundle-*/*.data",
    "bundle-*/*.json",
    "bundle-*/chat_template.jinja",
    "bundle-*/reports/*.json",
    "bundle-*/engines/*/*.engine",
    "report/report.html",
    "report/report.json",
    "report/.moir-edge.json",
    "routing-map.png",
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, output_option("Folder to write.")] = Path("demo-out"),
    target: Annotated[str, typer.Option(help="Target to build engines for.")] = "rtx-40",
    rows: Annotated[int, typer.Option(min=3, help="Number of test rows to compare on.")] = 1200,
    force: Annotated[bool, force_option("Replace an earlier demo at -o.")] = False,
    quiet: Quiet = False,
    threads: Threads = None,
    as_json: Annotated[bool, json_option("Print the paths of all outputs as JSON.")] = False,
) -> None:
    """Run every step on the demo checkpoint, from export to report."""
    from moir_edge.demo import checkpoint_path
    from moir_edge.environment import require
    from moir_edge.targets import check_precision, get_target

    for precision in PRECISIONS:
        check_precision(get_target(target), precision)
    require("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "sklearn", extra="demo")
    if get_target(target).builds_ahead_of_time:
        require("tensorrt_rtx", extra="demo")
    checkpoint = checkpoint_path()
    tell = _silent if as_json else say
    with (
        _demo_folder(output, force=force) as folder,
        show_progress("demo", quiet=quiet) as progress,
    ):
        with _stage("data", tell):
            data = _write_data(folder / "data", rows)
        with _stage("export", tell):
            bundles = _export(checkpoint, folder, target, progress)
        with _stage("run", tell):
            answer = _run(bundles[INT4], data, folder, output, tell)
        with _stage("compare", tell):
            compared = _compare(checkpoint, list(bundles.values()), data, folder, progress)
            report = _moved(compared, folder, output)
    if not as_json:
        _print_report(report)
    _print_places(output, answer, as_json=as_json)


@contextmanager
def _demo_folder(output: Path, *, force: bool) -> Iterator[Path]:
    """Give the folder of the demo, which appears at `output` once all of it is there."""
    from moir_edge.errors import DataError
    from moir_edge.ownership import FolderKind
    from moir_edge.staging import staged_folder

    kind = FolderKind(name="demo", marker=_MARK, error=DataError, keys=(), names=_NAMES)
    with staged_folder(output, kind, force=force) as folder:
        (folder / _MARK).touch()
        yield folder


@contextmanager
def _stage(name: str, tell: Any) -> Iterator[None]:
    started = time.perf_counter()
    yield
    tell(f"{name}: {time.perf_counter() - started:.0f} s")


def _silent(text: str) -> None:
    del text


def _write_data(folder: Path, rows: int) -> Path:
    from moir_edge.demo import demo_rows, write_jsonl

    return write_jsonl(demo_rows("test", count=rows, seed=_SEED), folder)


def _export(checkpoint: Path, output: Path, target: str, progress: Progress) -> dict[str, Path]:
    """Write bundles for this machine's CPU, which answers and compares, with the target's engines in them."""
    from moir_edge.engines import add_engines
    from moir_edge.export import assemble, load_checkpoint, trace_components
    from moir_edge.targets import get_target

    ahead = get_target(target).builds_ahead_of_time
    traced = trace_components(load_checkpoint(checkpoint), progress=progress)
    bundles = {}
    for precision in PRECISIONS:
        bundles[precision] = assemble(
            traced,
            output / f"bundle-{precision}",
            target="cpu" if ahead else target,
            precision=precision,
            progress=_prefixed(progress, precision),
        )
        if ahead:
            add_engines(bundles[precision], target, progress=_prefixed(progress, precision))
    return bundles


def _prefixed(progress: Progress, precision: str) -> Progress:
    def report(stage: str, done: int, total: int) -> None:
        progress(f"{precision}: {stage}", done, total)

    return report


def _run(bundle: Path, data: Path, folder: Path, output: Path, tell: Any) -> dict[str, Any]:
    """Ask the first question of the data in a process of its own, as a device would."""
    from moir_edge.children import child_command, child_environment
    from moir_edge.data import read_rows
    from moir_edge.errors import EnvironmentProblem

    row = next(row for row in read_rows(data) if row.task == "vqa")
    picture = folder / "routing-map.png"
    words = ["run", str(bundle), "--prompt", row.prompt, "--routing-map", str(picture)]
    for image in row.images:
        words += ["--image", str(image)]
    done = subprocess.run(
        child_command("moir_edge.__main__:main", *words, "--json"),
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise EnvironmentProblem(f"the runtime failed: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    shown = [word.replace(str(folder), str(output)) for word in words]
    tell(f"$ moir-edge {shlex.join(shown)}")
    tell(f"{answer['text'].strip()}    (expected: {row.answers[0]})")
    return answer


def _compare(
    checkpoint: Path, bundles: list[Path], data: Path, output: Path, progress: Progress
) -> Any:
    from moir_edge.evaluation import compare

    return compare(checkpoint, bundles, data, output / "report", progress=progress)


def _moved(report: Any, folder: Path, output: Path) -> Any:
    """Return a report that names files where they lie once the demo is in its place; the files of the report do too."""
    from html import escape

    from moir_edge.evaluation.writing import report_text
    from moir_edge.whole_files import write_whole

    def in_json(text: str) -> str:
        before, after = (
            json_text(str(path), ensure_ascii=False)[1:-1] for path in (folder, output)
        )
        return text.replace(before, after)

    page, record = folder / "report" / "report.html", folder / "report" / "report.json"
    write_whole(page, page.read_text("utf-8").replace(escape(str(folder)), escape(str(output))))
    write_whole(record, in_json(record.read_text("utf-8")))
    return type(report).model_validate_json(in_json(report_text(report)))


def _print_report(report: Any) -> None:
    from moir_edge.cli.terminal import table_console
    from moir_edge.evaluation.comparison.table import print_report

    print_report(report, table_console())


def _print_places(output: Path, answer: dict[str, Any], *, as_json: bool) -> None:
    places = {
        "data": output / "data" / "data.jsonl",
        **{f"bundle {precision}": output / f"bundle-{precision}" for precision in PRECISIONS},
        "engines": output / f"bundle-{FP32}" / "engines",
        "routing map": output / "routing-map.png",
        "report": output / "report" / "report.html",
    }
    if as_json:
        shown = {name: str(path) for name, path in places.items()}
        print_json({**shown, "answer": answer["text"].strip()})
        return
    for name, path in places.items():
        say(f"{name + ':':<26}{path}")
