"""The arms of the study: what stands between the embeddings and the language model, and what is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from benchmarks.study import data
from moir_edge.router import RouterConfig

__all__ = [
    "BALANCED",
    "BASE",
    "CONTROLS",
    "DECIDING",
    "EQUAL",
    "EQUAL_LORA",
    "KEEP_CLEAN",
    "LOGIT_RATE",
    "MAIN",
    "MISSING",
    "PLAIN",
    "REWEIGHTING",
    "SHUFFLED",
    "WINNER",
    "Arm",
]

BASE = "base"
REWEIGHTING = "reweighting"
EQUAL_LORA = "equal-lora"

LOGIT_RATE = 3e-2
KEEP_CLEAN = 16.0
"""Weight of the divergence on clean rows, in the arms that decide. Smaller weights cost clean validation rows more; 64 was no worse."""

MISSING_SHARE = 0.15
"""Share of the training rows that lack the picture, and of those that lack the context, in the arms for that."""

RANK_DENSITY = 1.0
"""Weight of the ranking of clean above degraded image tokens."""

_DIRECTION: Literal["image-to-text"] = "image-to-text"
_TOKEN = RouterConfig(
    kind="token",
    density="confidence",
    ratio=1.0,
    merge="concat",
    direction=_DIRECTION,
    top_k=8,
    rank=16,
)
_LEARNED = _TOKEN.model_copy(update={"ratio": None, "learned_gate": True})
_TOKEN_BOTH = _TOKEN.model_copy(update={"direction": "both"})
_GATE = RouterConfig(kind="gate", direction=_DIRECTION)
_CHANNEL = RouterConfig(kind="channel", direction=_DIRECTION)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        name: Name of its runs.
        title: What tables call it.
        router: Settings of the router, or of the one whose number of weights a control has; None for neither.
        train: What `tune` trains: `router`, or `lora` for low-rank adapters besides the router, if there is one; None
            leaves the model as it is.
        control: What stands in the place of the router, and no command of the product trains: `REWEIGHTING` (attention
            reweighted by learned biases), a name of `controls.ROUTERS`, or `EQUAL_LORA`; None for the router itself.
        balance: Balance method while training, or None.
        keep_clean: Weight of `tune --keep-clean`, or None.
        missing: Share of the training rows without image, and as many without context.
        rank_density: Weight of `tune --rank-density`, or None.
        learning_rate: Peak rate where the study's is too low: for a few biases that start at 0 and act as logits.
        data: Folder of its training rows.
    """

    name: str
    title: str
    router: RouterConfig | None = None
    train: str | None = "router"
    control: str | None = None
    balance: str | None = None
    keep_clean: float | None = None
    missing: float = 0.0
    rank_density: float | None = None
    learning_rate: float | None = None
    data: str = data.TRAIN


PLAIN = Arm(name="token-confidence", title="`token` router, confidence", router=_TOKEN)
"""The router with the loss of the answers alone."""

KEPT: tuple[Arm, ...] = (
    Arm(
        name="token-keep",
        title="`token` router, keep-clean",
        router=_TOKEN,
        keep_clean=KEEP_CLEAN,
    ),
    Arm(
        name="token-learned-gate",
        title="`token` router, learned gate, keep-clean",
        router=_LEARNED,
        keep_clean=KEEP_CLEAN,
    ),
)
"""Routers that are to leave clean rows alone."""

WINNER = Arm(
    name="token-ranked",
    title="`token` router, ranked density, keep-clean",
    router=_TOKEN,
    keep_clean=KEEP_CLEAN,
    rank_density=RANK_DENSITY,
)
"""The best router on validation rows, whose density says what an image token shows; it is held against the targets, and
`demo_training.train --router-of` gives it to the demo."""

EQUAL: tuple[Arm, ...] = (
    Arm(
        name=EQUAL_LORA,
        title="LoRA of the router's size, keep-clean",
        router=_TOKEN,
        train="lora",
        control=EQUAL_LORA,
        keep_clean=KEEP_CLEAN,
    ),
    *(
        Arm(name=name, title=title, router=_TOKEN, control=name, keep_clean=KEEP_CLEAN)
        for name, title in (
            ("own-modality", "words look up words, keep-clean"),
            ("random-sources", "words read random image tokens, keep-clean"),
            ("no-look-up", "adapter of words without look-up, keep-clean"),
        )
    ),
)
"""Controls with as many weights as the token router, and its objectives."""

DECIDING = (WINNER.name, EQUAL_LORA)
"""The router that is held against every arm of `EQUAL`, and the best of them on validation rows: more seeds than the others."""

MAIN: tuple[Arm, ...] = (
    Arm(name=BASE, title="base, as it is", train=None),
    Arm(
        name=REWEIGHTING,
        title="attention reweighting",
        control=REWEIGHTING,
        learning_rate=LOGIT_RATE,
    ),
    Arm(name="gate", title="`gate` router", router=_GATE),
    Arm(name="channel", title="`channel` router", router=_CHANNEL, learning_rate=LOGIT_RATE),
    PLAIN,
    Arm(
        name="token-entropy",
        title="`token` router, entropy",
        router=_TOKEN.model_copy(update={"density": "entropy"}),
    ),
    Arm(
        name="token-mwam",
        title="`token` router, confidence, MWAM",
        router=_TOKEN,
        balance="mwam-loss",
    ),
    *KEPT,
    WINNER,
    *EQUAL,
)
"""The arms of the table, with every seed."""

SHUFFLED = dataclasses.replace(
    WINNER, name="shuffled", title="`token` router, shuffled answers", data=data.SHUFFLED
)
"""The control for leaks: nothing in these rows tells the answer, but the answer."""


BALANCED: tuple[Arm, ...] = (
    *(
        Arm(name=f"token-{name}", title=f"`token` router, {title}", router=_TOKEN, balance=name)
        for name, title in (
            ("ogm-ge", "OGM-GE"),
            ("opm", "OPM"),
            ("mmpareto", "MMPareto"),
            ("functional-entropy", "functional entropy"),
            ("shapley-alternation", "Shapley-guided alternation"),
        )
    ),
    Arm(name="token-both", title="`token` router of both directions", router=_TOKEN_BOTH),
    Arm(
        name="token-both-mwam",
        title="`token` router of both directions, MWAM on gradients",
        router=_TOKEN_BOTH,
        balance="mwam-gradient",
    ),
)
"""The token router trained with a balance method of the field. MWAM's gradient mode needs both directions, and a reference."""

MISSING: tuple[Arm, ...] = (
    Arm(
        name="token-missing",
        title="`token` router, rows with a modality missing",
        router=_TOKEN,
        missing=MISSING_SHARE,
    ),
    Arm(
        name="token-missing-mwam",
        title="`token` router, rows with a modality missing, MWAM",
        router=_TOKEN,
        missing=MISSING_SHARE,
        balance="mwam-loss",
    ),
)
"""Trained with one modality gone altogether in some rows, plainly and as MWAM's paper does."""

CONTROLS: tuple[Arm, ...] = (
    Arm(name="lora", title="LoRA, no router", train="lora"),
    Arm(name="lora-token", title="LoRA and `token` router", router=_TOKEN, train="lora"),
    *BALANCED,
    *MISSING,
)
"""What the same rows do to a backbone that may adapt, balance methods, and missing modalities; one seed."""
