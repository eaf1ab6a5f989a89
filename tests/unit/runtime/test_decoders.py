"""The two decoders of ONNX Runtime give the same logits: whole prompts, parts of one, padded batches, and windows that fill up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.checkpoint import load_checkpoint
from moir_edge.errors import BundleError
from moir_edge.export import assemble, trace_components
from moir_edge.graphs.sessions import cpu_session
from moir_edge.runtime.component import Component
from moir_edge.runtime.decoders import GrowingDecoder, WindowDecoder, decoder_of, window
from moir_edge.runtime.interface import DecoderInputs
from tests.unit.conftest import TEXT

WIDTH, TOKENS = 32, 24
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module", params=[8, 16], ids=["heads of 8", "heads of 16"])
def bundle(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> moir_edge.Bundle:
    """Return a bundle; heads of 16 are turned within GroupQueryAttention, by a table, and others in front of it."""
    with patch.dict(TEXT, head_dim=request.param):
        checkpoint = load_checkpoint(make_checkpoint("smolvlm"))
    for name, weight in checkpoint.model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight.data *= (
                20  # so that attention is not even, and where a token stands makes a difference
            )
    folder = tmp_path_factory.mktemp("decoders") / "bundle"
    found = open_bundle(assemble(trace_components(checkpoint), folder))
    fused = found.manifest.components["decoder"].fused
    assert fused is not None
    assert "position_ids" not in fused.without
    return found


@pytest.fixture
def decoders(bundle: moir_edge.Bundle) -> tuple[GrowingDecoder, WindowDecoder]:
    facts, entry = bundle.manifest.model, bundle.manifest.components["decoder"]
    assert entry.fused is not None
    found = [
        decoder_of(
            Component(cpu_session(str(bundle.graph("decoder", fused=one))), "it"), facts, "cpu"
        )
        for one in (False, True)
    ]
    assert isinstance(found[0], GrowingDecoder)
    assert isinstance(found[1], WindowDecoder)
    return found[0], found[1]


def embeds(batch: int, tokens: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal((batch, tokens, WIDTH)).astype(np.float32)


def both(
    decoders: tuple[GrowingDecoder, WindowDecoder], lengths: list[int], steps: int
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Yield the logits of both after the prompt and after every step."""
    sequence = max(lengths)
    prompt = embeds(len(lengths), sequence)
    mask = (np.arange(sequence) >= sequence - np.array(lengths)[:, None]).astype(np.int64)
    inputs = DecoderInputs.of_mask(mask)
    (one, first), (other, second) = (each.prefill(prompt, inputs) for each in decoders)
    yield one, other
    for _ in range(steps):
        token = embeds(len(lengths), 1)
        yield decoders[0].decode(token, first), decoders[1].decode(token, second)


def require_equal(pairs: Iterator[tuple[Any, Any]]) -> None:
    for one, other in pairs:
        # Float32 sums in another order over two layers.
        np.testing.assert_allclose(other, one, atol=2e-5)


@pytest.mark.parametrize("lengths", [[1], [TOKENS], [TOKENS, 5, 1], [7, 7]])
def test_logits_are_the_same(
    decoders: tuple[GrowingDecoder, WindowDecoder], lengths: list[int]
) -> None:
    require_equal(both(decoders, lengths, steps=4))


