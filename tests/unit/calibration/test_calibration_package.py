from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_bare_import_is_refused() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import calibration"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "import this package as moir_edge.calibration, not as calibration" in result.stderr
