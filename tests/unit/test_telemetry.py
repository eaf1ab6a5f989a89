"""ONNX Runtime reports nothing and leaves no file behind unless the user asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SHOW = "import moir_edge, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"


@pytest.mark.parametrize(("given", "seen"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_importing_the_package_switches_telemetry_off_unless_told(
    given: str | None, seen: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    if given is not None:
        environment["ORT_DISABLE_TELEMETRY"] = given
    done = subprocess.run(
        [sys.executable, "-c", _SHOW], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == seen


@pytest.mark.parametrize("statement", ["moir_edge.load", "moir_edge.runtime.sessions"])
def test_a_program_that_imports_the_package_first_leaves_no_file(
    statement: str, tmp_path: Path
) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(home), "TMPDIR": str(scratch)}
    code = f"import moir_edge, moir_edge.runtime.sessions; {statement}; import onnxruntime"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [*home.rglob("*"), *scratch.rglob("*")] == []
