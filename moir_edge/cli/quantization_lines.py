"""Show quantized layers in the terminal: a table, and the layers that fell back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.errors import BundleError, one_line
from moir_edge.limits import REPORT_BYTES
from moir_edge.printable import single_line

if TYPE_CHECKING:
    from rich.table import Table

    from moir_edge.bundle import Bundle

__all__ = [
    "fallback_lines",
    "figures_of",
    "quantization_report",
    "quantization_table",
    "router_line",
]

_NAMES_SHOWN = 4
_NONE = "–"
_TEXT_COLUMNS = 3
_COLUMNS = (
    *("layer", "shape", "precision", "scale", "clipped", "SQNR"),
    *("input scale", "input clipped", "input SQNR", "KL", "reason"),
)


def quantization_report(bundle: Bundle) -> dict[str, Any]:
    """Return the reports of a bundle: ``layers`` by component, and ``sensitivity`` where it was measured.

    Args:
        bundle: An opened bundle.

    Raises:
        BundleError: A report is not a JSON object.
    """
    layers, sensitivity = (
        bundle.files.object(f"reports/{name}.json", most_bytes=REPORT_BYTES)
        for name in ("quantization", "sensitivity")
    )
    return {"layers": layers or {}, "sensitivity": sensitivity}


@contextmanager
def figures_of(bundle: Path) -> Iterator[None]:
    """Name the bundle where its figures do not have the shape that export gives them; use it while they are laid out.

    Args:
        bundle: The folder.

    Raises:
        BundleError: Something inside met a missing key, or a value of another type.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BundleError(
            f"{bundle} has figures of another shape than export writes, in its manifest or its reports "
            f"({type(error).__name__}: {one_line(error)}); export it again"
        ) from error


def quantization_table(report: Mapping[str, Any]) -> Table:
    """Return one row per layer: precision; scale, clipping and noise of weight and input; divergence, reason.

    Args:
        report: From `quantization_report`.
    """
    from rich.table import Table

    divergence = _divergences(report["sensitivity"])
    rows = []
    for component, own in report["layers"].items():
        for layer in own["weights"]:
            kl = divergence.get((component, layer["node"], layer["precision"]))
            figures = [*_weight_cells(layer), *_input_cells(layer.get("activation") or {})]
            figures.append(_NONE if kl is None else f"{kl:.1e}")
            name = (f"{component}: {layer['node']}", "×".join(map(str, layer["shape"])))
            rows.append((*name, layer["precision"], *figures, layer.get("reason", "")))
    # A column that no layer has a figure for would only push the reasons off the screen.
    shown = [at for at, _ in enumerate(_COLUMNS) if any(row[at] != _NONE for row in rows)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for at in shown:
        is_text = at < _TEXT_COLUMNS or at == len(_COLUMNS) - 1
        table.add_column(
            _COLUMNS[at], justify="left" if is_text else "right", no_wrap=at < len(_COLUMNS) - 1
        )
    for row in rows:
        table.add_row(*(single_line(row[at]) for at in shown))
    return table


def fallback_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a line for each reason why layers have another precision than was asked for, with their names.

    Layers that were raised for a target are left out.

    Args:
        report: From `quantization_report`.
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for component, own in report["layers"].items():
        for layer in own["weights"]:
            reason = layer.get("reason", "")
            if reason and not reason.startswith("raised"):
                key = (component, layer["precision"], reason)
                groups.setdefault(key, []).append(layer["node"])
    return [
        f"{component}: {len(nodes)} {precision}, {reason} ({_shortened(nodes)})"
        for (component, precision, reason), nodes in groups.items()
    ]


def router_line(parity: Mapping[str, Any]) -> str:
    """Return the router's figures before and after, or nothing where it names no sources.

    Args:
        parity: The manifest's parity figures.
    """
    figures = parity.get("router") or {}
    if "index_agreement" not in figures:
        return ""
    after = figures.get("graph_margin_median")
    margin = f", median margin {figures['margin_median']:.3g} before" + (
        "" if after is None else f" and {after:.3g} after"
    )
    return (
        f"router against torch: indices {100 * figures['index_agreement']:.2f} %, matched-token cosine "
        f"{figures['matched_token_cosine']:.4f}{margin}"
    )


def _divergences(sensitivity: Mapping[str, Any] | None) -> dict[tuple[str, str, str], float]:
    """Return the divergence by component, node and precision."""
    layers = [] if sensitivity is None else sensitivity["layers"]
    return {
        (use["component"], use["node"], cost["precision"]): cost["kl"]
        for layer in layers
        for use in layer["uses"]
        for cost in layer["precisions"]
    }


def _weight_cells(layer: Mapping[str, Any]) -> list[str]:
    """Return median scale, clipped share and signal to noise of a layer's weight; dashes where it stays float."""
    scales = layer.get("scales") or layer
    ratio, error = scales.get("signal_to_noise_db"), layer.get("relative_error")
    if ratio is None and error:
        ratio = -20 * math.log10(error)
    scale = scales.get("scale")
    median = scale[len(scale) // 2] if isinstance(scale, list) else scale
    return [_number(median), _share(scales.get("clipped_share")), _decibels(ratio)]


def _input_cells(activation: Mapping[str, Any]) -> list[str]:
    """Return scale, clipped share and signal to noise of a layer's input; dashes where it stays float."""
    return [
        _number(activation.get("scale")),
        _share(activation.get("clipped_share")),
        _decibels(activation.get("signal_to_noise_db")),
    ]


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.2g} %"


def _decibels(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f} dB"


def _shortened(nodes: list[str]) -> str:
    """Return the first names, and how many there are more."""
    shown = ", ".join(nodes[:_NAMES_SHOWN])
    more = len(nodes) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
