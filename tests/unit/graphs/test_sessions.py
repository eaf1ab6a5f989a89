"""Sessions with taps: against plain calls of ONNX Runtime, on a padded batch; taps, further inputs and replaced graphs."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from moir_edge.bundle.files import ModelFiles
from moir_edge.calibration.taps import add_taps
from moir_edge.graphs.sessions import TappedSessions
from moir_edge.graphs.writing import write_graphs
from moir_edge.router.positions import prompt_positions
from moir_edge.runtime.chat import user_message
from moir_edge.runtime.families import family_of
from moir_edge.runtime.generation import GenerationRun
from moir_edge.runtime.generation_config import GenerationRules
from moir_edge.runtime.interface import ImageFeatures
from moir_edge.runtime.processor import Processor
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.runtime.timing import Stopwatch

# The same graphs in ONNX Runtime, opened twice: only the threads' order of sums may differ.
SAME = 1e-5
STEPS = 3
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def routed(traced_models: Callable[[str], Any]) -> Any:
    return traced_models("llava")


@pytest.fixture(scope="module")
def processor(routed: Any) -> Processor:
    return Processor(ModelFiles(routed.checkpoint.folder), routed.facts)


@pytest.fixture(scope="module")
def inputs(processor: Processor) -> Any:
    """Two prompts of unequal length with one picture each: the first is padded."""
    random = np.random.default_rng(1)
    pictures = [
        Image.fromarray(random.integers(0, 256, (30, 26, 3), dtype=np.uint8)) for _ in range(2)
    ]
    turns = [
        user_message(text, images=1) for text in ("What is it?", "How many red things are in it?")
    ]
    batch = processor(turns, [[picture] for picture in pictures])
    assert batch.attention_mask.min() == 0
    return batch


@pytest.fixture(scope="module")
def folder(routed: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs")
    write_graphs(routed.graphs, path)
    return path


def _open(folder: Path, routed: Any, **options: Any) -> TappedSessions:
    return TappedSessions(folder, dict.fromkeys(routed.graphs, "fp32"), routed.facts, **options)


def _run(folder: Path, name: str, feed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(
        folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def _by_hand(folder: Path, facts: Any, inputs: Any) -> dict[str, Any]:
    """Run the graphs with plain calls: the prompt and greedy tokens."""
    ids, mask = inputs.input_ids, inputs.attention_mask
    features = _run(folder, "vision", {"pixel_values": inputs.pixel_values})["image_features"]
    text = _run(folder, "embedding", {"input_ids": ids})["inputs_embeds"]
    placed = text.copy()
    placed[ids == facts.image_token_id] = features.reshape(-1, features.shape[-1])
    places = prompt_positions(
        ids, mask, facts.image_token_id, facts.special_token_ids, facts.newline_token_ids
    )
    router = _run(folder, "router", {"inputs_embeds": placed, **places._asdict()})
    names = [f"{layer}.{part}" for layer in range(facts.num_layers) for part in ("key", "value")]
    empty = np.zeros((len(ids), facts.num_kv_heads, 0, facts.head_dim), np.float32)
    cache, embeds = dict.fromkeys(names, empty), router["routed_embeds"]
    # Real tokens count from 0; padding stands at the beginning and takes 0.
    positions = np.array(
        [[max(sum(row[: at + 1]) - 1, 0) for at in range(len(row))] for row in mask]
    )
    logits, tokens = [], []
    for _ in range(STEPS + 1):
        past = {f"past_key_values.{name}": cache[name] for name in names}
        feed = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions, **past}
        step = _run(folder, "decoder", feed)
        logits.append(step["logits"][:, -1])
        tokens.append(logits[-1].argmax(-1))
        cache = {name: step[f"present.{name}"] for name in names}
        embeds = _run(folder, "embedding", {"input_ids": tokens[-1][:, None]})["inputs_embeds"]
        positions = mask.sum(1, keepdims=True)
        mask = np.concatenate([mask, np.ones((len(mask), 1), np.int64)], axis=1)
    return {
        "features": features,
        "text": text,
        "router": router,
        "logits": logits,
        "tokens": tokens,
    }


@pytest.fixture(scope="module")
def expected(folder: Path, routed: Any, inputs: Any) -> dict[str, Any]:
    return _by_hand(folder, routed.facts, inputs)


def _logits(sessions: TappedSessions, inputs: Any, tokens: list[np.ndarray]) -> list[np.ndarray]:
    run = sessions.prompt(inputs)
    logits, state = sessions.prefill(run.embeds, run.decoder)
    return [logits, *(sessions.decode(one, state) for one in tokens[:STEPS])]


def test_prompt_and_steps_are_those_of_the_graphs_called_by_hand(
    folder: Path, routed: Any, inputs: Any, expected: dict[str, Any]
) -> None:
    sessions = _open(folder, routed)
    run = sessions.prompt(inputs)
    np.testing.assert_allclose(run.features.features, expected["features"], atol=SAME)
    np.testing.assert_allclose(run.text_embeds, expected["text"], atol=SAME)
    assert run.routed is not None
    np.testing.assert_allclose(run.routed.embeds, expected["router"]["routed_embeds"], atol=SAME)
    np.testing.assert_array_equal(run.routed.indices, expected["router"]["router_indices"])
    for name in ("scores", "margin", "gate"):
        figures = expected["router"][f"router_{name}"]
        np.testing.assert_allclose(getattr(run.routed, name), figures, atol=SAME)
    for got, wanted in zip(
        _logits(sessions, inputs, expected["tokens"]), expected["logits"], strict=True
    ):
        np.testing.assert_allclose(got, wanted, atol=SAME)


def test_the_runtimes_generation_runs_on_them(
    folder: Path, routed: Any, inputs: Any, processor: Processor, expected: dict[str, Any]
) -> None:
    run = GenerationRun(
        sessions=_open(folder, routed),
        family=family_of(routed.facts),
        tokenizer=processor.tokenizer,
        inputs=inputs,
        settings=GenerationSettings(),
        rules=GenerationRules(max_new_tokens=STEPS + 1),
        watch=Stopwatch(),
    )
    assert len(list(run)) > 1
    for got, row in zip(run.result.token_ids, np.stack(expected["tokens"], axis=1), strict=True):
        assert len(got) >= 1
        assert list(got) == row[: len(got)].tolist()
        assert len(got) == STEPS + 1 or got[-1] in routed.facts.eos_token_ids


def test_known_image_features_take_the_place_of_vision(
    folder: Path, routed: Any, inputs: Any, expected: dict[str, Any]
) -> None:
    known = ImageFeatures(features=2 * expected["features"])
    doubled = _open(folder, routed).prompt(inputs, features=known)
    np.testing.assert_array_equal(doubled.features.features, 2 * expected["features"])
    assert doubled.routed is not None
    assert np.abs(doubled.routed.embeds - expected["router"]["routed_embeds"]).max() > 0.01


def test_every_run_hands_its_taps_over_once(
    routed: Any, inputs: Any, expected: dict[str, Any], tmp_path: Path
) -> None:
    taps = {name: str(model.graph.inputs[0].name) for name, model in routed.graphs.items()}
    write_graphs(
        {name: add_taps(routed.graphs[name], [tap]) for name, tap in taps.items()}, tmp_path
    )
    seen: list[tuple[str, dict[str, np.ndarray]]] = []
    sessions = _open(
        tmp_path,
        routed,
        watch=lambda name, values: seen.append((name, dict(values))),
        tiles_per_run=1,
    )
    got = _logits(sessions, inputs, expected["tokens"])
    np.testing.assert_allclose(got[-1], expected["logits"][STEPS], atol=SAME)
    order = [name for name, _ in seen]
    steps = ["embedding", "decoder"] * STEPS
    assert order == ["vision", "vision", "embedding", "router", "decoder", *steps]
    assert all(list(values) == [taps[name]] for name, values in seen)  # without the prefix
    fed = [values["input_ids"] for name, values in seen if name == "embedding"]
    np.testing.assert_array_equal(fed[0], inputs.input_ids)
    for ids, tokens in zip(fed[1:], expected["tokens"], strict=False):
        np.testing.assert_array_equal(ids[:, 0], tokens)
    tiles = [values["pixel_values"] for name, values in seen if name == "vision"]
    np.testing.assert_array_equal(np.concatenate(tiles), inputs.pixel_values)
    decoded = [values["inputs_embeds"] for name, values in seen if name == "decoder"]
    routed_embeds = expected["router"]["routed_embeds"]
    np.testing.assert_allclose(decoded[0], routed_embeds, atol=SAME)


def _with_input(model: Any) -> tuple[Any, str, np.ndarray]:
    """Return a decoder whose head is an input with a default, its name and that default."""
    model = model.clone()
    head = list(model.graph)[-1]
    while head.op_type not in ("MatMul", "Gemm"):
        head = head.inputs[0].producer()
    weight = head.inputs[1]
    model.graph.inputs.append(weight)
    return model, str(weight.name), weight.const_value.numpy()


def test_further_inputs_are_fed_until_they_are_taken_back(
    routed: Any, inputs: Any, expected: dict[str, Any], tmp_path: Path
) -> None:
    decoder, name, weight = _with_input(routed.graphs["decoder"])
    write_graphs({**routed.graphs, "decoder": decoder}, tmp_path)
    sessions = _open(tmp_path, routed)
    sessions.feed_further({"decoder": {name: 2 * weight}})
    doubled = _logits(sessions, inputs, expected["tokens"])
    sessions.feed_further({})
    plain = _logits(sessions, inputs, expected["tokens"])
    for twice, once, wanted in zip(doubled, plain, expected["logits"], strict=True):
        np.testing.assert_allclose(once, wanted, atol=SAME)
        np.testing.assert_allclose(twice, 2 * wanted, atol=2 * SAME)


def test_replaced_components_leave_the_sessions_that_they_come_from_alone(
    folder: Path, routed: Any, inputs: Any, expected: dict[str, Any], tmp_path: Path
) -> None:
    decoder, name, weight = _with_input(routed.graphs["decoder"])
    write_graphs({"decoder": decoder}, tmp_path)
    sessions = _open(folder, routed)
    other = sessions.replaced(tmp_path, {"decoder": "fp32"})
    other.feed_further({"decoder": {name: 0 * weight}})
    assert not np.any(_logits(other, inputs, expected["tokens"])[0])
    got = _logits(sessions, inputs, expected["tokens"])
    np.testing.assert_allclose(got[0], expected["logits"][0], atol=SAME)


# Where names of the cache may stand: each runner of components, what makes the graphs, and the manifest.
CACHE_NAMES = {
    "bundle/manifest.py",
    "export/components.py",
    "graphs/fused/decoder.py",
    "runtime/decoders/growing.py",
    "runtime/decoders/window.py",
    "runtime/openvino/stateful.py",
    "runtime/tensorrt/sessions.py",
    "runtime/tensorrt/window.py",
    "transformers_cache.py",  # the argument of that name in transformers
}


def test_no_second_runner_of_the_decoder_exists() -> None:
    package = ROOT / "moir_edge"
    found = set()
    for path in [*package.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        texts = (
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        if any(text.startswith("past_key_values") for text in texts):
            found.add(path.relative_to(package if package in path.parents else ROOT).as_posix())
    assert found == CACHE_NAMES
