from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import moir_edge.evaluation


def test_public_names_resolve() -> None:
    for name in moir_edge.evaluation.__all__:
        assert getattr(moir_edge.evaluation, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = moir_edge.evaluation.nothing


def test_measuring_needs_the_base_install_only() -> None:
    """Everything but the torch candidate itself imports without torch, transformers and onnxruntime."""
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnxruntime'): sys.modules[name] = None\n"
        "import moir_edge.evaluation as b\n"
        "[getattr(b, name) for name in b.__all__]\n"
        "import moir_edge.metrics, moir_edge.evaluation.worker\n"
        "import moir_edge.evaluation.diagnosis.page, moir_edge.evaluation.diagnosis.routing\n"
        "import moir_edge.evaluation.diagnosis.attention, moir_edge.cli.diagnose\n"
        "import moir_edge.evaluation.candidates.bundle, moir_edge.evaluation.candidates.checkpoint\n"
    )
    root = Path(moir_edge.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_process_of_a_candidate_starts_light() -> None:
    """What it imports before a model is loaded counts as memory of libraries in every report."""
    code = (
        "import sys, moir_edge.evaluation.worker\n"
        "print(*sorted({'pydantic', 'PIL', 'typer', 'rich', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
