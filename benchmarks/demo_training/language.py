"""The second training stage: the language model on all tasks, with the vision tower frozen or trained along."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from benchmarks.demo_training.batches import stream
from benchmarks.demo_training.sequences import (
    PackedBatch,
    Packer,
    Wording,
    mixed_batches,
    pack_rows,
)
from benchmarks.demo_training.snapshots import Snapshots, Stateful
from benchmarks.demo_training.stages import (
    CellHeads,
    Optimisers,
    image_features,
    language_model,
    normalised,
    vision_parts,
)
from moir_edge.demo.data import TASKS, DemoRow

__all__ = ["Average", "Stage", "exact_match", "packed_loss", "train_language"]

_TASK_WEIGHTS = {"vqa": 1.5, "statement": 2.0, "caption": 0.7}
_LOG = logging.getLogger(__name__)
_EVERY = 100  # steps between evaluations
_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm")
_BLUR_SHARE = 0.12


class Average:
    """Exponential moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay, self._updates = module, decay, 0
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights, and how many updates made them."""
        return {"state": self.state, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take them back."""
        self.state, self._updates = state["state"], state["updates"]

    def update(self) -> None:
        """Move towards the current weights; the first updates follow them closely."""
        self._updates += 1
        decay = min(self._decay, self._updates / (self._updates + 9))
        for key, value in self._module.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value.detach(), 1 - decay)

    def swapped(self, call: Callable[[], Any]) -> Any:
        """Call something while the module holds the averaged weights."""
        kept = {k: v.detach().clone() for k, v in self._module.state_dict().items()}
        self._module.load_state_dict(self.state)
        try:
            return call()
        finally:
            self._module.load_state_dict(kept)


