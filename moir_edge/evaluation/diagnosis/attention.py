"""Attention of the generated tokens onto image and text tokens: modality dominance and attention efficiency by layer.

Source: "When Language Overrules: Revealing Text Dominance in Multimodal Large Language Models" (arXiv 2508.10552).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moir_edge.data.answers import Answer
from moir_edge.data.rows import Row
from moir_edge.errors import NotFiniteError, UnsupportedError
from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate
from moir_edge.evaluation.diagnosis.schema import Attention, LayerAttention
from moir_edge.finite import count_text, is_finite
from moir_edge.metrics import mean_interval
from moir_edge.metrics.records import Interval
from moir_edge.progress import Progress

__all__ = [
    "AttentionRow",
    "attention_figures",
    "efficiency_indices",
    "measure_attention",
    "modality_dominance",
    "shown_layers",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AttentionRow:
    """Attention of one answer onto its prompt.

    Attributes:
        image: (layers,) attention mass on image tokens, mean over generated tokens and heads, of 1 in total.
        text: (layers,) the same on text tokens.
        image_tokens: How many image tokens the prompt has.
        text_tokens: How many text tokens; special tokens (begin, end, image marks) count as neither.
    """

    image: Floats
    text: Floats
    image_tokens: int
    text_tokens: int


def modality_dominance(row: AttentionRow) -> Floats:
    """Return MDI = (A_text / |text|) / (A_image / |image|) of each layer, (layers,)."""
    return np.asarray((row.text / row.text_tokens) / (row.image / row.image_tokens))


def efficiency_indices(row: AttentionRow) -> tuple[Floats, Floats]:
    """Return AEI = P / Q of text and of image for each layer, (layers,) both.

    P is the modality's share of the attention on both, Q its share of the tokens of both.
    """
    total, tokens = row.text + row.image, row.text_tokens + row.image_tokens
    text = (row.text / total) / (row.text_tokens / tokens)
    image = (row.image / total) / (row.image_tokens / tokens)
    return np.asarray(text), np.asarray(image)


def attention_figures(rows: Sequence[AttentionRow], *, seed: int) -> Attention:
    """Average over rows; intervals resample rows.

    Args:
        rows: At least one.
        seed: Seed of the bootstrap.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # no attention on a modality: undefined
        mdi = np.stack([modality_dominance(row) for row in rows])  # (rows, layers)
        indices = [efficiency_indices(row) for row in rows]
    text, image = (np.stack([pair[side] for pair in indices]) for side in (0, 1))
    layers = mdi.shape[1]

    def mean(values: Floats, layer: int) -> Interval | None:
        if not is_finite(values[:, layer]):
            return None
        return mean_interval(values[:, layer].tolist(), seed=seed)

    return Attention(
        rows=len(rows),
        layers=tuple(
            LayerAttention(
                layer=layer,
                mdi=mean(mdi, layer),
                aei_text=mean(text, layer),
                aei_image=mean(image, layer),
                mass_image=float(np.mean([row.image[layer] for row in rows])),
                mass_text=float(np.mean([row.text[layer] for row in rows])),
            )
            for layer in range(layers)
        ),
        shown=shown_layers(layers),
    )


