"""Errors name fields of the Python API; the command line names the flags that fill them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

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
        ("tune", "give `eval_data.split` or `eval_data.path=FILE`", "give --eval-split or --eval-data FILE"),
        ("export", "`calibration.min_snr_db` and `calibration.rows=9`", "--min-snr and --calib-rows 9"),
        ("export", "`settings.engines=False` or `force=True`", "--no-engines or --force"),
        ("export", "`settings.int4_method='rtn'`", "--int4-method rtn"),
        ("export", "`settings.component_precision={'vision': 'fp32'}`", "--component-precision vision=fp32"),
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
