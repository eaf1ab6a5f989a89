"""Adapters on the language model, and `tune --train lora`: what they compute, what they leave alone, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from moir_edge.cli.main import main
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.router import last_routing, load_retrofitted, remove_router, retrofit
from moir_edge.tuning import TuneSettings, training_folder, tune
from moir_edge.tuning.adapters import Adapters, frozen_statistics, train_only

ROUTER = "moir_router."
DECODER = "model.text_model.layers."


def _filled(model: Any) -> dict[str, torch.Tensor]:
    """Give B of every adapter values, and return all factors by name."""
    factors = {}
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            with torch.no_grad():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        if ".lora_" in name:
            factors[name] = parameter.detach().clone()
    return factors


def _linears(model: Any) -> list[str]:
    modules = model.named_modules()
    return [
        name
        for name, one in modules
        if name.startswith(DECODER) and isinstance(one, torch.nn.Linear)
    ]


def test_fresh_adapters_change_nothing_and_merge_adds_their_product(
    model: Any, batch: dict[str, torch.Tensor]
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    linears = _linears(model)
    with torch.no_grad():
        plain = model(**batch).logits
        adapters = Adapters(model, rank=4, seed=0)
        assert torch.equal(model(**batch).logits, plain)
        factors = _filled(model)
        apart = model(**batch).logits
        assert (apart - plain).abs().max() > 0.1
        adapters.merge()
        merged = model(**batch).logits
    assert last_routing(model) is not None
    # the product is added to the weight once, rather than to every output: float32 sums in another order
    torch.testing.assert_close(merged, apart, rtol=1e-4, atol=1e-4)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert not hasattr(model.get_decoder(), "peft_config")
    # attention and MLP projections, seven per layer
    assert len(linears) == 7 * model.config.text_config.num_hidden_layers
    for name, value in before.items():
        if name.removesuffix(".weight") not in linears:
            assert torch.equal(after[name], value), name
            continue
        stem = name.removesuffix(".weight")
        a, b = (factors[f"{stem}.lora_{side}.default.weight"].double() for side in "AB")
        assert a.shape[0] == b.shape[1] == 4
        # α = 2r; weights of about 0.1 in float32
        torch.testing.assert_close(
            after[name].double(), value.double() + 2 * (b @ a), rtol=0, atol=1e-7
        )


def test_same_seed_same_adapters_and_the_state_of_torch_stays() -> None:
    first, second, third = (
        load_retrofitted(checkpoint_path(), dtype=torch.float32) for _ in range(3)
    )
    state = torch.random.get_rng_state()
    for one, seed in ((first, 1), (second, 1), (third, 2)):
        Adapters(one, rank=8, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    left, right, other = (_filled(one) for one in (first, second, third))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not all(torch.equal(left[name], other[name]) for name in left)


def test_what_is_trained(model: Any) -> None:
    def names() -> set[str]:
        return {name for name, one in model.named_parameters() if one.requires_grad}

    router = {name for name, _ in model.named_parameters() if name.startswith(ROUTER)}
    train_only(model, "router")
    assert names() == router
    assert train_only(model, "full") == sum(one.numel() for one in model.parameters())
    linears = _linears(model)
    Adapters(model, rank=2, seed=0)
    count = train_only(model, "lora")
    factors = {f"{name}.lora_{side}.default.weight" for name in linears for side in "AB"}
    assert names() == router | factors
    assert count == sum(one.numel() for one in model.parameters() if one.requires_grad)


@pytest.fixture(scope="module")
def settings() -> TuneSettings:
    return TuneSettings(
        train="lora",
        lora_rank=4,
        steps=4,
        batch_size=3,
        checkpoint_every=1,
        balance_method="ogm-ge",
    )


@pytest.fixture(scope="module")
def uninterrupted(
    train_file: Path, settings: TuneSettings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("whole") / "tuned"
    tune(checkpoint_path(), output, train_file, eval_data=train_file, settings=settings)
    return output


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _config(folder: Path) -> dict[str, Any]:
    return AutoConfig.from_pretrained(folder).to_dict()


def test_result_is_a_plain_checkpoint_with_a_changed_language_model_and_router(
    uninterrupted: Path,
) -> None:
    before, after = _weights(Path(checkpoint_path())), _weights(uninterrupted)
    assert after.keys() == before.keys()
    changed = {name for name in before if not before[name].float().equal(after[name])}
    model = load_retrofitted(uninterrupted)
    assert {name for name in changed if not name.startswith(ROUTER)} == {
        f"{name}.weight" for name in _linears(model)
    }
    assert any(name.startswith(ROUTER) for name in changed)
    shipped, config = (_config(Path(folder)) for folder in (checkpoint_path(), uninterrupted))
    # the shipped weights are float16; all else stays, the cache that the Trainer turns off too
    ignored = {"dtype", "_name_or_path", "text_config", "vision_config"}
    assert {key: config[key] for key in shipped if key not in ignored} == {
        key: value for key, value in shipped.items() if key not in ignored
    }
    assert config["use_cache"] is True
    report = json.loads((uninterrupted / "tuning.json").read_text())
    assert report["settings"]["lora_rank"] == 4
    assert report["parameters"] == sum(one.numel() for one in model.parameters())
    # of the weights that were written; merging moves the last bits
    *_, last = [entry["eval_loss"] for entry in report["log"] if "eval_loss" in entry]
    assert report["eval_loss"] == last
    assert report["eval_loss"] < report["first_eval_loss"]


def test_interrupted_run_resumes_to_the_same_weights(
    uninterrupted: Path, train_file: Path, settings: TuneSettings, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "tuning" and done == 3:
            raise KeyboardInterrupt

    output = tmp_path / "tuned"
    with pytest.raises(KeyboardInterrupt):
        tune(
            checkpoint_path(), output, train_file, eval_data=train_file, settings=settings,
            progress=stop,
        )  # fmt: skip
    assert (training_folder(output) / "checkpoint-2" / "complete.json").is_file()
    tune(
        checkpoint_path(), output, train_file, eval_data=train_file, settings=settings, resume=True
    )
    expected, got = _weights(uninterrupted), _weights(output)
    for name, value in expected.items():
        # Adam's steps are about 1e-3, so that a lost or doubled one would show
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-6)


def test_early_stop_keeps_the_best_adapters(train_file: Path, tmp_path: Path) -> None:
    settings = TuneSettings(
        train="lora", steps=6, batch_size=6, learning_rate=0.5, checkpoint_every=1, early_stop=2
    )
    report = tune(
        checkpoint_path(), tmp_path / "t", train_file, eval_data=train_file, settings=settings
    )
    seen = [entry["eval_loss"] for entry in report.log if "eval_loss" in entry]
    # far too fast: it gets worse at once, and the run ends before its six steps
    assert report.steps < 6
    assert report.eval_loss == pytest.approx(min(seen), rel=1e-4)


@pytest.fixture
def base(model: Any, processor: Any, tmp_path: Path) -> Path:
    """The demo's checkpoint without its router."""
    remove_router(model)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("part", ["lora", "full"])
