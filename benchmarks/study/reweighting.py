"""Attention reweighting, the baseline that leaves the tokens alone: a learned bias per layer and head on image and text keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from moir_edge.transformers_cache import cached_tokens

__all__ = ["AttentionReweighting"]

IMAGE, TEXT = 1, 2


class AttentionReweighting(nn.Module):
    """Adds `bias[layer, head, modality]` to the attention scores of every key of that modality, prompt keys only.

    softmax(QKᵀ/√d + b): a bias of log 2 doubles the odds of a modality's keys. All biases are zero at attachment, which
    leaves every logit as it was. Answer tokens, special tokens and padding get none.

    It is the trainable form of the inference-time amplification of image attention in PAI (arXiv 2407.21771), which
    scales all heads of a layer by one constant.

    Args:
        model: A SmolVLM- or LLaVA-like model with eager attention; the module hooks itself in.
        special_ids: Ids that count for neither modality.
    """

    def __init__(self, model: Any, special_ids: frozenset[int]) -> None:
        super().__init__()
        decoder = model.get_decoder()
        text = model.config.get_text_config()
        self.bias = nn.Parameter(
            torch.zeros(text.num_hidden_layers, text.num_attention_heads, TEXT)
        )
        self._image_token_id = int(model.config.image_token_id)
        self._special_ids = tuple(special_ids)
        self._modality: Tensor | None = None
        model.register_forward_pre_hook(self._read_prompt, with_kwargs=True)
        for index, layer in enumerate(decoder.layers):
            layer.self_attn.register_forward_pre_hook(self._biased(index), with_kwargs=True)

    def _read_prompt(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the modality of every prompt token, (batch, sequence); a decode step keeps that of its prefill."""
        ids = kwargs.get("input_ids")
        if ids is None or cached_tokens(kwargs) > 0:
            return
        image = ids == self._image_token_id
        special = torch.isin(ids, ids.new_tensor(self._special_ids))
        labels = kwargs.get("labels")
        answer = torch.zeros_like(image) if labels is None else labels != -100
        text = ~image & ~special & ~answer
        self._modality = image.long() * IMAGE + text.long() * TEXT

    def _biased(self, layer: int) -> Callable[..., tuple[Any, Any]]:
        def before(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            mask = kwargs["attention_mask"]  # (batch, 1, queries, keys), additive
            if self._modality is None:
                return args, kwargs
            keys = nn.functional.pad(self._modality, (0, mask.shape[-1] - self._modality.shape[1]))
            table = nn.functional.pad(self.bias[layer], (1, 0))  # (heads, 3), 0 for neither
            bias = table[:, keys].transpose(0, 1)[:, :, None]  # (batch, heads, 1, keys)
            return args, {**kwargs, "attention_mask": mask + bias.to(mask.dtype)}

        return before
