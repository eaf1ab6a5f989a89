"""What users give in place of a checkpoint of full precision: one line at every command, that says what to do, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import moir_edge.checkpoint
import moir_edge.evaluation
import moir_edge.export
import moir_edge.router
import moir_edge.tuning
from moir_edge.cli.main import main
from moir_edge.errors import MoirEdgeError

PRECISE = "give the checkpoint in full precision, and moir-edge quantizes it at export"
ORIGIN = "give the checkpoint of transformers (config.json and *.safetensors) that it was made from"
COMMANDS = ("retrofit", "tune", "export", "compare", "diagnose")


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def unknown_type(folder: Path) -> str:
    edit(folder / "config.json", lambda record: record.update(model_type="qwen9_vl"))
    return "has no model_type 'qwen9_vl'; check the spelling, update transformers, or give a conv"


def no_processor(folder: Path) -> str:
    (folder / "processor_config.json").unlink()
    return "has neither processor_config.json nor preprocessor_config.json; save its processor next"


def no_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return (
        "has no vocabulary of a tokenizer (tokenizer.json is missing); copy it from the base model"
    )


def adapter(folder: Path) -> str:
    """As `PeftModel.save_pretrained` leaves a folder."""
    shutil.rmtree(folder)
    folder.mkdir()
    record = {"peft_type": "LORA", "base_model_name_or_path": "team/base", "r": 8, "lora_alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps(record))
    name = "base_model.model.model.text_model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(8, 32)}, folder / "adapter_model.safetensors")
    return "holds an adapter (adapter_config.json) for team/base, not merged weights; merge it"


def gptq(folder: Path) -> str:
    record = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    edit(folder / "config.json", lambda config: config.update(quantization_config=record))
    return f"holds weights that gptq quantized (quantization_config in config.json); {PRECISE}"


def mlx(folder: Path) -> str:
    record = {"group_size": 64, "bits": 4}
    edit(folder / "config.json", lambda config: config.update(quantization=record))
    return f"holds weights that MLX quantized (quantization in config.json); {PRECISE}"


def gguf(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "model-q4_k_m.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    return f"it holds GGUF weights, the format of llama.cpp (model-q4_k_m.gguf); {ORIGIN}"


def text_only(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return "model type 'llama' is not a vision-language model of transformers, but a language model"


def float8(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return f"another tool quantized ({name} is stored as F8_E4M3); {PRECISE}"


# Those that `compare` and `diagnose` see before they start a process for the model come cheap at every command.
EVERYWHERE = (adapter, gptq, mlx, gguf)
ELSEWHERE = (unknown_type, no_tokenizer, text_only, float8)
CASES = [
    *((make, command) for make in EVERYWHERE for command in COMMANDS),
    *((make, command) for make in ELSEWHERE for command in COMMANDS[:3]),
    (unknown_type, "diagnose"),
    *((no_processor, command) for command in ("tune", "export", "diagnose")),
]


@pytest.fixture(scope="session")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with a router."""
    from tests.unit.conftest import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("routed") / "vlm", "smolvlm", router=True)


@pytest.fixture
def here(routed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a copy of the checkpoint and rows, which the command finds as `vlm` and `rows.jsonl`."""
    shutil.copytree(routed, tmp_path / "vlm")
    row = {"prompt": "what ?", "answers": ["red"], "image": "a.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    from PIL import Image

    Image.new("RGB", (30, 40)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("make", "command"), CASES)
def test_one_line(
    make: Callable[[Path], str],
    command: str,
    here: Path,
    demo_bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = make(here / "vlm")
    words = {
        "tune": ["--data", "rows.jsonl", "--steps", "1"],
        "compare": [str(demo_bundle), "--data", "rows.jsonl"],
        "diagnose": ["--data", "rows.jsonl"],
    }.get(command, [])
    before = sorted(path.name for path in here.iterdir())
    for flags in ([], ["--json"]) if command in ("retrofit", "export") else ([],):
        assert main([command, "vlm", "-o", "out", "-q", *words, *flags]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert said in captured.err
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert sorted(path.name for path in here.iterdir()) == before


def test_retrofit_takes_a_checkpoint_without_processor_and_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.unit.conftest import save_checkpoint

    plain = save_checkpoint(here / "plain", "smolvlm")
    (plain / "processor_config.json").unlink()
    assert main(["retrofit", "plain", "-o", "out", "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "  note: plain has neither processor_config.json nor preprocessor_config.json; save its processor next to the "
        "weights: tune, export, compare and diagnose need it"
    )
    assert main(["retrofit", "plain", "-o", "again", "-q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [lines[-1].removeprefix("  note: ")]


@pytest.mark.parametrize("make", [adapter, gptq, gguf])
@pytest.mark.parametrize(
    "call",
    [
        lambda bundle: moir_edge.export.export_bundle("vlm", "out"),
        lambda bundle: moir_edge.tuning.tune("vlm", "out", "rows.jsonl"),
        lambda bundle: moir_edge.router.load_retrofitted("vlm"),
        lambda bundle: moir_edge.checkpoint.load_checkpoint("vlm", exported=False),
        lambda bundle: moir_edge.evaluation.compare("vlm", [bundle], "rows.jsonl", "out"),
        lambda bundle: moir_edge.evaluation.diagnose(["vlm"], "rows.jsonl", "out"),
    ],
    ids=["export_bundle", "tune", "load_retrofitted", "load_checkpoint", "compare", "diagnose"],
)
def test_the_same_line_from_python(
    make: Callable[[Path], str], call: Callable[[Path], object], here: Path, demo_bundle: Path
) -> None:
    said = make(here / "vlm")
    with pytest.raises(MoirEdgeError) as caught:
        call(demo_bundle)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (here / "out").exists()
