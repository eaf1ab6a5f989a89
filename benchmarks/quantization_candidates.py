"""The ways to export the demo that `benchmarks.quantization` compares, and what each has to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from moir_edge.errors import UnsupportedError, closest

__all__ = ["ACCEPTANCE", "CANDIDATES", "FP32", "Candidate", "Int4Way", "chosen"]

FP32 = "fp32"
"""The reference; named among the candidates to choose, it is compared with torch."""

ACCEPTANCE = (FP32, "int8-weight-only", "int4-rtn")
"""What `--acceptance` measures: each precision as it is exported without calibration data."""

_GPU = "jetson-thor"  # graphs for a GPU, whose products are run exactly on a CPU


Int4Way: TypeAlias = tuple[str, int]
"""Method and block size of INT4 weights."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A bundle of the demo, one row of the table.

    Attributes:
        name: Of the row and the bundle's folder.
        calibrated: Whether the export gets calibration data.
        min_recovery: Least score over that of the fp32 bundle, in %; None for a row that is only reported.
        options: Settings of the export.
    """

    name: str
    calibrated: bool
    min_recovery: float | None
    options: Mapping[str, Any]

    @property
    def int4_method(self) -> str | None:
        """Method of the INT4 weights; None without INT4."""
        return self.options.get("int4_method")

    @property
    def int4_way(self) -> Int4Way | None:
        """Method and block size of the INT4 weights; None without INT4."""
        method = self.int4_method
        return None if method is None else (method, self.options.get("int4_block_size", 32))


def _of(
    name: str, min_recovery: float | None = None, *, calibrated: bool = True, **options: Any
) -> Candidate:
    return Candidate(name=name, calibrated=calibrated, min_recovery=min_recovery, options=options)


def _int4(method: str, min_recovery: float, *, calibrated: bool) -> tuple[Candidate, ...]:
    """Return the rows of a method: the default mix of components, and more of the weights in INT4."""
    options: dict[str, Any] = {"precision": "int4", "int4_method": method}
    return (
        _of(f"int4-{method}", min_recovery, calibrated=calibrated, **options),
        _of(
            f"int4-{method}-vision-too",
            calibrated=calibrated,
            component_precision={"vision": "int4"},
            **options,
        ),
        _of(
            f"int4-{method}-head-too",
            calibrated=calibrated,
            component_precision={"head": "int4"},
            **options,
        ),
        _of(
            f"int4-{method}-block-64",
            calibrated=calibrated,
            int4_block_size=64,
            **options,
        ),
    )


CANDIDATES: tuple[Candidate, ...] = (
    _of("int8-weight-only", 99.5, calibrated=False, precision="int8-weight-only"),
    _of("int8", 99.5, precision="int8"),
    _of("int8-vision-too", precision="int8", component_precision={"vision": "int8"}),
    *_int4("rtn", 98.0, calibrated=False),
    *_int4("hqq", 98.0, calibrated=False),
    *_int4("awq", 99.0, calibrated=True),
    *_int4("gptq", 99.0, calibrated=True),
    _of("int8-gpu", 99.5, precision="int8", target=_GPU),
    _of("int4-gptq-gpu", 99.0, precision="int4", int4_method="gptq", target=_GPU),
    _of("fp8", 99.5, precision="fp8", target=_GPU),
    _of("nvfp4", precision="nvfp4", target=_GPU),
)
"""Every row, in the order of the table."""


def chosen(names: Sequence[str] | None) -> tuple[tuple[Candidate, ...], bool]:
    """Return the candidates of some names, and whether the fp32 bundle is compared with torch.

    Args:
        names: `FP32` or names in `CANDIDATES`; None takes all.

    Raises:
        UnsupportedError: A name is unknown.
    """
    known = (FP32, *(one.name for one in CANDIDATES))
    for name in names or ():
        if name not in known:
            raise UnsupportedError(f"unknown row {name!r}: {closest(name, known)}")
    wanted = known if names is None else names
    return tuple(one for one in CANDIDATES if one.name in wanted), FP32 in wanted
