"""The part of a model card that says what the router's density shows, in words that the figures bear out."""

from __future__ import annotations

from typing import Any

__all__ = ["CORRELATION", "RANKED", "density_lines"]

CORRELATION, RANKED = 0.4, 0.8
"""A density says what a cell shows from this correlation with contrast and this AUROC of clean against masked cells."""


def density_lines(density: dict[str, Any] | None) -> list[str]:
    """Return the section, in lines; nothing where the density was not measured.

    Args:
        density: What `benchmarks.density --card` puts into the training log: ``rows`` and ``routers``, the card's own first.
    """
    if density is None:
        return []
    own = next(iter(density["routers"].values()))
    text = [
        f"Measured on {density['rows']} test rows by `python -m benchmarks.density`: this router's density is {_verdict(own)}. "
        f"It is {own['on_digits']:.2f} on cells with a digit and {own['on_empty']:.2f} on empty ones, and its correlation "
        f"with contrast is {own['contrast_correlation']:+.2f}.{_ranks(own)}{_fresh(density)} The best source of a word is a "
        f"cell with a digit in {own['best_on_digit']:.0%} of {own['lookups']:,} look-ups; a blind choice would hit one in "
        f"{own['digit_share']:.0%}.{_named(own)}"
    ]
    if not _means_information(own):
        text[0] += (
            " The router was trained on answers alone, and nothing in that loss asks for a density that means information. "
            "Read its routing maps as what the router did, not as what matters in the image."
        )
    return ["## What the density shows", "", *text, ""]


def _means_information(own: dict[str, Any]) -> bool:
    follows = own["contrast_correlation"] >= CORRELATION
    return bool(follows and own.get("masked_auroc", 0.0) >= RANKED)


def _verdict(own: dict[str, Any]) -> str:
    return (
        "a measure of what a cell shows"
        if _means_information(own)
        else "**not** a measure of what a cell shows"
    )


def _ranks(own: dict[str, Any]) -> str:
    """Return the AUROCs; cards written before they were measured have none."""
    if "masked_auroc" not in own:
        return ""
    return (
        f" It tells cells with a digit from the same cells masked with an AUROC of {own['masked_auroc']:.2f}, and from "
        f"the same cells blurred with {own['blurred_auroc']:.2f}."
    )


def _fresh(density: dict[str, Any]) -> str:
    spread = [
        one["contrast_correlation"]
        for name, one in density["routers"].items()
        if name.startswith("fresh")
    ]
    if not spread:
        return ""
    return f" Over {len(spread)} fresh routers the correlation lies between {min(spread):+.2f} and {max(spread):+.2f}."


def _named(own: dict[str, Any]) -> str:
    if own.get("named_times_chance") is None:
        return ""
    return (
        f" A word that names a digit has that very digit as its best source in {own['named_hits']:.0%} of "
        f"{own['named_lookups']:,} look-ups, {own['named_times_chance']['value']:.1f} times chance."
    )
