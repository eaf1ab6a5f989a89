"""The task loss, cross-entropy of the answers, and the divergence of two models' answers: every row counts the same."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "answer_cross_entropies",
    "answer_divergence",
    "answer_loss",
    "answers_correct",
    "row_losses",
]

_IGNORED = -100


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over rows of the mean cross-entropy of a row's labelled tokens.

    transformers' own loss is the mean over all tokens of the batch, in which one caption of forty tokens
    outweighs twenty answers of a word.

    Args:
        logits: (batch, sequence, vocabulary), of the token that follows each position.
        labels: (batch, sequence) int64, -100 where there is nothing to predict; every row has a label.
    """
    return row_losses(logits, labels).mean()


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of each row's labelled tokens, (batch,); arguments as of `answer_loss`."""
    targets = labels[:, 1:]
    answered = targets != _IGNORED
    each = functional.cross_entropy(
        logits[:, :-1][answered].float(), targets[answered], reduction="none"
    )
    return _row_means(each, answered)


def answer_divergence(base: Tensor, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over rows of the mean KL(base ‖ model) of a row's labelled tokens, in nats.

    Args:
        base: (batch, sequence, vocabulary) logits of the model that is to be kept to.
        logits: The same of the other one.
        labels: (batch, sequence) int64, -100 where there is nothing to predict; every row has a label.
        counted: (batch,) bool, rows that take part; at least one.
    """
    answered = (labels[:, 1:] != _IGNORED) & counted[:, None]
    expected, got = (
        functional.log_softmax(one[:, :-1][answered].float(), dim=-1) for one in (base, logits)
    )
    each = functional.kl_div(got, expected, reduction="none", log_target=True).sum(dim=-1)
    return _row_means(each, answered)[counted].mean()


def answer_cross_entropies(base: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of each row's labelled tokens with the other model's probabilities, (batch,) in nats.

    Args:
        base: (batch, sequence, vocabulary) logits of the model whose probabilities are the targets.
        logits: The same of the model that is held against it.
        labels: (batch, sequence) int64, -100 where there is nothing to predict; every row has a label.
    """
    answered = labels[:, 1:] != _IGNORED
    targets = functional.softmax(base[:, :-1][answered].float(), dim=-1)
    each = functional.cross_entropy(logits[:, :-1][answered].float(), targets, reduction="none")
    return _row_means(each, answered)


def answers_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each labelled token of a row is the most likely one, (batch,) bool; arguments as of `answer_loss`."""
    targets = labels[:, 1:]
    wrong = (targets != _IGNORED) & (logits[:, :-1].argmax(dim=-1) != targets)
    return ~wrong.any(dim=1)


def _row_means(each: Tensor, answered: Tensor) -> Tensor:
    """Return the mean over each row's answered tokens, (batch,); 0 for a row without any.

    Args:
        each: A value of every answered token, row after row.
        answered: (batch, sequence - 1) bool.
    """
    rows = torch.nonzero(answered)[:, 0]
    sums = each.new_zeros(answered.shape[0]).index_add(0, rows, each)
    return sums / answered.sum(dim=1).clamp_min(1)
