"""The card says that a density means information where the figures bear it out, and says the contrary where not."""

from __future__ import annotations

from typing import Any

from benchmarks.density_card import density_lines


def figures(**changes: Any) -> dict[str, Any]:
    return {
        "on_digits": 0.7, "on_empty": 0.1, "contrast_correlation": 0.75, "best_on_digit": 0.9, "lookups": 1200,
        "digit_share": 0.25, "masked_auroc": 0.93, "blurred_auroc": 0.61, "named_lookups": 300, "named_hits": 0.4,
        "named_times_chance": {"value": 3.6, "low": 3.1, "high": 4.0}, **changes,
    }  # fmt: skip


def section(own: dict[str, Any]) -> str:
    fresh = {"fresh, seed 0": figures(contrast_correlation=-0.2), "other": figures()}
    return "\n".join(density_lines({"rows": 200, "routers": {"trained": own, **fresh}}))


def test_a_density_that_means_information() -> None:
    text = section(figures())
    assert "this router's density is a measure of what a cell shows." in text
    assert "masked with an AUROC of 0.93, and from the same cells blurred with 0.61" in text
    assert "in 40% of 300 look-ups, 3.6 times chance" in text
    assert "Over 1 fresh routers the correlation lies between -0.20 and -0.20." in text
    assert "answers alone" not in text


def test_a_density_that_does_not() -> None:
    for wrong in (figures(masked_auroc=0.7), figures(contrast_correlation=0.3)):
        text = section(wrong)
        assert "is **not** a measure of what a cell shows." in text
        assert "Read its routing maps as what the router did" in text
    old = {
        key: value for key, value in figures().items() if "auroc" not in key and "named" not in key
    }
    assert "AUROC" not in section(old)
    assert "**not**" in section(old)
    assert density_lines(None) == []
