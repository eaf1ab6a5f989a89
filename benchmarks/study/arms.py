"""The arms of the study: what stands between the embeddings and the language model, and what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.study import data
from moir_edge.router import RouterConfig

__all__ = ["BASE", "CONTROLS", "LOGIT_RATE", "MAIN", "SHUFFLED", "WINNER", "Arm"]

BASE = "base"

LOGIT_RATE = 3e-2

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
_GATE = RouterConfig(kind="gate", direction=_DIRECTION)
_CHANNEL = RouterConfig(kind="channel", direction=_DIRECTION)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        name: Name of its runs.
        title: What tables call it.
        router: Settings of the router; None for none.
        train: What `tune` trains: `router`, or `lora` for low-rank adapters besides the router, if there is one; None
            leaves the model as it is.
        mwam: Mode of MWAM while training, or None.
        reweighting: Whether attention is reweighted by learned biases, which are trained.
        learning_rate: Peak rate where the study's is too low: for a few biases that start at 0 and act as logits.
        data: Folder of its training rows.
    """

    name: str
    title: str
    router: RouterConfig | None = None
    train: str | None = "router"
    mwam: str | None = None
    reweighting: bool = False
    learning_rate: float | None = None
    data: str = data.TRAIN


WINNER = Arm(name="token-confidence", title="`token` router, confidence", router=_TOKEN)
"""The arm that is held against the targets, and whose router the demo ships."""

MAIN: tuple[Arm, ...] = (
    Arm(name=BASE, title="base, as it is", train=None),
    Arm(
        name="reweighting",
        title="attention reweighting",
        reweighting=True,
        learning_rate=LOGIT_RATE,
    ),
    Arm(name="gate", title="`gate` router", router=_GATE),
    Arm(name="channel", title="`channel` router", router=_CHANNEL, learning_rate=LOGIT_RATE),
    WINNER,
    Arm(
        name="token-entropy",
        title="`token` router, entropy",
        router=_TOKEN.model_copy(update={"density": "entropy"}),
    ),
    Arm(
        name="token-mwam",
        title="`token` router, confidence, MWAM",
        router=_TOKEN,
        mwam="gradient",
    ),
)
"""The arms of the table, with every seed."""

SHUFFLED = Arm(
    name="shuffled",
    title="`token` router, shuffled answers",
    router=_TOKEN,
    data=data.SHUFFLED,
)
"""The control for leaks: nothing in these rows tells the answer, but the answer."""


CONTROLS: tuple[Arm, ...] = (
    Arm(name="lora", title="LoRA, no router", train="lora"),
    Arm(name="lora-token", title="LoRA and `token` router", router=_TOKEN, train="lora"),
)
"""What the same rows do to a backbone that may adapt; one seed."""
