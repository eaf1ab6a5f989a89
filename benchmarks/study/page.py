"""docs/study.md and its plots, written again from the runs; the part below the marker is written by people and stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from benchmarks.common import markdown_table
from benchmarks.study.arms import LOGIT_RATE
from benchmarks.study.plots import dominance_plot, score_plot
from benchmarks.study.settings import IMAGE_BLANK, TEXT_BLANK, StudySettings
from benchmarks.study.summary import CLEAN, OVERALL, ArmFigures, Spread, Target, targets
from moir_edge.whole_files import write_whole

__all__ = ["MARKER", "Study", "write_page"]

MARKER = "<!-- written by people below, kept when the page is rewritten -->"

Cell = Callable[[ArmFigures], str]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Content of the page.

    Attributes:
        settings: The study's settings.
        main: Figures of the arms with all seeds, base first.
        controls: Figures of the arms whose backbone adapts, one seed.
        winner: Figures of the arm that is compared with the targets.
        shuffled: The winner's figures when it is tuned on shuffled answers, or None.
        variance_left: Share of the pictures' variance that the blur leaves.
    """

    settings: StudySettings
    main: Sequence[ArmFigures]
    controls: Sequence[ArmFigures]
    winner: ArmFigures
    shuffled: ArmFigures | None
    variance_left: float

    @property
    def base(self) -> ArmFigures:
        """The model as it is."""
        return self.main[0]


def write_page(study: Study, folder: Path) -> None:
    """Write `study.md`, `study-scores.svg` and `study-dominance.svg`."""
    page = folder / "study.md"
    before = page.read_text() if page.exists() else ""
    notes = before.partition(MARKER)[2]
    write_whole(folder / "study-scores.svg", score_plot(study.main, study.settings))
    write_whole(folder / "study-dominance.svg", dominance_plot(study.main))
    write_whole(page, f"{_page(study)}\n{MARKER}{notes or chr(10)}")


def _page(study: Study) -> str:
    settings = study.settings
    parts = [
        "# Does a router lessen modality dominance?",
        "`python -m benchmarks.study -o FOLDER --docs docs` writes this page, in about an hour on two cores. A stopped study "
        "continues where it stopped. `make study` does the same.",
        _budget(study),
        "## Scores",
        "A score is the mean over the three tasks in %: VQA accuracy, statement accuracy, CIDEr-D over 10. The table shows mean "
        f"± standard deviation over {len(settings.seeds)} seeds. *degraded* is the mean of blur and word dropout, and Δ is its "
        "difference to the base.",
        _table(study.main, _score_columns(study)),
        "![Scores of every arm](study-scores.svg)",
        "## Dominance",
        "The shares are exact Shapley shares of the two modalities. An absent image is grey, and an absent text has all words "
        "dropped. Dominance is |share_image − share_text|. MDI is attention on text over attention on image tokens, per token, "
        "by layer. Above 1, text dominates.",
        _table(study.main, _share_columns(study)),
        "![Dominance of every arm](study-dominance.svg)",
        f"## Targets, measured on: {study.winner.arm.title}",
        _target_table(targets(study.winner, study.base)),
        "## By task",
        "The tables show accuracy in % for questions and statements, and CIDEr-D for captions.",
        *(_task_table(study, task) for task in ("vqa", "statement", "caption")),
    ]
    if study.controls:
        parts += [
            "## If the backbone may adapt",
            "The controls train low-rank adapters on the language model, without a router and with one, or the token router with a "
            "balance method. The budget is the same, for one seed.",
            _table(
                (study.base, study.winner, *study.controls),
                [*_score_columns(study), _dominance(study)],
            ),
        ]
    if study.shuffled is not None:
        parts += ["## Shuffled answers", _shuffled(study, study.shuffled)]
    return "\n\n".join(map(_wrapped, parts)) + "\n"


def _wrapped(part: str) -> str:
    """Wrap the lines of a part at 120 characters; rows of a table stay whole."""
    return "\n".join(
        line
        if line.startswith("|")
        else fill(line, 120, subsequent_indent="  " * line.startswith("- "))
        for line in part.split("\n")
    )


