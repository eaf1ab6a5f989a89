from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.router import (
    RouterConfig,
    hooks_removed,
    last_routing,
    load_retrofitted,
    prompt_positions,
    remove_router,
    retrofit,
    router_disabled,
)
from moir_edge.router.hooks import RoutingHooks

CONFIG = RouterConfig(rank=8, top_k=3)
CHANNEL, GATE = RouterConfig(kind="channel"), RouterConfig(kind="gate")
KINDS = pytest.mark.parametrize("config", [CONFIG, CHANNEL, GATE], ids=["token", "channel", "gate"])


def logits(vlm: Any, **changes: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = vlm.model(**{**vlm.inputs(), **changes}).logits
    return result


@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
@pytest.mark.parametrize("direction", ["both", "text-to-image", "image-to-text", "auto"])
@pytest.mark.parametrize("training", [False, True])
def test_fresh_router_leaves_logits_bit_identical(
    vlm: Any, merge: Any, direction: Any, training: bool
) -> None:
    inputs = vlm.inputs()
    inputs["labels"] = torch.full_like(inputs["input_ids"], -100)
    before = vlm.model(**inputs).logits
    retrofit(vlm.model, CONFIG.model_copy(update={"merge": merge, "direction": direction}))
    vlm.model.moir_router.train(training)
    after = vlm.model(**inputs).logits
    assert torch.equal(before, after)
    routing = last_routing(vlm.model)
    assert routing is not None
    assert (routing.output.gate > 0).any()


@pytest.mark.parametrize("direction", ["both", "text-to-image", "image-to-text"])
@pytest.mark.parametrize("training", [False, True])
def test_fresh_gate_router_leaves_logits_bit_identical(
    vlm: Any, direction: Any, training: bool
) -> None:
    inputs = vlm.inputs()
    inputs["labels"] = torch.full_like(inputs["input_ids"], -100)
    before = vlm.model(**inputs).logits
    retrofit(vlm.model, RouterConfig(kind="gate", direction=direction))
    vlm.model.moir_router.train(training)
    assert torch.equal(before, vlm.model(**inputs).logits)


def test_fresh_channel_router_starts_at_one_half_and_changes_the_logits(vlm: Any) -> None:
    before = logits(vlm)
    retrofit(vlm.model, CHANNEL)
    assert not torch.equal(before, logits(vlm))
    routing = last_routing(vlm.model)
    assert routing is not None
    assert set(routing.output.gate.unique().tolist()) == {0.0, 0.5}
    with router_disabled(vlm.model):
        assert torch.equal(before, logits(vlm))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [CONFIG, GATE], ids=["token", "gate"])
def test_fresh_router_is_identical_in_every_padding_and_dtype(
    vlm: Any, side: str, dtype: torch.dtype, config: RouterConfig
) -> None:
    model = vlm.model.to(dtype)
    inputs = vlm.inputs(side)
    before = model(**inputs).logits
    retrofit(model, config)
    assert torch.equal(before, model(**inputs).logits)


def test_fresh_router_generates_the_same_tokens_and_logits(vlm: Any) -> None:
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    before = vlm.model.generate(**vlm.inputs(), **options)
    retrofit(vlm.model, CONFIG)
    after = vlm.model.generate(**vlm.inputs(), **options)
    assert torch.equal(before.sequences, after.sequences)
    assert all(map(torch.equal, before.logits, after.logits))


