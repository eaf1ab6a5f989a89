"""Both kinds of candidates on a tiny model: the same answers, times that add up, the same routing map."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moir_edge.data.rows import Row
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.evaluation import CompareSettings, compare
from moir_edge.evaluation.candidates import Candidate, load_candidate, spec_of
from moir_edge.evaluation.candidates.bundle import BundleCandidate

pytestmark = pytest.mark.slow  # traces and exports a model once, some seconds on an idle machine


@pytest.fixture(scope="module")
def torch_candidate(checkpoint: Path) -> Candidate:
    return load_candidate(spec_of(checkpoint, threads=1, max_new_tokens=6))


@pytest.fixture(scope="module")
def bundle_candidate(bundle: Path) -> Candidate:
    return load_candidate(spec_of(bundle, threads=1, max_new_tokens=6))


def test_facts(
    torch_candidate: Candidate, bundle_candidate: Candidate, checkpoint: Path, bundle: Path
) -> None:
    own, exported = torch_candidate.facts, bundle_candidate.facts
    assert own.has_router
    assert exported.has_router
    assert own.weights_bytes == (checkpoint / "model.safetensors").stat().st_size
    # Of a graph in two forms, the one that runs counts.
    graphs = [
        path for path in bundle.glob("*.onnx") if not path.with_suffix(".fused.onnx").exists()
    ]
    files = [*graphs, *bundle.glob("*.data")]
    assert exported.weights_bytes == sum(path.stat().st_size for path in files)
    assert own.backend.startswith("PyTorch ")
    assert exported.backend.startswith("ONNX Runtime ")
    assert set(exported.component_precisions) == {"vision", "embedding", "router", "decoder"}


def test_both_answer_alike_in_batches_and_alone(
    torch_candidate: Candidate, bundle_candidate: Candidate, picture_rows: list[Row]
) -> None:
    single = [row for row in picture_rows if len(row.images) == 1]
    batch = torch_candidate.answer(single)
    assert bundle_candidate.answer(single) == batch
    assert [torch_candidate.answer([row])[0] for row in single] == batch
    assert any(answer.token_ids for answer in batch)


@pytest.mark.parametrize("name", ["torch_candidate", "bundle_candidate"])
def test_a_prompt_that_cannot_fit_is_refused_with_its_row(
    name: str, request: pytest.FixtureRequest, picture_rows: list[Row]
) -> None:
    candidate: Candidate = request.getfixturevalue(name)
    long = replace(picture_rows[1], prompt="why? " * 100_000)
    message = (
        rf"^{re.escape(long.place)}: the prompt has \d+ characters, and the model's context of"
    )
    with pytest.raises(DataError, match=message):
        candidate.answer([picture_rows[0], long])


@pytest.mark.parametrize("name", ["torch_candidate", "bundle_candidate"])
def test_parts_of_the_first_token_add_up(
    name: str, request: pytest.FixtureRequest, picture_rows: list[Row]
) -> None:
    candidate: Candidate = request.getfixturevalue(name)
    row = picture_rows[1]
    on = candidate.timed(row, router=True, max_new_tokens=4)
    off = candidate.timed(row, router=False, max_new_tokens=1)
    for timed in (on, off):
        # floating-point sums of milliseconds
        assert sum(timed.component_ms.values()) == pytest.approx(timed.ttft_ms, abs=1e-6)
    for part in ("preprocess", "vision", "router", "prefill"):
        assert on.component_ms[part] > 0, part
    assert off.component_ms.get("router", 0.0) == 0
    assert off.token_ms == ()
    assert on.answer == candidate.answer([row])[0].__class__(
        text=on.answer.text,
        token_ids=candidate.answer([row])[0].token_ids[: len(on.answer.token_ids)],
    )


def test_image_tokens_are_dropped_where_the_router_is_on(
    bundle_candidate: Candidate, bundle: Path, picture_rows: list[Row]
) -> None:
    spec = spec_of(bundle, threads=1, max_new_tokens=6)
    pruned = load_candidate(replace(spec, prune_image_tokens=0.5))
    row = picture_rows[1]
    on = pruned.timed(row, router=True, max_new_tokens=4)
    assert on.component_ms["pruning"] > 0
    assert sum(on.component_ms.values()) == pytest.approx(on.ttft_ms, abs=1e-6)  # sums of floats
    off, plain = (
        one.timed(row, router=False, max_new_tokens=4) for one in (pruned, bundle_candidate)
    )
    assert "pruning" not in off.component_ms
    assert off.answer == plain.answer
    assert isinstance(pruned, BundleCandidate)
    inputs = pruned._encode([row])
    images = (inputs.input_ids == pruned.model.manifest.model.image_token_id).sum()
    assert pruned._generate([row], router=True, max_new_tokens=1).dropped_image_tokens == (
        images // 2,
    )


def test_routing_maps_are_the_same_without_padding(
    torch_candidate: Candidate, bundle_candidate: Candidate, picture_rows: list[Row]
) -> None:
    rows = [row for row in picture_rows if len(row.images) == 1]
    for own, exported in zip(
        torch_candidate.route(rows), bundle_candidate.route(rows), strict=True
    ):
        np.testing.assert_array_equal(own.positions, exported.positions)
        np.testing.assert_array_equal(own.sources, exported.sources)
        np.testing.assert_array_equal(own.gates > 0, exported.gates > 0)
        routed = own.gates > 0
        assert routed.any()
        # float32 kernels of torch and ONNX Runtime sum in another order
        np.testing.assert_allclose(own.matched[routed], exported.matched[routed], atol=1e-4)
        np.testing.assert_allclose(own.added, exported.added, atol=1e-4)
        np.testing.assert_allclose(own.margins, exported.margins, atol=1e-4)


def test_a_folder_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnsupportedError, match="'bert' is not a vision-language model"):
        load_candidate(spec_of(tmp_path, threads=1, max_new_tokens=4))


def test_compare_end_to_end(
    checkpoint: Path, bundle: Path, picture_rows: list[Row], tmp_path: Path
) -> None:
    data = tmp_path / "eval.jsonl"
    lines = [
        {
            "id": row.id,
            "task": row.task,
            "images": [str(path) for path in row.images],
            "prompt": row.prompt,
            "answers": list(row.answers),
        }
        for row in picture_rows
    ]
    data.write_text("\n".join(json.dumps(line) for line in lines))
    report = compare(
        checkpoint,
        [bundle],
        data,
        tmp_path / "report",
        CompareSettings(latency_rows=2, latency_repeats=1, max_new_tokens=4, threads=1),
    )
    reference, exported = report.candidates
    assert (reference.kind, exported.kind) == ("checkpoint", "bundle")
    assert exported.token_agreement is not None
    assert exported.token_agreement.identical == 1.0
    assert exported.routing is not None
    assert exported.routing.index_agreement == 1.0
    # no torch in the bundle's process
    assert exported.peak_memory_bytes < reference.peak_memory_bytes
    assert exported.router_overhead is not None
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
