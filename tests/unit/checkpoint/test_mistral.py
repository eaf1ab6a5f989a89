"""A Mistral Small 3.1 laid out as published: untied, two processor files, a processor whose class asks for torchvision."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from moir_edge.bundle.files import ModelFiles
from moir_edge.checkpoint import load_checkpoint
from moir_edge.checkpoint.exportable import check_config, check_processor
from moir_edge.errors import DataError
from moir_edge.export.facts import model_facts
from moir_edge.runtime.chat import user_message
from moir_edge.runtime.processor import Processor

from ..conftest import TEXT, byte_tokens

SPECIALS = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
]
IMAGE = SPECIALS.index("[IMG]")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST]{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}{% endif %}{% endfor %}[/INST]{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    vision = {
        "model_type": "pixtral",
        "head_dim": 8,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "image_size": 112,
        "patch_size": 14,
        "rope_theta": 10_000.0,
    }
    text = {
        **TEXT,
        "model_type": "mistral",
        "head_dim": 12,
        "rope_theta": 1e9,
        "sliding_window": None,
        "vocab_size": len(SPECIALS) + 256,
        "pad_token_id": SPECIALS.index("<pad>"),
    }
    config = transformers.Mistral3Config(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        tie_word_embeddings=False,
    )
    found = tmp_path_factory.mktemp("mistral") / "small"
    transformers.Mistral3ForConditionalGeneration(config).save_pretrained(found)
    stated = json.loads((found / "config.json").read_text())
    del stated["tie_word_embeddings"]  # published configs have it in neither place
    del stated["text_config"]["tie_word_embeddings"]
    write(found, "config.json", stated)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokens(SPECIALS),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    ).save_pretrained(found)
    write(
        found,
        "preprocessor_config.json",
        {
            "image_processor_type": "PixtralImageProcessor",
            "patch_size": {"height": 14, "width": 14},
            "processor_class": "PixtralProcessor",
            "resample": 3,
            "size": {"longest_edge": 112},
        },
    )
    write(
        found,
        "processor_config.json",
        {
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
            "image_token": "[IMG]",
            "patch_size": 14,
            "processor_class": "PixtralProcessor",
            "spatial_merge_size": 2,
        },
    )
    (found / "chat_template.jinja").write_text(TEMPLATE)
    return found


def write(folder: Path, name: str, record: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(record))


def test_the_class_is_transformers_own_and_nothing_is_left_in_its_place(folder: Path) -> None:
    assert find_spec("torchvision") is None  # what the test is about
    checkpoint = load_checkpoint(folder)
    assert type(checkpoint.processor).__module__ == "transformers.models.pixtral.processing_pixtral"
    assert type(checkpoint.processor.image_processor).__name__ == "PixtralImageProcessorPil"
    package = "transformers.models.pixtral.image_processing_pixtral"
    assert package not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="torchvision"):
        import_module(package)


def test_the_runtime_prepares_what_transformers_prepares(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    check_config("small", checkpoint.model.config)
    check_processor(folder, checkpoint.model.config)
    facts = model_facts(checkpoint)
    assert {IMAGE + 2, IMAGE + 3} <= set(facts.special_token_ids)  # the ends of rows
    ours = Processor(ModelFiles(folder), facts)
    for size in [(30, 30), (40, 300), (200, 90)]:
        pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        parts = [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]
        expected = checkpoint.processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            tokenize=True,
            return_dict=True,
            return_tensors="np",
        )
        found = ours([user_message("What is it?", images=1)], [[image]])
        np.testing.assert_array_equal(found.input_ids, expected["input_ids"])
        shape = found.images[0]
        assert [shape.rows * 14, shape.columns * 14] == expected["image_sizes"][0].tolist()


def test_a_head_with_weights_of_its_own_stays_untied(folder: Path) -> None:
    model = load_checkpoint(folder).model
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert not np.array_equal(
        model.lm_head.weight.detach().numpy(), model.get_input_embeddings().weight.detach().numpy()
    )


def test_blocks_that_differ_from_the_towers_are_refused(folder: Path) -> None:
    path = folder / "processor_config.json"
    before = path.read_text()
    write(folder, path.name, {**json.loads(before), "spatial_merge_size": 1})
    try:
        with pytest.raises(
            DataError, match=r"spatial_merge_size \(14, 1\) and the model's config \(14, 2\)"
        ):
            check_processor(folder, transformers.AutoConfig.from_pretrained(folder))
    finally:
        path.write_text(before)
