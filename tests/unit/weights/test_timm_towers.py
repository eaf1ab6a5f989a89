"""timm without torchvision: imported where a tower needs it, without a trace of the modules that stood in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moir_edge.errors import EnvironmentProblem
from moir_edge.weights import timm_towers
from moir_edge.weights.timm_towers import prepare_timm

TOWER = {"vision_config": {"model_type": "timm_wrapper"}}


def run(code: str, path: Path | None = None) -> str:
    """Run code in a process of its own, with a folder in front of the path, and return what it prints."""
    head = "" if path is None else f"import sys; sys.path.insert(0, {str(path)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_other_towers_need_no_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_towers, "find_spec", lambda name: None)
    prepare_timm("x", {})
    prepare_timm("x", {"vision_config": {"model_type": "clip_vision_model"}})


def test_a_missing_timm_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timm_towers, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem) as caught:
        prepare_timm("folder", TOWER)
    assert str(caught.value) == (
        "folder has a vision tower of timm, which is not installed; install it with: pip install 'moir-edge[timm]'"
    )


def test_nothing_stands_in_for_torchvision_afterwards() -> None:
    told = run(
        "import sys\n"
        "from moir_edge.weights.timm_towers import prepare_timm\n"
        f"prepare_timm('x', {TOWER})\n"
        "import timm\n"
        "from importlib.util import find_spec\n"
        "from transformers import utils\n"
        "from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel\n"
        "print([name for name in sys.modules if name.startswith('torchvision')], find_spec('torchvision'),"
        " utils.is_torchvision_available(), utils.is_timm_available(), timm.is_model('fastvit_mci3'))"
    )
    assert told == "[] None False False True"


def test_a_timm_that_wants_more_than_empty_classes_is_named(tmp_path: Path) -> None:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(
        "import torchvision.ops\nimport package_that_is_absent\n"
    )
    told = run(
        "from moir_edge.weights.timm_towers import prepare_timm\n"
        "try:\n"
        f"    prepare_timm('folder', {TOWER})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n",
        tmp_path,
    )
    assert told == (
        "EnvironmentProblem folder has a vision tower of timm, and timm cannot be imported without torchvision: No module named "
        "'package_that_is_absent'; install the torchvision that belongs to your torch"
    )


def test_a_transformers_that_looked_before_gets_it_too() -> None:
    told = run(
        "from transformers import AutoModel\n"
        "from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperConfig, TimmWrapperModel\n"
        "from moir_edge.weights.timm_towers import prepare_timm\n"
        f"prepare_timm('x', {TOWER})\n"
        "config = TimmWrapperConfig.from_dict({'architecture': 'resnet18', 'num_classes': 1000})\n"
        "print(len(config.id2label), type(AutoModel.from_config(config)).__name__)"
    )
    assert told == "1000 TimmWrapperModel"
