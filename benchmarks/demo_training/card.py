"""The model card of the demo checkpoint: accuracy, training curves as a table and as a small SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import markdown_table
from benchmarks.demo_training.evaluate import CIDER
from benchmarks.density_card import density_lines
from moir_edge.demo.data import TASKS
from moir_edge.whole_files import write_whole

__all__ = ["curves_svg", "write_card"]

_STAGES = ("A vision", "B language", "C joint")
_COLOURS = {
    "cells_val": "#888888",
    "vqa_val": "#1f77b4",
    "statement_val": "#d62728",
    "caption_val": "#2ca02c",
}
_WIDTH, _HEIGHT, _MARGIN = 640, 220, 34


def _timeline(curves: Sequence[dict[str, float]]) -> list[tuple[float, dict[str, float]]]:
    """Put the stages one after another: (minutes since the start, entry)."""
    offset, previous, stage = 0.0, 0.0, 0.0
    points = []
    for entry in curves:
        if entry["stage"] != stage:
            offset, stage = offset + previous, entry["stage"]
        previous = entry["seconds"]
        points.append(((offset + previous) / 60, entry))
    return points


def curves_svg(curves: Sequence[dict[str, float]]) -> str:
    """Draw validation accuracy over minutes of training, all stages in one picture."""
    points = _timeline(curves)
    span = max(minute for minute, _ in points)
    inner, tall = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="10"><rect width="100%" height="100%" fill="white"/>'
    ]
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _HEIGHT - _MARGIN - tall * level
        parts.append(f'<path d="M{_MARGIN} {y}H{_WIDTH - _MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="4" y="{y + 3}">{level:.0%}</text>')
    for index, (name, colour) in enumerate(_COLOURS.items()):
        line = " ".join(
            f"{_MARGIN + inner * minute / span:.1f},{_HEIGHT - _MARGIN - tall * entry[name]:.1f}"
            for minute, entry in points
            if name in entry
        )
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        parts.append(
            f'<text x="{_MARGIN + 120 * index}" y="18" fill="{colour}">{name.removesuffix("_val")}</text>'
        )
    parts.append(f'<text x="{_MARGIN}" y="{_HEIGHT - 8}">0</text>')
    parts.append(
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 8}" text-anchor="end">{span:.0f} minutes</text></svg>'
    )
    return "".join(parts) + "\n"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _curve_table(curves: Sequence[dict[str, float]], stages: Sequence[str]) -> str:
    """Every stage's quarter points, validation accuracy in %."""
    rows = []
    for stage in sorted({entry["stage"] for entry in curves}):
        mine = [(minute, e) for minute, e in _timeline(curves) if e["stage"] == stage]
        picks = sorted({round((len(mine) - 1) * quarter / 3) for quarter in range(4)})
        for minute, entry in (mine[pick] for pick in picks):
            cells = [_percent(entry.get(f"{name}_val")) for name in ("cells", *TASKS)]
            head = [stages[int(stage)], str(int(entry["step"])), f"{minute:.1f}"]
            rows.append([*head, *cells])
    return markdown_table(("stage", "step", "minutes", "cells", *TASKS), rows)


def _accuracy_table(test: dict[str, Any]) -> str:
    counts = ("rows", *(str(test["rows"][task]) for task in (*TASKS, "caption")))
    scored = [
        (name, *(_percent(scores[task]) for task in TASKS), f"{scores[CIDER]:.2f}")
        for name, scores in test.items()
        if name != "rows"
    ]
    return markdown_table(("condition", *TASKS, CIDER), [counts, *scored])


def write_card(record: dict[str, Any], folder: Path) -> None:
    """Write `README.md` and `curves.svg` into the checkpoint folder.

    Args:
        record: What `training_log.json` holds: plan, minutes, machine, parameters, curves, test accuracy and, where there
            is something to add, notes and names of the stages, and the density that was measured.
        folder: The checkpoint folder.
    """
    plan = record["plan"]
    text = [
        "# moir-edge demo VLM",
        "",
        "A SmolVLM-class vision-language model with a MoIR `token` router, trained from scratch to answer questions about "
        "coloured scenes of handwritten digits. It exists to exercise the whole chain of this package on real pixels; it "
        "knows nothing else.",
        "",
        f"- Parameters: {record['parameters']:,}, of which {record['router_parameters']:,} in the router; float32.",
        "- Input: 96 × 96 px RGB images (36 tokens each), up to 512 tokens of prompt and answer.",
        "- Data: the 1,797 digits of scikit-learn (UCI optical recognition of handwritten digits), composed on the fly; "
        "70 / 10 / 20 % of the digit images for train / val / test, none shared.",
        f"- Seed {plan['seed']}; steps: {plan['vision_steps']} vision, {plan['language_steps']} language, "
        f"{plan['joint_steps']} joint, {plan['router_steps']} router.",
        f"- Wall time: {record['minutes']} minutes on a {record['machine']}.",
        "- Recipe: `python -m benchmarks.demo_training.train --output FOLDER`; settings and curves are in `training_log.json`.",
        *[f"- {note}" for note in record.get("notes", ())],
        "",
        "## Accuracy on the test split (%, greedy, float32)",
        "",
        "A caption counts when it equals one of the five reference captions, every digit, colour and place included.",
        "",
        _accuracy_table(record["test"]),
        "",
        *density_lines(record.get("density")),
        "## Training (validation accuracy, %)",
        "",
        "`cells`: digit, colour and size of an occupied cell all read correctly.",
        "",
        _curve_table(record["curves"], record.get("stages", _STAGES)),
        "",
        "![curves](curves.svg)",
        "",
        "## Stages",
        "",
        "A: vision tower and projector from per-token labels through throw-away linear heads. B: language model on "
        "several questions per image, tower frozen. C: both, labels kept. Their weights are moving averages. D: the VLM frozen, "
        "the router that won [the study](../../../docs/study.md) tuned as there: on digits of the val split, some rows blurred, "
        "some with dropped words, some without words.",
        "",
    ]  # fmt: skip
    write_whole(folder / "README.md", "\n".join(text))
    write_whole(folder / "curves.svg", curves_svg(record["curves"]))
