"""The gate router: weighs the two modalities against each other with a softmax; alone, and as a retrofit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moir_edge.checked import a, checked, size
from moir_edge.errors import ShapeError
from moir_edge.router.config import RouterConfig, Side
from moir_edge.router.pooled import Enriched, PooledRouter

__all__ = ["GateRouter", "InformationRouter"]


class InformationRouter(nn.Module):
    """Fuses a visual and a text vector: concat → Linear → softmax over two weights → weighted concat → Linear.

    With w = softmax(gate([v; t])): output = projection([w_0·v; w_1·t]).

    Args:
        visual_dim: Width of the visual vectors.
        text_dim: Width of the text vectors.
        output_dim: Width of the result.

    Source: the MoIR write-ups' InformationRouter (docs/architecture.md of this project).
    """

    @checked(visual_dim=size, text_dim=size, output_dim=size)
    def __init__(self, visual_dim: int, text_dim: int, output_dim: int) -> None:
        super().__init__()
        self.visual_dim = visual_dim
        self.text_dim = text_dim
        self.gate = nn.Linear(visual_dim + text_dim, 2)
        self.projection = nn.Linear(visual_dim + text_dim, output_dim)

    def weights(self, visual: Tensor, text: Tensor) -> Tensor:
        """Return the weight of the visual and of the text vector, (…, 2), which sum to 1.

        Args:
            visual: (…, visual_dim).
            text: (…, text_dim), the same leading axes.

        Raises:
            ShapeError: A width is not the module's, or the leading axes differ.
        """
        leading = visual.shape[:-1]
        if visual.shape != (*leading, self.visual_dim) or text.shape != (*leading, self.text_dim):
            raise ShapeError(
                f"information router: got visual {tuple(visual.shape)} and text {tuple(text.shape)}; "
                f"expected (…, {self.visual_dim}) and (…, {self.text_dim}) with the same leading axes"
            )
        return torch.softmax(_linear(self.gate, torch.cat([visual, text], dim=-1)), dim=-1)

    def fuse(self, visual: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        """Project the weighted vectors: (…, output_dim).

        Args:
            visual: (…, visual_dim).
            text: (…, text_dim).
            weights: (…, 2), from `weights`.
        """
        weighted = torch.cat([weights[..., :1] * visual, weights[..., 1:] * text], dim=-1)
        return _linear(self.projection, weighted)

    def forward(self, visual: Tensor, text: Tensor) -> Tensor:
        """Fuse the vectors: (…, output_dim); arguments and errors are those of `weights`."""
        return self.fuse(visual, text, self.weights(visual, text))


class GateRouter(PooledRouter):
    """The information router as a residual between the embeddings and the language model.

    Each modality that is enriched has an `InformationRouter` of its own: an image token v takes
    v ← v + fuse(v, mean of the text tokens), a text token t ← t + fuse(mean of the image tokens, t). The projection is
    zero at attachment, so that a fresh router leaves every logit bit-identical.

    Args:
        config: Settings of the router.
        hidden_size: Width D of the language model's embeddings.
    """

    @checked(config=a(RouterConfig), hidden_size=size)
    def __init__(self, config: RouterConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        for side in config.enriched_sides:
            fusion = InformationRouter(hidden_size, hidden_size, hidden_size)
            nn.init.zeros_(fusion.projection.weight)
            nn.init.zeros_(fusion.projection.bias)
            self.add_module(side, fusion)

    def enrich(self, side: Side, tokens: Tensor, valid: Tensor, source: Tensor) -> Enriched:
        """Add the fused vector to each token of one modality; see the base class."""
        fusion: InformationRouter = getattr(self, side)
        other = source[:, None].expand_as(tokens)
        visual, text = (tokens, other) if side == "image" else (other, tokens)
        weights = fusion.weights(visual, text)
        own = 0 if side == "image" else 1
        rows = tokens + fusion.fuse(visual, text, weights)
        return Enriched(rows, weights[..., own], weights[..., 1 - own])


def _linear(layer: nn.Linear, values: Tensor) -> Tensor:
    """Apply a layer in the dtype of the values, whatever that of its weights."""
    return F.linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))
