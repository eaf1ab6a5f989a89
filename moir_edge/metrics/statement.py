"""Accuracy and consistency of true-or-false statements about images, as NLVR2 defines them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from moir_edge.arguments import text as text_of
from moir_edge.checked import checked, each, numbers, required
from moir_edge.errors import DataError

__all__ = ["normalize_verdict", "statement_accuracy", "statement_consistency"]

_ENDING = " \t\r\n.!,;:\"'"


def normalize_verdict(text: str) -> str:
    """Return a verdict in lower case, without surrounding blanks, quotes and closing punctuation."""
    return text.strip(_ENDING).lower()


@checked(prediction=required(text_of), answers=each(required(text_of)))
def statement_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the whole prediction is one of the accepted verdicts, else 0; "True." counts as "true".

    Args:
        prediction: The model's answer. A verdict inside a longer sentence does not count.
        answers: Accepted verdicts, at least one.

    Raises:
        DataError: There is no answer.
    """
    if not answers:
        raise DataError("statement_accuracy needs at least one answer")
    return float(normalize_verdict(prediction) in {normalize_verdict(answer) for answer in answers})


@checked(scores=numbers, groups=each(text_of))
def statement_consistency(scores: Sequence[float], groups: Sequence[str | None]) -> float | None:
    """Return the share of sentences that are judged right on every one of their images.

    Args:
        scores: `statement_accuracy` of each row.
        groups: The sentence of each row; rows with None are left out.

    Returns:
        A share in [0, 1], or None if no row has a group.

    Raises:
        DataError: The two lists differ in length.

    Source: Suhr et al. 2019 (arXiv 1811.00491), section 5.
    """
    if len(scores) != len(groups):
        raise DataError(f"statement_consistency got {len(scores)} scores for {len(groups)} groups")
    by_sentence: dict[str, list[float]] = defaultdict(list)
    for score, group in zip(scores, groups, strict=True):
        if group is not None:
            by_sentence[group].append(score)
    if not by_sentence:
        return None
    return sum(min(members) == 1.0 for members in by_sentence.values()) / len(by_sentence)
