"""Settings of one export, checked and planned for each component before any long work."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict

import onnx_ir as ir

from moir_edge.arguments import check_fields, given, instance, text
from moir_edge.bundle import COMPONENTS
from moir_edge.errors import UnsupportedError, closest
from moir_edge.export.parity import PARITY_RTOL, STORED_ROUNDINGS, check_parity_rtol
from moir_edge.export.precisions import (
    apply_precision,
    calibrated_components,
    choose_int4_block_size,
    choose_int4_method,
    plan_head,
    plan_precisions,
)
from moir_edge.precisions import FP16, FP32, HEAD, PRECISIONS, PrecisionName
from moir_edge.targets import Target, get_target

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings, MixSettings, QuantizationSummary
    from moir_edge.calibration.mixed.layers import Quantizer
    from moir_edge.calibration.preparation import CalibratedGraphs

__all__ = ["ExportOptions", "ExportPlan", "ExportSettings", "chosen_settings"]


class ExportOptions(TypedDict, total=False):
    """The fields of `ExportSettings` as keywords, for type checkers."""

    target: str
    precision: str
    component_precision: Mapping[str, str] | None
    int4_method: str | None
    int4_block_size: int | None
    calibration: CalibrationSettings | None
    mix: MixSettings | None
    engines: bool
    parity_rtol: float


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """Precisions and methods of one export.

    Attributes:
        settings: What they follow from.
        target: Device profile.
        precisions: By component.
        int4_method: How INT4 weights are found.
        int4_block_size: Rows of an INT4 weight that share a scale.
        calibrated: Components that are quantized by statistics of the calibration data.
        head: Precision of the decoder's head; None for the one that the decoder's gives it.
    """

    settings: ExportSettings
    target: Target
    precisions: Mapping[str, PrecisionName]
    int4_method: str
    int4_block_size: int
    calibrated: tuple[str, ...]
    head: PrecisionName | None = None

    @property
    def fixed(self) -> tuple[str, ...]:
        """Components whose precision was given by name, which no search may raise."""
        return tuple(name for name in self.settings.component_precision or () if name != HEAD)

    @property
    def on_gpu(self) -> bool:
        """Whether TensorRT will read the graphs, rather than ONNX Runtime on a CPU."""
        return self.target.builder != "onnxruntime"

    @property
    def weights_only(self) -> tuple[str, ...]:
        """The calibrated components of which only weights are quantized."""
        return tuple(
            name for name in self.calibrated if not PRECISIONS[self.precisions[name]].needs_data
        )

    @property
    def computed_in_half(self) -> tuple[str, ...]:
        """The components whose products run in float16."""
        return tuple(
            name
            for name, precision in self.precisions.items()
            if self.takes_gpu_form(name) or (self.on_gpu and precision == FP16)
        )

    @property
    def parity_bound(self) -> float | None:
        """Largest error of an output, as a share of its scale; None where quantization or float16 products decide it."""
        facts = [PRECISIONS[precision] for precision in self.precisions.values()]
        if self.computed_in_half or any(one.quantized for one in facts):
            return None
        stored = STORED_ROUNDINGS * max(one.rounding for one in facts)
        return max(self.settings.parity_rtol, stored)

    def takes_gpu_form(self, component: str) -> bool:
        """Say whether a component's graph is exported in the GPU's form."""
        return self.on_gpu and PRECISIONS[self.precisions[component]].quantized

    def quantizer(self, calibrated: CalibratedGraphs | None, *, signed: bool) -> Quantizer:
        """Return what brings a component to its precision, some of its nodes to one of their own.

        Args:
            calibrated: Statistics; None where no component needs them.
            signed: Store 8-bit activations signed, as TensorRT asks for.
        """

        def quantizer(
            component: str, model: ir.Model, layer_precisions: Mapping[str, str]
        ) -> QuantizationSummary | None:
            from moir_edge.calibration import LayerOptions

            if component == "decoder" and self.head is not None:
                layer_precisions = {_head_of(model): self.head, **layer_precisions}
            options = LayerOptions(
                signed=signed,
                block_size=self.int4_block_size,
                int4_method=self.int4_method,
                # Names of nodes are taken literally, not as patterns.
                precisions={glob.escape(node): one for node, one in layer_precisions.items()},
            )
            return apply_precision(
                model,
                self.precisions[component],
                component=component,
                calibrated=calibrated,
                stored_only=not self.on_gpu,
                options=options,
            )

        return quantizer


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings of a bundle; every command and function that exports passes this one value on.

    Attributes:
        target: Device profile.
        precision: One of `moir_edge.precisions.PRECISIONS` that the target has.
        component_precision: Overrides by component, such as ``{"vision": "fp32"}``; no search for a mix raises these. ``head`` is the decoder's last
            product: ``int4``, ``int8-weight-only`` or ``fp32`` in a quantized decoder, which a search may raise.
        int4_method: How INT4 weights are found: ``rtn``, ``awq``, ``gptq`` or ``hqq``; None takes the best there is with the
            data at hand.
        int4_block_size: Rows of an INT4 weight that share a scale: 16, 32, 64, 128 or 256; None takes 32. A layer whose
            input channels are no multiple of it falls back to INT8.
        calibration: Data and methods for ``int8`` and ``fp8``, for ``int4`` by a method that goes by data, and what `mix` is
            measured on.
        mix: Measure the layers' sensitivity into ``reports/sensitivity.json``, and raise the precision of as few as
            reach a target recovery; needs `calibration`.
        engines: Compile engines too, where the target's can be built on any machine.
        parity_rtol: Largest error of a float32 bundle's outputs against torch, as a share of each output's largest value; where
            weights are rounded to half precision for a CPU, the bound is that of the rounding if it is larger.
        plan: What follows for each component of a model that has all of them.

    Raises:
        UnsupportedError: Unknown target, precision, component or method; the target lacks a precision or reads no
            such weights; or calibration data are missing or of no use.
        DataError: `parity_rtol` is out of range.
    """

    target: str = "cpu"
    precision: str = FP32
    component_precision: Mapping[str, str] | None = None
    int4_method: str | None = None
    int4_block_size: int | None = None
    calibration: CalibrationSettings | None = None
    mix: MixSettings | None = None
    engines: bool = True
    parity_rtol: float = PARITY_RTOL
    plan: ExportPlan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from moir_edge.calibration import CalibrationSettings, MixSettings

        check_fields(self)
        for name, precision in (self.component_precision or {}).items():
            given(
                f"component_precision[{name!r}]", text(f"component_precision[{name!r}]", precision)
            )
        instance("calibration", self.calibration, CalibrationSettings)
        instance("mix", self.mix, MixSettings)
        check_parity_rtol(self.parity_rtol)
        precisions = plan_precisions(
            COMPONENTS, self.target, self.precision, self.component_precision
        )
        has_data = self.calibration is not None
        head = plan_head(precisions, self.target, self.component_precision)
        every = precisions if head is None else {**precisions, HEAD: head}
        method = choose_int4_method(every, self.target, self.int4_method, has_data=has_data)
        block_size = choose_int4_block_size(every, self.int4_block_size)
        calibrated = calibrated_components(
            precisions, has_data=has_data, int4_method=method, measured=self.mix is not None
        )
        plan = ExportPlan(
            settings=self,
            target=get_target(self.target),
            precisions=precisions,
            int4_method=method,
            int4_block_size=block_size,
            calibrated=calibrated,
            head=head,
        )
        object.__setattr__(self, "plan", plan)

    def plan_of(self, components: Iterable[str]) -> ExportPlan:
        """Return the plan of a model that has some of the components.

        Raises:
            UnsupportedError: A component whose precision was given is not among them.
        """
        names = tuple(components)
        for name in self.plan.fixed:
            if name not in names:
                raise UnsupportedError(f"unknown component {name!r}: {closest(name, names)}")
        return replace(
            self.plan,
            precisions={name: self.plan.precisions[name] for name in names},
            calibrated=tuple(name for name in names if name in self.plan.calibrated),
        )


def _head_of(model: ir.Model) -> str:
    from moir_edge.calibration.patterns import find_head

    node = find_head(model.graph)
    if node is None:
        raise UnsupportedError(
            "the decoder's logits are not the product of a weight, so `settings.component_precision` cannot name a head; leave it out"
        )
    return node


def chosen_settings(settings: ExportSettings | None, options: ExportOptions) -> ExportSettings:
    """Return settings with some fields replaced; the defaults without settings.

    Raises:
        DataError: `settings` is something else, or a field has a wrong type.
        MoirEdgeError: As `ExportSettings`.
    """
    return replace(instance("settings", settings, ExportSettings) or ExportSettings(), **options)