def _budget(study: Study) -> str:
    s = study.settings
    return (
        "Every arm starts from the demo's VLM without its router and gets the same budget:\n\n"
        f"- {s.steps} steps of {s.batch_size} rows.\n"
        f"- AdamW at {s.learning_rate:g}. Attention reweighting and the channel router train at {LOGIT_RATE:g}, because their few "
        "weights are logits.\n"
        f"- {s.train_rows:,} rows of scenes. Their digits come from the {s.train_split} split, which the VLM was not trained on.\n"
        f"- {100 * s.degrade_share:.0f} % of the rows are degraded ({_mix(s)}).\n\n"
        "The arms differ in their trained parameters, and the tables state the number. The figures come from "
        f"{s.test_rows} rows of the test split, whose digits are in neither training set.\n\n"
        f'"50 % blur" is the Gaussian that leaves half of the pictures\' variance: σ = {s.blur_sigma_px:g} px on pictures of 96 px '
        f"({100 * study.variance_left:.0f} % left). Word dropout drops each word of context and prompt with p = {s.drop_probability:g}."
    )


def _mix(settings: StudySettings) -> str:
    names = {
        settings.blur: "blurred",
        settings.dropout: "with dropped words",
        TEXT_BLANK: "without words",
    }
    parts = [f"{settings.degrade.count(label)} {name}" for label, name in names.items()]
    return f"of {len(settings.degrade)}: {', '.join(parts)}"


def _score_columns(study: Study) -> list[tuple[str, Cell]]:
    s = study.settings

    def at(condition: str) -> Cell:
        return lambda one: _pm(one.scores[condition][OVERALL])

    return [
        ("trained weights", lambda one: f"{one.parameters:,}"),
        ("clean", at(CLEAN)),
        (f"blur σ {s.blur_sigma_px:g} px", at(s.blur)),
        (f"word dropout {s.drop_probability:g}", at(s.dropout)),
        ("degraded", lambda one: _pm(one.degraded)),
        ("Δ", lambda one: f"{one.degraded.mean - study.base.degraded.mean:+.1f}"),
        ("image blank", at(IMAGE_BLANK)),
        ("text blank", at(TEXT_BLANK)),
    ]


def _dominance(study: Study) -> tuple[str, Cell]:
    del study
    return ("dominance", lambda one: _pm(one.dominance, digits=3))


def _share_columns(study: Study) -> list[tuple[str, Cell]]:
    def change(one: ArmFigures) -> str:
        return f"{100 * (one.dominance.mean / study.base.dominance.mean - 1):+.0f} %"

    layers = list(study.base.mdi)
    shown = dict.fromkeys([layers[0], layers[len(layers) // 2], *layers[-2:]])
    return [
        ("share image", lambda one: _pm(one.share_image, digits=3)),
        ("share text", lambda one: _pm(one.share_text, digits=3)),
        _dominance(study),
        ("change", change),
        *((f"MDI layer {layer}", _mdi(layer)) for layer in shown),
    ]


def _mdi(layer: str) -> Cell:
    return lambda one: _pm(one.mdi[layer], digits=2)


def _task_table(study: Study, task: str) -> str:
    digits = 2 if task == "caption" else 1

    def at(condition: str) -> Cell:
        return lambda one: _pm(one.scores[condition][task], digits=digits)

    return _table(study.main, [(label, at(label)) for label in study.base.scores], head=task)


def _table(
    arms: Sequence[ArmFigures], columns: Sequence[tuple[str, Cell]], *, head: str = "arm"
) -> str:
    names = [head, *(name for name, _ in columns)]
    rows = [(one.arm.title, *(cell(one) for _, cell in columns)) for one in arms]
    return markdown_table(names, rows, right=range(1, len(names)))


def _target_table(found: Sequence[Target]) -> str:
    return markdown_table(
        ("target", "asked", "got", ""),
        [
            (
                one.name,
                f"≥ {one.bound:g} {one.unit}",
                f"{one.value:+.1f} {one.unit}",
                "reached" if one.reached else "**missed**",
            )
            for one in found
        ],
        right=(1, 2),
    )


def _shuffled(study: Study, one: ArmFigures) -> str:
    truth = study.winner.scores[CLEAN]
    found = one.scores[CLEAN]
    return (
        "The same router is tuned on rows whose answers were shuffled within each task. On clean test rows it answers "
        f"{found['vqa'].mean:.1f} % of the questions and {found['statement'].mean:.1f} % of the statements right, against "
        f"{truth['vqa'].mean:.1f} and {truth['statement'].mean:.1f} % with the true answers. Chance is 50 % on statements. On questions, chance is about "
        "10 % if the answer is always the most frequent one."
    )


def _pm(spread: Spread, *, digits: int = 1) -> str:
    text = f"{spread.mean:.{digits}f}"
    return text if spread.deviation is None else f"{text} ± {spread.deviation:.{digits}f}"
