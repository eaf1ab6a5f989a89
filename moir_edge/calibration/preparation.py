"""From float graphs and a data file to what static quantization needs: smoothed graphs and statistics of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from moir_edge.bundle.files import ModelFiles
from moir_edge.bundle.manifest import ModelFacts
from moir_edge.calibration.balance import Balance
from moir_edge.calibration.collection import collect
from moir_edge.calibration.rows import CalibrationRows, refuse_overlap
from moir_edge.calibration.settings import CalibrationSettings
from moir_edge.calibration.smoothing import smooth
from moir_edge.calibration.taps import GraphObservers
from moir_edge.progress import Progress, silent
from moir_edge.runtime.processor import Processor

__all__ = ["CalibratedGraphs", "calibrate"]

# Channel maxima, by which smoothing goes, settle within a few dozen rows; ranges are taken from all of them afterwards.
_SMOOTHING_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class CalibratedGraphs:
    """Float graphs and what was seen in them.

    Attributes:
        graphs: All components, those that were smoothed as copies.
        observers: By component and activation.
        smoothing: SmoothQuant exponent by component and activation.
        record: The data and the settings, as JSON types.
    """

    graphs: Mapping[str, ir.Model]
    observers: Mapping[str, GraphObservers]
    smoothing: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    record: Mapping[str, Any]


def calibrate(
    graphs: Mapping[str, ir.Model],
    facts: ModelFacts,
    processor_folder: Path,
    settings: CalibrationSettings,
    *,
    components: Collection[str],
    weights_only: Collection[str] = (),
    progress: Progress | None = None,
) -> CalibratedGraphs:
    """Smooth the named components unless that is off, and gather statistics over the data.

    Args:
        graphs: Float graphs of all components; left as they are.
        facts: The model's facts.
        processor_folder: Holds tokenizer and processor, as a bundle or a checkpoint does.
        settings: Data and methods.
        components: Those whose weights or activations will be quantized by what is seen.
        weights_only: Those among them whose activations stay float: they are not smoothed, and Σ x xᵀ is gathered.
        progress: Called as ``progress("calibrate", done, total)``.

    Raises:
        DataError: No row can be used, too many cannot, the cache is of other rows, or a row is evaluated
            on too.
    """
    if settings.evaluation is not None:
        # Bad rows are skipped, so that many more may be looked at.
        limit = settings.rows + settings.max_bad_rows
        refuse_overlap(settings.data, settings.evaluation, limit=limit)
    grams = {name: name in weights_only for name in components}
    smoothed = [name for name in components if name not in weights_only]
    run = _Run(facts, Processor(ModelFiles(processor_folder), facts), settings, progress or silent)
    smoothing: dict[str, dict[str, float]] = {}
    prepared = dict(graphs)
    if settings.smoothing != "off" and smoothed:
        few = min(settings.rows, _SMOOTHING_ROWS)
        first, _ = run.collect(graphs, dict.fromkeys(smoothed, False), few, "smooth")
        alpha = None if isinstance(settings.smoothing, str) else settings.smoothing
        for name in smoothed:
            prepared[name] = graphs[name].clone()
            smoothing[name] = smooth(prepared[name], first[name], alpha=alpha)
    observers, rows = run.collect(prepared, grams, settings.rows, "calibrate")
    return CalibratedGraphs(
        graphs=prepared,
        observers=observers,
        smoothing=smoothing,
        record={
            **rows.to_record(),
            "range": settings.method,
            "smoothing": settings.smoothing,
            "min_snr_db": settings.min_snr_db,
            "decode_steps": settings.decode_steps,
        },
    )


@dataclass(frozen=True)
class _Run:
    facts: ModelFacts
    processor: Processor
    settings: CalibrationSettings
    progress: Progress

    def collect(
        self,
        graphs: Mapping[str, ir.Model],
        components: Mapping[str, bool],
        limit: int,
        stage: str,
    ) -> tuple[dict[str, GraphObservers], CalibrationRows]:
        settings = self.settings
        rows = CalibrationRows(
            settings.data,
            self.processor,
            limit=limit,
            max_bad_rows=settings.max_bad_rows,
            balance=Balance(settings.balance),
        )
        observers = collect(
            graphs,
            self.facts,
            rows,
            components=components,
            decode_steps=settings.decode_steps,
            cache=settings.cache,
            stage=stage,
            progress=self.progress,
        )
        return observers, rows
