"""From float graphs, data and a target to the mix of precisions that a bundle is written in, with what led to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir

from moir_edge.bundle.files import ModelFiles
from moir_edge.bundle.manifest import ModelFacts
from moir_edge.calibration.formats import FORMATS
from moir_edge.calibration.mixed.layers import LayerTable, Quantizer
from moir_edge.calibration.mixed.measure import Batch, ModelSensitivity, measure_sensitivity
from moir_edge.calibration.mixed.prompts import answer_ids, prompt_batches
from moir_edge.calibration.mixed.recovery import HeldOut
from moir_edge.calibration.mixed.search import mix_after, raising_order, smallest_reaching
from moir_edge.calibration.mixed.settings import MixSettings
from moir_edge.calibration.rows import CalibrationRows, refuse_overlap
from moir_edge.calibration.settings import CalibrationSettings
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, ToleranceError, UnsupportedError
from moir_edge.metrics.records import Interval
from moir_edge.progress import Progress
from moir_edge.runtime.processor import Processor

__all__ = ["Mix", "MixInputs", "choose_mix"]

_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class MixInputs:
    """The model that a mix is chosen for.

    Attributes:
        graphs: Float graphs of all components, as they will be quantized.
        facts: The model's facts.
        plan: Precision of each component.
        fixed: Components whose precision was given; none of their layers is raised.
        processor_folder: Holds tokenizer and processor.
        quantizer: Quantizes a component to its precision, some of its nodes to one of their own.
        float_bytes: What a weight that stays float takes in the bundle: 4, or 2 in half precision.
    """

    graphs: Mapping[str, ir.Model]
    facts: ModelFacts
    plan: Mapping[str, str]
    fixed: Collection[str]
    processor_folder: Path
    quantizer: Quantizer
    float_bytes: int = 4


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Layers that leave their component's precision, and the report.

    Attributes:
        precisions: Component name to node name to precision; only what is raised.
        record: Sensitivity of every layer, and how the mix was found, as JSON types.
    """

    precisions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    record: Mapping[str, Any]

    @property
    def digest(self) -> dict[str, Any]:
        """The part that the manifest keeps: data, and target, figure and amounts of a chosen mix."""
        own = {name: value for name, value in self.record.get("mix", {}).items() if name != "tried"}
        return {"data": self.record["data"], **own}


def choose_mix(
    model: MixInputs,
    calibration: CalibrationSettings,
    settings: MixSettings,
    *,
    progress: Progress,
) -> Mix:
    """Measure every layer, and choose the smallest mix that reaches the target if there is one.

    Layers are raised in the order of divergence saved per byte, and the least number of them that reaches the target on
    held-out rows is found by bisection, each trial with graphs as they would be written.

    Args:
        model: The model.
        calibration: Its first `rows` rows calibrate and measure sensitivity; those after them are held out.
        settings: Target and amounts.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        UnsupportedError: No layer can be raised.
        DataError: The data cannot be used, hold rows of the evaluation, or none is left to hold out.
        ToleranceError: Not even all layers raised reach the target.
    """
    raisable = {
        name: model.graphs[name]
        for name, precision in model.plan.items()
        if precision in FORMATS and name not in model.fixed
    }
    table = LayerTable(raisable, model.quantizer, float_bytes=model.float_bytes)
    if not table.layers:
        raise UnsupportedError(
            "no layer of this export can be raised: its components are in floating point, or "
            "have their precision by `settings.component_precision`"
        )
    if calibration.evaluation is not None:
        refuse_overlap(calibration.data, calibration.evaluation)
    data = _Data(calibration, settings, Processor(ModelFiles(model.processor_folder), model.facts))
    sensitivity = measure_sensitivity(
        model.graphs,
        model.facts,
        table,
        data.sensitivity_batches(),
        answer_tokens=settings.answer_tokens,
        progress=progress,
    )
    if settings.target_recovery is None:
        return Mix(record={"data": data.record, **sensitivity.to_dict()})
    search = _Search(model, sensitivity, settings.target_recovery, progress)
    return search.run(data, settings.max_new_tokens)


