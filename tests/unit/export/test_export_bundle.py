"""Whole exports of tiny checkpoints: what lies in the bundle, and what is refused with nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.checkpoint import load_checkpoint
from moir_edge.errors import BundleError, DataError, ToleranceError, UnsupportedError
from moir_edge.export import assemble, export_bundle, trace_components
from tests.unit.families.tiny import save_tiny


@pytest.fixture(scope="module")
def routed(traced_models: Callable[[str], Any]) -> Any:
    """The traced graphs of a retrofitted LLaVA."""
    return traced_models("llava")


@pytest.fixture(scope="module")
def bundle(routed: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble(routed, tmp_path_factory.mktemp("out") / "fp32")


def test_bundle_holds_all_four_components(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert set(manifest.components) == {"vision", "embedding", "router", "decoder"}
    assert manifest.router is not None
    assert manifest.router["kind"] == "token"
    assert len(manifest.router_sha256 or "") == 64
    assert next(iter(manifest.created_with)) == "moir-edge"
    assert manifest.source.architecture == "LlavaForConditionalGeneration"


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "processor_config.json", "generation_config.json"]
)
def test_bundle_holds_what_the_runtime_reads(bundle: Path, name: str) -> None:
    assert json.loads((bundle / name).read_text())


def test_fp32_parity_is_measured_and_kept(bundle: Path) -> None:
    parity = open_bundle(bundle).manifest.parity
    assert parity == json.loads((bundle / "reports" / "parity.json").read_text())
    outputs = ["embedding", "vision", "router scores", "router", "prefill logits", "decode logits"]
    for name in ("max_abs_error", "max_rel_error", "reference_scale"):
        assert list(parity[name]) == outputs
    # The contract's tolerance is 1e-4 of the scale; a model this small agrees far better.
    assert max(parity["max_rel_error"].values()) < 1e-5
    for output in outputs:
        scaled = parity["max_rel_error"][output] * parity["reference_scale"][output]
        assert scaled == pytest.approx(parity["max_abs_error"][output])
    assert parity["rtol"] == 1e-4
    assert parity["greedy_agreement"] == 1.0
    assert parity["router"]["routed_tokens"] > 0
    assert parity["router"]["index_agreement"] == 1.0


@pytest.mark.parametrize("precision", ["int8-weight-only", "int4"])
def test_quantized_bundle_is_smaller_and_keeps_the_router(
    routed: Any, bundle: Path, precision: str, tmp_path: Path
) -> None:
    manifest = open_bundle(assemble(routed, tmp_path / "q", precision=precision)).manifest
    whole = open_bundle(bundle).manifest
    assert manifest.components["router"].precision == "fp32"
    assert manifest.components["decoder"].precision == precision
    small, large = (item.components["decoder"].tensor_bytes for item in (manifest, whole))
    assert small < large / 2
    assert manifest.parity["router"] is not None


@pytest.mark.parametrize(("precision", "rounding"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_half_precision_on_a_processor_is_storage_alone(
    routed: Any, bundle: Path, precision: str, rounding: float, tmp_path: Path
) -> None:
    folder = assemble(routed, tmp_path / "half", precision=precision)
    manifest, whole = open_bundle(folder).manifest, open_bundle(bundle).manifest
    assert {one.precision for one in manifest.components.values()} == {precision, "fp32"}
    assert manifest.components["router"].precision == "fp32"
    small, large = (
        sum(entry.tensor_bytes for name, entry in one.components.items() if name != "router")
        for one in (manifest, whole)
    )
    # The tiny model's norms, biases and smallest weights stay float32.
    assert 0.5 * large < small < 0.65 * large
    # Sixteen roundings of a weight; off by more than float32 is, since the weights are rounded.
    assert manifest.parity["rtol"] == 16 * rounding
    worst = max(manifest.parity["max_rel_error"].values())
    assert rounding / 100 < worst < 16 * rounding
    assert whole.parity["rtol"] == 1e-4
    assert len(moir_edge.load(folder).generate("What is it?", max_new_tokens=2).token_ids) == 1


def test_a_wider_tolerance_than_that_of_the_rounding_holds(routed: Any, tmp_path: Path) -> None:
    folder = assemble(routed, tmp_path / "half", precision="fp16", parity_rtol=0.02)
    assert open_bundle(folder).manifest.parity["rtol"] == 0.02


def test_a_checkpoint_in_bf16_loses_nothing_in_bf16(tmp_path: Path) -> None:
    """Its weights have so few digits: the graphs of both bundles give the same bits up to the decoder, on one thread (more add up in another order)."""
    import torch
    from safetensors.torch import load_file, save_file

    from moir_edge.threads import limited_threads

    checkpoint = save_tiny("llava", tmp_path / "checkpoint")
    weights = load_file(checkpoint / "model.safetensors")
    narrow = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    save_file(narrow, checkpoint / "model.safetensors", metadata={"format": "pt"})
    traced = trace_components(load_checkpoint(checkpoint))
    with limited_threads(1):
        exact, stored = (
            open_bundle(assemble(traced, tmp_path / precision, precision=precision)).manifest.parity
            for precision in ("fp32", "bf16")
        )
    for name, error in exact["max_abs_error"].items():
        # Small weights stay float32, so the decoder's layers lie side by side in one bundle only: sums come in other blocks.
        scale = exact["reference_scale"][name] if name.endswith("logits") else 0
        assert abs(stored["max_abs_error"][name] - error) <= 1e-6 * scale
    assert max(stored["max_rel_error"].values()) <= 1e-4


def test_half_bundle_keeps_float_interface(routed: Any, tmp_path: Path) -> None:
    from moir_edge.export.precisions import apply_precision
    from moir_edge.graphs.writing import write_graphs

    model = routed.graphs["decoder"].clone()
    assert apply_precision(model, "fp16") is None
    write_graphs({"decoder": model}, tmp_path)
    assert {str(value.dtype) for value in model.graph.outputs} == {"FLOAT"}


def test_tied_table_is_stored_once(traced_models: Callable[[str], Any], tmp_path: Path) -> None:
    folder = assemble(traced_models("smolvlm"), tmp_path / "tied")
    components = open_bundle(folder).manifest.components
    assert set(components) == {"vision", "embedding", "decoder"}
    assert components["decoder"].data == ("decoder.data", "embedding.data")
    assert (folder / "embedding.data").stat().st_size == 262 * 32 * 4


def test_refusals_come_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="unknown target"):
        export_bundle(tmp_path / "absent", tmp_path / "out", target="rtx-41")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(BundleError, match="exists"):
        export_bundle(tmp_path / "absent", tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_failed_parity_leaves_nothing(routed: Any, tmp_path: Path) -> None:
    # float32 sums in another order differ by more than a billionth of the logits' scale
    with pytest.raises(
        ToleranceError, match=r"tolerance 1e-10 \(parity rtol\); nothing was written"
    ):
        assemble(routed, tmp_path / "out", parity_rtol=1e-10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rtol", [0.0, 1.0, -1e-4, float("nan"), float("inf")])
def test_a_tolerance_that_bounds_nothing_is_refused(rtol: float, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        export_bundle(tmp_path / "absent", tmp_path / "out", parity_rtol=rtol)
    assert str(caught.value) == (
        f"the parity tolerance must be above 0 and below 1, got {rtol:g}; it is a share of each "
        "output's largest value, 0.0001 by default"
    )


def test_progress_reports_every_stage(routed: Any, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    assemble(routed, tmp_path / "out", progress=lambda *call: calls.append(call))
    stages = {stage for stage, _, _ in calls}
    assert stages == {"convert weights", "parity"}
    for stage in stages:
        assert [call for call in calls if call[0] == stage][-1][1:] in ((4, 4), (1, 1))


def test_export_in_one_call(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = export_bundle(make_checkpoint("smolvlm", tied=False), tmp_path / "out")
    components = open_bundle(folder).manifest.components
    assert components["decoder"].data == ("decoder.data",)
