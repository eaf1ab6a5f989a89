"""Errors name fields of the Python API; the command line names the flags that fill them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import moir_edge
from moir_edge.cli.field_names import flags_by_field, with_flags
from moir_edge.cli.main import COMMANDS, build_app, main
from moir_edge.data.formats import DataSource
from moir_edge.errors import DataError


@pytest.fixture(scope="module")
def commands() -> Any:
    return typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "message", "shown"),
    [
        ("compare", "give `data.images`", "give --images"),
        ("compare", "name `data.columns` prompt=COLUMN", "name --data-column prompt=COLUMN"),
        ("export", "give `calibration.data.images`", "give --calib-images"),
        ("export", "give `calibration.evaluation.split`", "give --eval-split"),
        ("tune", "give `eval_data.split` or `eval_data=FILE`", "give --eval-split or --eval-data FILE"),
        ("export", "`calibration.min_snr_db` and `calibration.rows=9`", "--min-snr and --calib-rows 9"),
        ("export", "`settings.engines=False` or `force=True`", "--no-engines or --force"),
        ("export", "`settings.int4_method='rtn'`", "--int4-method rtn"),
        ("export", "`settings.component_precision={'vision': 'fp32'}`", "--component-precision vision=fp32"),
        ("run", "give e.g. `prompt='What is it?'`", "give e.g. -p 'What is it?'"),
        ("run", "greedily with `generation_config={'num_beams': 1}`", "greedily with --set num_beams=1"),
        ("build", "`target` and `force` and `output`", "--target and --force and -o"),
        ("run", "`provider='cpu'` and `-v` and `moir-edge run`", "--provider cpu and `-v` and `moir-edge run`"),
        ("demo", "of another command: `calibration.rows`", "of another command: --calib-rows"),
    ],
)  # fmt: skip
def test_a_field_becomes_its_flag(commands: Any, command: str, message: str, shown: str) -> None:
    assert with_flags(message, flags_by_field(commands, ["-v", command, "x"])) == shown


def test_every_command_has_its_fields(commands: Any) -> None:
    assert set(commands) == set(COMMANDS)
    for name, command in commands.items():
        assert flags_by_field({name: command}, [name])


def test_one_error_two_readers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.json"
    with pytest.raises(DataError) as caught:
        DataSource(path=rows, format="nlvr2")
    text = "the format nlvr2 needs the folder of the images: give `data.images`"
    assert str(caught.value) == text
    words = ["compare", "a", "b", "--data", str(rows), "--data-format", "nlvr2", "-o", "out"]
    assert main(words) == 2
    assert capsys.readouterr().err == f"error: {text.replace('`data.images`', '--images')}\n"


_FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]+|-o\b)")
_PACKAGE = Path(moir_edge.__file__).parent
_EXCEPTIONS = {
    "bundle/engines.py": "a whole command to run, `moir-edge build … --target …`",
    "runtime/tensorrt/selection.py": "a whole command to run, `moir-edge build … --target …`",
    "tuning/run.py": "a whole command to run, `moir-edge retrofit … -o ROUTED`",
    "demo/__init__.py": "a whole command to run, `python -m benchmarks.… --output FOLDER`",
    "engines/trtexec.py": "flags of trtexec",
    "device/board.py": "flags of dpkg-query",
    "device/gpu.py": "flags of nvidia-smi",
    "device/sensors.py": "a flag of tegrastats",
    "doctor/bundles.py": "a whole command to run, `moir-edge build … --target …`",
    "doctor/providers.py": "flags of pip, apt and `python -m venv`",
    "runtime/openvino/library.py": "a flag of pip",
    "tensorrt_api.py": "a flag of `python -m venv`",
}


def _flags_in_texts(path: Path) -> list[str]:
    """Return the flags that strings name, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    docstrings = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]
    return [flag for text in texts for flag in _FLAG.findall(text)]


def test_only_the_command_line_speaks_of_flags() -> None:
    found = {
        path.relative_to(_PACKAGE).as_posix()
        for path in _PACKAGE.rglob("*.py")
        if "cli" not in path.relative_to(_PACKAGE).parts and _flags_in_texts(path)
    }
    assert found == set(_EXCEPTIONS)