def test_control_without_a_router(part: str, base: Path, train_file: Path, tmp_path: Path) -> None:
    settings = TuneSettings(train=part, steps=2, batch_size=6, learning_rate=1e-4)
    report = tune(base, tmp_path / "tuned", train_file, settings=settings)
    before, after = _weights(base), _weights(tmp_path / "tuned")
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "tuned")
    assert report.parameters == sum(one.numel() for one in model.parameters())
    assert "moir_router" not in json.loads((tmp_path / "tuned" / "config.json").read_text())


def test_refusals(
    base: Path, train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = ["tune", str(base), "-o", str(tmp_path / "t"), "--data", str(train_file)]
    assert main([*words, "--train", "lora", "--balance-method", "mwam-gradient"]) == 2
    assert (
        "no router behind which it could be balanced; attach one first" in capsys.readouterr().err
    )
    assert main([*words, "--train", "full", "--lora-rank", "4"]) == 2
    assert "lora_rank is for `lora`, but 'full' is trained" in capsys.readouterr().err
    with pytest.raises(DataError, match="lora_rank is 0"):
        TuneSettings(train="lora", lora_rank=0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else name)
    with pytest.raises(EnvironmentProblem, match=r"'peft'.*pip install 'moir-edge\[tune\]'"):
        tune(base, tmp_path / "t", train_file, settings=TuneSettings(train="lora"))
    assert not (tmp_path / "t").exists()


TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture
def llava(processor: Any, tmp_path: Path) -> Path:
    """A tiny random LLaVA with the demo's tokenizer, and a router."""
    tokenizer = processor.tokenizer
    end = tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 24,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": end,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = end
    retrofit(model)
    model.save_pretrained(tmp_path / "llava")
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(tmp_path / "llava")
    return tmp_path / "llava"


def test_llava(llava: Path, train_file: Path, tmp_path: Path) -> None:
    settings = TuneSettings(
        train="lora", steps=3, batch_size=6, balance_method="ogm-ge", dtype="bf16"
    )
    report = tune(llava, tmp_path / "tuned", train_file, eval_data=train_file, settings=settings)
    assert report.eval_loss is not None
    assert report.first_eval_loss is not None
    assert report.eval_loss < report.first_eval_loss
    before, after = _weights(llava), _weights(tmp_path / "tuned")
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    stems = {name.rpartition(".")[0].rpartition(".")[2] for name in changed if "layers" in name}
    assert stems == {f"{one}_proj" for one in ("q", "k", "v", "o", "gate", "up", "down")}
    assert not any("vision" in name or "projector" in name for name in changed)
    # the Trainer's switch of the cache is not written
    assert "use_cache" not in json.loads((tmp_path / "tuned" / "config.json").read_text())


def test_llava_in_batches_with_and_without_images(
    llava: Path, train_file: Path, tmp_path: Path
) -> None:
    settings = TuneSettings(
        train="lora", steps=3, batch_size=3, missing_image=0.5, balance_method="opm", keep_clean=1.0
    )
    report = tune(llava, tmp_path / "tuned", train_file, eval_data=train_file, settings=settings)
    assert 0 < report.conditions["image-absent"] < 6
    assert report.eval_loss is not None
    assert report.first_eval_loss is not None
    assert report.eval_loss < report.first_eval_loss


def test_batch_norms_are_frozen_with_their_weights() -> None:
    model = torch.nn.Sequential(
        torch.nn.BatchNorm2d(2), torch.nn.BatchNorm1d(2), torch.nn.LayerNorm(2)
    )
    assert frozen_statistics(model) == []
    train_only(model, "router")
    assert frozen_statistics(model) == [model[0], model[1]]
    model[0].weight.requires_grad_()
    assert frozen_statistics(model) == [model[1]]
