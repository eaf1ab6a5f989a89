"""Run the components of a bundle one by one, on its own intermediate values or on those of another bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from moir_edge.runtime import EdgeModel
    from moir_edge.runtime.interface import DecoderInputs, Embeds, RouterArrays, Sessions
    from moir_edge.runtime.processor import ModelInputs

__all__ = ["ComponentRun", "run_components"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ComponentRun:
    """Outputs of each component for one prompt.

    Attributes:
        image_features: `vision`: (…, hidden), a row for each image token; None for a prompt without images.
        text_embeds: `embedding`: (1, sequence, hidden).
        placed: The same with the image features in place: what `router` read.
        routed: `router`: (1, sequence, hidden); equal to `placed` where nothing was routed.
        decoder: What `decoder` took besides embeddings.
        routing: The router's other outputs, None where nothing was routed.
        logits: `decoder`: (1 + steps, vocab), after the prompt and after each of `tokens`.
        tokens: (steps,) int64, what was fed after the prompt: the greedy choice of the run that chose.
    """

    image_features: Floats | None
    text_embeds: Floats
    placed: Floats
    routed: Floats
    decoder: DecoderInputs
    routing: RouterArrays | None
    logits: Floats
    tokens: NDArray[np.int64]


def run_components(
    model: EdgeModel, inputs: ModelInputs, feed: ComponentRun | None, steps: int
) -> ComponentRun:
    """Run every component once on one prompt, and `steps` decoder steps.

    Args:
        model: The bundle, on whatever runs it.
        inputs: A batch of one.
        feed: A run of another bundle of the same model on the same prompt. Router and decoder get its values in place
            of this bundle's own, so that a difference is made by the component itself and not by one before it.
        steps: Decoder steps after the prompt.
    """
    from moir_edge.runtime.generation import prepare_prompt
    from moir_edge.runtime.timing import Stopwatch

    sessions = model.sessions
    text = sessions.to_numpy(sessions.embed(inputs.input_ids))
    family = model.processor.family
    own = prepare_prompt(sessions, family, inputs, Stopwatch(), router=False)
    placed = sessions.to_numpy(own.embeds) if feed is None else feed.placed
    decoder = own.decoder if feed is None else feed.decoder
    if feed is None:
        routed, routing = _own_route(model, inputs, own.embeds, placed)
    else:
        routed, routing = _route(sessions, feed)
    embeds = routed if feed is None else feed.routed
    logits, tokens = _decode(sessions, embeds, decoder, feed, steps)
    return ComponentRun(
        image_features=None if own.features is None else sessions.to_numpy(own.features.features),
        text_embeds=text,
        placed=placed,
        routed=routed,
        decoder=decoder,
        routing=routing,
        logits=logits,
        tokens=tokens,
    )


def _own_route(
    model: EdgeModel, inputs: ModelInputs, embeds: Embeds, placed: Floats
) -> tuple[Floats, RouterArrays | None]:
    """Route the prompt's own embeddings; a bundle without a router leaves them as they are."""
    from moir_edge.runtime.generation import route_prompt

    sessions = model.sessions
    if not sessions.has_router:
        return placed, None
    routed, routing = route_prompt(sessions, model.manifest.model, inputs, embeds)
    return sessions.to_numpy(routed), routing


def _route(sessions: Sessions, feed: ComponentRun) -> tuple[Floats, RouterArrays | None]:
    """Route what the other run's router read; a bundle without a router leaves it as it is."""
    if feed.routing is None or not sessions.has_router:
        return feed.placed, None
    at = feed.routing
    placed = sessions.from_numpy(feed.placed)
    routed, routing = sessions.route(placed, at.image_positions, at.text_positions, at.text_mask)
    return sessions.to_numpy(routed), routing


def _decode(
    sessions: Sessions,
    embeds: Floats,
    decoder: DecoderInputs,
    feed: ComponentRun | None,
    steps: int,
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the logits of all steps, and the tokens that were fed."""
    last, state = sessions.prefill(sessions.from_numpy(embeds), decoder)
    logits, tokens = [np.array(last[0])], []
    for step in range(steps):
        token = int(last[0].argmax()) if feed is None else int(feed.tokens[step])
        last = sessions.decode(np.array([token], np.int64), state)
        logits.append(np.array(last[0]))
        tokens.append(token)
    return np.stack(logits), np.array(tokens, np.int64)
