from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from rich.console import Console

from moir_edge.evaluation.comparison.page import render_html
from moir_edge.evaluation.comparison.schema import ComparisonReport
from moir_edge.evaluation.comparison.table import print_report
from moir_edge.evaluation.provenance import BoardReadings
from moir_edge.evaluation.records import Samples

from ..hostile import spoil, steers


def test_page_is_self_contained_and_escaped(report: ComparisonReport) -> None:
    page = render_html(report)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)|@import|url\(|<script", page)
    assert "http" not in page
    # the answer "<b>blue</b>" of a model and the prompt "What & 0?" are text, not markup
    assert "<b>blue" not in page
    assert "&lt;b&gt;blue" in page
    assert "What &amp; 0?" in page
    assert "data:image/png;base64," in page
    assert "1 of 4 gates failed" in page
    assert "prefers-color-scheme: dark" in page


def test_charts_are_well_formed_and_described(report: ComparisonReport) -> None:
    drawings = re.findall(r"<svg.*?</svg>", render_html(report), flags=re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.attrib["role"] == "img"
        assert root.findtext("title")
        assert "small" in (root.findtext("desc") or "")


def test_page_without_answers_gates_and_pictures(report: ComparisonReport) -> None:
    blind = [
        one.model_copy(update={"tasks": {}, "recovery": None, "changed": (), "tpot": None})
        for one in report.candidates
    ]
    bare = report.model_copy(update={"candidates": tuple(blind), "gates": ()})
    page = render_html(bare)
    assert page.count("<svg") == 2
    assert "no gates set" in page
    gone = report.candidates[2].changed[0].model_copy(update={"images": ("gone.png",)})
    changed = report.candidates[2].model_copy(update={"changed": (gone,)})
    page = render_html(report.model_copy(update={"candidates": (*report.candidates[:2], changed)}))
    assert "data:image" not in page


def test_a_board_shows_energy_and_its_sensors(report: ComparisonReport) -> None:
    assert "energy/answer" not in render_html(report)
    assert "Board." not in render_html(report)
    readings = BoardReadings(
        power_mode="MAXN_SUPER",
        gpu_mhz=(306, 1020),
        cpu_mhz=(1728, 1728),
        hottest_c=(48.2, 61.8),
        throttle_events=0,
    )
    candidates = tuple(
        one.model_copy(update={"energy": Samples.of([at, at + 1.5], "J")})
        for at, one in enumerate(report.candidates, start=1)
    )
    machine = report.machine.model_copy(update={"board": readings})
    origin = report.provenance.model_copy(update={"machine": machine})
    board = report.model_copy(update={"provenance": origin, "candidates": candidates})
    text = io.StringIO()
    print_report(board, Console(file=text, width=120))
    assert re.search(r"energy/answer .* 1\.75 J .* 2\.75 J .* 3\.75 J", text.getvalue())
    page = render_html(board)
    assert "3.75 J" in page
    assert "Power mode MAXN_SUPER; GPU 306 MHz before and 1020 MHz after" in page


def test_terminal_table(report: ComparisonReport) -> None:
    text = io.StringIO()
    print_report(report, Console(file=text, width=120))
    lines = text.getvalue()
    for expected in ("reference", "TTFT median", "vqa accuracy", "caption CIDEr-D", "75.0 %"):
        assert expected in lines
    assert "FAILED: small recovery 91.67 %, bound >= 95 %" in lines
    assert "passed: plain recovery 100.00 %, bound >= 95 %" in lines


def test_tables_scroll_with_the_keyboard(report: ComparisonReport) -> None:
    page = render_html(report)
    regions = re.findall(r'<div class="scroll"([^>]*)><table', page)
    assert len(regions) == page.count("<table")
    assert all('tabindex="0" role="region"' in region for region in regions)
    labels = re.findall(r'role="region" aria-label="([^"]+)"', page)
    assert len(set(labels)) == len(labels) == len(regions)
    assert all('tabindex="0"' in figure for figure in re.findall(r"<figure[^>]*>", page))


def test_paper_keeps_colours_and_cuts_nothing_off(report: ComparisonReport) -> None:
    page = render_html(report)
    # The dark colours are those of a screen alone: light ink on white paper would be empty cells.
    assert "@media (prefers-color-scheme" not in page
    print_rules = page.partition("@media print")[2]
    assert "print-color-adjust: exact" in print_rules
    assert ".scroll, figure { overflow: visible; }" in print_rules
    # What a colour says, a word says too.
    assert "✗ failed" in page


def test_names_and_answers_steer_neither_terminal_nor_page(report: ComparisonReport) -> None:
    spoiled = spoil(report)
    screen = io.StringIO()
    print_report(spoiled, Console(file=screen, width=120))
    page = render_html(spoiled)
    assert not steers(screen.getvalue())
    assert not steers(page)
    assert "<script" not in page
    assert "[red]" in screen.getvalue()
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(drawing)