@dataclass(frozen=True)
class _Data:
    """The rows, split, and what the report keeps of them."""

    calibration: CalibrationSettings
    settings: MixSettings
    processor: Processor
    record: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[Row]:
        """All rows that can be used, up to as many as are wanted."""
        limit = self.calibration.rows
        if self.settings.target_recovery is not None:
            limit += self.settings.held_out_rows
        rows = CalibrationRows(
            self.calibration.data,
            self.processor,
            limit=limit,
            max_bad_rows=self.calibration.max_bad_rows,
        )
        found = [one.row for one in rows]
        self.record.update(rows.to_record())
        if self.settings.target_recovery is not None and len(found) <= self.calibration.rows:
            raise DataError(
                f"{rows.path} has {len(found)} rows and the first {self.calibration.rows} calibrate, so "
                "no row is left to measure recovery on; give more rows, or a smaller `calibration.rows`"
            )
        return found

    def held_out(self) -> list[Row]:
        return self.rows[self.calibration.rows :]

    def sensitivity_batches(self) -> list[Batch]:
        count = min(self.settings.sensitivity_rows, self.calibration.rows)
        batches = prompt_batches(self.rows[:count], self.processor, _BATCH)
        return [
            (
                batch,
                [
                    answer_ids(row, prompt, self.processor)
                    for row, prompt in zip(batch.rows, batch.inputs.prompts, strict=True)
                ],
            )
            for batch in batches
        ]


class _Search:
    """Tries mixes on held-out rows and remembers what each gave."""

    def __init__(
        self, model: MixInputs, sensitivity: ModelSensitivity, target: float, progress: Progress
    ) -> None:
        self._model = model
        self._sensitivity = sensitivity
        self._target = target
        self._progress = progress
        self._steps = raising_order(sensitivity.layers)
        self._most_trials = 2 + len(self._steps).bit_length()
        self._tried: dict[int, Interval] = {}

    def run(self, data: _Data, max_new_tokens: int) -> Mix:
        """Find the mix.

        Raises:
            ToleranceError: Not even all layers raised reach the target.
        """
        self._progress("mix", 0, self._most_trials)
        held_out = HeldOut(
            data.held_out(),
            data.processor,
            max_new_tokens=max_new_tokens,
            graphs=self._model.graphs,
        )

        def reaches(count: int) -> bool:
            if count not in self._tried:
                self._tried[count] = held_out.recovery(self._build(count), self._model.plan)
                self._progress("mix", len(self._tried), self._most_trials)
            return 100 * self._tried[count].value >= self._target

        count = smallest_reaching(len(self._steps), reaches)
        self._progress("mix", self._most_trials, self._most_trials)
        if count is None:
            raise self._missed(held_out)
        record = {"data": data.record, **self._record(count, held_out)}
        return Mix(precisions=self._mix(count), record=record)

    def _mix(self, count: int) -> dict[str, dict[str, str]]:
        return mix_after(self._sensitivity.layers, self._steps[:count])

    def _build(self, count: int) -> dict[str, ir.Model]:
        """Return the graphs as a bundle would hold them."""
        mix, graphs = self._mix(count), {}
        for name, graph in self._model.graphs.items():
            graphs[name] = graph.clone()
            self._model.quantizer(name, graphs[name], mix.get(name, {}))
        return graphs

    def _missed(self, held_out: HeldOut) -> ToleranceError:
        best = self._tried[len(self._steps)]
        fixed = {name: str(self._model.plan[name]) for name in self._model.fixed}
        remedy = f" or leave out `settings.component_precision={fixed}`" if fixed else ""
        return ToleranceError(
            f"target recovery {self._target:g} % is out of reach: with all {len(self._sensitivity.layers)} layers that "
            f"may be raised in float32 it is {100 * best.value:.2f} % ({held_out.measure} on {held_out.rows} held-out "
            f"rows); ask for less{remedy}"
        )

    def _record(self, count: int, held_out: HeldOut) -> dict[str, Any]:
        record = self._sensitivity.to_dict()
        mix = self._mix(count)
        for layer in record["layers"]:
            use = layer["uses"][0]
            floor = layer["precisions"][0]["precision"]
            layer["chosen"] = mix.get(use["component"], {}).get(use["node"], floor)
        record["mix"] = {
            "target_recovery": self._target,
            "measure": held_out.measure,
            "held_out_rows": held_out.rows,
            "raised_layers": sum(
                layer["chosen"] != layer["precisions"][0]["precision"] for layer in record["layers"]
            ),
            "steps": len(self._steps),
            "tried": [self._trial_record(one) for one in sorted(self._tried)],
            "chosen": self._trial_record(count),
        }
        return record

    def _trial_record(self, count: int) -> dict[str, Any]:
        recovery = self._tried[count]
        floor = sum(one.costs[0].bytes for one in self._sensitivity.layers)
        added = sum(step.bytes_added for step in self._steps[:count])
        return {
            "steps": count,
            "layer_bytes": floor + added,
            "recovery": 100 * recovery.value,
            "low": 100 * recovery.low,
            "high": 100 * recovery.high,
        }
