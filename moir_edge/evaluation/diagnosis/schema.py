"""The diagnosis as data: what `diagnosis.json` holds."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from moir_edge.data.degradations import CLEAN
from moir_edge.evaluation.diagnosis.settings import DiagnoseSettings
from moir_edge.evaluation.writing import VersionedReport, report_kind, report_text
from moir_edge.metrics.records import Interval, Record, TaskFigures
from moir_edge.staging import FolderKind

__all__ = [
    "CLEAN",
    "DIAGNOSIS_SCHEMA_VERSION",
    "Attention",
    "CandidateDiagnosis",
    "ConditionFigures",
    "DiagnosisReport",
    "LayerAttention",
    "Perceptual",
    "RoutingExample",
    "Shares",
]

DIAGNOSIS_SCHEMA_VERSION = 3


class ConditionFigures(Record):
    """Scores under one condition.

    Attributes:
        label: `clean`, or the degradation as `parse_degradation` reads it.
        modality: `image` or `text`, whichever is degraded; None for clean.
        quantity: What its strength is, such as `sigma`; None where it has none.
        unit: Unit of the strength, such as `px`; empty for a plain number.
        strength: Least and largest strength that was applied to a row.
        overall: Unweighted mean of the tasks' mean scores in [0, 1] (CIDEr-D over 10).
        tasks: Scores by task in their own scale; `recovery` is the score over the clean one.
    """

    label: str
    modality: str | None = None
    quantity: str | None = None
    unit: str = ""
    strength: tuple[float, float] | None = None
    overall: Interval
    tasks: dict[str, TaskFigures]


class Shares(Record):
    """Contributions of the modalities to the mean score, see `modality_shares`.

    Attributes:
        values: Mean score in [0, 1] with both modalities, one of them, neither.
        phi_image: Shapley value of the images, in the unit of the score.
        phi_text: Shapley value of the text.
        share_image: φ_image over the sum of both; outside [0, 1] where one of them does harm.
        share_text: 1 − share_image.
        dominance: |share_image − share_text|.
        reason: Why there are no shares; None where there are.
    """

    values: dict[str, Interval]
    phi_image: Interval
    phi_text: Interval
    share_image: Interval | None
    share_text: Interval | None
    dominance: Interval | None
    reason: str | None = None


class Perceptual(Record):
    """Fall of the score, over the full score, when a modality comes from another row.

    Attributes:
        rows: Rows that have another row to take it from.
        image: Score of the images; 0 says that the model does not look, 1 that it is lost without them.
        text: Score of context and prompt.
        reason: Why a score is None; None where both are there.
    """

    rows: int
    image: Interval | None
    text: Interval | None
    reason: str | None = None


class LayerAttention(Record):
    """Attention of the generated tokens in one layer, heads averaged; means over rows.

    Attributes:
        layer: Number of the layer, from 0.
        mdi: Modality dominance index, text over image per token; above 1 text dominates. None, as the two
            indices below, where a row gives a modality no attention at all, which leaves it undefined.
        aei_text: Attention efficiency index of the text: its share of the attention over its share of the tokens.
        aei_image: The same of the images.
        mass_image: Attention on image tokens, of 1 in total.
        mass_text: Attention on text tokens; the rest lies on special and generated tokens.
    """

    layer: int
    mdi: Interval | None
    aei_text: Interval | None
    aei_image: Interval | None
    mass_image: float
    mass_text: float


class Attention(Record):
    """Attention by layer.

    Attributes:
        rows: Rows it was taken on.
        layers: All layers of the language model.
        shown: The layers that tables show: first, middle, last two.
    """

    rows: int
    layers: tuple[LayerAttention, ...]
    shown: tuple[int, ...]


class RoutingExample(Record):
    """Routing map of one row.

    Attributes:
        id: The row.
        prompt: Its words.
        images: Its image files.
        map: Scores of all image and text tokens, and every enriched token with its gate and sources; see
            `RoutingMap.to_dict`.
        picture_png: The map as `moir-edge run --routing-map` draws it; in the page, not in the JSON.
    """

    id: str
    prompt: str
    images: tuple[str, ...]
    map: dict[str, Any]
    picture_png: bytes = Field(default=b"", exclude=True, repr=False)


class CandidateDiagnosis(Record):
    """All figures of one source.

    Attributes:
        conditions: Clean first, then the degradations in the order asked for.
        shares: `overall` or a task -> shares.
        perceptual: `overall` or a task -> perceptual scores; empty where they were not asked for.
        attention: None where it was not measured.
        attention_reason: Why not.
        changes: `overall` or a task -> name of a figure -> its difference to the first source's, see
            `candidate_changes`; empty for the first source.
        routing: Routing maps of a few rows; empty where there is no router.
        routing_reason: Why there are none.
        seconds: Wall time of the diagnosis of this source.
    """

    name: str
    source: str
    kind: str
    backend: str
    precision: str
    has_router: bool
    conditions: tuple[ConditionFigures, ...]
    shares: dict[str, Shares]
    perceptual: dict[str, Perceptual]
    attention: Attention | None = None
    attention_reason: str | None = None
    changes: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    routing: tuple[RoutingExample, ...] = ()
    routing_reason: str | None = None
    seconds: float

    def condition(self, label: str) -> ConditionFigures:
        """Return the figures under a degradation, by its label, or `CLEAN`.

        Raises:
            KeyError: It was not measured.
        """
        for one in self.conditions:
            if one.label == label:
                return one
        raise KeyError(f"{label!r} was not measured; {[one.label for one in self.conditions]} were")


class DiagnosisReport(VersionedReport):
    """A whole diagnosis, sources side by side."""

    command: ClassVar[str] = "diagnose"
    kind: ClassVar[FolderKind] = report_kind(
        "diagnosis", "diagnosis", "candidates", "unscored_rows"
    )
    current_version: ClassVar[int] = DIAGNOSIS_SCHEMA_VERSION

    schema_version: int = DIAGNOSIS_SCHEMA_VERSION
    unscored_rows: int
    settings: DiagnoseSettings
    candidates: tuple[CandidateDiagnosis, ...]

    def summary(self) -> str:
        """Return the diagnosis as JSON without the routing maps, which `diagnosis.json` keeps."""
        return report_text(self, exclude={"candidates": {"__all__": {"routing"}}})
