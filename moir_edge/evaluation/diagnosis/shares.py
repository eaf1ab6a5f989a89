"""Contribution of each modality to the score: exact Shapley shares, and perceptual scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moir_edge.evaluation.diagnosis.schema import Shares
from moir_edge.evaluation.diagnosis.values import ValueTable

__all__ = [
    "BOTH",
    "IMAGE_ONLY",
    "LEAST_TOTAL",
    "NEITHER",
    "SHAPLEY_CONDITIONS",
    "TEXT_ONLY",
    "dominance",
    "image_share",
    "modality_shares",
]

BOTH, IMAGE_ONLY, TEXT_ONLY, NEITHER = "both", "image only", "text only", "neither"
"""The four conditions: which modalities are there; an absent one is blanked."""

LEAST_TOTAL = 0.01
"""Below this gain of both modalities over neither (in [0, 1]) there is nothing to share out."""

Floats = NDArray[np.float64]
SHAPLEY_CONDITIONS = (BOTH, IMAGE_ONLY, TEXT_ONLY, NEITHER)
"""The order in which the statistics here take them."""


def modality_shares(table: ValueTable, scope: str) -> Shares:
    """Return the Shapley values and shares of image and text.

    φ_image = ½[(V(image) − V(∅)) + (V(both) − V(text))], φ_text alike; they add up to V(both) − V(∅).
    share_image = φ_image / (φ_image + φ_text), dominance = |share_image − share_text|.

    Args:
        table: Scores under the four conditions.
        scope: A task, or all of them.

    Returns:
        The figures; shares are None, with the reason, where both modalities together gain less than `LEAST_TOTAL`.

    Source: Shapley 1953 for two players; MM-SHAP (arXiv 2212.08158) applies it to image and text.
    """
    share = table.figure(scope, SHAPLEY_CONDITIONS, image_share)
    other = table.figure(scope, SHAPLEY_CONDITIONS, lambda means: 1 - image_share(means))
    values = {name: table.mean(scope, name) for name in SHAPLEY_CONDITIONS}
    reason = None
    if share is None:
        gain = values[BOTH].value - values[NEITHER].value
        reason = (
            f"both modalities together gain {100 * gain:.1f} points over neither; "
            f"below {100 * LEAST_TOTAL:g} there is nothing to share out"
        )
    return Shares(
        values=values,
        phi_image=table.defined(scope, SHAPLEY_CONDITIONS, _phi_image),
        phi_text=table.defined(scope, SHAPLEY_CONDITIONS, _phi_text),
        share_image=share,
        share_text=other,
        dominance=table.figure(scope, SHAPLEY_CONDITIONS, dominance),
        reason=reason,
    )


def _phi_image(means: Floats) -> Floats:
    both, image, text, neither = means
    return np.asarray(0.5 * ((image - neither) + (both - text)))


def _phi_text(means: Floats) -> Floats:
    both, image, text, neither = means
    return np.asarray(0.5 * ((text - neither) + (both - image)))


def image_share(means: Floats) -> Floats:
    """Return φ_image / (φ_image + φ_text); (conditions, samples) mean scores -> (samples,)."""
    total = means[0] - means[3]
    defined = total >= LEAST_TOTAL
    return np.where(defined, _phi_image(means) / np.where(defined, total, 1.0), np.nan)


def dominance(means: Floats) -> Floats:
    """Return |share_image − share_text|; (conditions, samples) mean scores -> (samples,)."""
    return np.asarray(np.abs(2 * image_share(means) - 1))
