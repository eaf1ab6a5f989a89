"""The precisions: one table of everything that is known of each, read by targets, export, calibration, engines and runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "BF16",
    "FP8",
    "FP16",
    "FP32",
    "HEAD",
    "INT4",
    "INT8",
    "INT8_WEIGHT_ONLY",
    "NVFP4",
    "PRECISIONS",
    "Precision",
    "PrecisionName",
    "Product",
    "lacks_gpu_form",
]

PrecisionName = Literal["fp32", "fp16", "bf16", "int8", "int8-weight-only", "int4", "fp8", "nvfp4"]
"""The precisions, as a manifest names them."""

Product = Literal["fp32", "fp16", "int8", "fp8"]
"""What a GPU multiplies in."""

FP32: Final = "fp32"
FP16: Final = "fp16"
BF16: Final = "bf16"
INT8: Final = "int8"
INT8_WEIGHT_ONLY: Final = "int8-weight-only"
INT4: Final = "int4"
FP8: Final = "fp8"
NVFP4: Final = "nvfp4"

HEAD: Final = "head"
"""The decoder's last product, which may have a precision of its own."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Facts of one precision.

    Attributes:
        name: As `--precision` takes it.
        bits: Of a weight.
        storage: ONNX data type of a weight.
        activation: ONNX data type that activations pass through, found with calibration data; None leaves them float.
        product: What a GPU multiplies in.
        hardware: Precision by whose name targets say that their hardware has it.
        first_sm: First SM whose tensor cores, and builder, take it; 0 for every one.
        fallback: Precision of a layer that this one cannot hold, or whose activation it would spoil; None for a float.
        block_size: Rows of a weight that share a scale: None for the whole column, 0 where the caller chooses.
        towers: Precision of `vision` and `embedding` in a bundle of this precision; None for the bundle's own.
        snr_allowance_db: How far under the asked signal to noise an activation may stay.
        opset: Least opset that has the form.
        rounding: Largest share of itself by which a weight changes that is stored without a scale.
    """

    name: str
    bits: int
    storage: str
    activation: str | None = None
    product: Product = "fp16"
    hardware: str
    first_sm: int = 0
    fallback: str | None = None
    block_size: int | None = None
    towers: str | None = None
    snr_allowance_db: float = 0.0
    opset: int = 21
    rounding: float = 0.0

    @property
    def quantized(self) -> bool:
        """Whether weights have scales; such a graph takes the GPU's form, see `moir_edge.calibration.gpu_form`."""
        return self.fallback is not None

    @property
    def needs_data(self) -> bool:
        """Whether it takes calibration data, whatever the method."""
        return self.activation is not None

    @property
    def narrow_float(self) -> bool:
        """Whether weights are floats of 8 bits or fewer."""
        return self.storage.startswith(("FLOAT8", "FLOAT4"))


# Widest first. A vision tower and a token table take 8 bits by weight where the bundle takes fewer: a look-up table multiplies
# nothing, and 4 bits cost either more accuracy than they save bytes. Activations of the tower stay float: rounded, they move its
# features so far that the router picks other tokens.
PRECISIONS: dict[str, Precision] = {
    row.name: row
    for row in (
        Precision(name=FP32, bits=32, storage="FLOAT", product="fp32", hardware=FP32),
        Precision(name=FP16, bits=16, storage="FLOAT16", hardware=FP16, rounding=2.0**-11),
        Precision(name=BF16, bits=16, storage="BFLOAT16", hardware=BF16, rounding=2.0**-8),
        Precision(
            name=INT8_WEIGHT_ONLY,
            bits=8,
            storage="INT8",
            hardware=INT8,
            first_sm=80,
            fallback=FP32,
        ),
        Precision(
            name=INT8,
            bits=8,
            storage="INT8",
            activation="INT8",
            product="int8",
            hardware=INT8,
            first_sm=80,
            fallback=INT8_WEIGHT_ONLY,
            towers=INT8_WEIGHT_ONLY,
        ),
        Precision(
            name=FP8,
            bits=8,
            storage="FLOAT8E4M3FN",
            activation="FLOAT8E4M3FN",
            product="fp8",
            hardware=FP8,
            first_sm=89,
            # The same bytes, and a quarter of the error where no activation has to match.
            fallback=INT8_WEIGHT_ONLY,
            towers=INT8_WEIGHT_ONLY,
            # Three bits of mantissa leave 29 to 35 dB to any value in range: only what underflows is to be found.
            snr_allowance_db=5.0,
        ),
        Precision(
            name=INT4,
            bits=4,
            storage="INT4",
            hardware=INT4,
            first_sm=80,
            fallback=INT8_WEIGHT_ONLY,
            block_size=0,
            towers=INT8_WEIGHT_ONLY,
        ),
        Precision(
            name=NVFP4,
            bits=4,
            storage="FLOAT4E2M1",
            hardware=NVFP4,
            first_sm=100,
            fallback=INT8_WEIGHT_ONLY,
            block_size=16,
            towers=INT8_WEIGHT_ONLY,
            opset=23,
        ),
    )
}
"""Every precision of the vocabulary by name."""


def lacks_gpu_form(precision: str, gpu_form: bool, *, for_cpu: bool) -> bool:
    """Say whether a component of a bundle has to be converted before a GPU's builder gets it.

    Args:
        precision: Of the component.
        gpu_form: Whether its graph was exported in the GPU's form.
        for_cpu: Whether the bundle was exported for a processor, where half precision is storage alone.
    """
    narrow = PRECISIONS[precision].quantized or (for_cpu and precision == FP16)
    return narrow and not gpu_form
