from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from moir_edge.bundle.files import ModelFiles
from moir_edge.cli.quantization_lines import (
    fallback_lines,
    quantization_report,
    quantization_table,
    router_line,
)


def _layer(node: str, precision: str, **given: Any) -> dict[str, Any]:
    plain = {"shape": [64, 32], "relative_error": 0.0, "reason": "", "activation": None}
    return {"node": node, "precision": precision, **plain, **given}


ACTIVATION = {"scale": 0.0125, "clipped_share": 0.0005, "signal_to_noise_db": 41.26}
LAYERS = {
    "vision": {"weights": [_layer("conv", "fp32", reason="no runtime fuses it")]},
    "decoder": {
        "weights": [
            _layer("q", "int8", relative_error=0.0064, activation=ACTIVATION),
            *(_layer(f"odd{n}", "int8-weight-only", reason="K = 40") for n in range(6)),
            _layer("up", "fp32", reason="raised to reach the target recovery"),
        ]
    },
}
SENSITIVITY = {
    "layers": [
        {
            "uses": [{"component": "decoder", "node": "q"}],
            "precisions": [{"precision": "int8", "kl": 3.2e-5}, {"precision": "fp32", "kl": 0.0}],
        }
    ]
}


def _printed(report: dict[str, Any]) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=140).print(quantization_table(report))
    return stream.getvalue().splitlines()


def _line(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(name)]
    return line.split()


def test_the_table_has_every_figure_of_a_layer() -> None:
    lines = _printed({"layers": LAYERS, "sensitivity": SENSITIVITY})
    columns = "layer shape precision SQNR input scale input clipped input SQNR KL reason"
    assert lines[0].split() == columns.split()
    # An error of 0.64 % is −20 log₁₀ 0.0064 = 43.9 dB.
    expected = "decoder: q 64×32 int8 43.9 dB 0.0125 0.05 % 41.3 dB 3.2e-05"
    assert _line(lines, "decoder: q") == expected.split()
    assert _line(lines, "vision: conv")[-4:] == ["no", "runtime", "fuses", "it"]


def test_figures_of_the_weights_scales_are_shown_where_they_are_reported() -> None:
    own = {"scale": [0.001, 0.0125, 0.5], "clipped_share": 0.002, "signal_to_noise_db": 21.34}
    layer = {"node": "q", "shape": [64, 32], "precision": "int4", **own}
    lines = _printed({"layers": {"decoder": {"weights": [layer]}}, "sensitivity": None})
    columns = "layer shape precision scale clipped SQNR reason"
    assert lines[0].split() == columns.split()
    assert _line(lines, "decoder: q") == [
        "decoder:",
        "q",
        "64×32",
        "int4",
        "0.0125",
        "0.2",
        "%",
        "21.3",
        "dB",
    ]


def test_layers_that_fell_back_share_a_line_per_reason() -> None:
    assert fallback_lines({"layers": LAYERS, "sensitivity": None}) == [
        "vision: 1 fp32, no runtime fuses it (conv)",
        "decoder: 6 int8-weight-only, K = 40 (odd0, odd1, odd2, odd3 and 2 more)",
    ]


def test_reports_are_read_where_there_are_any(tmp_path: Path) -> None:
    bundle = SimpleNamespace(files=ModelFiles(tmp_path))
    assert quantization_report(bundle) == {"layers": {}, "sensitivity": None}
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "quantization.json").write_text(json.dumps(LAYERS), encoding="utf-8")
    assert quantization_report(bundle) == {"layers": LAYERS, "sensitivity": None}


def test_the_router_is_shown_before_and_after() -> None:
    figures = {"index_agreement": 0.98834, "matched_token_cosine": 0.99951, "margin_median": 0.0869}
    after = {**figures, "graph_margin_median": 0.0871}
    assert router_line({"router": after}) == (
        "router against torch: indices 98.83 %, matched-token cosine 0.9995, median margin 0.0869 "
        "before and 0.0871 after"
    )
    assert router_line({"router": figures}).endswith("median margin 0.0869 before")
    assert router_line({"router": None}) == ""
    assert router_line({}) == ""
