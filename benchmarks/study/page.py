"""docs/study.md and its plots, written again from the runs; the part below the marker is written by people and stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from benchmarks.common import markdown_table
from benchmarks.study.arms import DECIDING, LOGIT_RATE
from benchmarks.study.backbones import Backbone
from benchmarks.study.comparisons import Claim
from benchmarks.study.plots import dominance_plot, score_plot
from benchmarks.study.readings import Reading
from benchmarks.study.settings import ABSENT, IMAGE_BLANK, TEXT_BLANK, StudySettings
from benchmarks.study.summary import CLEAN, OVERALL, ArmFigures, Spread, Target, targets
from benchmarks.study.tries import Try, tries_table
from moir_edge.metrics import Interval
from moir_edge.whole_files import write_whole

__all__ = ["MARKER", "BackboneFigures", "Study", "write_page"]

MARKER = "<!-- written by people below, kept when the page is rewritten -->"
_HELD = {True: "holds", False: "**does not hold**"}

Cell = Callable[[ArmFigures], str]


@dataclass(frozen=True, kw_only=True)
class BackboneFigures:
    """Results on one backbone.

    Attributes:
        backbone: The backbone.
        settings: The study's settings, with its blur.
        arms: Figures of the arms, base first.
        claims: What is claimed of the deciding router; empty as long as it or the base has no run.
        shuffled: Figures of the winner tuned on shuffled answers, or None.
        winner: Figures of the arm whose router the demo ships, or None.
        variance_left: Share of the pictures' variance that the blur leaves.
        missing: Names of the runs that are not made yet.
    """

    backbone: Backbone
    settings: StudySettings
    arms: Sequence[ArmFigures]
    claims: Sequence[Claim]
    shuffled: ArmFigures | None
    winner: ArmFigures | None
    variance_left: float
    missing: Sequence[str] = ()

    @property
    def base(self) -> ArmFigures:
        """The model as it is."""
        return self.arms[0]

    def row(self, arm: str) -> str:
        """Return the name of an arm's row in the table of scores, such as `D4`."""
        names = [one.arm.name for one in self.arms]
        return f"{self.backbone.name[0].upper()}{names.index(arm) + 1}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """Content of the page.

    Attributes:
        parts: Results by backbone.
        tries: What was tried on validation rows.
        readings: When the test rows were read.
        hours: Wall time of all runs, one after the other.
        untouched: Titles of backbones without a run.
    """

    parts: Sequence[BackboneFigures]
    tries: Sequence[Try]
    readings: Sequence[Reading]
    hours: float
    untouched: Sequence[str] = ()


def write_page(study: Study, folder: Path) -> None:
    """Write `study.md`, and `study-scores-NAME.svg` and `study-dominance-NAME.svg` of every backbone."""
    page = folder / "study.md"
    before = page.read_text() if page.exists() else ""
    notes = before.partition(MARKER)[2]
    for part in study.parts:
        name = part.backbone.name
        write_whole(folder / f"study-scores-{name}.svg", score_plot(part.arms, part.settings))
        write_whole(folder / f"study-dominance-{name}.svg", dominance_plot(part.arms))
    write_whole(page, f"{_page(study)}\n{MARKER}{notes or chr(10)}")


def _page(study: Study) -> str:
    parts = [
        "# Does a router lessen modality dominance?",
        "`python -m benchmarks.study -o FOLDER --docs docs` writes this page; `make study` does the same. A stopped study "
        f"continues where it stopped. {_cost(study)}",
        _budget(study),
        _backbone_table(study),
        "## Claims",
        "A difference is paired by row. Its interval is a 95 % bootstrap over rows and seeds. A claim about degraded rows holds "
        "with the asked difference, and an interval above 0. Its rows are those of the table of scores.",
        _claim_table(study),
        "## Scores",
        "A score is the mean over the three tasks in %: VQA accuracy, statement accuracy, CIDEr-D over 10. The table shows mean "
        "± standard deviation over the seeds. *degraded* is the mean of blur and word dropout. Δ is the paired difference to "
        "the base, with its 95 % interval.",
        _score_table(study),
        *_missing(study),
        *(_plots(part, "scores", "Scores") for part in study.parts),
        "## Dominance",
        "The shares are exact Shapley shares of the two modalities. An absent image is grey, and an absent text has all words "
        "dropped. Dominance is |share_image − share_text|. MDI is attention on text over attention on image tokens, per token, "
        "by layer. Above 1, text dominates.",
        *(_titled(part, _table(part, _share_columns(part))) for part in study.parts),
        *(_plots(part, "dominance", "Dominance") for part in study.parts),
        *(_targets(part, part.winner) for part in study.parts if part.winner is not None),
        "## By task",
        "The tables show accuracy in % for questions and statements, and CIDEr-D for captions.",
        *(
            _titled(part, _task_table(part, task))
            for part in study.parts
            for task in ("vqa", "statement", "caption")
        ),
        *(_shuffled(part, part.shuffled) for part in study.parts if part.shuffled is not None),
        *_tries(study),
    ]  # fmt: skip
    return "\n\n".join(map(_wrapped, parts)) + "\n"


def _wrapped(part: str) -> str:
    """Wrap the lines of a part at 120 characters; rows of a table stay whole."""
    return "\n".join(
        line
        if line.startswith("|")
        else fill(line, 120, subsequent_indent="  " * line.startswith("- "))
        for line in part.split("\n")
    )


def _cost(study: Study) -> str:
    return f"The runs took {study.hours:.1f} hours in all, one thread each; two cores make two at a time."


def _budget(study: Study) -> str:
    s = study.parts[0].settings
    return (
        "Every arm starts from a VLM without a router and gets the same budget:\n\n"
        f"- {s.steps} steps of {s.batch_size} rows, {len(s.seeds)} seeds; {len(s.deciding_seeds)} seeds for the two arms that "
        f"decide, `{DECIDING[0]}` and `{DECIDING[1]}`; one for the larger adapters and the balance methods.\n"
        f"- AdamW at {s.learning_rate:g}. Attention reweighting and the channel router train at {LOGIT_RATE:g}, because their few "
        "weights are logits.\n"
        f"- {s.train_rows:,} rows of scenes. Their pictures come from the {s.train_split} split, which the VLM was not trained "
        "on.\n"
        f"- {100 * s.degrade_share:.0f} % of the rows are degraded ({_mix(s)}).\n\n"
        "The arms differ in their trained parameters, and the tables state the number. The figures come from "
        f"{s.test_rows} rows of the test split, whose pictures are in neither training set. Settings were chosen on "
        f"{s.validation_rows} validation rows: other scenes of the pictures that the tuning sees. {_readings(study)}\n\n"
        '"50 % blur" is the Gaussian that leaves half of the pictures\' variance. Word dropout drops each word of context and '
        f"prompt with p = {s.drop_probability:g}."
    )


def _readings(study: Study) -> str:
    sentences = []
    for part in study.parts:
        days = [one.day for one in study.readings if one.backbone == part.backbone.name]
        times = "once" if len(days) == 1 else f"{len(days)} times with different arms or settings"
        when = f", on {', '.join(dict.fromkeys(days))}" if days else ""
        sentences.append(f"The test rows of {part.backbone.name} were read {times}{when}.")
    return " ".join(sentences)


def _mix(settings: StudySettings) -> str:
    names = {
        settings.blur: "blurred",
        settings.dropout: "with dropped words",
        TEXT_BLANK: "without words",
    }
    parts = [f"{settings.degrade.count(label)} {name}" for label, name in names.items()]
    return f"of {len(settings.degrade)}: {', '.join(parts)}"


def _backbone_table(study: Study) -> str:
    return markdown_table(
        ("backbone", "what it is", "blur", "variance left"),
        [
            (
                part.backbone.title,
                part.backbone.about,
                f"σ = {part.settings.blur_sigma_px:g} px of 96",
                f"{100 * part.variance_left:.0f} %",
            )
            for part in study.parts
        ],
        right=(2, 3),
    )


def _claim_table(study: Study) -> str:
    rows = [
        (
            part.backbone.title,
            f"`{claim.rows[0]}` {claim.text}",
            " − ".join(part.row(name) for name in claim.rows),
            _interval(claim.found),
            f"≥ {claim.bound:g}",
            _HELD[claim.holds],
        )
        for part in study.parts
        for claim in part.claims
    ]
    head = ("backbone", "claim", "rows", "difference", "asked", "")
    return markdown_table(head, rows, right=(3, 4))


def _missing(study: Study) -> list[str]:
    rows = [(part.backbone.title, ", ".join(part.missing)) for part in study.parts if part.missing]
    rows += [(title, "all") for title in study.untouched]
    return [markdown_table(("backbone", "runs that are not made yet"), rows)] if rows else []


def _score_table(study: Study) -> str:
    columns = _score_columns(study.parts[0].settings)
    rows = [
        (
            part.row(one.arm.name),
            part.backbone.title,
            one.arm.title,
            *(cell(one, part.settings) for _, cell in columns),
        )
        for part in study.parts
        for one in part.arms
    ]
    names = ["row", "backbone", "arm", *(name for name, _ in columns)]
    return markdown_table(names, rows, right=range(3, len(names)))


def _score_columns(
    s: StudySettings,
) -> list[tuple[str, Callable[[ArmFigures, StudySettings], str]]]:
    def at(condition: str) -> Callable[[ArmFigures, StudySettings], str]:
        return lambda one, _: _pm(one.scores[condition][OVERALL])

    return [
        ("trained weights", lambda one, _: f"{one.parameters:,}"),
        ("seeds", lambda one, _: str(one.seeds)),
        ("clean", at(CLEAN)),
        ("50 % blur", lambda one, own: _pm(one.scores[own.blur][OVERALL])),
        (f"word dropout {s.drop_probability:g}", at(s.dropout)),
        ("degraded", lambda one, _: _pm(one.degraded)),
        ("Δ degraded", lambda one, _: _interval(one.degraded_gain)),
        ("Δ clean", lambda one, _: _interval(one.clean_gain)),
        ("image blank", at(IMAGE_BLANK)),
        ("text blank", at(TEXT_BLANK)),
        *((condition.replace("-", " "), at(condition)) for condition in ABSENT),
    ]


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{found.value:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


def _titled(part: BackboneFigures, table: str) -> str:
    return f"{part.backbone.title}:\n\n{table}"


def _plots(part: BackboneFigures, kind: str, what: str) -> str:
    return f"![{what} of every arm, {part.backbone.title}](study-{kind}-{part.backbone.name}.svg)"


def _share_columns(part: BackboneFigures) -> list[tuple[str, Cell]]:
    def change(one: ArmFigures) -> str:
        return f"{100 * (one.dominance.mean / part.base.dominance.mean - 1):+.0f} %"

    layers = list(part.base.mdi)
    shown = dict.fromkeys([layers[0], layers[len(layers) // 2], *layers[-2:]])
    return [
        ("share image", lambda one: _pm(one.share_image, digits=3)),
        ("share text", lambda one: _pm(one.share_text, digits=3)),
        ("dominance", lambda one: _pm(one.dominance, digits=3)),
        ("change", change),
        *((f"MDI layer {layer}", _mdi(layer)) for layer in shown),
    ]


def _mdi(layer: str) -> Cell:
    return lambda one: _pm(one.mdi[layer], digits=2)


def _task_table(part: BackboneFigures, task: str) -> str:
    digits = 2 if task == "caption" else 1

    def at(condition: str) -> Cell:
        return lambda one: _pm(one.scores[condition][task], digits=digits)

    return _table(part, [(label, at(label)) for label in part.base.scores], head=task)


def _table(part: BackboneFigures, columns: Sequence[tuple[str, Cell]], *, head: str = "arm") -> str:
    names = [head, *(name for name, _ in columns)]
    rows = [(one.arm.title, *(cell(one) for _, cell in columns)) for one in part.arms]
    return markdown_table(names, rows, right=range(1, len(names)))


def _targets(part: BackboneFigures, winner: ArmFigures) -> str:
    title = f"## Targets, measured on: {winner.arm.title}, {part.backbone.title}"
    return f"{title}\n\n{_target_table(targets(winner, part.base))}"


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


def _shuffled(part: BackboneFigures, one: ArmFigures) -> str:
    found = one.scores[CLEAN]
    return (
        f"## Shuffled answers, {part.backbone.title}\n\n"
        "The token router is tuned on rows whose answers were shuffled within each task. On clean test rows it answers "
        f"{found['vqa'].mean:.1f} % of the questions and {found['statement'].mean:.1f} % of the statements right. Chance is "
        "50 % on statements. On questions, chance is about 10 % if the answer is always the most frequent one."
    )


def _tries(study: Study) -> list[str]:
    if not study.tries:
        return []
    titles = {part.backbone.name: part.backbone.title for part in study.parts}
    return [
        "## Tries on validation rows",
        f"{len(study.tries)} settings were tried with `--validate`, one seed each unless more are listed. Δ is the difference "
        "to the base in points.",
        tries_table(study.tries, titles),
    ]


def _pm(spread: Spread, *, digits: int = 1) -> str:
    text = f"{spread.mean:.{digits}f}"
    return text if spread.deviation is None else f"{text} ± {spread.deviation:.{digits}f}"
