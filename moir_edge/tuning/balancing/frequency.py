"""The frequency ratio metric (FRM): how much of a feature plane lies in its low frequencies, by 8×8 cosine transforms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moir_edge.arguments import number
from moir_edge.checked import a_tensor, checked, optional, required
from moir_edge.errors import ShapeError

__all__ = ["PATCH", "SIGMA", "cosine_basis", "frequency_ratio"]

PATCH = 8
"""Side of a patch."""
SIGMA = 1e-6
"""Added to denominators."""
_CORNER = 2


def cosine_basis(size: int, *, device: torch.device | None = None) -> Tensor:
    """Return the orthonormal DCT-II as a matrix: (size, size) float32, row k holds frequency k.

    Args:
        size: Number of samples.
        device: Where to make it.
    """
    at = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (at[None, :] + 0.5) * at[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.to(device=device, dtype=torch.float32)


@checked(planes=a_tensor, valid=optional(a_tensor), sigma=required(number))
def frequency_ratio(planes: Tensor, valid: Tensor | None = None, *, sigma: float = SIGMA) -> Tensor:
    """Return the FRM of one branch's features, averaged over the patches of all planes: () float32, no gradient.

    FRM = Σ |low| / (|high| + σ) over the 2×2 lowest frequencies of a patch, each against its mirror image among
    the 2×2 highest. The paper writes |low / (high + σ)|, which is the same up to σ but has a pole at high = −σ. It
    sums over patches; the mean does not grow with the number of tokens, so that branches of unequal length compare.

    Args:
        planes: (planes, rows, columns). An image feature map (batch, channels, height, width) is reshaped to
            (batch · channels, height, width); a token sequence is the plane tokens × channels of each sample.
            Rows and columns are filled up with zeros to multiples of 8.
        valid: (planes, rows) bool, which rows count; the others are taken for zeros, and a patch without any counting
            row is left out. None counts all.
        sigma: Added to the denominator.

    Raises:
        ShapeError: The shapes do not fit.

    Source: arXiv 2602.22644.
    """
    if planes.ndim != 3 or (valid is not None and valid.shape != planes.shape[:2]):
        found = None if valid is None else tuple(valid.shape)
        raise ShapeError(
            f"frequency ratio: got planes {tuple(planes.shape)} and valid {found}; "
            "expected (planes, rows, columns) and (planes, rows)"
        )
    planes = planes.detach().float()
    if valid is None:
        valid = torch.ones(planes.shape[:2], dtype=torch.bool, device=planes.device)
    planes = torch.where(valid[..., None], planes, 0.0)
    count, rows, columns = planes.shape
    planes = F.pad(planes, (0, -columns % PATCH, 0, -rows % PATCH))
    patches = planes.view(count, -1, PATCH, planes.shape[2] // PATCH, PATCH).transpose(2, 3)
    ratios = _patch_ratios(patches, sigma)  # (planes, patch_rows, patch_columns)
    counted = F.pad(valid, (0, -rows % PATCH)).view(count, -1, PATCH).any(dim=-1)
    weights = counted[..., None].expand_as(ratios).float()
    return (ratios * weights).sum() / weights.sum().clamp_min(1.0)


def _patch_ratios(patches: Tensor, sigma: float) -> Tensor:
    """Return the ratio of each patch, (…), from patches (…, 8, 8)."""
    basis = cosine_basis(PATCH, device=patches.device)
    with torch.autocast(patches.device.type, enabled=False):
        spectrum = basis @ patches @ basis.T
    low = spectrum[..., :_CORNER, :_CORNER]
    high = spectrum[..., -_CORNER:, -_CORNER:].flip(-2, -1)
    return (low.abs() / (high.abs() + sigma)).sum(dim=(-2, -1))
