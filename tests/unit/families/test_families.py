"""Every family of the registry, from retrofit to the bundle's answers, on tiny models of the real classes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moir_edge
from moir_edge.calibration import CalibrationSettings
from moir_edge.checkpoint import load_checkpoint
from moir_edge.data.rows import read_rows
from moir_edge.evaluation.candidates import load_candidate, spec_of
from moir_edge.evaluation.diagnosis.routing import routing_map_of
from moir_edge.export import TracedModel, assemble
from moir_edge.graphs.sessions import cpu_session
from moir_edge.models import architecture_names
from moir_edge.precisions import FP32, INT4, INT8, INT8_WEIGHT_ONLY, PRECISIONS
from moir_edge.router import RouterConfig, last_routing, retrofit, router_disabled
from moir_edge.runtime import EdgeModel, providers
from moir_edge.runtime.component import Component
from moir_edge.runtime.generation import prepare_prompt
from moir_edge.runtime.routing_picture import draw_routing_map
from moir_edge.runtime.sessions import GraphSessions
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.runtime.timing import Stopwatch
from moir_edge.runtime.token_table import TokenTable
from tests.unit.conftest import require_openvino
from tests.unit.families.conftest import ANSWER, Row, Twins, picture
from tests.unit.families.tiny import BUILDERS, save_tiny

pytestmark = pytest.mark.slow  # an export for each family

COUNT = ANSWER
# Prompts that are read in both directions have no fused decoder.
SEEN_FROM_BOTH_SIDES = ("gemma3", "paligemma")
WINDOWED_TOWERS = ("qwen2_5_vl",)
SIZES = [(24, 24), (31, 77), (90, 20), (1, 1), (64, 65), (200, 150)]


def patches_of(processor: Any, inputs: Any) -> np.ndarray[Any, Any]:
    """Return pictures that were filled up to one size as patches, those of one block together."""
    patch, merge = processor.patch_size, processor.spatial_merge_size
    side = patch * merge
    blocks = [
        torch.nn.functional.unfold(image[None, :, :height, :width], side, stride=side)[0]
        for image, (height, width) in zip(
            inputs["pixel_values"], inputs["image_sizes"].tolist(), strict=True
        )
    ]
    # (blocks, rows of a block, columns of a block, channels, height, width)
    cut = torch.cat(blocks, dim=1).T.reshape(-1, 3, merge, patch, merge, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3 * patch**2).numpy()


def rows() -> list[Row]:
    """Twenty prompts with none, one, and several images of odd shapes."""
    found: list[Row] = [(f"no image, question {n}?", []) for n in range(4)]
    found += [(f"what is it, {n}?", [picture(*size, n)]) for n, size in enumerate(SIZES * 2)]
    found += [
        ("which one?", [picture(*SIZES[n], n), picture(*SIZES[-n - 1], n + 1)]) for n in range(3)
    ]
    return [*found, ("three", [picture(20, 30, n) for n in range(3)])]


def test_no_family_lacks_a_tiny_model() -> None:
    assert tuple(sorted(BUILDERS)) == architecture_names()


@pytest.mark.proves("retrofit")
@pytest.mark.parametrize("model_type", architecture_names())
def test_a_router_changes_nothing_when_it_is_attached(model_type: str, tmp_path: Path) -> None:
    loaded = load_checkpoint(save_tiny(model_type, tmp_path / "plain", router=False))
    inputs = loaded.processor(
        images=[picture(31, 77)],
        text=f"{loaded.processor.image_token} what is it?",
        return_tensors="pt",
    )
    with torch.no_grad():
        before = loaded.model(**inputs).logits
        retrofit(loaded.model, RouterConfig(rank=4, top_k=2), tokenizer=loaded.processor)
        assert torch.equal(loaded.model(**inputs).logits, before)


@pytest.mark.proves("runtime")
def test_pixels_and_tokens_are_those_of_hugging_face(twins: Twins) -> None:
    for row in rows():
        theirs, ours = twins.inputs(row), twins.edge.encode(*row)
        np.testing.assert_array_equal(ours.input_ids, theirs["input_ids"].numpy())
        if row[1]:
            expected = theirs["pixel_values"].numpy()
            if type(twins.processor).__name__ == "PixtralProcessor":
                expected = patches_of(twins.processor, theirs)
            if expected.ndim > 2:  # else patches, one after the other
                expected = expected.reshape(-1, *expected.shape[-3:])
                # LLaVA-NeXT's fills images of fewer tiles up with zeros.
                expected = expected[expected.any(axis=(1, 2, 3))]
            assert ours.pixel_values is not None
            np.testing.assert_array_equal(ours.pixel_values, expected)


@pytest.mark.proves("runtime")
def test_greedy_answers_are_those_of_generate(twins: Twins) -> None:
    for row in rows():
        expected = twins.answer(row)
        ours = twins.edge.generate(*row, max_new_tokens=COUNT).token_ids[0]
        assert list(ours) == expected[: len(ours)]
        assert "".join(twins.edge.stream(*row, max_new_tokens=COUNT)) == "".join(
            twins.edge.generate(*row, max_new_tokens=COUNT).texts
        )


@pytest.mark.proves(FP32)
def test_logits_are_those_of_the_model(twins: Twins) -> None:
    for row in rows():
        with torch.no_grad():
            expected = twins.torch(**twins.inputs(row)).logits[0, -1].numpy()
        np.testing.assert_allclose(_logits(twins.edge, row), expected, atol=1e-3)


@pytest.mark.proves("runtime")
def test_tokens_are_looked_up_with_the_bits_of_the_graph(twins: Twins) -> None:
    table = TokenTable.of(twins.edge.bundle)
    assert table is not None
    session = cpu_session(str(twins.edge.bundle.graph("embedding")))
    ids = np.arange(twins.edge.manifest.model.image_token_id)[None]
    (expected,) = session.run(None, {"input_ids": ids})
    np.testing.assert_array_equal(table.rows(ids), expected)


@pytest.mark.proves("runtime")
def test_a_padded_batch_answers_as_its_rows_do(twins: Twins) -> None:
    chosen = rows()[3:9]
    together = twins.edge.generate(
        [row[0] for row in chosen], [row[1] for row in chosen], max_new_tokens=COUNT
    )
    alone = [twins.edge.generate(*row, max_new_tokens=COUNT).token_ids[0] for row in chosen]
    assert list(together.token_ids) == alone


@pytest.mark.proves("runtime")
def test_a_routing_map_places_every_image_token(twins: Twins) -> None:
    for row in rows()[4:]:
        routing = twins.edge.generate(*row, max_new_tokens=1).routing
        assert routing is not None
        (found,) = routing
        ids = np.array(found.prompt.ids)
        assert found.image_tokens == int((ids == twins.edge.manifest.model.image_token_id).sum())
        cells = [cell for _, cell in found.cells()]
        assert {cell.image for cell in cells} == set(range(len(row[1])))
        assert len(set(cells)) == len(cells)
    sheet = draw_routing_map(found, row[1])
    assert sheet.height > 100 * len(row[1])


@pytest.mark.proves("runtime")
def test_a_checkpoint_names_the_cells_that_its_bundle_names(
    twins: Twins, traced: TracedModel, tmp_path: Path
) -> None:
    files = [f"{n}.png" for n in range(2)]
    pictures = [picture(31, 77), picture(90, 20, 1)]
    for name, image in zip(files, pictures, strict=True):
        image.save(tmp_path / name)
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"images": files, "prompt": "which one?", "answers": ["a"]}) + "\n")
    (row,) = read_rows(data)
    spec = spec_of(str(traced.checkpoint.folder), threads=1, max_new_tokens=1)
    found = routing_map_of(load_candidate(spec))(row)
    expected = twins.edge.routing_map("which one?", pictures)
    assert found.prompt == expected.prompt
    assert list(found.cells()) == list(expected.cells())
    np.testing.assert_array_equal(found.positions, expected.positions)


@pytest.mark.proves("runtime")
def test_the_router_reads_the_tokens_that_torchs_reads(twins: Twins) -> None:
    for row in rows()[4::3]:
        with torch.no_grad():
            twins.torch(**twins.inputs(row))
        theirs = last_routing(twins.torch)
        (ours,) = twins.edge.generate(*row, max_new_tokens=1).routing or ()
        assert theirs is not None
        assert ours.image_tokens == int((theirs.image_positions[0] >= 0).sum())
        valid = torch.cat([theirs.image_positions[0] >= 0, theirs.text_mask[0]])
        np.testing.assert_array_equal(ours.indices, theirs.output.indices[0][valid].numpy())
        # Float32 on two runtimes; scores, margins and gates are of the order of 1.
        for name in ("scores", "margin", "gate"):
            expected = getattr(theirs.output, name)[0][valid].numpy()
            np.testing.assert_allclose(getattr(ours, name), expected, atol=1e-4)


@pytest.mark.proves("runtime")
def test_the_switch_takes_the_router_out(twins: Twins) -> None:
    changed = 0
    for row in rows()[4::3]:
        with router_disabled(twins.torch):
            expected = twins.answer(row)
        off = twins.edge.generate(*row, max_new_tokens=COUNT, router=False).token_ids[0]
        assert list(off) == expected[: len(off)]
        changed += not np.array_equal(
            _logits(twins.edge, row), _logits(twins.edge, row, router=False)
        )
    assert changed  # otherwise nothing above tells on from off


@pytest.mark.proves("runtime")
def test_the_form_for_onnx_runtime_computes_what_the_other_does(twins: Twins) -> None:
    model_type = twins.edge.manifest.model.model_type
    sessions, components = twins.edge.sessions, twins.edge.manifest.components
    assert (components["decoder"].fused is None) == (model_type in SEEN_FROM_BOTH_SIDES)
    assert (components["vision"].fused is None) == (model_type in WINDOWED_TOWERS)
    graphs = {
        name: Component(cpu_session(str(twins.edge.bundle.graph(name))), name)
        for name in ("vision", "decoder")
    }
    table = TokenTable.of(twins.edge.bundle)
    plain = GraphSessions({**sessions.components, **graphs}, sessions.facts, table=table)
    chosen = rows()[3:9]
    inputs = twins.edge.encode([row[0] for row in chosen], [row[1] for row in chosen])
    found = []
    for each in (plain, sessions):
        prompt = prepare_prompt(each, twins.edge.processor.family, inputs, Stopwatch(), router=True)
        logits, state = each.prefill(prompt.embeds, prompt.decoder)
        steps = [logits]
        for _ in range(COUNT):
            tokens = np.asarray((found[0] if found else steps)[len(steps) - 1].argmax(-1))
            steps.append(each.decode(tokens, state))
        found.append(steps)
    # Float32 sums in another order, over a few layers; logits are of the order of 1.
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


@pytest.mark.proves("runtime")
def test_the_next_turn_of_a_conversation_has_the_bits_of_a_whole_prompt(twins: Twins) -> None:
    kept = EdgeModel(twins.edge.bundle, threads=1, prompt_cache_bytes=1 << 26)
    images = [picture(64, 65)]
    first: list[Any] = [
        {"type": "image"},
        {"type": "text", "text": "what is it that is seen here?"},
    ]
    turns = [{"role": "user", "content": first}]
    for router in (False, True):
        settings = GenerationSettings(
            max_new_tokens=COUNT, router=router, temperature=0.5 * router, seed=1
        )
        for more in ([], [("assistant", "a box"), ("user", "and what is in it?")]):
            talk = turns + [
                {"role": role, "content": [{"type": "text", "text": text}]} for role, text in more
            ]
            runs = [
                one.begin(talk, images, settings=settings, logprobs=5) for one in (kept, twins.edge)
            ]
            for run in runs:
                list(run)
            assert runs[0].result.token_ids == runs[1].result.token_ids
            assert runs[0].logprobs == runs[1].logprobs
        if not router:
            fused = twins.edge.manifest.model.model_type not in SEEN_FROM_BOTH_SIDES
            assert kept.prompt_cache.hits == fused


@pytest.mark.parametrize(
    "precision",
    [pytest.param(name, marks=pytest.mark.proves(name)) for name in (INT8_WEIGHT_ONLY, INT8, INT4)],
)
def test_a_smaller_precision_runs(
    traced: TracedModel,
    question_file: Path,
    tmp_path: Path,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = CalibrationSettings(data=question_file, rows=2, decode_steps=1)
    calibration = data if PRECISIONS[precision].needs_data else None
    bundle = assemble(traced, tmp_path / "bundle", precision=precision, calibration=calibration)
    model = moir_edge.load(bundle, threads=1)
    done = model.generate(*rows()[4], max_new_tokens=COUNT)
    assert 0 < len(done.token_ids[0]) <= COUNT
    if precision == INT4:  # its towers are of the other precision that rounds weights alone
        require_openvino()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        # Activations as they are, as OpenVINO leaves them.
        config = partial(_exact_config, providers.session_config)
        monkeypatch.setattr(providers, "session_config", config)
        ours, theirs = (
            _logits(moir_edge.load(bundle, threads=1, provider=one), rows()[4])
            for one in ("openvino", "cpu")
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def _exact_config(config: Any, component: str, precision: str, version: str, *, exact: bool) -> Any:
    del exact
    return config(component, precision, version, exact=True)


def _logits(edge: EdgeModel, row: Row, *, router: bool = True) -> Any:
    inputs = edge.encode(*row)
    prompt = prepare_prompt(
        edge.sessions, edge.processor.family, inputs, Stopwatch(), router=router
    )
    return edge.sessions.prefill(prompt.embeds, prompt.decoder)[0][0]
