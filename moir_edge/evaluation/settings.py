"""Checks that the settings of all commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from moir_edge.errors import DataError, UnsupportedError, closest

if TYPE_CHECKING:
    from moir_edge.evaluation.candidates import CandidateSpec

__all__ = ["check_providers", "check_pruning", "for_each_share", "require_at_least"]


def check_providers(names: Sequence[str]) -> None:
    """Refuse a provider that the runtime does not have, or that is named twice.

    Raises:
        UnsupportedError: There is no such provider.
        DataError: One is named twice.
    """
    from moir_edge.runtime.providers import Provider

    known = get_args(Provider)
    for name in names:
        if name not in known:
            raise UnsupportedError(f"unknown provider {name!r}; {closest(name, known)}")
        if names.count(name) > 1:
            raise DataError(f"provider {name} is given twice; name each one once")


def check_pruning(shares: Sequence[float], by: str) -> None:
    """Refuse shares of image tokens that cannot be dropped, or that are named twice, and unknown selectors.

    Raises:
        DataError: A share is below 0 or not below 1, or is named twice.
        UnsupportedError: There is no such selector.
    """
    from moir_edge.runtime.pruning.settings import check_selector, check_share

    for share in shares:
        check_share("prune_image_tokens", share)
        if list(shares).count(share) > 1:
            raise DataError(f"prune_image_tokens is {share:g} twice; name each share once")
    check_selector("prune_by", by)


def for_each_share(
    specs: Iterable[CandidateSpec], shares: Sequence[float], by: str
) -> list[CandidateSpec]:
    """Return each bundle with each share of image tokens to drop, named by it; without shares, the bundles as they are.

    Args:
        specs: The bundles.
        shares: From the settings.
        by: A selector's name.

    Raises:
        DataError: One is a checkpoint.
    """
    found = []
    for spec in specs:
        if shares and spec.kind != "bundle":
            raise DataError(
                f"bundles drop image tokens, and {spec.source} is a checkpoint; name bundles besides the reference"
            )
        found += [
            replace(
                spec,
                name=f"{spec.name}, {100 * share:g} % dropped by {by}" if share else spec.name,
                prune_image_tokens=share,
                prune_by=by,
            )
            for share in shares or (spec.prune_image_tokens,)
        ]
    return found


def require_at_least(settings: Any, least: int, names: Iterable[str]) -> None:
    """Refuse settings with a number that is too small; None is skipped, and every entry of a tuple counts.

    Args:
        settings: Holds the numbers as attributes.
        least: Smallest number that is taken.
        names: Of the attributes.

    Raises:
        DataError: A number is smaller; the message names the attribute.
    """
    for name in names:
        found = getattr(settings, name)
        values = found if isinstance(found, tuple) else () if found is None else (found,)
        if values and min(values) < least:
            expected = f"be at least {least}" if least else "not be negative"
            raise DataError(f"{name.replace('_', '-')} must {expected}, got {min(values)}")
