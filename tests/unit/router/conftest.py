"""Tiny random vision-language models of both classes, and a batch for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

PAD, BOS, EOS, IMAGE = 0, 1, 2, 3
TOKENS_PER_IMAGE = 4
TEXT = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
}


def build_smolvlm() -> PreTrainedModel:
    config = SmolVLMConfig(
        vision_config={**VISION, "patch_size": 4},
        text_config=TEXT,
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    )
    return SmolVLMForConditionalGeneration(config)


def build_llava() -> PreTrainedModel:
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "patch_size": 8},
        text_config=TEXT,
        image_token_id=IMAGE,
        image_seq_length=TOKENS_PER_IMAGE,
    )
    return LlavaForConditionalGeneration(config)


def prompt_rows() -> list[list[int]]:
    image = [IMAGE] * TOKENS_PER_IMAGE
    return [
        [BOS, *image, 10, *image, 11, 12, 13, 14, 15],
        [BOS, *image, 20, 21, 22, 23],
    ]


@dataclass
class Vlm:
    """A tiny model in evaluation mode, and inputs of two samples: with two images and with one."""

    model: Any
    image_token_id: ClassVar[int] = IMAGE
    special_ids: ClassVar[set[int]] = {PAD, BOS, EOS}

    def inputs(self, side: str = "left") -> dict[str, Any]:
        """Return both samples as one batch, the shorter padded on `side`."""
        rows = prompt_rows()
        length = max(map(len, rows))
        ids = torch.full((2, length), PAD)
        for index, row in enumerate(rows):
            at = length - len(row) if side == "left" else 0
            ids[index, at : at + len(row)] = torch.tensor(row)
        first, second, third = self._pixels()
        pixels = torch.stack([first, second, third])
        if self.model.config.model_type == "smolvlm":
            # The class pads the images of a batch with zeros.
            pixels = torch.stack([torch.stack([first, second]), torch.stack([third, 0 * third])])
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values": pixels}

    def single(self) -> dict[str, Any]:
        """Return the second sample alone."""
        pixels = self._pixels()[2:]
        if self.model.config.model_type == "smolvlm":
            pixels = pixels[None]
        ids = torch.tensor(prompt_rows()[1:])
        return {"input_ids": ids, "attention_mask": ids != PAD, "pixel_values": pixels}

    def wake(self) -> None:
        """Give the router's zero-initialised weights values, as training would."""
        generator = torch.Generator().manual_seed(11)
        for name, parameter in self.model.moir_router.named_parameters():
            if name.endswith(("up.weight", "blend", "mix", "projection.weight")):
                parameter.data.normal_(0.0, 0.5, generator=generator)

    @staticmethod
    def _pixels() -> torch.Tensor:
        return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(7))


@pytest.fixture(params=["smolvlm", "llava"])
def vlm(request: pytest.FixtureRequest) -> Vlm:
    torch.manual_seed(3)
    build = {"smolvlm": build_smolvlm, "llava": build_llava}[request.param]
    return Vlm(build().eval())