def shown_layers(layers: int) -> tuple[int, ...]:
    """Return the first, the middle and the last two of so many layers, each once."""
    return tuple(sorted({0, layers // 2, max(0, layers - 2), layers - 1}))


def measure_attention(
    candidate: CheckpointCandidate,
    rows: Sequence[Row],
    answers: Sequence[Answer],
    *,
    max_new_tokens: int,
    progress: Progress,
    stage: str,
) -> list[AttentionRow]:
    """Take the attention of answers that were generated before, one teacher-forced forward per row.

    Args:
        candidate: The checkpoint, switched to eager attention for the time of the measurement.
        rows: The rows.
        answers: Its greedy answers to them.
        max_new_tokens: The limit the answers were generated under: one that is as long was cut, and has no end token.
        progress: Called after every row.
        stage: Name of this stage for `progress`.

    Raises:
        UnsupportedError: The model returns no attention weights, or its config names no image token.
        NotFiniteError: An attention weight is NaN or infinite.
    """
    from moir_edge.export.attention import attention_implementation

    measured: list[AttentionRow] = []
    progress(stage, 0, len(rows))
    with attention_implementation(candidate.model, "eager"):
        for row, answer in zip(rows, answers, strict=True):
            tokens = _up_to_image_token(answer.token_ids, candidate.model.config)
            queries = min(len(tokens) + 1, max_new_tokens)
            measured.append(_attend(candidate, row, tokens[: queries - 1]))
            progress(stage, len(measured), len(rows))
    return measured


def _up_to_image_token(tokens: Sequence[int], config: Any) -> list[int]:
    """Return what stands before the first image token: fed back, one that was generated would want features of an image."""
    image = getattr(config, "image_token_id", None)
    return list(takewhile(lambda token: token != image, tokens))


def _attend(candidate: CheckpointCandidate, row: Row, fed: Sequence[int]) -> AttentionRow:
    """Run prompt and answer at once; every generated token is represented by the position that it came out of."""
    import torch

    inputs = candidate.encode([row])
    prompt = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        output = candidate.model(
            **_with_answer(inputs, fed), use_cache=False, output_attentions=True, return_dict=True
        )
    if not output.attentions:
        raise UnsupportedError(
            f"{type(candidate.model).__name__} returns no attention weights, so MDI and AEI cannot be measured"
        )
    # (layers, prompt): rows of the last prompt token and of the answer tokens that were fed back
    weights = torch.stack(
        [one[0, :, prompt - 1 :, :prompt].mean((0, 1)) for one in output.attentions]
    )
    attention = weights.double().numpy()
    for layer, one in enumerate(attention):
        if not is_finite(one):
            raise NotFiniteError(
                f"row {row.id!r}: attention of layer {layer}: {count_text(one)}; "
                "the checkpoint's weights are damaged"
            )
    return _by_modality(candidate, inputs, attention)


def _with_answer(inputs: Any, fed: Sequence[int]) -> dict[str, Any]:
    """Append answer tokens to the inputs of one row; labels keep them out of the router, as in training."""
    import torch

    ids = inputs["input_ids"]
    answer = torch.tensor([list(fed)], dtype=ids.dtype)
    fill = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
    extended = {
        # what else is given per token (such as token types) is 0 for text
        name: torch.cat([value, fill.get(name, torch.zeros_like(answer)).to(value.dtype)], dim=1)
        if getattr(value, "shape", None) == ids.shape
        else value
        for name, value in inputs.items()
    }
    if fed:
        extended["labels"] = torch.cat([torch.full_like(ids, -100), answer], dim=1)
    return extended


def _by_modality(candidate: CheckpointCandidate, inputs: Any, weights: Floats) -> AttentionRow:
    """Sum the attention (layers, prompt) over the tokens of each modality, as the router tells them apart."""
    from moir_edge.router import newline_token_ids, prompt_positions, special_token_ids

    image_token = getattr(candidate.model.config, "image_token_id", None)
    if image_token is None:
        raise UnsupportedError(
            f"the config of {type(candidate.model).__name__} names no image_token_id, so image and text tokens cannot be told apart"
        )
    positions = prompt_positions(
        inputs["input_ids"].numpy(),
        inputs["attention_mask"].numpy(),
        image_token,
        special_token_ids(candidate.processor),
        newline_token_ids(candidate.processor),
    )
    image = positions.image_positions[0]
    text = positions.text_positions[0][positions.text_mask[0]]
    image = image[image >= 0]
    return AttentionRow(
        image=weights[:, image].sum(axis=1),
        text=weights[:, text].sum(axis=1),
        image_tokens=len(image),
        text_tokens=len(text),
    )
