"""What quantization made of each layer, as the terminal shows it: a table, and the layers that are not what was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "fallback_lines",
    "quantization_report",
    "quantization_table",
    "router_line",
]

_NAMES_SHOWN = 4
_INPUT_COLUMNS = ("input scale", "clipped", "SQNR")


def quantization_report(bundle: Path) -> dict[str, Any]:
    """Return the reports of a bundle: ``layers`` by component, and ``sensitivity`` where it was measured.

    Args:
        bundle: The bundle's folder.
    """
    layers, sensitivity = (
        _read(bundle / "reports" / name) for name in ("quantization.json", "sensitivity.json")
    )
    return {"layers": layers or {}, "sensitivity": sensitivity}


def quantization_table(report: Mapping[str, Any]) -> Table:
    """Return one row per layer: precision, error of the weight, scale and range of its input, divergence, reason.

    Args:
        report: From `quantization_report`.
    """
    from rich.table import Table

    divergence = _divergences(report["sensitivity"])
    entries = [
        (component, layer)
        for component, own in report["layers"].items()
        for layer in own["weights"]
    ]
    with_inputs = any(layer["activation"] for _, layer in entries)
    columns = ["error", *(_INPUT_COLUMNS if with_inputs else ()), *(["KL"] if divergence else [])]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("layer", "shape", "precision"):
        table.add_column(name, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reason")
    for component, layer in entries:
        shape = "×".join(map(str, layer["shape"]))
        figures = [_percent(layer["relative_error"])]
        figures += _input_cells(layer["activation"]) if with_inputs else []
        if divergence:
            figures.append(_kl(divergence.get((component, layer["node"], layer["precision"]))))
        name = f"{component}: {layer['node']}"
        table.add_row(name, shape, layer["precision"], *figures, layer["reason"])
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
            if layer["reason"] and not layer["reason"].startswith("raised"):
                key = (component, layer["precision"], layer["reason"])
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


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _divergences(sensitivity: Mapping[str, Any] | None) -> dict[tuple[str, str, str], float]:
    """Return the divergence by component, node and precision."""
    layers = [] if sensitivity is None else sensitivity["layers"]
    return {
        (use["component"], use["node"], cost["precision"]): cost["kl"]
        for layer in layers
        for use in layer["uses"]
        for cost in layer["precisions"]
    }


def _percent(error: float) -> str:
    return f"{100 * error:.2f} %" if error else "–"


def _input_cells(activation: Mapping[str, Any] | None) -> list[str]:
    """Return step, clipped share and signal to noise of a layer's input; dashes where it stays float."""
    if activation is None:
        return ["–"] * len(_INPUT_COLUMNS)
    ratio = activation["signal_to_noise_db"]
    return [
        f"{activation['scale']:.3g}",
        f"{100 * activation['clipped_share']:.2g} %",
        "–" if ratio is None else f"{ratio:.1f} dB",
    ]


def _kl(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _shortened(nodes: list[str]) -> str:
    """Return the first names, and how many there are more."""
    shown = ", ".join(nodes[:_NAMES_SHOWN])
    more = len(nodes) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
