"""Check what export needs of a checkpoint in its small files, before the weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moir_edge.bundle import ModelFacts
from moir_edge.checked import a_tokenizer, checked
from moir_edge.checkpoint.processor import chat_template, image_record, load_processor
from moir_edge.errors import DataError, MoirEdgeError, UnsupportedError
from moir_edge.limits import IMAGE_EDGE
from moir_edge.models import get_architecture
from moir_edge.models.layers import check_layers
from moir_edge.runtime.chat import ChatTemplate
from moir_edge.runtime.families import family_of
from moir_edge.runtime.image_processing import image_processor_from
from moir_edge.runtime.image_processor import ImageShape

__all__ = ["check_config", "check_processor", "require_chat_template"]


def check_config(name: str, config: Any) -> None:
    """Refuse towers, layers and rotary embeddings that the exporter would trace into a wrong graph.

    Args:
        name: How messages call the checkpoint.
        config: The Hugging Face config.

    Raises:
        UnsupportedError: The type, its tower, a kind of layer or its rotary embedding is not covered.
    """
    architecture = get_architecture(config.model_type)
    tower = config.vision_config.model_type
    if tower not in architecture.towers:
        raise UnsupportedError(
            f"{name}: the vision tower {tower!r} of a {config.model_type} is not supported by export "
            f"(supported: {', '.join(architecture.towers)}); retrofit and tune accept it"
        )
    _check_tower_sizes(name, config.vision_config)
    problem = architecture.config_problem(config)
    if problem is not None:
        raise UnsupportedError(f"{name}: {problem}")
    check_layers(
        name,
        architecture.text_config(config),
        bidirectional_prompt=architecture.bidirectional_prompt,
    )


def _check_tower_sizes(name: str, vision: Any) -> None:
    """Refuse a tower whose patches have no size in pixels, or one larger than its image."""
    # A tower over patches of any number has no image_size, one of another library neither.
    patch, image = (
        _side(getattr(vision, "patch_size", 1)),
        _side(getattr(vision, "image_size", IMAGE_EDGE)),
    )
    if patch is None or image is None or patch > image:
        raise DataError(
            f"{name}: its vision tower has patches of {getattr(vision, 'patch_size', None)} pixels in images of "
            f"{getattr(vision, 'image_size', None)}; correct patch_size and image_size of vision_config in config.json, or "
            "take the config.json of its base model"
        )


def _side(size: Any) -> int | None:
    """Return the side that a config gives as one number or as (height, width), or None where it gives no number."""
    found = size[0] if isinstance(size, list | tuple) and size else size
    return found if isinstance(found, int) and found > 0 else None


def check_processor(folder: Path, config: Any) -> None:
    """Refuse a processor that does not fit the model's tower or has no chat template.

    Args:
        folder: The checkpoint's folder.
        config: Its Hugging Face config.

    Raises:
        DataError: The processor makes images of another size or other prompts than the model takes.
        UnsupportedError: The runtime does not know this image processor.
    """
    processor = load_processor(folder, config)
    require_chat_template(processor, folder)
    _check_chat_template(processor, folder)
    _check_image_size(processor, folder, config)


@checked(processor=a_tokenizer)
def require_chat_template(processor: Any, folder: Path | str) -> None:
    """Refuse a checkpoint without chat template.

    Args:
        processor: From `moir_edge.checkpoint.load_processor`.
        folder: How the message calls the checkpoint.

    Raises:
        DataError: It has none.
    """
    if chat_template(processor) is None:
        raise DataError(
            f"{folder} has no chat template, so prompts cannot be built; "
            "copy chat_template.jinja (or .json) from its base model into it"
        )


def _check_chat_template(processor: Any, folder: Path) -> None:
    """Render a prompt with one image as the runtime will: the template must compile and name the image once."""
    tokenizer = processor.tokenizer
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}
    try:
        template = ChatTemplate(chat_template(processor) or "", tokenizer.special_tokens_map)
        text = template.render([turn])
    except MoirEdgeError as error:
        raise DataError(f"{folder}: {error}; correct its chat template") from error
    written = text.count(processor.image_token)
    if written != 1:
        raise DataError(
            f"{folder}: the chat template writes {processor.image_token} {written} times for one image, expected once; "
            "copy the template of its base model"
        )


def _check_image_size(processor: Any, folder: Path, config: Any) -> None:
    """Process one small image as the runtime will, and compare its tiles with what the tower takes."""
    from PIL import Image

    architecture = get_architecture(config.model_type)
    side = architecture.image_size(config)
    record = image_record(processor)
    problem = architecture.processor_problem(record, config)
    if problem is not None:
        raise DataError(f"{folder}: {problem}")
    settings = family_of(_image_facts(config)).image_settings(record["image_processor"])
    image = image_processor_from(settings)(Image.new("RGB", (48, 32)))
    tiles = image.pixel_values
    if side is not None and tiles.shape[2:] != (side, side):
        raise DataError(
            f"{folder}: its image processor makes images of {tiles.shape[3]}x{tiles.shape[2]} pixels and the "
            f"vision tower takes {side}x{side}; correct the sizes in the processor's config or take the processor "
            "that belongs to the model"
        )
    _check_image_tokens(processor, folder, config, image.shape)


def _check_image_tokens(processor: Any, folder: Path, config: Any, shape: ImageShape) -> None:
    """Let the processor write the prompt of one image, and compare its image tokens with the model's features."""
    from PIL import Image

    architecture = get_architecture(config.model_type)
    image = Image.new("RGB", (48, 32))
    encoded = processor(images=image, text=processor.image_token, return_tensors="np")
    marked = encoded["input_ids"] == architecture.image_token_id(config)
    wanted = family_of(_image_facts(config)).token_count(shape)
    if int(marked.sum()) != wanted:
        raise DataError(
            f"{folder}: for an image of {len(shape.views)} tile(s) its processor writes {int(marked.sum())} image tokens (id "
            f"{architecture.image_token_id(config)}) and the model makes {wanted} features; correct image_seq_len, "
            "patch_size, num_additional_image_tokens or vision_feature_select_strategy in processor_config.json"
        )


def _image_facts(config: Any) -> ModelFacts:
    """Return what a config alone says of a model's images; facts of its language and tokens are left out."""
    architecture = get_architecture(config.model_type)
    grid = architecture.image_grid(config)
    known: dict[str, Any] = {
        "model_type": config.model_type,
        "image_token_id": architecture.image_token_id(config),
        "image_size": architecture.image_size(config),
        "tokens_per_tile": None if grid is None else grid.tokens,
        "image_grid": grid,
        "family": architecture.family_facts(config),
    }
    return ModelFacts.model_construct(**known)
