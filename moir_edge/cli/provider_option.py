"""`--provider`: the same flag for every command that answers with one bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from moir_edge.cli.completions import complete_provider

__all__ = ["ProviderName"]

ProviderName = Annotated[
    str | None,
    typer.Option(
        help="Provider: tensorrt (the bundle's engines), cuda or ort-tensorrt (ONNX Runtime), openvino "
        "(exact) or openvino-fast (rounds), or cpu. By default the engines if they fit this machine, "
        "else cuda if it is available, else cpu.",
        autocompletion=complete_provider,
    ),
]
