"""A vision-language model that export does not know is answered from its small files, and so is every other model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from moir_edge.checkpoint import load_checkpoint
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.models import architecture_names

UNKNOWN = sorted({*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES} - {*architecture_names()})


def answer(folder: Path, model_type: str, **changes: Any) -> str:
    """Return the line for a folder with the default config of a type, and nothing else."""
    AutoConfig.for_model(model_type, **changes).save_pretrained(folder)
    with pytest.raises(UnsupportedError) as caught:
        load_checkpoint(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "new"),
    [
        ("aria", ["image processor AriaImageProcessor,", "experts of the language model 'aria_te"]),
        ("blip", ["the vision tower 'blip_vision_model'", "the prompt layout of BlipProcessor"]),
        ("chameleon", ["where its image encoder is (config.json has no vision_config)"]),
        ("lfm3_vl", ["layers of conv in the language model 'lfm3'", "prompt layout of Lfm3VlPro"]),
        ("gemma4", ["rotary embedding proportional of the language model 'gemma4_text'"]),
        ("gemma3n", ["the arithmetic after the head of the language model 'gemma3n_text' (final_"]),
        ("cosmos3_edge", ["3 position numbers per token", "vision tower 'cosmos3_edge_vision'"]),
    ],
)
def test_what_is_new_is_listed(tmp_path: Path, model_type: str, new: list[str]) -> None:
    line = answer(tmp_path, model_type)
    start = f"{tmp_path}: export does not know model type {model_type!r} (known: "
    assert line.startswith(start + ", ".join(architecture_names()))
    for part in new:
        assert part in line
    assert "docs/architectures.md (Add an architecture) says how to add it" in line
    assert "docs/families.md" in line


def test_what_is_known_is_not_listed(tmp_path: Path) -> None:
    line = answer(tmp_path, "got_ocr2")
    assert "image processor" not in line  # InternVL has the same
    assert "position" not in line


def test_the_image_processor_that_the_files_name(tmp_path: Path) -> None:
    record = {"image_processor_type": "OwnImageProcessorFast"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(record))
    assert "the image processor OwnImageProcessorFast" in answer(tmp_path, "got_ocr2")
    whole = {"image_processor": {"image_processor_type": "CLIPImageProcessorFast"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    assert "image processor" not in answer(tmp_path, "got_ocr2")


def test_every_class_of_transformers_gets_one_line(tmp_path: Path) -> None:
    asked = 0
    for model_type in UNKNOWN:
        folder = tmp_path / model_type
        try:
            AutoConfig.for_model(model_type).save_pretrained(folder)
        except Exception:  # its config has no defaults
            continue
        with pytest.raises((UnsupportedError, DataError)) as caught:
            load_checkpoint(folder)
        asked += 1
        assert repr(model_type) in str(caught.value)
    assert asked > len(UNKNOWN) / 2


def test_no_weight_is_read_and_the_rest_takes_it(tmp_path: Path) -> None:
    answer(tmp_path, "aria")  # the folder has none
    with pytest.raises(DataError, match=r"holds no \*\.safetensors file"):
        load_checkpoint(tmp_path, exported=False)


@pytest.mark.parametrize(
    ("model_type", "what"),
    [
        ("llama", "but a language model that reads text alone"),
        ("t5", "but a language model that reads text alone"),
        ("bert", "but "),
        ("clip", "but a pair of encoders, which compares images with texts and writes nothing"),
        ("siglip_vision_model", "but an encoder of images"),
        ("dinov2", "but an encoder of images"),
        ("whisper", "but a model of speech"),
        ("sam", "transformers; give one"),
    ],
)
def test_other_models(tmp_path: Path, model_type: str, what: str) -> None:
    for exported in (True, False):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        with pytest.raises(UnsupportedError) as caught:
            load_checkpoint(tmp_path, exported=exported)
        line = str(caught.value)
        assert f"model type {model_type!r} is not a vision-language model of transformers" in line
        assert what in line
        assert line.endswith("such as SmolVLM or LLaVA")


def test_a_type_that_transformers_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava_llama"}')
    for exported in (True, False):
        with pytest.raises(UnsupportedError, match=r"has no model_type 'llava_llama'; .* -hf in"):
            load_checkpoint(tmp_path, exported=exported)