def test_a_prompt_in_parts_is_the_prompt(
    decoders: tuple[GrowingDecoder, WindowDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_SCORE_BYTES", 1)
    monkeypatch.setattr(window, "_FEWEST", 7)
    require_equal(both(decoders, [TOKENS], steps=2))


@pytest.mark.parametrize("tokens", [20, 21, 23])
def test_parts_of_a_prompt_round_as_the_whole_does(
    decoders: tuple[GrowingDecoder, WindowDecoder],
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
) -> None:
    """A part of one token would not: it takes other kernels."""
    prompt, inputs = embeds(1, tokens), DecoderInputs.of_mask(np.ones((1, tokens), np.int64))
    whole, first = decoders[1].prefill(prompt, inputs)
    monkeypatch.setattr(window, "_SCORE_BYTES", 1)
    monkeypatch.setattr(window, "_FEWEST", 7)
    found, second = decoders[1].prefill(prompt, inputs)
    np.testing.assert_array_equal(found, whole)
    for name, cache in first.cache.items():
        np.testing.assert_array_equal(second.cache[name], cache)


def test_a_window_that_is_full_grows(
    decoders: tuple[GrowingDecoder, WindowDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_ROOM", 1)
    require_equal(both(decoders, [14, 3], steps=40))


def test_states_do_not_mix(decoders: tuple[GrowingDecoder, WindowDecoder]) -> None:
    runs = [both(decoders, [length], steps=6) for length in (4, 9)]
    for pairs in zip(*runs, strict=True):
        require_equal(iter(pairs))


@pytest.mark.parametrize("known", [0, 1, 11, 12])
def test_a_prompt_goes_on_from_an_earlier_one(
    decoders: tuple[GrowingDecoder, WindowDecoder], known: int
) -> None:
    growing, windowed = decoders
    first, second = embeds(1, 12), embeds(1, 30)
    second[:, :known] = first[:, :known]
    inputs = [
        DecoderInputs.of_mask(np.ones((1, one.shape[1]), np.int64)) for one in (first, second)
    ]
    _, state = windowed.prefill(first, inputs[0])
    windowed.decode(embeds(1, 1), state)
    found, after = windowed.prefill(second, inputs[1], after=state, known=known)
    expected, plain = growing.prefill(second, inputs[1])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    token = embeds(1, 1)
    np.testing.assert_allclose(
        windowed.decode(token, after), growing.decode(token, plain), atol=2e-5
    )


def test_logits_of_a_step_stay_when_the_next_is_run(
    decoders: tuple[GrowingDecoder, WindowDecoder],
) -> None:
    found = [other for _, other in both(decoders, [5], steps=3)]
    assert len({one.tobytes() for one in found}) == 4


def test_a_window_lies_on_the_processors_lines(
    decoders: tuple[GrowingDecoder, WindowDecoder],
) -> None:
    _, state = decoders[1].prefill(embeds(1, 3), DecoderInputs.of_mask(np.ones((1, 3), np.int64)))
    assert state.window == 256 + 48  # the context of the model, and what keeps heads apart
    assert all(array.flags.c_contiguous for array in state.cache.values())
    assert all(array.ctypes.data % 64 == 0 for array in state.cache.values())


def test_arrays_of_a_window_begin_with_a_line_whatever_their_size() -> None:
    found = window._mapped_zeros(["a", "b", "c"], (1, 3, 5, 7))
    assert all(array.shape == (1, 3, 5, 7) and not array.any() for array in found.values())
    assert all(array.ctypes.data % 64 == 0 for array in found.values())
    found["a"][:] = 1
    assert not found["b"].any()


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("lengths", [[1], [TOKENS], [TOKENS, 5, 1]])
def test_positions_with_gaps_are_kept(
    decoders: tuple[GrowingDecoder, WindowDecoder],
    lengths: list[int],
    parts: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if parts:
        monkeypatch.setattr(window, "_SCORE_BYTES", 1)
        monkeypatch.setattr(window, "_FEWEST", 7)
    sequence = max(lengths)
    mask = (np.arange(sequence) >= sequence - np.array(lengths)[:, None]).astype(np.int64)
    gaps = np.random.default_rng(1).integers(1, 4, mask.shape).cumsum(axis=1)
    inputs = DecoderInputs(
        attention_mask=mask, position_ids=gaps * mask, next_positions=gaps[:, -1] + 2
    )
    prompt, token = embeds(len(lengths), sequence), embeds(len(lengths), 1)
    (one, first), (other, second) = (each.prefill(prompt, inputs) for each in decoders)
    pairs = [(one, other)]
    pairs += [
        (decoders[0].decode(token, first), decoders[1].decode(token, second)) for _ in range(3)
    ]
    require_equal(iter(pairs))
    counted = decoders[1].prefill(prompt, DecoderInputs.of_mask(mask))[0]
    assert sequence == 1 or np.abs(counted - other).max() > 1e-3  # positions make a difference


def test_a_graph_that_counts_its_tokens_refuses_gaps(
    bundle: moir_edge.Bundle, decoders: tuple[GrowingDecoder, WindowDecoder]
) -> None:
    component = decoders[1]._component
    component.inputs = tuple(name for name in component.inputs if name != "position_ids")
    counting = WindowDecoder(component, bundle.manifest.model)
    mask = np.ones((1, 4), np.int64)
    inputs = replace(DecoderInputs.of_mask(mask), position_ids=np.arange(1, 5)[None])
    message = "it counts the tokens of a prompt one by one, and this prompt's positions have gaps; export the bundle again"
    with pytest.raises(BundleError, match=message):
        counting.prefill(embeds(1, 4), inputs)


def test_the_runtime_takes_the_fused_form(bundle: moir_edge.Bundle) -> None:
    model = moir_edge.load(bundle.path, provider="cpu")
    assert "decoder.fused.onnx" in model.sessions.files()
    assert "vision.fused.onnx" in model.sessions.files()
    assert "decoder.onnx" not in model.sessions.files()


def test_an_older_onnx_runtime_takes_the_other_form(
    bundle: moir_edge.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", "1.22.1")
    model = moir_edge.load(bundle.path, provider="cpu")
    assert "decoder.onnx" in model.sessions.files()
    assert "decoder.fused.onnx" not in model.sessions.files()


def test_a_bundle_without_the_form_says_so(tmp_path: Path, bundle: moir_edge.Bundle) -> None:
    with pytest.raises(
        BundleError, match=r"has no fused form of embedding; export the bundle again"
    ):
        bundle.graph("embedding", fused=True)
