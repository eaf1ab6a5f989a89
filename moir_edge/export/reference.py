"""The answers of torch to the prompts that bundles are checked with; small, so that the model need not stay in memory for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moir_edge.bundle import ModelFacts
from moir_edge.checkpoint import Checkpoint
from moir_edge.export.half_range import Reach, watched_reach
from moir_edge.export.samples import ParitySample
from moir_edge.export.tower_once import tower_once
from moir_edge.export.wide_layers import float32_layers
from moir_edge.metrics.routed import RoutedPrompts
from moir_edge.router import last_routing
from moir_edge.runtime.families import Family, family_of
from moir_edge.transformers_cache import cache_keyword, returned_cache
from moir_edge.weights.mapped import trim_memory

__all__ = ["DECODE_STEPS", "SampleReference", "TorchReference", "torch_reference", "torch_routing"]

DECODE_STEPS = 4

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class SampleReference:
    """Outputs of torch on one batch of prompts, all float32.

    Attributes:
        sample: The prompts.
        embeds: Token embeddings, (batch, sequence, hidden).
        features: Image features in the order of the prompt, (rows, hidden); None without images.
        routed: What the router did; None where nothing was routed.
        logits: Of the prompt's last position and of each greedy token after it, each (batch, vocab).
    """

    sample: ParitySample
    embeds: Array
    features: Array | None
    routed: RoutedPrompts | None
    logits: tuple[Array, ...]

    @property
    def tokens(self) -> list[npt.NDArray[np.int64]]:
        """The greedy token after each logits but the last, (batch,)."""
        return [logits.argmax(-1).astype(np.int64) for logits in self.logits[:-1]]


@dataclass(frozen=True, kw_only=True)
class TorchReference:
    """Outputs of torch on all prompts.

    Attributes:
        samples: In order.
        reached: Largest magnitudes at the layers.
    """

    samples: tuple[SampleReference, ...]
    reached: tuple[Reach, ...]


@torch.no_grad()
def torch_reference(
    checkpoint: Checkpoint, facts: ModelFacts, samples: Sequence[ParitySample]
) -> TorchReference:
    """Run the Hugging Face model in float32, prompt and a few greedy tokens.

    Args:
        checkpoint: Its weights may be of any type; they are as before afterwards.
        facts: Facts of the model.
        samples: The prompts.
    """
    model, family = checkpoint.model, family_of(facts)
    with (
        float32_layers(model, checkpoint.files),
        watched_reach(model) as reached,
        tower_once(model),
    ):
        answers = tuple(_answer(checkpoint, family, sample) for sample in samples)
    trim_memory()
    return TorchReference(samples=answers, reached=tuple(reached))


def _answer(checkpoint: Checkpoint, family: Family, sample: ParitySample) -> SampleReference:
    model, mask = checkpoint.model, sample.attention_mask
    embeds = model.get_input_embeddings()(torch.from_numpy(sample.input_ids)).numpy()
    architecture = checkpoint.architecture
    inputs = architecture.torch_inputs(sample)
    further = {**inputs, **architecture.torch_token_inputs(sample, checkpoint.config)}
    positions = family.torch_positions(mask)
    if positions is not None:
        further["position_ids"] = torch.from_numpy(positions)
    features = _features(checkpoint, sample, inputs)
    outputs = _torch_step(model, sample.input_ids, mask, **further)
    routed = None if checkpoint.router is None else torch_routing(model)
    logits = [_last(outputs)]
    for _ in range(DECODE_STEPS):
        tokens = logits[-1].argmax(-1).astype(np.int64)
        mask = np.concatenate([mask, np.ones((len(mask), 1), np.int64)], axis=1)
        outputs = _torch_step(
            model,
            tokens[:, None],
            mask,
            returned_cache(outputs),
            position_ids=architecture.torch_step_positions(model, torch.from_numpy(mask)),
        )
        logits.append(_last(outputs))
    return SampleReference(
        sample=sample, embeds=embeds, features=features, routed=routed, logits=tuple(logits)
    )


def _features(
    checkpoint: Checkpoint, sample: ParitySample, inputs: Mapping[str, torch.Tensor]
) -> Array | None:
    if not sample.images:
        return None
    architecture = checkpoint.architecture
    features: Array = architecture.reference_features(checkpoint.model, inputs).numpy()
    return features


def torch_routing(model: Any) -> RoutedPrompts | None:
    """Return what a model's router did to the prompt that the model has just run; None if nothing was routed."""
    routing = last_routing(model)
    if routing is None:
        return None
    places = [routing.image_positions, routing.text_positions]
    output = routing.output
    return RoutedPrompts(
        embeds=output.inputs_embeds.numpy(),
        positions=np.concatenate([place.numpy() for place in places], axis=1),
        scores=output.scores.numpy(),
        indices=output.indices.numpy(),
        margin=output.margin.numpy(),
        gate=output.gate.numpy(),
    )


def _torch_step(
    model: Any,
    input_ids: Array,
    mask: Array,
    cache: Any = None,
    **inputs: torch.Tensor,
) -> Any:
    """Run the Hugging Face model, hooks and all, on a prompt or on one more token."""
    return model(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(mask),
        use_cache=True,
        logits_to_keep=1,
        **{cache_keyword(model): cache},
        **inputs,
    )


def _last(outputs: Any) -> Array:
    logits: Array = outputs.logits[:, -1].numpy()
    return logits.copy()
