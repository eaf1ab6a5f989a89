"""Facts of a Hugging Face `model_type` that export needs, one class per type.

A module of this package imports no torch at its top level: facts are read from configs, and the methods that
take a model receive it from a caller that has torch already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid, TensorSpec

if TYPE_CHECKING:
    import torch

    from moir_edge.runtime.interface import PromptArrays

__all__ = ["Architecture", "TileArchitecture"]


class Architecture(ABC):
    """Facts of one architecture; subclass it, set the class attributes and put it in the registry.

    Attributes:
        model_type: The Hugging Face `model_type` that the config of a checkpoint carries.
        towers: The `model_type` of each vision tower whose graph `vision_graph` gets right.
        components: The graphs that a bundle of this architecture holds, the optional router left out. A
            model that only encodes (CLIP, ViLT) has no ``decoder``.
        position_axes: Position numbers per token: 1, or 3 for M-RoPE (time, height, width), where
            `position_ids` of the decoder is ``(3, batch, sequence)``.
        language_model: Dotted path of the decoder stack inside the Hugging Face model.
        lm_head: Dotted path of the output projection.
        bidirectional_prompt: Whether the tokens of a whole prompt see each other in both directions.
        chat_template: The template of checkpoints that have none, where a type is published without; None elsewhere.
    """

    model_type: ClassVar[str]
    towers: ClassVar[tuple[str, ...]]
    components: ClassVar[tuple[str, ...]] = ("vision", "embedding", "decoder")
    position_axes: ClassVar[int] = 1
    language_model: ClassVar[str]
    lm_head: ClassVar[str] = "lm_head"
    chat_template: ClassVar[str | None] = None
    bidirectional_prompt: ClassVar[bool] = False

    def image_size(self, config: Any) -> int | None:
        """Return the side of the square tile that the vision tower takes, in px; None where tiles have no one size."""
        del config
        return None

    def image_grid(self, config: Any) -> ImageGrid | None:
        """Return how the image tokens of one tile lie on it; None where tiles have no one size."""
        del config
        return None

    def config_problem(self, config: Any) -> str | None:
        """Return what a config asks for that the model cannot do, or export cannot follow; None where there is nothing.

        One clause that names the setting and says what to do, without the checkpoint's name.
        """
        del config
        return None

    def processor_problem(self, record: Mapping[str, Any], config: Any) -> str | None:
        """Return in what a processor does not fit the model, as `config_problem` does; None where it does.

        Args:
            record: What `processor_config.json` holds, with `image_processor` in it.
            config: The model's config.
        """
        del record, config
        return None

    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return what the host needs of the config besides, as plain JSON data for `ModelFacts.family`."""
        del config
        return {}

    @abstractmethod
    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return the module to trace for `vision`: tower, feature selection and projector.

        Args:
            model: The Hugging Face model, in eval mode.

        Returns:
            A module whose forward takes the inputs of `vision_inputs` in order and returns those of `vision_outputs`.
        """

    @abstractmethod
    def vision_inputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the inputs of the `vision` graph, `pixel_values` first."""

    def vision_outputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the outputs of the `vision` graph, `image_features` first; here one row for each image token."""
        hidden = self.text_config(config).hidden_size
        return (TensorSpec(name="image_features", dtype="float32", shape=("image_rows", hidden)),)

    def vision_samples(self, config: Any) -> tuple[torch.Tensor, ...] | None:
        """Return inputs to trace `vision` with; None for zeros, with the axes' sizes of `moir_edge.export.tracing`."""
        del config
        return None

    def decoder_graph(self, model: Any) -> torch.nn.Module:
        """Return the module to trace for `decoder`: language model, head and what follows it.

        Args:
            model: The Hugging Face model, in eval mode.

        Raises:
            UnsupportedError: The language model has layers that no graph is right for.
        """
        from moir_edge.models.decoder import DecoderGraph

        return DecoderGraph(
            model.get_submodule(self.language_model),
            model.get_submodule(self.lm_head),
            after_head=partial(self.after_head, config=model.config),
        )

    def after_head(self, logits: torch.Tensor, config: Any) -> torch.Tensor:
        """Return the logits after the arithmetic that the model does behind its head; none by default.

        Models divide them (granite), multiply them (cohere) or cap them (gemma 2). It becomes part of `decoder`.

        Args:
            logits: Float32, (batch, 1, vocab), straight from the output projection.
            config: The model's config.
        """
        del config
        return logits

    def decoder_inputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the decoder's inputs besides embeddings, mask, positions and cache, each with an axis `sequence`."""
        del config
        return ()

    @abstractmethod
    def torch_inputs(self, inputs: PromptArrays) -> dict[str, torch.Tensor]:
        """Return what the Hugging Face forward takes of a batch besides ids, mask and positions.

        Args:
            inputs: The batch, as the runtime has it.
        """

    def torch_token_inputs(self, inputs: PromptArrays, config: Any) -> dict[str, torch.Tensor]:
        """Return what the Hugging Face forward takes of each token of a batch of prompts besides; nothing by default.

        Args:
            inputs: The batch, as the runtime has it.
            config: The model's config.
        """
        del inputs, config
        return {}

    def torch_step_positions(self, model: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the position of one more token as the Hugging Face forward takes it; here a number for each row.

        Args:
            model: The Hugging Face model, after it has run the prompt.
            attention_mask: (batch, total_sequence), with the new token.
        """
        del model
        return attention_mask.sum(dim=1, keepdim=True) - 1

    def reference_features(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the model's own image features, one row for each image token, in the order of the prompt.

        Args:
            model: The Hugging Face model.
            inputs: From `torch_inputs`.
        """
        import torch

        parts = model.get_image_features(**inputs).pooler_output
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])

    def text_config(self, config: Any) -> Any:
        """Return the config of the language model."""
        return config.get_text_config()

    def image_token_id(self, config: Any) -> int:
        """Return the id of the placeholder token that image features replace."""
        return int(config.image_token_id)


class TileArchitecture(Architecture):
    """An architecture whose images become square tiles of one size, each with the same number of image tokens."""

    def image_size(self, config: Any) -> int:
        """Return the side of the square tile that the vision tower takes, in px."""
        return int(config.vision_config.image_size)

    @abstractmethod
    def image_grid(self, config: Any) -> ImageGrid:
        """Return how the image tokens of one tile, after the projector, lie on it."""

    def tokens_per_tile(self, config: Any) -> int:
        """Return how many image tokens one tile becomes after the projector."""
        return self.image_grid(config).tokens

    def vision_inputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the tiles, (images, 3, height, width)."""
        size = self.image_size(config)
        return (TensorSpec(name="pixel_values", dtype="float32", shape=("images", 3, size, size)),)

    def vision_outputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the features, (images, tokens per tile, hidden)."""
        shape = ("images", self.tokens_per_tile(config), self.text_config(config).hidden_size)
        return (TensorSpec(name="image_features", dtype="float32", shape=shape),)

    def torch_inputs(self, inputs: PromptArrays) -> dict[str, torch.Tensor]:
        """Return the tiles as the Hugging Face model takes them."""
        import torch

        if inputs.pixel_values is None:
            return {}
        tiles = torch.from_numpy(inputs.pixel_values)
        return {"pixel_values": self.model_pixels(tiles, len(inputs.input_ids))}

    def model_pixels(self, tiles: torch.Tensor, rows: int) -> torch.Tensor:
        """Lay tiles out as the Hugging Face model's `pixel_values`; here (images, 3, height, width), as they are.

        Args:
            tiles: Float32, (rows × tiles per row, 3, height, width), row after row.
            rows: The batch size.
        """
        del rows
        return tiles
