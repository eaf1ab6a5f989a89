"""Parts that architectures with DeepStack share: taps of the tower, and a decoder that takes their features."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from moir_edge.bundle import TensorSpec
from moir_edge.models.base import Architecture
from moir_edge.runtime.families.deepstack import DEEPSTACK_EMBEDS, MOST_LEVELS

if TYPE_CHECKING:
    import torch

__all__ = ["DeepstackArchitecture"]


class DeepstackArchitecture(Architecture):
    """An architecture whose decoder adds features of tapped blocks of the tower behind its first layers."""

    def levels(self, config: Any) -> int:
        """Return how many blocks of the tower are tapped."""
        return len(config.vision_config.deepstack_visual_indexes)

    def config_problem(self, config: Any) -> str | None:
        """Refuse a tower without taps, and taps that the tower or the decoder has no layers for."""
        taps, vision = config.vision_config.deepstack_visual_indexes, config.vision_config
        layers, blocks = self.text_config(config).num_hidden_layers, vision.num_hidden_layers
        most = min(MOST_LEVELS, layers)
        if not 1 <= len(set(taps)) == len(taps) <= most or not set(taps) <= set(range(blocks)):
            return (
                f"vision_config has deepstack_visual_indexes {list(taps)}, expected 1 to {most} different blocks of "
                f"the tower's {blocks}, counted from 0, one for each of as many layers of the language model; "
                "correct config.json"
            )
        return super().config_problem(config)

    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return the number of tapped blocks besides."""
        return {**super().family_facts(config), "levels": self.levels(config)}

    def decoder_graph(self, model: Any) -> torch.nn.Module:
        """Return language model, head and what follows it, with DeepStack features of all tokens."""
        from moir_edge.models.deepstack_decoder import DeepstackDecoderGraph

        return DeepstackDecoderGraph(
            model.get_submodule(self.language_model),
            model.get_submodule(self.lm_head),
            after_head=partial(self.after_head, config=model.config),
        )

    def decoder_inputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the DeepStack features of all tokens, (batch, sequence, levels, hidden)."""
        shape = ("batch", "sequence", self.levels(config), self.text_config(config).hidden_size)
        return (TensorSpec(name=DEEPSTACK_EMBEDS, dtype="float32", shape=shape),)
