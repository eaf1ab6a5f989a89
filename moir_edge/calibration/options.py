"""Options of the quantization of layers, validated on construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moir_edge.arguments import check_fields, given, strings, text
from moir_edge.calibration.formats import get_format
from moir_edge.calibration.granularity import PerBlock
from moir_edge.calibration.methods.registry import get_method
from moir_edge.calibration.settings import MIN_SNR_DB, CalibrationMethod, check_method
from moir_edge.precisions import FP32

__all__ = ["LayerOptions"]


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """Options of the quantization of layers, whatever their precision.

    Attributes:
        block_size: Rows per scale of ``int4``: 16, 32, 64, 128 or 256; ``nvfp4`` has 16.
        method: How ranges of activations are chosen, see `moir_edge.calibration.ranges.find_range`.
        signed: int8 activations with zero point 0, which TensorRT asks for; else the same grid as uint8 with 128, in
            which ONNX Runtime is several times faster on x86-64.
        min_snr_db: An activation that 8 bits would leave with less signal to noise stays float.
        exclude: Names, or patterns as ``*.lm_head.*``, of nodes and initializers to leave in float32.
        precisions: Precision by name or pattern of a node or initializer, ``fp32`` among them, in place of the
            graph's; the first that matches holds.
        int4_method: How INT4 weights are found: a name of `moir_edge.calibration.methods.registry.METHODS`.
    """

    block_size: int = 32
    method: CalibrationMethod = "mse"
    signed: bool = True
    min_snr_db: float = MIN_SNR_DB
    exclude: Sequence[str] = ()
    precisions: Mapping[str, str] = field(default_factory=dict)
    int4_method: str = "rtn"

    def __post_init__(self) -> None:
        check_fields(self)
        check_method(given("method", text("method", self.method)))
        get_method(self.int4_method)
        PerBlock(block_size=self.block_size)
        for precision in strings("precisions", list(self.precisions.values())) or ():
            if precision != FP32:
                get_format(precision)