@contextmanager
def light_norms(model: nn.Module) -> Iterator[None]:
    """Let the language model's norms return bfloat16 while it trains under autocast (a fifth less time on a CPU).

    Llama's RMSNorm and Qwen2's multiply by its float32 weight last, so every matrix product behind it casts the result again.
    """

    def normalise(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
        spread = hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon
        normed: torch.Tensor = hidden * torch.rsqrt(spread) * norm.weight
        return normed.to(torch.bfloat16)

    norms: list[Any] = [m for m in model.modules() if type(m).__name__ in _NORMS]
    for norm in norms:
        norm.forward = MethodType(normalise, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _attention_mask(segments: torch.Tensor) -> torch.Tensor:
    """Additive mask (batch, 1, length, length): causal, each segment sees the prefix and itself."""
    own = segments[:, :, None] == segments[:, None, :]
    seen = (own | (segments[:, None, :] == 0)).tril()
    half = torch.is_autocast_enabled(segments.device.type)
    dtype = torch.bfloat16 if half else torch.float32
    mask = torch.zeros(seen.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _answer_logits(
    model: Any, batch: PackedBatch, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (logits, labels, tasks, row number) of every answer token, each predicted from the token before."""
    arrays = (batch.ids, batch.labels, batch.segments, batch.positions, batch.tasks)
    ids, labels, segments, positions, tasks = (torch.from_numpy(a).to(model.device) for a in arrays)
    embeds = model.get_input_embeddings()(ids)
    spots = (ids == model.config.image_token_id)[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(spots, features.to(embeds.dtype).reshape(-1, embeds.shape[-1]))
    hidden = language_model(model)(
        inputs_embeds=embeds,
        attention_mask=_attention_mask(segments),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    answered = labels[:, 1:] >= 0
    rows = answered.nonzero()[:, 0]
    logits = model.lm_head(hidden[:, :-1][answered]).float()
    return logits, labels[:, 1:][answered], tasks[:, 1:][answered], rows


def word_loss(
    features: torch.Tensor,
    cells: torch.Tensor,
    embeddings: torch.Tensor,
    words: Sequence[Sequence[int]],
) -> torch.Tensor:
    """Pull every image token of an occupied cell towards the embeddings of the words that name its content.

    A question's word then finds its image token by likeness, for names as quickly as for colours.

    Args:
        features: (batch, 36, hidden) image tokens.
        cells: (batch, 9, 3), see `VisionBatch.labels`.
        embeddings: (vocabulary, hidden) of the language model.
        words: Token ids of the ten names, the colours and the sizes, see `Packer.label_words`.
    """
    places = [(row // 2) * 3 + column // 2 for row in range(6) for column in range(6)]
    targets = cells[:, places]  # (batch, 36, 3)
    taken = targets[..., 0] > 0
    tokens = nn.functional.normalize(features[taken], dim=-1)
    total = features.new_zeros(())
    for index, (ids, weight) in enumerate(zip(words, (1.0, 0.5, 0.3), strict=True)):
        names = nn.functional.normalize(embeddings[list(ids)], dim=-1)
        logits = 12.0 * tokens @ names.T
        total = total + weight * nn.functional.cross_entropy(logits, targets[taken][:, index] - 1)
    return total


def packed_loss(
    model: Any,
    heads: CellHeads,
    batch: PackedBatch,
    *,
    train_vision: bool,
    cell_weight: float,
    words: Sequence[Sequence[int]] = (),
) -> dict[str, torch.Tensor]:
    """Return the mean answer loss per task, and the per-token vision loss where the tower is trained."""
    losses: dict[str, torch.Tensor] = {}
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        with torch.set_grad_enabled(train_vision):
            features = image_features(model, normalised(model, batch.pixels))
        if train_vision and cell_weight:
            cells = torch.from_numpy(batch.cells).to(model.device)
            losses["cells"] = heads(features, cells)[0] * cell_weight
            embeddings = model.get_input_embeddings().weight
            losses["words"] = word_loss(features.float(), cells, embeddings, words) * cell_weight
        logits, labels, tasks, _ = _answer_logits(model, batch, features)
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    for index in set(tasks.tolist()):
        losses[TASKS[index]] = each[tasks == index].mean() * _TASK_WEIGHTS[TASKS[index]]
    return losses


@torch.no_grad()
def exact_match(
    model: Any, packer: Packer, rows: Sequence[DemoRow], *, autocast: bool = True, chunk: int = 64
) -> dict[str, float]:
    """Share of rows per task whose every answer token is the most likely one.

    That is exactly when greedy decoding gives the canonical answer, without the cost of generating.
    """
    result = {}
    for task in TASKS:
        mine = [row for row in rows if row.task == task]
        right = 0
        for start in range(0, len(mine), chunk):
            batch = pack_rows(packer, mine[start : start + chunk])
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=autocast):
                features = image_features(model, normalised(model, batch.pixels))
                logits, labels, _, numbers = _answer_logits(model, batch, features)
            wrong = set(numbers[logits.argmax(-1) != labels].tolist())
            right += batch.ids.shape[0] - len(wrong)
        if mine:
            result[task] = right / len(mine)
    return result


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings of a stage on language.

    Attributes:
        number: Under which curves are logged.
        steps: Optimiser steps, each with `singles` one-image rows and `pairs` two-image rows.
        seed: Seed of the data.
        rate: Peak learning rate of AdamW.
        matrix_rate: Peak learning rate of Muon.
        singles: One-image rows a step, each with several questions.
        pairs: Two-image rows a step, each with several statements.
        vision_scale: Factor on both rates for the vision tower; 0 freezes it.
    """

    number: int
    steps: int
    seed: int
    rate: float
    matrix_rate: float
    singles: int
    pairs: int
    vision_scale: float = 0.0


def train_language(
    model: Any,
    heads: CellHeads,
    stage: Stage,
    tokenizer_json: str,
    *,
    val_rows: Sequence[DemoRow],
    log: list[dict[str, float]],
    wording: Wording | None = None,
    snapshots: Snapshots | None = None,
) -> None:
    """Train on all tasks; the weights end as their moving average.

    Args:
        model: The VLM, changed in place.
        heads: The read-outs of the vision stage, trained along where the tower is.
        stage: Steps and rates.
        tokenizer_json: Content of `tokenizer.json`.
        val_rows: Rows of unseen digits to measure on.
        log: Curves are appended here.
        wording: How rows are put in words; the demo's by default.
        snapshots: Where a stopped training goes on; None starts afresh.
    """
    wording, snapshots = wording or Wording(), snapshots or Snapshots()
    packer = Packer(tokenizer_json, wording)
    words = packer.label_words()
    optimisers = _optimisers(model, heads, stage)
    average = Average(model, 0.997)
    kept: dict[str, Stateful] = {"model": model, "heads": heads, "average": average}
    kept |= {f"optimisers {at}": part for at, part in enumerate(optimisers)}
    done = snapshots.begin(stage.number, stage.steps, kept, log)
    data = stream(
        mixed_batches, tokenizer_json=tokenizer_json, seed=stage.seed + 1000 * done, singles=stage.singles,
        pairs=stage.pairs, blur_share=_BLUR_SHARE, wording=wording,
    )  # fmt: skip
    start, sums = time.monotonic(), dict.fromkeys((*TASKS, "cells", "words"), 0.0)
    for step in range(done + 1, stage.steps + 1):
        for part in optimisers:
            part.clear()
        for batch in next(data):
            with light_norms(model):
                losses = packed_loss(
                    model,
                    heads,
                    batch,
                    train_vision=bool(stage.vision_scale),
                    cell_weight=0.3,
                    words=words,
                )
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                sums[name] += float(value.detach())
        for part in optimisers:
            part.update()
        average.update()
        if step % _EVERY == 0 or step == stage.steps:
            entry = {
                "stage": stage.number,
                "step": step,
                "seconds": round(time.monotonic() - start, 1),
            }
            entry |= {f"loss_{name}": round(value / _EVERY, 4) for name, value in sums.items()}
            found = average.swapped(partial(exact_match, model, packer, val_rows))
            entry |= {f"{name}_val": round(value, 4) for name, value in found.items()}
            sums = dict.fromkeys(sums, 0.0)
            log.append(entry)
            _LOG.info("%s", entry)
        snapshots.keep(stage.number, step, kept, log, last=step == stage.steps)
    model.load_state_dict(average.state)


def _optimisers(model: Any, heads: CellHeads, stage: Stage) -> list[Optimisers]:
    parts = [([language_model(model)], 1.0)]
    if stage.vision_scale:
        parts.append(([*vision_parts(model), heads], stage.vision_scale))
    return [
        Optimisers(
            modules,
            steps=stage.steps,
            rate=stage.rate * scale,
            matrix_rate=stage.matrix_rate * scale,
        )
        for modules, scale in parts
    ]
