"""The last training stage: attach a router to the trained VLM and tune both on clean and degraded rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from moir_edge.demo.batches import stream
from moir_edge.demo.data import TASKS, DemoRow
from moir_edge.demo.language import Average
from moir_edge.demo.sequences import PackedBatch, Packer, mixed_batches, pack_rows
from moir_edge.demo.stages import normalised

__all__ = ["routed_exact_match", "routed_loss", "train_router"]

_LOG = logging.getLogger(__name__)


def _forward(model: Any, batch: PackedBatch) -> tuple[torch.Tensor, ...]:
    """Return (logits, labels, tasks, row number) of every answer token of unpacked rows.

    The model's own forward runs, with the router's hooks. The labels go in as well: they tell the router which tokens are
    answers, which it leaves alone.
    """
    arrays = (batch.ids, batch.labels, batch.segments, batch.tasks)
    ids, labels, segments, tasks = (torch.from_numpy(a).to(model.device) for a in arrays)
    pixels = normalised(model, batch.pixels)
    pixels = pixels.view(-1, batch.images, *pixels.shape[1:])
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        logits = model(
            input_ids=ids,
            attention_mask=(segments >= 0).long(),
            pixel_values=pixels,
            labels=labels,
            use_cache=False,
        ).logits
    answered = labels[:, 1:] >= 0
    rows = answered.nonzero()[:, 0]
    return logits[:, :-1][answered].float(), labels[:, 1:][answered], tasks[:, 1:][answered], rows


def routed_loss(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return the sum over tasks of the mean answer loss, through the router."""
    logits, labels, tasks, _ = _forward(model, batch)
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    total = each.new_zeros(())
    for index in range(len(TASKS)):
        if (tasks == index).any():
            total = total + each[tasks == index].mean()
    return total


@torch.no_grad()
def routed_exact_match(
    model: Any, packer: Packer, rows: Sequence[DemoRow], *, chunk: int = 64
) -> dict[str, float]:
    """Share of rows per task whose every answer token is the most likely one, through the router."""
    result = {}
    for task in TASKS:
        mine = [row for row in rows if row.task == task]
        right = 0
        for start in range(0, len(mine), chunk):
            batch = pack_rows(packer, mine[start : start + chunk])
            logits, labels, _, numbers = _forward(model, batch)
            wrong = set(numbers[logits.argmax(-1) != labels].tolist())
            right += batch.ids.shape[0] - len(wrong)
        if mine:
            result[task] = right / len(mine)
    return result


def _rates(model: Any, router: nn.Module, rate: float, base_rate: float) -> list[dict[str, Any]]:
    """Parameter groups: the router at `rate`, the language model at `base_rate`; the vision tower is frozen."""
    for parameter in model.model.vision_model.parameters():
        parameter.requires_grad_(False)
    mine = {id(p) for p in router.parameters()}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in mine]
    groups = [{"params": list(router.parameters()), "rate": rate}]
    if base_rate:
        return [*groups, {"params": rest, "rate": base_rate}]
    for parameter in rest:
        parameter.requires_grad_(False)
    return groups


def train_router(
    model: Any, *, tokenizer_json: str, steps: int, singles: int, pairs: int, seed: int, rate: float,
    base_rate: float, blur_share: float, drop_share: float, measure: Callable[[], dict[str, float]], log: list[dict[str, float]],
    every: int = 100,
) -> None:  # fmt: skip
    """Tune a retrofitted model on rows of which some have blurred images and some lack context words.

    Args:
        model: A model on which `retrofit` was called, changed in place.
        tokenizer_json: Content of `tokenizer.json`.
        steps: Optimiser steps.
        singles: One-image rows a step.
        pairs: Two-image rows a step.
        seed: Seed of the data.
        rate: Peak learning rate of the router.
        base_rate: Peak learning rate of the language model and the projector; 0 freezes them.
        blur_share: Share of blurred images.
        drop_share: Share of contexts that lose words.
        measure: Called in evaluation mode with the averaged weights in place; its figures go into the log.
        log: Curves are appended here.
        every: Steps between measurements.
    """
    groups = _rates(model, model.moir_router, rate, base_rate)
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    weights = [p for group in groups for p in group["params"]]
    average = Average(model, 0.995)
    data = stream(
        mixed_batches, tokenizer_json=tokenizer_json, seed=seed, singles=singles, pairs=pairs,
        questions=3, statements=1, packed=False, blur_share=blur_share, drop_share=drop_share,
    )  # fmt: skip
    start, running = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        model.train()
        scale = min(1.0, step / 50) * max(0.0, 1 - step / steps)
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * scale
        optimiser.zero_grad(set_to_none=True)
        for batch in next(data):
            loss = routed_loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            running += float(loss.detach())
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        average.update()
        if step % every == 0 or step == steps:
            model.eval()
            entry = {"stage": 3.0, "step": step, "seconds": round(time.monotonic() - start, 1)}
            entry |= {"loss": round(running / every, 4)} | average.swapped(measure)
            running = 0.0
            log.append(entry)
            _LOG.info("%s", entry)
    model.load_state_dict(average.state)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
