"""The second training stage: the language model on all tasks, with the vision tower frozen or trained along."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from moir_edge.demo.batches import stream
from moir_edge.demo.data import TASKS, DemoRow
from moir_edge.demo.sequences import PackedBatch, Packer, mixed_batches, pack_rows
from moir_edge.demo.stages import CellHeads, Optimisers, image_features, normalised

__all__ = ["Average", "exact_match", "packed_loss", "train_language"]

_LOG = logging.getLogger(__name__)


class Average:
    """Exponential moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay, self._updates = module, decay, 0
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

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


def _attention_mask(segments: torch.Tensor) -> torch.Tensor:
    """Additive mask (batch, 1, length, length): causal, each segment sees the prefix and itself."""
    own = segments[:, :, None] == segments[:, None, :]
    seen = (own | (segments[:, None, :] == 0)).tril()
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16, device=segments.device)
    return mask.masked_fill_(~seen, torch.finfo(torch.bfloat16).min)[:, None]


def _answer_logits(
    model: Any, batch: PackedBatch, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (logits, labels, tasks, row number) of every answer token, each predicted from the token before."""
    arrays = (batch.ids, batch.labels, batch.segments, batch.positions, batch.tasks)
    ids, labels, segments, positions, tasks = (torch.from_numpy(a).to(model.device) for a in arrays)
    embeds = model.get_input_embeddings()(ids)
    spots = (ids == model.config.image_token_id)[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(spots, features.to(embeds.dtype).reshape(-1, embeds.shape[-1]))
    hidden = model.model.text_model(
        inputs_embeds=embeds,
        attention_mask=_attention_mask(segments),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    answered = labels[:, 1:] >= 0
    rows = answered.nonzero()[:, 0]
    logits = model.lm_head(hidden[:, :-1][answered]).float()
    return logits, labels[:, 1:][answered], tasks[:, 1:][answered], rows


def packed_loss(
    model: Any, heads: CellHeads, batch: PackedBatch, *, train_vision: bool, cell_weight: float
) -> dict[str, torch.Tensor]:
    """Return the mean answer loss per task, and the per-token vision loss where the tower is trained."""
    losses: dict[str, torch.Tensor] = {}
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        with torch.set_grad_enabled(train_vision):
            features = image_features(model, normalised(model, batch.pixels))
        if train_vision and cell_weight:
            cells = torch.from_numpy(batch.cells).to(model.device)
            losses["cells"] = heads(features, cells)[0] * cell_weight
        logits, labels, tasks, _ = _answer_logits(model, batch, features)
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    for index in set(tasks.tolist()):
        losses[TASKS[index]] = each[tasks == index].mean()
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


def train_language(
    model: Any, heads: CellHeads, *, stage: int, tokenizer_json: str, steps: int, singles: int, pairs: int, seed: int,
    rate: float, matrix_rate: float, vision_scale: float, val_rows: Sequence[DemoRow], log: list[dict[str, float]],
    after_eval: Callable[[], None] | None = None, every: int = 100, blur_share: float = 0.12,
) -> None:  # fmt: skip
    """Train on all tasks; the weights end as their moving average.

    Args:
        model: The VLM, changed in place.
        heads: The read-outs of the vision stage, trained along where the tower is.
        stage: Number under which curves are logged.
        tokenizer_json: Content of `tokenizer.json`.
        steps: Optimiser steps, each with `singles` one-image rows and `pairs` two-image rows.
        singles: One-image rows a step, each with several questions.
        pairs: Two-image rows a step, each with several statements.
        seed: Seed of the data.
        rate: Peak learning rate of AdamW.
        matrix_rate: Peak learning rate of Muon.
        vision_scale: Factor on both rates for the vision tower; 0 freezes it.
        val_rows: Rows of unseen digits to measure on.
        log: Curves are appended here.
        after_eval: Called with the averaged weights in place after every evaluation.
        every: Steps between evaluations.
        blur_share: Share of blurred images.
    """
    packer = Packer(tokenizer_json)
    vision = [model.model.vision_model, model.model.connector, heads]
    text = [model.model.text_model]
    optimisers = [Optimisers(text, steps=steps, rate=rate, matrix_rate=matrix_rate)]
    if vision_scale:
        scaled = (rate * vision_scale, matrix_rate * vision_scale)
        optimisers.append(Optimisers(vision, steps=steps, rate=scaled[0], matrix_rate=scaled[1]))
    average = Average(model, 0.997)
    data = stream(
        mixed_batches, tokenizer_json=tokenizer_json, seed=seed, singles=singles, pairs=pairs, blur_share=blur_share
    )  # fmt: skip
    start, sums = time.monotonic(), dict.fromkeys((*TASKS, "cells"), 0.0)

    def measure() -> dict[str, float]:
        found = exact_match(model, packer, val_rows)
        if after_eval is not None:
            after_eval()
        return found

    for step in range(1, steps + 1):
        for part in optimisers:
            part.clear()
        for batch in next(data):
            losses = packed_loss(
                model, heads, batch, train_vision=bool(vision_scale), cell_weight=0.3
            )
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                sums[name] += float(value.detach())
        for part in optimisers:
            part.update()
        average.update()
        if step % every == 0 or step == steps:
            entry = {"stage": stage, "step": step, "seconds": round(time.monotonic() - start, 1)}
            entry |= {f"loss_{name}": round(value / every, 4) for name, value in sums.items()}
            entry |= {f"{k}_val": round(v, 4) for k, v in average.swapped(measure).items()}
            sums = dict.fromkeys(sums, 0.0)
            log.append(entry)
    model.load_state_dict(average.state)
