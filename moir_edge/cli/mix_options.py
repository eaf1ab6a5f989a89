"""Flags of `moir-edge export` that measure the layers and choose a mix of precisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moir_edge.cli.groups import Flags, values_of

if TYPE_CHECKING:
    from moir_edge.calibration import MixSettings

__all__ = ["MixFlags", "mix_lines"]


@dataclass(frozen=True, kw_only=True)
class MixFlags(Flags):
    """Flags of a search for a mix, named as the fields of `MixSettings`."""

    argument: str = "mix"
    target_recovery: Annotated[
        float | None,
        typer.Option(
            help="Share of the fp32 score to keep, in %: raises the precision of as few layers as "
            "possible. Measured on the rows of --calib-data after the calibration rows."
        ),
    ] = None
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Measure the loss of each layer in each precision; writes reports/sensitivity.json "
            "and .svg. --target-recovery includes it.",
        ),
    ] = False
    sensitivity_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Number of rows on which each layer is tried; 16 by default."),
    ] = None
    held_out_rows: Annotated[
        int | None,
        typer.Option(
            "--holdout-rows", min=1, help="Most rows on which recovery is measured; 512 by default."
        ),
    ] = None

    def settings(self) -> MixSettings | None:
        """Return the settings, or None where nothing is to be measured.

        Raises:
            UnsupportedError: An amount without anything that it is for.
            DataError: The target is out of range.
        """
        from moir_edge.calibration.mixed.settings import MixSettings
        from moir_edge.errors import UnsupportedError

        chosen = values_of(self)
        measured = chosen.pop("sensitivity") or self.target_recovery is not None
        if self.held_out_rows is not None and self.target_recovery is None:
            raise UnsupportedError("--holdout-rows is for --target-recovery; give that too")
        if self.sensitivity_rows is not None and not measured:
            raise UnsupportedError(
                "--sensitivity-rows is for --sensitivity and --target-recovery; give one of them"
            )
        return MixSettings(**chosen) if measured else None


def mix_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what to say of a chosen mix: what it reached, and which layers were raised.

    Args:
        record: What ``reports/sensitivity.json`` holds.
    """
    mix = record.get("mix")
    if mix is None:
        return [f"sensitivity of {len(record['layers'])} layers: reports/sensitivity.svg"]
    chosen, tried = mix["chosen"], len(mix["tried"])
    lines = [
        f"recovery {chosen['recovery']:.2f} % ({chosen['low']:.2f}–{chosen['high']:.2f}), target "
        f"{mix['target_recovery']:g} %: {mix['measure']} on {mix['held_out_rows']} held-out rows",
        f"raised {mix['raised_layers']} of {len(record['layers'])} layers, the smallest of {tried} mixes tried that reaches it",
    ]
    for layer in record["layers"]:
        if layer["chosen"] != layer["precisions"][0]["precision"]:
            lines.append(f"  {layer['name']}: {layer['chosen']}")
    return lines
