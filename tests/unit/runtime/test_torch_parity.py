"""An exported tiny SmolVLM answers padded batches as the retrofitted torch model does, and routes their tokens alike.

Other families, and single rows: tests/unit/families.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import (
    AutoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

import moir_edge
from moir_edge.export import export_bundle
from moir_edge.router import RouterConfig, last_routing, load_retrofitted, retrofit
from moir_edge.runtime import EdgeModel

pytestmark = pytest.mark.slow  # an export, a quarter of a minute

COUNT = 10

TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@dataclass(frozen=True)
class Twins:
    """The same weights twice: in a bundle, and in torch."""

    edge: EdgeModel
    torch: Any
    processor: Any

    def torch_inputs(self, rows: list[tuple[str, list[Image.Image]]]) -> Any:
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        *({"type": "image", "image": image} for image in images),
                        {"type": "text", "text": prompt},
                    ],
                }
            ]
            for prompt, images in rows
        ]
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def torch_answers(self, rows: list[tuple[str, list[Image.Image]]]) -> list[list[int]]:
        inputs = self.torch_inputs(rows)
        with torch.no_grad():
            ids = self.torch.generate(**inputs, max_new_tokens=COUNT, do_sample=False)
        return [answer.tolist() for answer in ids[:, inputs["input_ids"].shape[1] :]]


def _model(folder: Path) -> Any:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = {**TEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            vision_config={**VISION, "image_size": 24, "patch_size": 6},
            text_config={**text, "vocab_size": tokenizer.get_vocab_size()},
            image_token_id=tokenizer.token_to_id("<image>"),
            scale_factor=2,
            tie_word_embeddings=True,
            pad_token_id=0,
        )
    )


@pytest.fixture(scope="module")
def twins(smolvlm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    folder = tmp_path_factory.mktemp("checkpoint") / "smolvlm"
    shutil.copytree(smolvlm_folder, folder)
    torch.manual_seed(0)
    model = _model(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    retrofit(model, RouterConfig(rank=8, top_k=2), tokenizer=processor)
    with torch.no_grad():
        for parameter in model.parameters():
            # Far enough from the small initial values that answers vary and the router matters.
            parameter += 0.15 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    bundle = export_bundle(folder, folder.parent / "bundle")
    loaded = load_retrofitted(folder).eval()
    return Twins(moir_edge.load(bundle, threads=1), loaded, processor)


@pytest.fixture(scope="module")
def rows(picture: Callable[..., Image.Image]) -> list[tuple[str, list[Image.Image]]]:
    return [
        ("What is left of the red digit?", [picture(60, 90)]),
        ("Both images show a four", [picture(24, 24, 1), picture(90, 30, 2)]),
        ("no image here", []),
    ]


@pytest.mark.parametrize("order", [[0], [1], [2], [0, 1, 2], [2, 0]])
def test_greedy_answers_equal_torch(twins: Twins, rows: list[Any], order: list[int]) -> None:
    chosen = [rows[index] for index in order]
    generation = twins.edge.generate(
        [prompt for prompt, _ in chosen], [images for _, images in chosen], max_new_tokens=COUNT
    )
    expected = twins.torch_answers(chosen)
    for ours, theirs in zip(generation.token_ids, expected, strict=True):
        assert list(ours) == theirs[: len(ours)]


def test_the_frame_of_an_image_is_no_text(twins: Twins, rows: list[Any]) -> None:
    prompt, images = rows[0]
    routing = twins.edge.routing_map(prompt, images)
    pieces = [
        routing.prompt.expanded[slice(*routing.prompt.offsets[int(place)])]
        for place in routing.positions[routing.image_tokens :]
    ]
    assert not [piece for piece in pieces if "<" in piece]
    newlines = {
        routing.prompt.offsets[int(place)][0]
        for place, piece in zip(routing.positions[routing.image_tokens :], pieces, strict=True)
        if piece == "\n"
    }
    written = routing.prompt.expanded
    # The last newline belongs to the chat template; the others stand between rows of tiles.
    assert newlines == {written.rindex("\n")}
    assert written.count("\n") == 5


def test_the_routing_map_is_torchs(twins: Twins, rows: list[Any]) -> None:
    chosen = rows[:2]
    with torch.no_grad():
        inputs = twins.torch_inputs(chosen)
        twins.torch(**inputs)
    routing = last_routing(twins.torch)
    assert routing is not None
    mask = inputs["attention_mask"].numpy()
    maps = twins.edge.generate(
        [row[0] for row in chosen], [row[1] for row in chosen], max_new_tokens=1
    ).routing
    assert maps is not None
    images = routing.image_positions.shape[1]
    for row, ours in enumerate(maps):
        padding = int((mask[row] == 0).sum())
        valid = torch.cat([routing.image_positions[row] >= 0, routing.text_mask[row]])
        indices = routing.output.indices[row][valid].numpy()
        np.testing.assert_array_equal(ours.indices, np.where(indices >= 0, indices - padding, -1))
        # Float32 on two runtimes; scores, margins and gates are of the order of 1.
        for name in ("scores", "margin", "gate"):
            expected = getattr(routing.output, name)[row][valid].numpy()
            np.testing.assert_allclose(getattr(ours, name), expected, atol=1e-5)
        assert ours.image_tokens == int((routing.image_positions[row] >= 0).sum())
        assert images >= ours.image_tokens
        alone = twins.edge.routing_map(*chosen[row])
        np.testing.assert_array_equal(alone.positions, ours.positions)
        np.testing.assert_array_equal(alone.indices, ours.indices)
