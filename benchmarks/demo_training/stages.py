"""The first training stage: teach the vision tower to say what every cell shows, through throw-away heads."""

from __future__ import annotations

import logging
import math
import random
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.demo_training.batches import cell_labels, stream, vision_batches
from benchmarks.demo_training.snapshots import Snapshots, Stateful
from moir_edge.demo.scenes import render, sample_scene
from moir_edge.demo.theme import DIGITS, Theme

__all__ = [
    "CellHeads",
    "Optimisers",
    "image_features",
    "language_model",
    "normalised",
    "train_vision",
    "vision_accuracy",
    "vision_parts",
]

_LOG = logging.getLogger(__name__)

_LABEL_SIZES = (11, 7, 3)


class CellHeads(nn.Module):
    """Linear read-outs of digit, colour, size and place from every image token (training only)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.read = nn.Linear(hidden, sum(_LABEL_SIZES) + 9)
        cells = [(row // 2) * 3 + column // 2 for row in range(6) for column in range(6)]
        self.register_buffer("cells", torch.tensor(cells), persistent=False)
        self.cells: torch.Tensor

    def forward(
        self, features: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean loss and, per image and cell, whether digit, colour and size are all right.

        Args:
            features: (batch, 36, hidden) image tokens.
            labels: (batch, 9, 3), see `VisionBatch`.
        """
        logits = self.read(features).float()  # (batch, 36, classes)
        targets = labels[:, self.cells]  # (batch, 36, 3)
        place = self.cells.expand(features.shape[0], -1)
        parts = logits.split([*_LABEL_SIZES, 9], dim=-1)
        loss = nn.functional.cross_entropy(parts[3].flatten(0, 1), place.flatten()) * 0.3
        right = torch.ones_like(labels[..., 0], dtype=torch.bool)
        for index, part in enumerate(parts[:3]):
            loss = loss + nn.functional.cross_entropy(
                part.flatten(0, 1), targets[..., index].flatten()
            )
            voted = part.detach().softmax(-1).new_zeros(labels.shape[0], 9, part.shape[-1])
            spread = self.cells[None, :, None].expand_as(part)
            voted = voted.scatter_add(1, spread, part.detach().log_softmax(-1))
            right &= voted.argmax(-1) == labels[..., index]
        return loss, right


class Optimisers:
    """Muon for the weight matrices of the layers, AdamW for everything else, one cosine schedule for both."""

    def __init__(
        self,
        modules: list[nn.Module],
        *,
        steps: int,
        rate: float,
        matrix_rate: float,
        warmup: int = 60,
    ) -> None:
        names = [(n, p) for m in modules for n, p in m.named_parameters() if p.requires_grad]
        unique = {id(p): (n, p) for n, p in names}.values()
        matrices = [p for n, p in unique if p.ndim == 2 and "layers." in n]
        others = [p for n, p in unique if not (p.ndim == 2 and "layers." in n)]
        self._all = [p for _, p in unique]
        self._steps, self._warmup, self._step = steps, warmup, 0
        self._parts: list[tuple[Any, float]] = [
            (torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.02), rate)
        ]
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=matrix_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
            )
            self._parts.append((muon, matrix_rate))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimisers and of the schedule."""
        return {"step": self._step, "parts": [part.state_dict() for part, _ in self._parts]}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take a state back."""
        self._step = state["step"]
        for (part, _), stored in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(stored)

    def clear(self) -> None:
        """Drop the gradients."""
        for part, _ in self._parts:
            part.zero_grad(set_to_none=True)

    def update(self) -> None:
        """Clip the gradients, update the weights and advance the schedule."""
        nn.utils.clip_grad_norm_(self._all, 1.0)
        warm = min(1.0, (self._step + 1) / self._warmup)
        scale = warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self._step / self._steps)))
        for part, rate in self._parts:
            for group in part.param_groups:
                group["lr"] = rate * scale
            part.step()
        self._step += 1


def normalised(model: Any, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Turn (batch, 96, 96, 3) uint8 into (batch, 3, 96, 96) float32 in [-1, 1] on the model's device."""
    tensor = torch.from_numpy(pixels).to(model.device).permute(0, 3, 1, 2).contiguous()
    return tensor.float().div_(127.5).sub_(1.0)


def language_model(model: Any) -> nn.Module:
    """Return the language model of a SmolVLM or a LLaVA, without its head."""
    found: nn.Module = getattr(model.model, "text_model", None) or model.model.language_model
    return found


def vision_parts(model: Any) -> list[nn.Module]:
    """Return vision tower and projector of a SmolVLM or a LLaVA."""
    inner = model.model
    if hasattr(inner, "connector"):
        return [inner.vision_model, inner.connector]
    return [inner.vision_tower, inner.multi_modal_projector]


def image_features(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Run vision tower and projector: (batch, 3, 96, 96) to (batch, 36, hidden)."""
    if not hasattr(model.model, "connector"):
        return torch.stack(tuple(model.get_image_features(pixel_values).pooler_output))
    side = pixel_values.shape[-1] // model.config.vision_config.patch_size
    mask = torch.ones(
        pixel_values.shape[0], side, side, dtype=torch.bool, device=pixel_values.device
    )
    hidden = model.model.vision_model(pixel_values=pixel_values, patch_attention_mask=mask)
    features: torch.Tensor = model.model.connector(hidden.last_hidden_state)
    return features


def vision_accuracy(
    model: Any, heads: CellHeads, *, split: str, count: int = 256, theme: Theme = DIGITS
) -> float:
    """Share of occupied cells of unseen scenes whose digit, colour and size are all read correctly."""
    rng = random.Random(f"cells-{split}")
    scenes = [sample_scene(rng, split, theme=theme) for _ in range(count)]
    labels = torch.from_numpy(cell_labels(scenes)).to(model.device)
    with torch.no_grad(), torch.autocast(model.device.type, dtype=torch.bfloat16):
        features = image_features(model, normalised(model, render(scenes)))
        _, right = heads(features.float(), labels)
    return float(right[labels[..., 0] > 0].float().mean())


def train_vision(
    model: Any, heads: CellHeads, *, steps: int, batch: int, seed: int, rate: float, matrix_rate: float,
    log: list[dict[str, float]], theme: Theme = DIGITS, snapshots: Snapshots | None = None,
) -> None:  # fmt: skip
    """Stage A: vision tower and projector from per-token labels."""
    snapshots = snapshots or Snapshots()
    optimisers = Optimisers(
        [*vision_parts(model), heads], steps=steps, rate=rate, matrix_rate=matrix_rate
    )
    kept: dict[str, Stateful] = {"model": model, "heads": heads, "optimisers": optimisers}
    done = snapshots.begin(0, steps, kept, log)
    data = stream(vision_batches, seed=seed + 1000 * done, batch=batch, crowded=0.75, theme=theme)
    start, running = time.monotonic(), 0.0
    for step in range(done + 1, steps + 1):
        item = next(data)
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            features = image_features(model, normalised(model, item.pixels))
            loss, _ = heads(features, torch.from_numpy(item.labels).to(model.device))
        optimisers.clear()
        loss.backward()
        optimisers.update()
        running += float(loss.detach())
        if step % 100 == 0 or step == steps:
            entry = {
                "stage": 0.0, "step": step, "loss": running / 100,
                "cells_val": vision_accuracy(model, heads, split="val", theme=theme),
                "seconds": round(time.monotonic() - start, 1),
            }  # fmt: skip
            running = 0.0
            log.append(entry)
            _LOG.info("%s", entry)
        snapshots.keep(0, step, kept, log, last=step == steps)