@KINDS
def test_generate_routes_the_prefill_only_and_as_forward_does(
    vlm: Any, config: RouterConfig
) -> None:
    base = logits(vlm)
    router = retrofit(vlm.model, config)
    vlm.wake()
    calls = []
    router.register_forward_hook(lambda *_: calls.append(1))
    expected = logits(vlm)
    assert not torch.equal(base, expected)
    found = vlm.model.generate(
        **vlm.inputs(),
        max_new_tokens=4,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert len(calls) == 2
    # generate() computes the last position alone, so the matrix products differ in blocking: float32 rounding.
    torch.testing.assert_close(found.logits[0], expected[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config", [CHANNEL, GATE], ids=["channel", "gate"])
def test_padding_does_not_change_what_is_routed(vlm: Any, side: str, config: RouterConfig) -> None:
    retrofit(vlm.model, config)
    vlm.wake()
    logits(vlm, **vlm.inputs(side))
    batched = last_routing(vlm.model)
    with torch.no_grad():
        vlm.model(**vlm.single())
    alone = last_routing(vlm.model)
    assert batched is not None
    assert alone is not None
    length = vlm.single()["input_ids"].shape[1]
    rows = batched.output.inputs_embeds[1]
    rows = rows[-length:] if side == "left" else rows[:length]
    # The vision tower sees another batch size, which changes float32 rounding.
    torch.testing.assert_close(rows, alone.output.inputs_embeds[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [CHANNEL, GATE], ids=["channel", "gate"])
@pytest.mark.parametrize("autocast", [False, True])
def test_training_reaches_every_weight_of_the_other_kinds(
    vlm: Any, config: RouterConfig, autocast: bool
) -> None:
    router = retrofit(vlm.model, config)
    vlm.model.train()
    inputs = vlm.inputs()
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = inputs["input_ids"][:, -1]
    # The gate's projection is zero at first, so its softmax is reached in the second step.
    optimizer = torch.optim.SGD(vlm.model.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            vlm.model(**inputs, labels=labels).loss.backward()
        reached = {name for name, item in router.named_parameters() if item.grad.any()}
        optimizer.step()
    assert reached == {name for name, _ in router.named_parameters()}


def test_static_cache_and_beams_keep_the_routing(vlm: Any) -> None:
    retrofit(vlm.model, CONFIG)
    vlm.wake()
    plain = vlm.model.generate(**vlm.inputs(), max_new_tokens=4, do_sample=False)
    static = vlm.model.generate(
        **vlm.inputs(), max_new_tokens=4, do_sample=False, cache_implementation="static"
    )
    assert torch.equal(plain, static)
    vlm.model.generate(**vlm.inputs(), max_new_tokens=2, do_sample=False, num_beams=2)
    routing = last_routing(vlm.model)
    assert routing is not None
    assert torch.equal(routing.image_positions[0], routing.image_positions[1])


def test_prompt_in_chunks_is_refused(vlm: Any) -> None:
    retrofit(vlm.model, CONFIG)
    with pytest.raises(UnsupportedError, match="prefill_chunk_size=None"):
        vlm.model.generate(**vlm.inputs(), max_new_tokens=2, prefill_chunk_size=5, do_sample=False)


def test_hook_and_numpy_agree_on_the_positions(vlm: Any) -> None:
    retrofit(vlm.model, CONFIG, special_token_ids=vlm.special_ids | {12})
    for side in ("left", "right"):
        inputs = vlm.inputs(side)
        logits(vlm, **inputs)
        routing = last_routing(vlm.model)
        assert routing is not None
        expected = prompt_positions(
            inputs["input_ids"].numpy(),
            inputs["attention_mask"].numpy(),
            vlm.image_token_id,
            vlm.special_ids | {12},
        )
        np.testing.assert_array_equal(routing.image_positions, expected.image_positions)
        np.testing.assert_array_equal(routing.text_positions, expected.text_positions)
        np.testing.assert_array_equal(routing.text_mask, expected.text_mask)
        assert expected.text_mask.sum(1).tolist() == [5, 4]


def test_hook_and_numpy_agree_on_random_frames(vlm: Any) -> None:
    """Random prompts of words, marks, newlines, image tokens and padding: the two forms of one rule give the same."""
    generator = np.random.default_rng(5)
    hooks = RoutingHooks(
        retrofit(vlm.model, CONFIG),
        vlm.model,
        vlm.model.get_decoder(),
        image_token_id=vlm.image_token_id,
        special_ids=[0, 1, 2],
        newline_ids=[12, 13],
    )
    left_out = 0
    for _ in range(200):
        ids = generator.choice([0, 1, 2, 3, 3, 12, 13, 20], size=(3, 9))
        ids[:, 4] = vlm.image_token_id
        mask = generator.random(ids.shape) > 0.2
        found = hooks._positions(
            {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        )
        expected = prompt_positions(ids, mask, vlm.image_token_id, [0, 1, 2], [12, 13])
        without = prompt_positions(ids, mask, vlm.image_token_id, [0, 1, 2])
        left_out += int(without.text_mask.sum() - expected.text_mask.sum())
        assert found is not None
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert left_out > 0


def test_sample_routes_alike_alone_and_in_a_padded_batch(vlm: Any) -> None:
    retrofit(vlm.model, CONFIG)
    vlm.wake()
    logits(vlm)
    batched = last_routing(vlm.model)
    with torch.no_grad():
        vlm.model(**vlm.single())
    alone = last_routing(vlm.model)
    assert batched is not None
    assert alone is not None
    shift = vlm.inputs()["input_ids"].shape[1] - vlm.single()["input_ids"].shape[1]
    images, texts = alone.image_positions.shape[1], alone.text_positions.shape[1]
    start = batched.image_positions.shape[1]
    for ours, theirs in ((slice(0, images), 0), (slice(images, images + texts), start)):
        width = len(range(*ours.indices(images + texts)))
        expected = batched.output.indices[1, theirs : theirs + width]
        expected = torch.where(expected >= 0, expected - shift, -1)
        assert torch.equal(alone.output.indices[0, ours], expected)
        # The vision tower sees another batch size, which changes float32 rounding.
        torch.testing.assert_close(
            alone.output.gate[0, ours],
            batched.output.gate[1, theirs : theirs + width],
            atol=1e-5,
            rtol=0,
        )


@KINDS
def test_answer_tokens_do_not_change_the_routed_prompt(vlm: Any, config: RouterConfig) -> None:
    retrofit(vlm.model, config)
    vlm.wake()
    vlm.model.train()
    seen = []
    language_model = vlm.model.get_decoder()
    language_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
    )
    inputs = vlm.inputs()
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = inputs["input_ids"][:, -2:]
    vlm.model(**inputs, labels=labels)
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][:, -2:] = torch.tensor([[40, 41], [42, 43]])
    labels[:, -2:] = changed["input_ids"][:, -2:]
    vlm.model(**changed, labels=labels)
    assert torch.equal(seen[0][:, :-2], seen[1][:, :-2])
    embedding = vlm.model.get_input_embeddings()
    # Answer tokens are no targets either: their rows are the plain embeddings.
    assert torch.equal(seen[1][:, -2:], embedding(changed["input_ids"][:, -2:]))
    with pytest.raises(DataError, match="pass labels with -100"):
        vlm.model(**inputs)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
def test_training_reaches_every_router_weight(vlm: Any, autocast: bool, merge: Any) -> None:
    router = retrofit(vlm.model, CONFIG.model_copy(update={"merge": merge}))
    vlm.model.train()
    inputs = vlm.inputs()
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = inputs["input_ids"][:, -1]
    # Plain steps of a size that moves the zero weights visibly.
    optimizer = torch.optim.SGD(vlm.model.parameters(), lr=1.0)
    for step in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            vlm.model(**inputs, labels=labels).loss.backward()
        start = "blend" if merge == "interpolate" else "up.weight"
        reached = {name for name, item in router.named_parameters() if item.grad.abs().sum() > 0}
        names = {name for name, _ in router.named_parameters()}
        assert {name for name in names if name.endswith(start)} <= reached
        if step == 1:
            assert reached == names
        optimizer.step()


@KINDS
def test_save_and_load_round_trip(vlm: Any, tmp_path: Path, config: RouterConfig) -> None:
    retrofit(vlm.model, config, special_token_ids=[0, 1, 2, 12])
    vlm.wake()
    expected = logits(vlm)
    vlm.model.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())["moir_router"]
    frame = {"special_token_ids": [0, 1, 2, 12], "newline_token_ids": []}
    assert record == {**config.to_record(), **frame}
    again = load_retrofitted(tmp_path)
    assert type(again) is type(vlm.model)
    assert not again.training
    vlm.model = again
    assert torch.equal(logits(vlm), expected)
    half = load_retrofitted(str(tmp_path), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert {item.dtype for item in half.moir_router.parameters()} == {torch.float32}


def test_loading_warns_of_no_unexpected_weight(
    vlm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    retrofit(vlm.model, CONFIG)
    vlm.model.save_pretrained(tmp_path)
    # The base class loads such a checkpoint too and says what it leaves out, which shows that the check can fail.
    type(vlm.model).from_pretrained(tmp_path)
    assert "moir_router" in caplog.text
    caplog.clear()
    load_retrofitted(tmp_path)
    assert "moir_router" not in caplog.text


def test_sharded_checkpoint_loads(vlm: Any, tmp_path: Path) -> None:
    retrofit(vlm.model, CONFIG)
    vlm.wake()
    expected = logits(vlm)
    vlm.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    vlm.model = load_retrofitted(tmp_path)
    assert torch.equal(logits(vlm), expected)


def test_checkpoint_without_router_or_with_missing_weights(vlm: Any, tmp_path: Path) -> None:
    vlm.model.save_pretrained(tmp_path / "plain")
    with pytest.raises(DataError, match="holds no router"):
        load_retrofitted(tmp_path / "plain")
    retrofit(vlm.model, CONFIG)
    vlm.model.save_pretrained(tmp_path / "whole")
    config = (tmp_path / "whole" / "config.json").read_text()
    (tmp_path / "plain" / "config.json").write_text(config)
    with pytest.raises(DataError, match=r"16 weights are missing .*: moir_router\.image\.down"):
        load_retrofitted(tmp_path / "plain")


@KINDS
def test_disabled_and_removed_router_give_the_base_model(vlm: Any, config: RouterConfig) -> None:
    base = logits(vlm)
    router = retrofit(vlm.model, config)
    vlm.wake()
    routed = logits(vlm)
    with router_disabled(vlm.model):
        assert torch.equal(logits(vlm), base)
    assert torch.equal(logits(vlm), routed)
    with hooks_removed(vlm.model):
        assert not vlm.model._forward_pre_hooks
        assert not vlm.model._forward_hooks
        assert not vlm.model.get_decoder()._forward_pre_hooks
        assert torch.equal(logits(vlm), base)
    assert torch.equal(logits(vlm), routed)
    assert remove_router(vlm.model) is router
    assert torch.equal(logits(vlm), base)
    assert not any("moir" in name for name in vlm.model.state_dict())
    assert not hasattr(vlm.model.config, "moir_router")
    with pytest.raises(UnsupportedError, match="has no router"):
        last_routing(vlm.model)


@KINDS
def test_copy_routes_on_its_own(vlm: Any, config: RouterConfig) -> None:
    retrofit(vlm.model, config)
    twin = copy.deepcopy(vlm.model)
    base = logits(vlm)
    vlm.wake()
    with torch.no_grad():
        assert torch.equal(twin(**vlm.inputs()).logits, base)
    assert last_routing(twin) is not None
    assert not torch.equal(logits(vlm), base)


@KINDS
def test_prompt_without_image_is_not_routed(vlm: Any, config: RouterConfig) -> None:
    retrofit(vlm.model, config)
    vlm.wake()
    logits(vlm)
    ids = torch.tensor([[1, 10, 11, 12]])
    with torch.no_grad(), router_disabled(vlm.model):
        expected = vlm.model(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(vlm.model(ids).logits, expected)
    assert last_routing(vlm.model) is None


def test_images_without_input_ids_are_refused(vlm: Any) -> None:
    retrofit(vlm.model, CONFIG)
    inputs = vlm.inputs()
    embeds = vlm.model.get_input_embeddings()(inputs.pop("input_ids"))
    with pytest.raises(UnsupportedError, match="no input_ids"):
        vlm.model(inputs_embeds=embeds, **inputs)


def test_default_special_ids_come_from_the_model(vlm: Any) -> None:
    retrofit(vlm.model, CONFIG)
    assert vlm.model.config.moir_router["special_token_ids"] == [0, 1, 2]


def test_old_record_keeps_its_newlines(vlm: Any, tmp_path: Path) -> None:
    retrofit(vlm.model, CONFIG)
    vlm.model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    del record["moir_router"]["newline_token_ids"]
    path.write_text(json.dumps(record))
    again = load_retrofitted(tmp_path)
    assert again._moir_hooks._newline_ids == ()  # type: ignore[attr-defined]


def test_second_router_and_text_model_are_refused(vlm: Any) -> None:
    retrofit(vlm.model, CONFIG)
    with pytest.raises(UnsupportedError, match="call remove_router"):
        retrofit(vlm.model, CONFIG)
    text = LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(UnsupportedError, match=r"LlamaForCausalLM .* has no image_token_id"):
        retrofit(text, CONFIG)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(vlm: Any, bad: float) -> None:
    name, weight = list(vlm.model.named_parameters())[3]
    with torch.no_grad():
        weight.view(-1)[0] = bad
    with pytest.raises(
        DataError, match=rf"^retrofit: this \w+: 1 weight tensor\(s\) hold NaN or infinity: {name};"
    ):
        retrofit(vlm.model)
    assert not hasattr(vlm.model, "moir_router")
