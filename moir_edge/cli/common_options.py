"""Flags that several commands share: whole annotations, or options that differ by their help text alone."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from moir_edge.cli.completions import complete_selector

__all__ = [
    "AllowOther",
    "JsonManifest",
    "JsonReport",
    "Limit",
    "MaxNewTokens",
    "PruneBy",
    "PruneShares",
    "Verify",
    "force_option",
    "image_option",
    "json_option",
    "output_option",
]

AllowOther = Annotated[
    bool,
    typer.Option(
        "--allow-other",
        help="Accept bundles of another checkpoint; the report then states at the top that the models differ.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of rows to use; all by default.")]
Verify = Annotated[bool, typer.Option(help="Check each file's hash before loading.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")]

PruneShares = Annotated[
    list[float] | None,
    typer.Option(
        "--prune-image-tokens",
        metavar="SHARE",
        help="Share of the image tokens to drop before the language model, such as 0.25; repeatable: each bundle with each.",
    ),
]
PruneBy = Annotated[
    str,
    typer.Option(
        help="Image tokens to drop: least density (the router's score), norm, similarity (to kept ones) or random.",
        autocompletion=complete_selector,
    ),
]


def output_option(help: str = "Folder for the report.") -> Any:
    """Return the option `-o`, which names what a command writes."""
    return typer.Option("-o", "--output", help=help)


def image_option(help: str) -> Any:
    """Return the option `-i`, which names image files; it is repeatable."""
    return typer.Option("-i", "--image", help=help)


def force_option(help: str = "Replace an earlier report at -o.") -> Any:
    """Return the option `--force`, which replaces what stands at the output."""
    return typer.Option("--force", help=help)


def json_option(help: str) -> Any:
    """Return the option `--json`, which prints for programs."""
    return typer.Option("--json", help=help)


JsonReport = Annotated[bool, json_option("Print the report as JSON, without raw samples.")]
JsonManifest = Annotated[bool, json_option("Print the manifest's summary as JSON.")]
