"""Quantization by data for every family: rows, feeds, probes and statistics know no shape of a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.bundle.files import ModelFiles
from moir_edge.calibration import CalibrationSettings, MixSettings
from moir_edge.calibration.collection import collect
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.rows import CalibrationRows
from moir_edge.export import TracedModel, assemble
from moir_edge.limits import PREPACKED_BYTES
from moir_edge.precisions import FP32, INT4, INT8, INT8_WEIGHT_ONLY
from moir_edge.runtime.processor import Processor
from tests.unit.families.conftest import picture

pytestmark = pytest.mark.slow  # exports of each family

PICTURES = [picture(31, 77), picture(90, 20, 1)]


def _runs(bundle: Path) -> None:
    done = moir_edge.load(bundle, threads=1).generate("which one?", PICTURES, max_new_tokens=4)
    assert 0 < len(done.token_ids[0]) <= 4
    parity = open_bundle(bundle).manifest.parity
    assert np.isfinite(list(parity["max_rel_error"].values())).all()


def _layers(bundle: Path, component: str) -> list[dict[str, object]]:
    report = json.loads((bundle / "reports" / "quantization.json").read_text())
    layers: list[dict[str, object]] = report[component]["weights"]
    return layers


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_weights_are_found_by_data_in_tower_and_decoder(
    traced: TracedModel, question_file: Path, tmp_path: Path, method: str
) -> None:
    bundle = assemble(
        traced,
        tmp_path / "bundle",
        precision=INT4,
        component_precision={"vision": INT4},
        int4_method=method,
        calibration=CalibrationSettings(data=question_file, rows=2, decode_steps=1),
    )
    # The smallest towers have one layer that is large enough, some of them none. Sixteen rows are no block of 32: such
    # layers are INT8, whose errors are fed back too.
    for component, least in (("vision", 0), ("decoder", 3)):
        layers = _layers(bundle, component)
        by_data = [one for one in layers if one.get("method") in (method, "gptq")]
        assert len(by_data) >= least
        assert all("output_signal_to_noise_db" in one for one in by_data)
    _runs(bundle)


def test_activations_of_tower_and_decoder_are_rounded(
    traced: TracedModel, question_file: Path, tmp_path: Path
) -> None:
    bundle = assemble(
        traced,
        tmp_path / "bundle",
        precision=INT8,
        component_precision={"vision": INT8},
        calibration=CalibrationSettings(
            data=question_file, rows=2, smoothing="search", min_snr_db=0
        ),
    )
    for component in ("vision", "decoder"):
        assert any(one["precision"] == INT8 for one in _layers(bundle, component))
    _runs(bundle)


def test_layers_are_raised_by_what_they_cost(
    traced: TracedModel, question_file: Path, tmp_path: Path
) -> None:
    bundle = assemble(
        traced,
        tmp_path / "bundle",
        precision=INT8_WEIGHT_ONLY,
        component_precision={"embedding": FP32},
        calibration=CalibrationSettings(data=question_file, rows=2, decode_steps=1),
        mix=MixSettings(target_recovery=100, sensitivity_rows=1, answer_tokens=1, max_new_tokens=2),
    )
    found = json.loads((bundle / "reports" / "sensitivity.json").read_text())
    assert found["rows"] == 1
    tried = {use["component"] for layer in found["layers"] for use in layer["uses"]}
    assert tried == {"vision", "decoder"}
    # Each layer of the tower is tried through tower, router and decoder.
    assert all(cost["kl"] >= 0 for layer in found["layers"] for cost in layer["precisions"])
    assert found["mix"]["chosen"]["recovery"] == 100
    _runs(bundle)


def test_large_graphs_that_run_as_they_are_written_give_the_same_statistics(
    traced: TracedModel, question_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statistics(most: int) -> dict[tuple[str, str], ActivationObserver]:
        monkeypatch.setattr("moir_edge.calibration.collection.PREPACKED_BYTES", most)
        processor = Processor(ModelFiles(traced.checkpoint.folder), traced.facts)
        rows = CalibrationRows(question_file, processor, limit=1, max_bad_rows=0)
        components = {"vision": False, "decoder": True}
        found = collect(traced.graphs, traced.facts, rows, components=components, decode_steps=1)
        return {
            (component, name): one for component, own in found.items() for name, one in own.items()
        }

    together, written = statistics(PREPACKED_BYTES), statistics(0)
    for key, one in together.items():
        assert one.tokens == written[key].tokens
        # Float32 sums in another order.
        found = written[key].channel_max
        np.testing.assert_allclose(found, one.channel_max, rtol=1e-3, atol=1e-4)
    # Group by group, each pass on what the one before left: the same operations in the same order.
    monkeypatch.setattr("moir_edge.calibration.groups.STATISTICS_BYTES", 1)
    for key, one in statistics(0).items():
        expected = written[key].state()
        for name, array in one.state().items():
            np.testing.assert_array_equal(array, expected[name], err_msg=f"{key}: {name}")
