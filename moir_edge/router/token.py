"""The token router: scores every token's information density and enriches the weak ones from the other modality."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moir_edge.checked import a, checked, size
from moir_edge.errors import UnsupportedError
from moir_edge.router.base import Routed, Router, RouterOutput, Tokens
from moir_edge.router.config import RouterConfig
from moir_edge.router.constants import (
    ABSENT,
    BEHIND,
    DENSITY_FLOOR,
    DENSITY_SLOPE,
    EXISTS,
    GATE_GAIN,
    LAYER_NORM_EPSILON,
    SIMILARITY_SLOPE,
)
from moir_edge.router.fused import fused_obstacle, route_fused
from moir_edge.router.steps import entropy_density, weak_boundary

__all__ = ["TokenRouter"]


class _Side(NamedTuple):
    """The tokens of one modality on their way through the router, float32.

    tokens: (batch, tokens, hidden), zero where invalid; normalized: LayerNorm of tokens;
    positions, valid, density, gate: (batch, tokens).
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor
    normalized: Tensor
    density: Tensor
    gate: Tensor


class ModalityProjections(nn.Module):
    """The router's weights for the tokens of one modality: as scored, as source and as destination.

    Args:
        config: Settings of the router.
        hidden: Width D of the language model.
        is_source: Whether this modality enriches the other one.
        is_destination: Whether this modality is enriched.
    """

    def __init__(
        self, config: RouterConfig, hidden: int, *, is_source: bool, is_destination: bool
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPSILON)
        if config.density == "confidence":
            self.head = nn.Linear(hidden, 1)
        if is_source:
            self.key = nn.Linear(hidden, config.rank, bias=False)
            self.down = nn.Linear(hidden, config.rank, bias=False)
        if is_destination:
            self.query = nn.Linear(hidden, config.rank, bias=False)
            self.up = nn.Linear(config.rank, hidden, bias=False)
            if config.learned_gate:
                self.gate_edge = nn.Parameter(torch.zeros(1))
                self.gate_slope = nn.Parameter(torch.zeros(1))
            if config.merge == "concat":
                self.own = nn.Linear(hidden, config.rank, bias=False)
            if config.merge == "interpolate":
                # Here the blend starts at zero, not W_o: x + g·(W_o c − x) would change x even where W_o is zero.
                self.blend = nn.Parameter(torch.zeros(hidden))
            else:
                nn.init.zeros_(self.up.weight)

    def ramp(self) -> tuple[Tensor, Tensor]:
        """Return edge τ and slope λ of a learned gate, (1,) float32 each; 1 and 1 at first, which is 1 − density."""
        edge, slope = self.gate_edge.float(), self.gate_slope.float()
        return 1.0 + GATE_GAIN * edge, torch.exp(GATE_GAIN * slope)


