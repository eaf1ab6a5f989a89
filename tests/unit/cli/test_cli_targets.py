from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from moir_edge.cli.targets import register
from moir_edge.targets import TARGETS


def _app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


def test_table_shows_every_target() -> None:
    result = CliRunner().invoke(_app(), [], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    for name, target in TARGETS.items():
        assert target.builder in lines[name]
    assert "89" in lines["rtx-40"]
    assert max(len(line) for line in result.output.splitlines()[: len(TARGETS) + 1]) <= 80


def test_json_is_the_registry() -> None:
    result = CliRunner().invoke(_app(), ["--json"])
    rows = json.loads(result.output)
    assert [row["name"] for row in rows] == list(TARGETS)
    assert rows[0]["sm"] == 87
    assert rows[-1]["export_precisions"] == [
        "fp32",
        "fp16",
        "bf16",
        "int8-weight-only",
        "int8",
        "int4",
    ]
