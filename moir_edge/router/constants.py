"""Numbers of the routers, shared by torch, the numpy reference, the ONNX functions and the GPU kernels."""

from __future__ import annotations

from string import Template

__all__ = [
    "ABSENT",
    "BEHIND",
    "CHANNEL_RATIO",
    "DENSITY_FLOOR",
    "DENSITY_SLOPE",
    "EXISTS",
    "FLOAT32_MAX",
    "GATE_GAIN",
    "LAYER_NORM_EPSILON",
    "LEAST_MEAN_SQUARE",
    "SCALE_RANGE",
    "SHARE_FLOOR",
    "SIMILARITY_SLOPE",
    "spelled",
]

LAYER_NORM_EPSILON = 1e-5

# Prompts repeat tokens, and copies of a token differ only by rounding noise that depends on the kernel. A slope along
# the token order, far above that noise and far below any real difference, makes every runtime prefer the first copy.
DENSITY_SLOPE = 2.0**-18
SIMILARITY_SLOPE = 2.0**-14

DENSITY_FLOOR = 1e-6
"""Least density in the logarithm of the prior."""

SHARE_FLOOR = 1e-30
"""Least energy, and least share of it, that is divided by or goes into a logarithm."""

ABSENT = -1e9
"""Prior of a source that does not exist."""

EXISTS = ABSENT / 2
"""A similarity above it is that of a source."""

BEHIND = 9.0
"""Place in the order of densities, which end at 1, of tokens that do not count."""

FLOAT32_MAX = 3.4028234e38
"""A side whose absolute values sum to more than float32 holds counts as not finite."""

GATE_GAIN = 10.0
"""By what a learned gate's two weights are multiplied: an optimiser's step has one size, and matrices have many weights."""

CHANNEL_RATIO = 0.1
"""Share of the channels that the `channel` router exchanges unless told otherwise."""

SCALE_RANGE = (0.1, 10.0)
"""Bounds of the factor that brings exchanged channels to the size of those that they replace."""

LEAST_MEAN_SQUARE = 1e-12
"""Least mean square of a modality's channels that is divided by."""


def spelled(text: str) -> str:
    """Return ONNX text with ``$DENSITY_FLOOR`` and the like replaced by the numbers.

    Args:
        text: Names of this module behind a ``$``; ``$SCALE_LOW`` and ``$SCALE_HIGH`` are the bounds of `SCALE_RANGE`.

    Raises:
        KeyError: There is no such number.
    """
    numbers = {name: repr(value) for name, value in globals().items() if isinstance(value, float)}
    low, high = SCALE_RANGE
    return Template(text).substitute(numbers, SCALE_LOW=repr(low), SCALE_HIGH=repr(high))
