"""Sensitivity of a whole model against chains with one layer quantized, and bundles whose mix was chosen by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.bundle.files import ModelFiles
from moir_edge.calibration import CalibrationSettings, LayerOptions, MixSettings
from moir_edge.calibration.mixed.layers import LayerTable
from moir_edge.calibration.mixed.measure import measure_sensitivity
from moir_edge.calibration.mixed.prompts import PromptBatch, answer_ids, prompt_batches
from moir_edge.calibration.mixed.recovery import HeldOut
from moir_edge.calibration.rows import CalibrationRows
from moir_edge.data.answers import Answer
from moir_edge.errors import DataError, ToleranceError, UnsupportedError
from moir_edge.export import assemble, export_bundle
from moir_edge.export.precisions import apply_precision
from moir_edge.graphs.sessions import TappedSessions
from moir_edge.graphs.writing import write_graphs
from moir_edge.metrics.scores import row_scores
from moir_edge.runtime.processor import Processor

PLAN = {"vision": "int8-weight-only", "embedding": "int8-weight-only", "decoder": "int4"}
PROMPTS = ("What is it?", "How many are there in this picture?", "True or false: it is red.")


@pytest.fixture(scope="module")
def routed(traced_models: Callable[[str], Any]) -> Any:
    """The traced graphs of a retrofitted LLaVA."""
    return traced_models("llava")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows with one noise picture each; every second one has an answer."""
    folder = tmp_path_factory.mktemp("calib")
    random = np.random.default_rng(4)
    lines = []
    for index in range(20):
        pixels = random.integers(0, 256, (30, 26, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        row = {"image": f"{index}.png", "prompt": PROMPTS[index % 3]}
        lines.append(json.dumps({**row, "answers": ["yes"]} if index % 2 else row))
    (folder / "calib.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "calib.jsonl"


@pytest.fixture(scope="module")
def processor(routed: Any) -> Processor:
    return Processor(ModelFiles(routed.checkpoint.folder), routed.facts)


@pytest.fixture(scope="module")
def batch(data: Path, processor: Processor) -> PromptBatch:
    rows = [one.row for one in CalibrationRows(data, processor, limit=3, max_bad_rows=0)]
    (batch,) = prompt_batches(rows, processor, 4)
    return batch


def _quantizer(component: str, model: Any, precisions: Mapping[str, str]) -> Any:
    return apply_precision(
        model,
        PLAN.get(component, "fp32"),  # type: ignore[arg-type]
        component=component,
        options=LayerOptions(precisions=precisions),
    )


def _alone(routed: Any, uses: Any, precision: str) -> dict[str, Any]:
    """Return the graphs with one layer quantized and all others in float."""
    models = {}
    for component, graph in routed.graphs.items():
        models[component] = graph.clone()
        own = {use.node: precision for use in uses if use.component == component}
        chosen = {str(node.name): own.get(str(node.name), "fp32") for node in graph.graph}
        _quantizer(component, models[component], chosen)
    return models


def _forced(models: Any, facts: Any, batch: PromptBatch, tokens: np.ndarray, folder: Path) -> Any:
    """Return the logits that predict each forced token, row by row, and the router's outputs."""
    folder.mkdir()
    write_graphs(models, folder)
    # Fused, a quantized product rounds its activations to 8 bits besides.
    exact = {"session.disable_quant_qdq": "1"}
    sessions = TappedSessions(folder, dict.fromkeys(models, "fp32"), facts, session_entries=exact)
    run = sessions.prompt(batch.inputs)
    last, state = sessions.prefill(run.embeds, run.decoder)
    logits = [last, *(sessions.decode(tokens[:, at], state) for at in range(tokens.shape[1] - 1))]
    return np.stack(logits, axis=1).astype(np.float64), run.routed


def test_a_layers_cost_is_that_of_a_chain_with_it_alone_quantized(
    routed: Any, batch: PromptBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny vision tower's weights would all be left alone.
    monkeypatch.setattr("moir_edge.calibration.patterns.MIN_ELEMENTS", 256)
    tokens = np.array([[70, 71], [72, 2], [73, 74]])
    answers = [(70, 71), (72, 2), (73, 74)]
    table = LayerTable({name: routed.graphs[name] for name in PLAN}, _quantizer)
    found = measure_sensitivity(
        routed.graphs,
        routed.facts,
        table,
        [(batch, answers)],
        answer_tokens=2,
        progress=lambda *_: None,
    )
    assert (found.rows, found.answered, found.tokens) == (3, 3, 6)
    reference, routing = _forced(routed.graphs, routed.facts, batch, tokens, tmp_path / "fp32")
    loss = -np.take_along_axis(log_softmax(reference, axis=-1), tokens[..., None], -1).mean()
    assert found.loss == pytest.approx(loss, rel=1e-5)
    by_name = {one.layer.name: one for one in found.layers}
    tried = [
        by_name[name] for name in by_name if ".0." in name or "embed" in name or "head" in name
    ]
    assert {use.component for one in tried for use in one.layer.uses} == set(PLAN)
    for number, one in enumerate(tried):
        for cost in one.costs[:-1]:
            models = _alone(routed, one.layer.uses, cost.precision)
            folder = tmp_path / f"{number}-{cost.precision}"
            logits, routed_to = _forced(models, routed.facts, batch, tokens, folder)
            kl = entropy(softmax(reference, axis=-1), softmax(logits, axis=-1), axis=-1).mean()
            # Logits within ±2 in float32, 1e-7 of them, by another order of sums.
            assert cost.kl == pytest.approx(kl, rel=2e-2, abs=1e-10)
            other = -np.take_along_axis(log_softmax(logits, axis=-1), tokens[..., None], -1).mean()
            assert cost.loss_increase == pytest.approx(other - loss, abs=1e-5)
            if one.layer.uses == (one.layer.uses[0],) and one.layer.uses[0].component == "decoder":
                assert cost.index_agreement is None
            else:
                assert cost.index_agreement == pytest.approx(_agreement(routing, routed_to))


def _agreement(expected: Any, got: Any) -> float:
    """Return the share of the sources of routed tokens that both picked, with plain loops."""
    shares = []
    for row in range(len(expected.gate)):
        for token in range(expected.gate.shape[1]):
            if expected.gate[row, token] > 0:
                wanted = {i for i in expected.indices[row, token].tolist() if i >= 0}
                own = set(got.indices[row, token].tolist())
                shares.append(len(wanted & own) / max(len(wanted), 1))
    return float(np.mean(shares))


def test_rows_without_an_answer_take_the_float_models_own(
    routed: Any, batch: PromptBatch, tmp_path: Path
) -> None:
    table = LayerTable({"decoder": routed.graphs["decoder"]}, _quantizer)
    found = measure_sensitivity(
        routed.graphs,
        routed.facts,
        table,
        [(batch, [(), (), ()])],
        answer_tokens=3,
        progress=lambda *_: None,
    )
    assert found.answered == 0
    assert 3 <= found.tokens <= 9
    # The greedy token is the likeliest, so that its loss is under that of a uniform guess.
    assert found.loss < np.log(routed.facts.vocab_size)


def test_answers_are_tokenized_as_the_template_writes_them(
    batch: PromptBatch, processor: Processor
) -> None:
    row, prompt = batch.rows[1], batch.inputs.prompts[1]
    ids = answer_ids(row, prompt, processor)
    # Byte-level without merges: one token per letter, then the end token.
    assert processor.tokenizer.decode(ids) == "yes"
    assert (len(ids), ids[-1]) == (4, 2)
    assert answer_ids(batch.rows[0], batch.inputs.prompts[0], processor) == ()


def _export(routed: Any, data: Path, output: Path, target: float | None, **options: Any) -> Path:
    mix = MixSettings(
        target_recovery=target,
        sensitivity_rows=4,
        answer_tokens=2,
        held_out_rows=options.pop("held_out_rows", 12),
        max_new_tokens=6,
    )
    return assemble(
        routed,
        output,
        precision=options.pop("precision", "int4"),
        calibration=CalibrationSettings(data=data, rows=options.pop("rows", 8)),
        mix=mix,
        **options,
    )


def _report(bundle: Path) -> Any:
    return json.loads((bundle / "reports" / "sensitivity.json").read_text(encoding="utf-8"))


def test_held_out_rows_are_answered_as_the_device_answers_them(
    routed: Any,
    data: Path,
    processor: Processor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[Answer]] = []

    def recorded(rows: Any, answers: list[Answer]) -> Any:
        seen.append(answers)
        return row_scores(rows, answers)

    monkeypatch.setattr("moir_edge.calibration.mixed.recovery.row_scores", recorded)
    rows = [one.row for one in CalibrationRows(data, processor, limit=5, max_bad_rows=0)]
    HeldOut(rows, processor, max_new_tokens=4, graphs=routed.graphs)
    model = moir_edge.load(assemble(routed, tmp_path / "fp32"), threads=1)
    ends = routed.facts.eos_token_ids
    for row, answer in zip(rows, seen[0], strict=True):
        alone = model.generate(row.prompt, list(row.images), max_new_tokens=4)
        assert answer.token_ids == tuple(one for one in alone.token_ids[0] if one not in ends)
        assert answer.text == alone.texts[0].strip()


def test_a_graph_whose_logits_are_not_finite_has_no_recovery(
    routed: Any, data: Path, processor: Processor
) -> None:
    rows = [one.row for one in CalibrationRows(data, processor, limit=2, max_bad_rows=0)]
    held_out = HeldOut(rows, processor, max_new_tokens=2, graphs=routed.graphs)
    broken = routed.graphs["decoder"].clone()
    for value in broken.graph.initializers.values():
        tensor = value.const_value
        if tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2:
            value.const_value = ir.Tensor(np.full_like(tensor.numpy(), np.nan), name=value.name)
    with pytest.raises(DataError, match=r"^the decoder gave nan for token 0 \(row 0, step 0\): "):
        held_out.recovery(
            {**routed.graphs, "decoder": broken}, dict.fromkeys(routed.graphs, "fp32")
        )


def _tensor_bytes(bundle: Path) -> int:
    components = open_bundle(bundle).manifest.components
    return sum(component.tensor_bytes for component in components.values())


@pytest.fixture(scope="module")
def bundles(routed: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """Bundles of rising targets; held-out rows have random answers to agree with, since none scores."""
    folder = tmp_path_factory.mktemp("mixes")
    return {target: _export(routed, data, folder / f"b{target}", target) for target in (10, 100)}


def test_a_higher_target_never_gives_a_smaller_bundle(bundles: dict[float, Path]) -> None:
    sizes = [_tensor_bytes(bundle) for bundle in bundles.values()]
    assert sizes == sorted(sizes)
    layer_bytes = [_report(one)["mix"]["chosen"]["layer_bytes"] for one in bundles.values()]
    # All that a mix changes is its layers.
    assert sizes[-1] - sizes[0] == layer_bytes[-1] - layer_bytes[0] > 0
    for target, bundle in bundles.items():
        mix = _report(bundle)["mix"]
        assert mix["measure"] == "token agreement"
        assert mix["held_out_rows"] == 12
        assert mix["chosen"]["recovery"] >= target
        report = _report(bundle)["layers"]
        chosen = [
            next(cost for cost in layer["precisions"] if cost["precision"] == layer["chosen"])
            for layer in report
        ]
        assert mix["chosen"]["layer_bytes"] == sum(cost["bytes"] for cost in chosen)
        smaller = [one for one in mix["tried"] if one["steps"] < mix["chosen"]["steps"]]
        assert all(one["recovery"] < target for one in smaller)


def test_the_bundle_holds_the_mix_and_says_why(bundles: dict[float, Path]) -> None:
    bundle = bundles[100]
    report = json.loads((bundle / "reports" / "quantization.json").read_text(encoding="utf-8"))
    raised = 0
    for layer in _report(bundle)["layers"]:
        floor = layer["precisions"][0]["precision"]
        for use in layer["uses"]:
            entries = report[use["component"]]["weights"]
            (entry,) = [one for one in entries if one["node"] == use["node"]]
            assert entry["precision"] == layer["chosen"]
            if layer["chosen"] != floor:
                raised += 1
                assert entry["reason"] == "raised to reach the target recovery"
    assert raised > 0
    calibration = open_bundle(bundle).manifest.calibration
    assert calibration is not None
    assert calibration["mix"]["chosen"] == _report(bundle)["mix"]["chosen"]
    assert calibration["mix"]["data"]["rows"] == 20
    plot = (bundle / "reports" / "sensitivity.svg").read_text(encoding="utf-8")
    assert plot.startswith("<svg")
    assert plot.count("<title>decoder: layers.0.") >= 4


def test_the_reached_figure_is_that_of_the_bundle(
    bundles: dict[float, Path], routed: Any, data: Path
) -> None:
    """The runtime, on the bundle as written, agrees with fp32 as the report says."""
    import moir_edge
    from moir_edge.data import read_rows
    from moir_edge.metrics.agreement import leading_share

    reference = bundles[100].with_name("fp32")
    assemble(routed, reference)
    rows = read_rows(data)[8:]
    answers = []
    for bundle in (reference, bundles[10]):
        model = moir_edge.load(bundle, threads=1)
        done = model.generate(
            [row.prompt for row in rows],
            [[str(path) for path in row.images] for row in rows],
            max_new_tokens=6,
        )
        ends = set(routed.facts.eos_token_ids)
        answers.append([tuple(t for t in ids if t not in ends) for ids in done.token_ids])
    shares = [leading_share(own, ref) for ref, own in zip(*answers, strict=True)]
    expected = _report(bundles[10])["mix"]["chosen"]["recovery"]
    # A batch of 12 pads otherwise than one of 16 would; a tie may fall the other way in one row.
    assert 100 * np.mean(shares) == pytest.approx(expected, abs=100 / 12)


def test_the_same_data_give_the_same_bytes(
    bundles: dict[float, Path], routed: Any, data: Path, tmp_path: Path
) -> None:
    again = _export(routed, data, tmp_path / "again", 100)
    first, second = (open_bundle(path).manifest.files for path in (bundles[100], again))
    assert {f.path: f.sha256 for f in first} == {f.path: f.sha256 for f in second}


def test_without_a_target_layers_are_measured_and_nothing_is_raised(
    routed: Any, data: Path, tmp_path: Path
) -> None:
    measured = _export(routed, data, tmp_path / "measured", None)
    plain = assemble(routed, tmp_path / "plain", precision="int4")
    report = _report(measured)
    assert "mix" not in report
    assert (report["rows"], report["rows_with_answers"]) == (4, 2)
    assert _tensor_bytes(measured) == _tensor_bytes(plain)


def test_int8_layers_are_tried_with_their_activations(
    routed: Any, data: Path, tmp_path: Path
) -> None:
    settings = CalibrationSettings(data=data, rows=8, min_snr_db=0)
    bundle = assemble(
        routed,
        tmp_path / "int8",
        precision="int8",
        calibration=settings,
        mix=MixSettings(sensitivity_rows=4, answer_tokens=2),
    )
    layers = {layer["name"]: layer for layer in _report(bundle)["layers"]}
    own = layers["decoder: layers.0.down_proj"]["precisions"]
    assert [cost["precision"] for cost in own] == ["int8", "int8-weight-only", "fp32"]
    assert own[0]["bytes"] == own[1]["bytes"]
    assert own[0]["kl"] > own[1]["kl"] > 0


def test_given_component_precisions_win(routed: Any, data: Path, tmp_path: Path) -> None:
    bundle = _export(
        routed, data, tmp_path / "out", 10, component_precision={"vision": "int8-weight-only"}
    )
    layers = _report(bundle)["layers"]
    assert {use["component"] for layer in layers for use in layer["uses"]} == {
        "embedding",
        "decoder",
    }


def test_a_target_out_of_reach_is_refused_with_the_figure(
    routed: Any, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ToleranceError,
        match=r"target recovery 100 % is out of reach: with all \d+ layers that may be raised in float32 it is "
        r"\d+\.\d\d % \(token agreement on 12 held-out rows\); ask for less or leave out "
        r"`settings\.component_precision={'decoder': 'int4'}`",
    ):
        _export(routed, data, tmp_path / "out", 100, component_precision={"decoder": "int4"})
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_measured_is_refused(routed: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"calib\.jsonl has 20 rows and the first 20 calibrate"):
        _export(routed, data, tmp_path / "out", 99, rows=20)
    settings = CalibrationSettings(data=data, rows=8, evaluation=data)
    with pytest.raises(DataError, match="are in the calibration and in the evaluation data"):
        assemble(
            routed, tmp_path / "out", precision="int4", calibration=settings, mix=MixSettings()
        )
    with pytest.raises(
        UnsupportedError, match=r"measured on calibration data; give `calibration\.data=FILE`"
    ):
        export_bundle(tmp_path / "absent", tmp_path / "out", mix=MixSettings())
    with pytest.raises(UnsupportedError, match="no layer of this export can be raised"):
        _export(routed, data, tmp_path / "out", 99, precision="fp32")
    with pytest.raises(DataError, match="target recovery is 101; expected more than 0 and at most"):
        MixSettings(target_recovery=101)
    with pytest.raises(DataError, match="sensitivity_rows is 0; expected at least 1"):
        MixSettings(sensitivity_rows=0)