class TokenRouter(Router):
    """Token-level router between the embeddings and the language model.

    For each direction dst ← src, with density s ∈ [0, 1] and LN(·) a LayerNorm per modality:
    a_ij = (W_q LN(x_i))·(W_k LN(y_j))/√r + log s_j; the top-k of a_i are weighted by a softmax over those k;
    x_i ← x_i + g_i · W_o Σ_j w_ij y_j with g_i = 1 − s_i on weak tokens and W_o = up · down of rank r.

    With `learned_gate`, g_i = clip(λ·(τ − s_i), 0, 1) with τ and λ learned for each enriched modality.

    Merges: `add` as above; `concat` applies a low-rank map to [LN(x_i); Σ_j w_ij y_j];
    `interpolate` gives x_i + g_i · tanh(blend) ⊙ (W_o Σ_j w_ij y_j − x_i).

    Args:
        config: Settings of the router.
        hidden_size: Width D of the language model's embeddings.

    Attributes:
        fused: ``auto`` routes with the fused GPU kernels where they can serve (`moir_edge.router.fused.fused_obstacle` says
            why not), ``off`` never does. No setting of the model: it is not saved.

    Source: docs/architecture.md of this project, after the MoIR write-ups' scoring, lookup and enrichment.
    """

    @checked(config=a(RouterConfig), hidden_size=size)
    def __init__(self, config: RouterConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        self.fused: Literal["auto", "off"] = "auto"
        to_image, to_text = (side in config.enriched_sides for side in ("image", "text"))
        self.image = ModalityProjections(
            config, hidden_size, is_source=to_text, is_destination=to_image
        )
        self.text = ModalityProjections(
            config, hidden_size, is_source=to_image, is_destination=to_text
        )

    def route(
        self,
        inputs_embeds: Tensor,
        image_positions: Tensor,
        text_positions: Tensor,
        text_mask: Tensor,
    ) -> RouterOutput:
        """Enrich the weak tokens of either side; the smooth gate is used in training mode, the hard one otherwise."""
        if fused_obstacle(self, inputs_embeds) is None:
            return route_fused(self, inputs_embeds, image_positions, text_positions, text_mask)
        return super().route(inputs_embeds, image_positions, text_positions, text_mask)

    def enrich_sides(self, image: Tokens, text: Tokens) -> tuple[Routed, Routed]:
        """Enrich the weak tokens of each modality."""
        ours, theirs = self._score(self.image, image), self._score(self.text, text)
        image_open, text_open = self._open_sides(ours, theirs)
        return (
            self._enrich(self.image, ours, self.text, theirs, image_open),
            self._enrich(self.text, theirs, self.image, ours, text_open),
        )

    def density_logit(self, side: Literal["image", "text"], tokens: Tensor) -> Tensor:
        """Return what the density head gives before its sigmoid, (batch, tokens).

        Args:
            side: Whose head.
            tokens: (batch, tokens, hidden) float32, as they enter the router.

        Raises:
            UnsupportedError: The density is `entropy`, which has no head.
        """
        if self.config.density != "confidence":
            raise UnsupportedError(
                f"token router: got density {self.config.density!r}, which has no weights to learn; "
                "attach a router with density 'confidence'"
            )
        own: ModalityProjections = getattr(self, side)
        return _head_logit(own, self._normalized(own, tokens))

    def _normalized(self, own: ModalityProjections, tokens: Tensor) -> Tensor:
        return F.layer_norm(
            tokens,
            (self.hidden_size,),
            own.norm.weight.float(),
            own.norm.bias.float(),
            own.norm.eps,
        )

    def _score(self, own: ModalityProjections, side: Tokens) -> _Side:
        tokens, _, valid = side
        normalized = self._normalized(own, tokens)
        if self.config.density == "confidence":
            density = torch.sigmoid(_head_logit(own, normalized))
        else:
            density = entropy_density(tokens)
        density = density * valid
        if not self.config.learned_gate:
            gate = (1.0 - density) * self._weakness(density, valid)
        elif hasattr(own, "gate_edge"):
            edge, slope = own.ramp()
            gate = (slope * (edge - density)).clamp(0.0, 1.0) * valid
        else:
            gate = torch.zeros_like(density)
        return _Side(*side, normalized, density, gate)

    def _weakness(self, density: Tensor, valid: Tensor) -> Tensor:
        """Return how weak each token counts, (batch, tokens) in [0, 1]: a step in inference, a slope in training."""
        config, smooth = self.config, self.training
        weakness = []
        if config.threshold is not None:
            under = (config.threshold - density) / config.temperature
            weakness.append(
                torch.sigmoid(under) if smooth else (density < config.threshold).float()
            )
        if config.ratio is not None:
            ordered = density + DENSITY_SLOPE * valid.float().cumsum(dim=1)
            ordered = torch.where(valid, ordered, BEHIND)
            low, high = weak_boundary(ordered.detach(), valid, config.ratio)
            under = ((low + high) / 2 - ordered) / config.temperature
            weakness.append(torch.sigmoid(under) if smooth else (ordered <= low).float())
        return torch.stack(weakness).amax(dim=0) * valid

    def _open_sides(self, image: _Side, text: _Side) -> tuple[Tensor | float, Tensor | float]:
        """Return which side may be enriched, per sample (batch, 1) for `auto`: image, text."""
        if self.config.direction == "auto":
            image_mean = image.density.sum(1) / image.valid.sum(1).clamp_min(1)
            text_mean = text.density.sum(1) / text.valid.sum(1).clamp_min(1)
            image_open = (text_mean >= image_mean).float()[:, None]
            return image_open, 1.0 - image_open
        return 1.0, 1.0

    def _enrich(
        self,
        own: ModalityProjections,
        dst: _Side,
        other: ModalityProjections,
        src: _Side,
        is_open: Tensor | float,
    ) -> Routed:
        """Enrich `dst` from `src`."""
        if not hasattr(own, "query"):
            indices = dst.positions.new_full((*dst.positions.shape, self.config.top_k), -1)
            zeros = torch.zeros_like(dst.density)
            return Routed(dst.tokens, dst.density, indices, zeros, zeros)
        gate = dst.gate * is_open
        weights, picks, found, margin = self._look_up(own, dst, other, src)
        values = F.linear(src.tokens, other.down.weight.float())  # (batch, sources, rank)
        values = F.pad(values, (0, 0, 0, 1))
        batch = torch.arange(values.shape[0], device=values.device)[:, None, None]
        context = (weights[..., None] * values[batch, picks]).sum(dim=2)  # (batch, tokens, rank)
        if self.config.merge == "concat":
            context = context + F.linear(dst.normalized, own.own.weight.float())
        update = F.linear(context, own.up.weight.float())
        if self.config.merge == "interpolate":
            update = torch.tanh(own.blend.float()) * (update - dst.tokens)
        routed = found & (gate > 0)[..., None]
        indices = torch.where(routed, F.pad(src.positions, (0, 1))[batch, picks], -1)
        margin = torch.where(routed[..., 0], margin, 0.0)
        rows = dst.tokens + gate[..., None] * update
        return Routed(rows, dst.density, indices, margin, gate)

    def _look_up(
        self, own: ModalityProjections, dst: _Side, other: ModalityProjections, src: _Side
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find the k most similar sources: weights, picks, found (batch, tokens, k) and margin (batch, tokens).

        A pick equals the number of sources where there are fewer than k of them.
        """
        k, sources = self.config.top_k, src.density.shape[1]
        query = F.linear(dst.normalized, own.query.weight.float()) / math.sqrt(self.config.rank)
        key = F.linear(src.normalized, other.key.weight.float())
        prior = torch.log(src.density.clamp_min(DENSITY_FLOOR))
        prior = prior - SIMILARITY_SLOPE * src.valid.float().cumsum(dim=1)
        prior = torch.where(src.valid, prior, ABSENT)
        similarity = query @ key.transpose(1, 2) + prior[:, None]  # (batch, tokens, sources)
        similarity = F.pad(similarity, (0, k + 1), value=ABSENT)
        # torch.topk leaves the order of equal values open; the slope sees to it that there are none.
        values, picks = torch.topk(similarity, k + 1, dim=-1)
        found = values > EXISTS
        margin = torch.where(found[..., 1], values[..., 0] - values[..., 1], 0.0)
        weights = torch.softmax(values[..., :k], dim=-1)
        return weights, picks[..., :k].clamp_max(sources), found[..., :k], margin


def _head_logit(own: ModalityProjections, normalized: Tensor) -> Tensor:
    """Return the density head's output, (batch, tokens), of normalized tokens."""
    logit = F.linear(normalized, own.head.weight.float(), own.head.bias.float())
    return logit[..., 0]
