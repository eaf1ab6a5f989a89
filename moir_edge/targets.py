"""Device profiles: what each target's hardware computes in, which builder compiles for it, and how ONNX Runtime is set.

Nothing heavy is imported here: the device, the exporter and the command line all read this table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from moir_edge.arguments import switch, text
from moir_edge.checked import a, checked, required
from moir_edge.errors import UnsupportedError, closest
from moir_edge.precisions import BF16, FP16, FP32, INT8_WEIGHT_ONLY, PRECISIONS

__all__ = [
    "TARGETS",
    "Target",
    "available_precisions",
    "check_precision",
    "get_target",
    "register_target",
    "session_config",
]

Builder = Literal["tensorrt", "tensorrt_rtx", "onnxruntime"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One device profile.

    Attributes:
        name: As given to `--target`.
        description: The devices that it stands for.
        sm: CUDA compute capability times ten, 86 for 8.6; None without a GPU.
        memory_gb: Memory that the device has; None where it varies within the family.
        hardware_precisions: Formats that the hardware computes in and the builder compiles; of a processor, those whose
            weights ONNX Runtime reads.
        builder: What makes engines: `tensorrt` on the device, `tensorrt_rtx` ahead of time on any machine, or
            `onnxruntime`, which needs none.
    """

    name: str
    description: str
    sm: int | None
    memory_gb: int | None
    hardware_precisions: tuple[str, ...]
    builder: Builder

    @property
    def compute_capability(self) -> str | None:
        """The SM as NVIDIA writes it, ``"8.6"``; None without a GPU."""
        return None if self.sm is None else f"{self.sm // 10}.{self.sm % 10}"

    @property
    def builds_ahead_of_time(self) -> bool:
        """Whether engines for this target can be built on any machine."""
        return self.builder == "tensorrt_rtx"

    @property
    def router_precision(self) -> str:
        """Precision of the router: fp32, and fp16 only where the builder does not compile products in fp32."""
        return FP16 if self.builds_ahead_of_time and FP32 not in self.hardware_precisions else FP32

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON types, with the precisions that this version exports for it."""
        return {**asdict(self), "export_precisions": list(available_precisions(self))}


TARGETS: dict[str, Target] = {}
"""Every registered target by name, in the order of registration."""


@checked(target=a(Target))
def register_target(target: Target) -> Target:
    """Add a profile to `TARGETS`.

    Raises:
        ValueError: A profile of that name is there already.
    """
    if target.name in TARGETS:
        raise ValueError(f"the target {target.name!r} is registered twice")
    TARGETS[target.name] = target
    return target


def _register_all(rows: Iterable[tuple[str, str, int | None, int | None, str, Builder]]) -> None:
    for name, description, sm, memory_gb, precisions, builder in rows:
        register_target(
            Target(
                name=name,
                description=description,
                sm=sm,
                memory_gb=memory_gb,
                hardware_precisions=tuple(precisions.split()),
                builder=builder,
            )
        )


_register_all(
    (
        ("jetson-orin-nano", "Jetson Orin Nano", 87, 8, "fp16 int8 int4", "tensorrt"),
        ("jetson-agx-orin", "Jetson AGX Orin", 87, 64, "fp16 int8 int4", "tensorrt"),
        ("jetson-thor", "Jetson Thor", 110, 128, "fp16 int8 int4 fp8 nvfp4", "tensorrt"),
        ("rtx-20", "GeForce RTX 20", 75, None, "fp16", "tensorrt_rtx"),
        ("rtx-30", "GeForce RTX 30", 86, None, "fp32 fp16 int8 int4", "tensorrt_rtx"),
        ("rtx-40", "GeForce RTX 40", 89, None, "fp32 fp16 int8 int4 fp8", "tensorrt_rtx"),
        ("rtx-50", "GeForce RTX 50", 120, None, "fp32 fp16 int8 int4 fp8 nvfp4", "tensorrt_rtx"),
        ("dgx-spark", "DGX Spark", 121, 128, "fp32 fp16 int8 int4 fp8 nvfp4", "tensorrt_rtx"),
        ("cpu", "x86-64 or arm64 processor", None, None, "fp32 fp16 bf16 int8 int4", "onnxruntime"),
    )
)


@checked(name=required(text))
def get_target(name: str) -> Target:
    """Return the profile of that name.

    Raises:
        UnsupportedError: No such target; the message names the closest one.
    """
    if name not in TARGETS:
        raise UnsupportedError(f"unknown target {name!r}: {closest(name, TARGETS)}")
    return TARGETS[name]


@checked(target=a(Target))
def available_precisions(target: Target) -> tuple[str, ...]:
    """Return the precisions that the target has, widest first."""
    return tuple(precision for precision in PRECISIONS if _has(target, precision))


def _has(target: Target, precision: str) -> bool:
    return PRECISIONS[precision].hardware in target.hardware_precisions


@checked(target=a(Target, str), precision=required(text), component=text)
def check_precision(target: Target | str, precision: str, *, component: str | None = None) -> None:
    """Refuse a precision that does not exist or that the target lacks.

    Args:
        target: A profile or its name.
        precision: As given to `--precision`.
        component: Set where the precision is that of one component only; a single one may stay in fp32 on any
            target whose builder compiles it, as the router does.

    Raises:
        UnsupportedError: With the reason and what to use instead.
    """
    profile = get_target(target) if isinstance(target, str) else target
    if precision not in PRECISIONS:
        raise UnsupportedError(f"unknown precision {precision!r}: {closest(precision, PRECISIONS)}")
    if component is not None and precision == FP32 == profile.router_precision:
        return
    if reason := _lacks(profile, precision):
        raise UnsupportedError(
            f"{profile.name} does not run {precision}: {reason}; use {_alternatives(profile)}"
        )


def _alternatives(target: Target) -> str:
    *others, last = reversed(available_precisions(target))
    return f"{', '.join(others)} or {last}" if others else last


def _lacks(target: Target, precision: str) -> str:
    """Return why a target lacks a precision; empty if it has it."""
    facts = PRECISIONS[precision]
    hardware, first_sm = facts.hardware, facts.first_sm
    if hardware in target.hardware_precisions:
        return ""
    if hardware == BF16:
        return "its engines multiply in fp16, which takes the same bytes and has more digits"
    if target.sm is None:
        return f"ONNX Runtime has no {hardware.upper()} kernels for a CPU"
    if target.sm < first_sm:
        return f"{hardware.upper()} needs SM {first_sm} or later; {target.name} is SM {target.sm}"
    if hardware == FP32 and target.builds_ahead_of_time:
        return "TensorRT-RTX compiles no matrix product in FP32 for this GPU"
    return "the profile leaves it out, since fp16 takes half its memory"


# ONNX Runtime fuses DequantizeLinear -> MatMul into MatMulNBits; these keys choose its kernel. Level 4 multiplies in
# integers (level 0, in float32, was 15 to 40 times slower in 8 bits). Block size -1 takes the longest block of a
# per-channel weight, up to 256 rows, in place of 32: a third faster, at the same accuracy.
# On arm64, Arm's own kernels would take one scale for a whole row of activations, and one outlier then costs the row its
# precision (2.9 times the error); without them each block of the weight's has its own, as on x86-64.
_FUSED = {
    "session.qdq_matmulnbits_accuracy_level": "4",
    "session.qdq_matmulnbits_block_size": "-1",
    "mlas.disable_kleidiai": "1",
}
# Folds DequantizeLinear of a constant into a float32 weight once, at load; else it runs at every step. Narrow floats need
# it: the fusions that it turns off take them for integers, and the graph does not load. Activations still are rounded.
_FOLDED = {"session.disable_quant_qdq": "1"}
_FIRST_RUNTIME_THAT_FUSES_INT8 = (1, 25)
# Without it ONNX Runtime rewrites signed activations to unsigned ones, and only where one node alone reads them: the rest
# is left dequantizing its weights at every step, or does not load at all.
_STATIC = {"session.qdqisint8allowed": "1"}


@checked(
    component=required(text), precision=required(text), runtime_version=required(text), exact=switch
)
def session_config(
    component: str, precision: str, runtime_version: str, *, exact: bool = False
) -> dict[str, str]:
    """Return the ONNX Runtime session entries under which a component runs fast on a CPU.

    Args:
        component: ``vision``, ``embedding``, ``router`` or ``decoder``.
        precision: That component's precision in the manifest.
        runtime_version: `onnxruntime.__version__`.
        exact: Leave activations float where weights alone are narrow, as a GPU does, rather than round them for the sake
            of speed.

    Returns:
        Keys and values for `SessionOptions.add_session_config_entry`; empty for float graphs.
    """
    if precision not in PRECISIONS:
        raise UnsupportedError(f"unknown precision {precision!r}: {closest(precision, PRECISIONS)}")
    facts = PRECISIONS[precision]
    if not facts.quantized:
        return {}
    # Nothing fuses a token table: unless folded, the whole of it is dequantized for each token.
    if component == "embedding" or facts.narrow_float or (exact and not facts.needs_data):
        return dict(_FOLDED)
    if facts.needs_data:
        # The head is quantized by weight alone.
        return {**_STATIC, **_FUSED}
    version = tuple(int(part) for part in runtime_version.split(".")[:2])
    if precision == INT8_WEIGHT_ONLY and version < _FIRST_RUNTIME_THAT_FUSES_INT8:
        return dict(_FOLDED)
    return dict(_FUSED)
