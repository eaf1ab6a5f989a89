"""PaliGemma of both generations: a SigLIP tower, one linear projection, and a Gemma decoder that sees the whole prompt at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid
from moir_edge.models.gemma3 import BlockArchitecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

    from moir_edge.runtime.interface import PromptArrays

__all__ = ["PaliGemma"]


@register
class PaliGemma(BlockArchitecture):
    """`PaliGemmaForConditionalGeneration`; published without a chat template, so the words are the prompt."""

    model_type: ClassVar[str] = "paligemma"
    blocks_cross_window: ClassVar[bool] = True
    bidirectional_prompt: ClassVar[bool] = True
    chat_template: ClassVar[str | None] = (
        "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}{% endfor %}"
    )

    def image_grid(self, config: Any) -> ImageGrid:
        """Return the patches of the square image."""
        patch, size = int(config.vision_config.patch_size), self.image_size(config)
        return ImageGrid(side=size // patch, cell=patch / size)

    def after_head(self, logits: torch.Tensor, config: Any) -> torch.Tensor:
        """Return the logits bounded by a hyperbolic tangent, where the language model has a bound (PaliGemma 2)."""
        cap = getattr(self.text_config(config), "final_logit_softcapping", None)
        return logits if cap is None else (logits / cap).tanh() * cap

    def torch_token_inputs(self, inputs: PromptArrays, config: Any) -> dict[str, torch.Tensor]:
        """Return token types of 0: the whole prompt is one block, without a causal suffix."""
        import torch

        del config
        return {"token_type_ids": torch.zeros(inputs.input_ids.shape, dtype=torch.int64)}

    def torch_step_positions(self, model: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return positions that count from 1, as the model's own do."""
        return super().torch_step_positions(model, attention_mask) + 1
