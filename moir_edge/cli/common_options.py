"""Flags that `compare`, `bench` and `diagnose` share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AllowOther"]

AllowOther = Annotated[
    bool,
    typer.Option(
        "--allow-other",
        help="Take bundles of another checkpoint; the report says at the top that the models differ.",
    ),
]
