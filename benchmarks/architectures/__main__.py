"""Write the table of families on docs/architectures.md: run the test over the registry, and count tokens and lines.

A cell says yes if the tests that stand for its column passed in this very run. Tokens come from the published geometry of a
checkpoint through the code that prepares prompts on a device.
"""

from __future__ import annotations

import argparse
import inspect
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.architectures.geometries import GEOMETRIES, image_tokens
from benchmarks.common import Result, markdown_table, new_parser, replace_between, run
from moir_edge.children import child_environment
from moir_edge.errors import EnvironmentProblem
from moir_edge.models import architecture_names, get_architecture
from moir_edge.precisions import FP32, INT4, INT8, INT8_WEIGHT_ONLY
from moir_edge.progress import Progress, single_step

__all__ = ["BEGIN", "COLUMNS", "END", "own_lines", "prove", "router_position", "table"]

COLUMNS = ("retrofit", "tune", FP32, INT8_WEIGHT_ONLY, INT8, INT4, "TensorRT-RTX", "runtime")
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
_ROOT = Path(__file__).resolve().parents[2]
_TESTS = "tests/unit/families"
_PICTURES = ((640, 480), (1920, 1080))

Proofs = Mapping[str, Mapping[str, bool]]
"""Family to column to whether its tests passed."""


def prove(only: Sequence[str] = ()) -> tuple[Proofs, int]:
    """Run the test over the registry and return what it proved, and pytest's exit code.

    Args:
        only: Families to test; all by default.

    Raises:
        EnvironmentProblem: pytest did not get as far as that.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "proofs.json"
        plugin = ("-p", "tests.proofs", "--proofs", str(path))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugin, *_selection(only), _TESTS],
            cwd=_ROOT,
            env=child_environment({"PYTHONPATH": str(_ROOT)}),
            stdout=sys.stderr,
            check=False,
        )
        if not path.is_file():
            raise EnvironmentProblem(f"pytest ended with exit code {done.returncode} and no proofs")
        proofs: Proofs = json.loads(path.read_text(encoding="utf-8"))
    return proofs, done.returncode


def _selection(only: Sequence[str]) -> list[str]:
    # A parameter stands between brackets, alone or with a dash beside it; one name may begin another.
    names = [form for name in only for form in (f"[{name}]", f"[{name}-", f"-{name}]")]
    return ["-k", " or ".join(names)] if names else []


def proven_before(page: Path) -> Proofs:
    """Return what a page says of each family.

    Args:
        page: With a table by `table`, or without.
    """
    written = page.read_text(encoding="utf-8").partition(BEGIN)[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in written.splitlines()]
    return {
        name: {column: cell == "yes" for column, cell in zip(COLUMNS, cells, strict=True)}
        for name, *cells in rows
        if len(cells) == len(COLUMNS)
    }


def table(proofs: Proofs) -> str:
    """Return both tables as Markdown, a row in each for every family of the registry."""
    proven = [
        (name, *("yes" if proofs.get(name, {}).get(column) else "no" for column in COLUMNS))
        for name in architecture_names()
    ]
    return "\n\n".join((markdown_table(("model_type", *COLUMNS), proven), _figures()))


def _figures() -> str:
    head = (
        "model_type",
        "checkpoint",
        "router",
        *(f"tokens, {width} × {height}" for width, height in _PICTURES),
        "lines",
    )
    rows = [
        (
            name,
            GEOMETRIES[name].checkpoint,
            router_position(name),
            *(f"{image_tokens(name, *picture):,}" for picture in _PICTURES),
            str(own_lines(name)),
        )
        for name in architecture_names()
    ]
    return markdown_table(head, rows, right=range(3, len(head)))


def router_position(model_type: str) -> str:
    """Say in words where the router stands, and what goes past it into the decoder."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type, **GEOMETRIES[model_type].config)
    architecture = get_architecture(model_type)
    taken = {spec.name for spec in architecture.decoder_inputs(config)}
    further = [spec.name for spec in architecture.vision_outputs(config) if spec.name in taken]
    where = "between embeddings and first layer"
    return f"{where}; {', '.join(further)} pass by it" if further else where


def own_lines(model_type: str) -> int:
    """Return the lines of the two classes that a family is made of; what it shares with others counts where it stands."""
    from moir_edge.runtime.families.registry import family_class

    classes = (type(get_architecture(model_type)), family_class(model_type))
    return sum(len(inspect.getsource(cls).splitlines()) for cls in classes)


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Prove the table and, if asked, write it into the page.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    before = proven_before(options.docs) if options.only and options.docs else {}
    with single_step(progress, "tests"):
        found, code = prove(options.only)
    proofs = {**before, **found}
    text = table(proofs)
    if options.docs is not None and code == 0:
        replace_between(options.docs, BEGIN, END, text)
    record: dict[str, Any] = {name: dict(proofs.get(name, {})) for name in architecture_names()}
    return Result(text=text, record=record, failed=code != 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("architectures", __doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        default=(),
        metavar="TYPE",
        help="families to test; the page keeps what it says of the others; all by default",
    )
    parser.add_argument(
        "--docs", type=Path, help="page whose table is replaced if every test passed"
    )
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
