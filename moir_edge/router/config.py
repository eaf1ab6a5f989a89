"""Settings of a router, as they go into a checkpoint's config, a bundle's manifest and every hash."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moir_edge.errors import DataError
from moir_edge.fields import first_fault, refuses_in_one_line
from moir_edge.finite import json_text
from moir_edge.router.constants import CHANNEL_RATIO

__all__ = ["RouterConfig", "Side"]

Side = Literal["image", "text"]

_EDITED = "it was written by another version of moir-edge or edited by hand"

"""Share of the channels that is exchanged, as published."""

# The settings of the kinds that read the other modality's mean; the token router takes all of them.
_POOLED_SETTINGS: dict[str, tuple[str, ...]] = {
    "channel": ("ratio", "direction"),
    "gate": ("direction",),
}


@refuses_in_one_line
class RouterConfig(BaseModel):
    """Settings of a router of any kind.

    A kind takes the settings named below for it and refuses the others, and its record holds no others.

    Of `token`: density, ratio, threshold, learned_gate, top_k, rank, merge, direction, temperature. A token is weak when its information density is among the lowest `ratio` of its modality in the sample, or lies
    under `threshold`; with both given either suffices. With `learned_gate` neither applies.
    Of `channel`: ratio and direction. Of `gate`: direction.

    Attributes:
        version: Format of this record on disk.
        kind: Which router.
        density: How information density is scored: a learned head on the normalised token (`confidence`), or the
            entropy of the token's energy over its channels (`entropy`).
        ratio: `token`: lowest share of a modality's tokens that is enriched, in [0, 1], 0.5 unless given; None leaves it
            to `threshold`. `channel`: lowest share of the channels that is exchanged, in (0, 1], 0.1 unless given.
        threshold: Density in [0, 1] under which a token is enriched; None leaves it to `ratio`.
        learned_gate: Whether the gate is a ramp over the density, whose edge and slope are learned, instead of
            1 − density on weak tokens. A token above the edge stays as it is.
        top_k: Number of matching tokens of the other modality that enrich one token.
        rank: Width of the query/key space and of the low-rank output projection.
        merge: How the matching information enters the token.
        direction: Which modality is enriched from which; `auto` enriches, per sample, the modality whose mean
            density is lower (`token` alone has one).
        temperature: Width, in density, of the smooth gate used in training; inference uses the hard gate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    kind: Literal["token", "channel", "gate"] = "token"
    density: Literal["confidence", "entropy"] = "confidence"
    ratio: float | None = Field(default=0.5, ge=0.0, le=1.0)
    threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    learned_gate: bool = False
    top_k: int = Field(default=4, ge=1, le=64)
    rank: int = Field(default=32, ge=1)
    merge: Literal["add", "concat", "interpolate"] = "add"
    direction: Literal["both", "text-to-image", "image-to-text", "auto"] = "both"
    temperature: float = Field(default=0.1, gt=0.0)

    @model_validator(mode="before")
    @classmethod
    def _only_of_its_kind(cls, data: Any) -> Any:
        """Refuse settings of other kinds, and fill in the kind's own default of `ratio`; a learned gate has none."""
        if isinstance(data, dict) and data.get("learned_gate") is True:
            data = {"ratio": None, **data}
        kind = data.get("kind", "token") if isinstance(data, dict) else "token"
        if not isinstance(kind, str) or kind not in _POOLED_SETTINGS:
            return data
        allowed = _POOLED_SETTINGS[kind]
        foreign = sorted((cls.model_fields.keys() & data.keys()) - {"version", "kind", *allowed})
        if foreign:
            raise ValueError(
                f"the {kind} router has no {', '.join(foreign)}; its settings are {', '.join(allowed)}"
            )
        return {"ratio": CHANNEL_RATIO, **data} if kind == "channel" else data

    @model_validator(mode="after")
    def _fits_its_kind(self) -> RouterConfig:
        if self.kind == "token":
            return self
        if self.direction == "auto":
            raise ValueError(
                f"direction 'auto' compares token densities, which the {self.kind} router does not score; "
                "give both, text-to-image or image-to-text"
            )
        if self.kind == "channel" and not self.ratio:
            raise ValueError("the channel router needs a ratio above 0, the share to exchange")
        return self

    @model_validator(mode="after")
    def _some_rule(self) -> RouterConfig:
        if self.learned_gate:
            if self.ratio is not None or self.threshold is not None:
                raise ValueError(
                    "a learned gate finds its own edge; leave ratio and threshold out, or learned_gate"
                )
            return self
        if self.ratio is None and self.threshold is None:
            raise ValueError(
                "neither ratio nor threshold is set, so no token could be weak; set one of them"
            )
        return self

    @property
    def sources(self) -> int:
        """Number of sources per token, the last axis of `RouterOutput.indices`: top_k, or 1 without sources."""
        return self.top_k if self.kind == "token" else 1

    @property
    def enriched_sides(self) -> tuple[Side, ...]:
        """The sides that the direction enriches, image first; both under `auto`, which chooses one per sample."""
        sides: tuple[Side, ...] = ("image", "text")
        closed = {"image-to-text": "image", "text-to-image": "text"}.get(self.direction)
        return tuple(side for side in sides if side != closed)

    def exchanged_channels(self, hidden: int) -> int:
        """Return how many of `hidden` channels `channel` exchanges: ⌊ratio·hidden + ½⌋, at least one."""
        return max(1, int((self.ratio or 0.0) * hidden + 0.5))

    @classmethod
    def from_record(cls, record: object, *, remedy: str = _EDITED) -> RouterConfig:
        """Read the settings back from JSON data (a checkpoint's config or a bundle's manifest).

        Args:
            record: What `to_record` returned; keys that other parts added are an error, not ignored.
            remedy: What the error message says about how the record can have gone wrong.

        Raises:
            DataError: A key is unknown, or a value is out of range, or the version is newer.
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            fault = first_fault(error, whole="record")
            raise DataError(f"router config: {fault}; {remedy}") from error

    def to_record(self) -> dict[str, Any]:
        """Return the kind's settings as plain JSON data, for a checkpoint's config or a bundle's manifest."""
        settings = _POOLED_SETTINGS.get(self.kind)
        kept = None if settings is None else {"version", "kind", *settings}
        # Absent where it is off: records, and their hashes, are those of versions without it.
        off = None if self.learned_gate else {"learned_gate"}
        return self.model_dump(mode="json", include=kept, exclude=off)

    def hash(self) -> str:
        """Return the SHA-256 (64 hex digits) of the settings' canonical JSON: sorted keys, no spaces."""
        text = json_text(self.to_record(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
