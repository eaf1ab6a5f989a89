"""Records of figures: intervals, scores and agreement."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from moir_edge.fields import refuses_in_one_line

__all__ = [
    "Interval",
    "PairedRatio",
    "Record",
    "RoutingAgreement",
    "TaskFigures",
    "TokenAgreement",
]


@refuses_in_one_line
class Record(BaseModel):
    """Frozen data of a report; NaN and infinity are refused."""

    # pydantic writes NaN as null without a word: a record that holds one cannot be made
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Record):
    """A figure with its 95 % bootstrap interval, in the figure's own unit; shares are 0 to 1."""

    value: float
    low: float
    high: float


class PairedRatio(Interval):
    """Median of paired ratios of times; under 1 is faster.

    Attributes:
        pairs: How many pairs it was taken from.
    """

    pairs: int


class TaskFigures(Record):
    """Score of one task.

    Attributes:
        metric: `VQA accuracy`, `accuracy` (both 0 to 100) or `CIDEr-D` (0 to 10, ×10 as published).
        rows: Rows that carry answers.
        score: The score, with its 95 % bootstrap interval `low` to `high`.
        consistency: NLVR2 consistency in %, where rows carry a group.
        recovery: Score over the reference's score, a share; None for a reference that scores nothing.
    """

    metric: str
    rows: int
    score: float
    low: float
    high: float
    consistency: float | None = None
    recovery: Interval | None = None


class TokenAgreement(Record):
    """Greedy token sequences against the reference's; shares are 0 to 1.

    Attributes:
        rows: Rows compared.
        identical: Rows whose whole sequence is the same.
        leading: Tokens before the first difference, of the longer sequence; mean over rows.
    """

    rows: int
    identical: float
    leading: float


class RoutingAgreement(Record):
    """Routing maps against the reference's, on the tokens that the reference routes; shares are 0 to 1.

    Attributes:
        rows: Prompts compared.
        tokens: Tokens that the reference routes; figures on sources leave out those for which it names none.
        index_agreement: Mean share of the reference's source positions that are found again.
        best_index_agreement: Tokens whose best source is the same.
        routed_agreement: Tokens routed by both, of those routed by either.
        margin: Median similarity margin (best minus runner-up) of this candidate.
        reference_margin: The same of the reference.
        matched_cosine: Mean cosine between the embeddings of the best sources.
        added_cosine: Mean cosine between what the routers added, all sources weighed.
    """

    rows: int
    tokens: int
    index_agreement: float
    best_index_agreement: float
    routed_agreement: float
    margin: float
    reference_margin: float
    matched_cosine: float
    added_cosine: float
