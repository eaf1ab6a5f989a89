"""The generation loop: vision, embedding, router and prompt once, then one decoder step per token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.router.positions import prompt_positions
from moir_edge.runtime.answers import AnswerRow, FinishReason
from moir_edge.runtime.families import Family
from moir_edge.runtime.generation_config import GenerationRules
from moir_edge.runtime.image_cache import ImageCache
from moir_edge.runtime.image_processor import ImageShape
from moir_edge.runtime.interface import (
    DecoderInputs,
    Embeds,
    Floats,
    ImageFeatures,
    Ints,
    PromptArrays,
    RouterArrays,
    Sessions,
)
from moir_edge.runtime.logits import processors_for
from moir_edge.runtime.logprobs import TokenLogprob, token_logprob
from moir_edge.runtime.processor import ModelInputs
from moir_edge.runtime.prompt_cache import PromptCache
from moir_edge.runtime.pruning import Pruning, prune_prompt
from moir_edge.runtime.routing import RoutingMap, routing_maps
from moir_edge.runtime.sampling import Sampler
from moir_edge.runtime.settings import DEFAULT_NEW_TOKENS, GenerationSettings
from moir_edge.runtime.timing import Stopwatch, Timings
from moir_edge.runtime.tokenizer import Tokenizer

__all__ = [
    "Generation",
    "GenerationRun",
    "PreparedPrompt",
    "image_features",
    "prepare_prompt",
    "route_prompt",
]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The answers to one batch.

    Attributes:
        texts: One answer per row, without leading white space, special tokens and the stop string.
        token_ids: Generated ids per row, the stop token included where one was generated.
        finish_reasons: Why each row ended: ``"stop_token"``, ``"stop_string"`` or ``"length"``.
        prompt_tokens: Prompt tokens per row, image tokens included.
        timings: Where the time went.
        routing: One map per row; None where no router ran.
        dropped_image_tokens: Image tokens per row that the language model did not read; `prompt_tokens` counts them too.
        images_known: Whether the image features came from an earlier prompt, see `moir_edge.runtime.image_cache`.
        cached_tokens: Prompt tokens whose keys and values came from an earlier prompt, see `moir_edge.runtime.prompt_cache`.
    """

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    finish_reasons: tuple[FinishReason, ...]
    prompt_tokens: tuple[int, ...]
    timings: Timings
    routing: tuple[RoutingMap, ...] | None
    dropped_image_tokens: tuple[int, ...]
    images_known: bool = False
    cached_tokens: int = 0


class GenerationRun:
    """One batch on its way: iterate to get each step's new text per row, then take `result`.

    Args:
        sessions: The bundle's graphs.
        family: What the host computes for the model.
        tokenizer: Decodes the answers.
        inputs: The encoded batch.
        settings: What the caller asks for.
        rules: Those settings joined with the checkpoint's generation config.
        watch: Started when the call came in, so that the time to first token holds everything.
        logprobs: Likely tokens whose log-probabilities are kept with each token's own; None keeps none.
        image_cache: Image features of earlier prompts; None for none.
        pruning: Which image tokens are dropped; None for none.
        prompt_cache: Keys and values of earlier prompts; None for none.

    Attributes:
        rows: The answers while they grow.
        logprobs: Per row, one entry for each token of its answer; empty where none are kept.

    Raises:
        DataError: The generation config's `max_length` leaves no room for an answer.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        family: Family,
        tokenizer: Tokenizer,
        inputs: ModelInputs,
        settings: GenerationSettings,
        rules: GenerationRules,
        watch: Stopwatch,
        logprobs: int | None = None,
        image_cache: ImageCache | None = None,
        pruning: Pruning | None = None,
        prompt_cache: PromptCache | None = None,
    ) -> None:
        self._sessions = sessions
        self._pruning = pruning
        self._dropped: tuple[Ints, ...] = tuple(np.zeros(0, np.int64) for _ in inputs.prompts)
        self._image_cache = image_cache
        self._prompt_cache = prompt_cache or PromptCache(0)
        self._cached_tokens = 0
        self._images_known = False
        self._family = family
        facts = family.facts
        self._inputs = inputs
        self._settings = settings
        self._watch = watch
        self._router_arrays: RouterArrays | None = None
        eos = facts.eos_token_ids if rules.eos_token_id is None else rules.eos_token_id
        limits = [_limit(rules, facts, length) for length in inputs.prompt_lengths]
        self.rows = [AnswerRow(tokenizer, limit, eos, rules.stop_strings) for limit in limits]
        self._ids = [list(prompt.ids) for prompt in inputs.prompts]
        processors = [
            processors_for(rules, ids, eos, limit)
            for ids, limit in zip(self._ids, limits, strict=True)
        ]
        self._sampler = Sampler(settings, rules, processors)
        self._logprob_count = logprobs
        self.logprobs: list[list[TokenLogprob]] = [[] for _ in self.rows]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """Yield, after every step, the text of each row that became certain."""
        prompt = self._prepared()
        self._router_arrays, self._dropped = prompt.routing, prompt.dropped
        # What is dropped hangs on the question; the rest would go on from other positions.
        cache = PromptCache(0) if any(map(len, self._dropped)) else self._prompt_cache
        with self._watch.part("prefill"):
            read = cache.prefill(self._sessions, prompt.embeds, prompt.decoder)
        self._cached_tokens = read.known
        try:
            tokens = self._choose(read.logits)
            self._watch.first_token()
            yield self._accept(tokens)
            while not self._finished:
                with self._watch.step():
                    tokens = self._choose(self._sessions.decode(tokens, read.state))
                yield self._accept(tokens)
        finally:  # also where nobody takes the rest of the answer, or a step fails: the prompt's part stays as it is
            cache.keep(read)

    def _prepared(self) -> PreparedPrompt:
        """Run all that comes before the decoder; `vision` only for pictures that are not known."""
        inputs, cache = self._inputs, self._image_cache
        key = features = None
        if cache is not None and inputs.pixel_values is not None:
            with self._watch.part("vision"):
                key = cache.key(inputs.pixel_values, inputs.images)
                features = cache.get(key)
        self._images_known = features is not None
        prompt = prepare_prompt(
            self._sessions,
            self._family,
            inputs,
            self._watch,
            router=self._settings.router,
            features=features,
            pruning=self._pruning,
        )
        if cache is not None and features is None:
            cache.put(key, prompt.features)
        return prompt

    @property
    def result(self) -> Generation:
        """The answers so far; final once iteration has ended."""
        arrays = self._router_arrays
        return Generation(
            texts=tuple(row.text for row in self.rows),
            token_ids=tuple(tuple(row.token_ids) for row in self.rows),
            finish_reasons=tuple(row.finish_reason or "length" for row in self.rows),
            prompt_tokens=self._inputs.prompt_lengths,
            timings=self._watch.result(),
            routing=None
            if arrays is None
            else routing_maps(self._family.facts, self._inputs, arrays, self._dropped),
            dropped_image_tokens=tuple(map(len, self._dropped)),
            images_known=self._images_known,
            cached_tokens=self._cached_tokens,
        )

    @property
    def _finished(self) -> bool:
        return all(row.finish_reason is not None for row in self.rows)

    def _choose(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        step = max(len(row.token_ids) for row in self.rows)
        going_on = [
            ids if row.finish_reason is None else None
            for row, ids in zip(self.rows, self._ids, strict=True)
        ]
        tokens = self._sampler(logits, going_on, step)
        if self._logprob_count is not None:
            for at, ids in enumerate(going_on):
                if ids is not None:
                    told = token_logprob(logits[at], int(tokens[at]), self._logprob_count)
                    self.logprobs[at].append(told)
        return tokens

    def _accept(self, tokens: npt.NDArray[np.int64]) -> tuple[str, ...]:
        chosen = [int(token) for token in tokens]
        for ids, token in zip(self._ids, chosen, strict=True):
            ids.append(token)
        return tuple(row.push(token) for row, token in zip(self.rows, chosen, strict=True))


def _limit(rules: GenerationRules, facts: ModelFacts, prompt_length: int) -> int:
    """Return how many tokens a row's answer may have at most."""
    tokens = rules.max_new_tokens
    if tokens is None and rules.max_length is not None:
        tokens = rules.max_length - prompt_length
        if tokens < 1:
            raise DataError(
                f"the generation config allows max_length {rules.max_length} but the prompt alone has {prompt_length} tokens; "
                "give max_new_tokens, which overrides it"
            )
    return min(tokens or DEFAULT_NEW_TOKENS, facts.context_length - prompt_length)


@dataclass(frozen=True, kw_only=True)
class PreparedPrompt:
    """Inputs of the decoder for a batch of prompts.

    Attributes:
        embeds: (batch, sequence, hidden) float32, where the sessions keep them.
        decoder: What the decoder takes besides.
        routing: What the router did, or None where it did nothing.
        features: The image features, or None without images.
        dropped: Per row, the places in the padded prompt of the image tokens that were dropped.
    """

    embeds: Embeds
    decoder: DecoderInputs
    routing: RouterArrays | None
    features: ImageFeatures | None
    dropped: tuple[Ints, ...]


def prepare_prompt(
    sessions: Sessions,
    family: Family,
    inputs: PromptArrays,
    watch: Stopwatch,
    *,
    router: bool,
    features: ImageFeatures | None = None,
    pruning: Pruning | None = None,
) -> PreparedPrompt:
    """Run all that comes before the decoder.

    Args:
        sessions: The bundle's graphs.
        family: What the host computes for the model.
        inputs: The encoded batch.
        watch: Takes the times of ``vision``, ``embedding``, ``router`` and ``pruning``.
        router: Run the router if the bundle has one.
        features: Image features that are known, in place of runs of `vision`.
        pruning: Which image tokens are dropped after the router; None for none.

    Raises:
        BundleError: The vision graph gives another number of image tokens than the prompt holds.
        DataError: Image tokens are to be dropped by their density, and a row has none.
    """
    if inputs.pixel_values is not None and features is None:
        with watch.part("vision"):
            features = image_features(sessions, family, inputs.pixel_values, inputs.images)
    with watch.part("embedding"):
        embeds = sessions.embed(inputs.input_ids)
        if features is not None:
            places = inputs.input_ids == family.facts.image_token_id
            embeds = _place(sessions, embeds, features.features, places)
    decoder = family.decoder_inputs(inputs, features, sessions)
    routing: RouterArrays | None = None
    if router and sessions.has_router:
        with watch.part("router"):
            embeds, routing = route_prompt(sessions, family.facts, inputs, embeds)
    dropped: tuple[Ints, ...] = tuple(np.zeros(0, np.int64) for _ in inputs.input_ids)
    if pruning is not None:
        with watch.part("pruning"):
            image_token = family.facts.image_token_id
            pruned = prune_prompt(sessions, image_token, inputs, embeds, decoder, routing, pruning)
        embeds, decoder, dropped = pruned.embeds, pruned.decoder, pruned.dropped
    return PreparedPrompt(
        embeds=embeds, decoder=decoder, routing=routing, features=features, dropped=dropped
    )


def image_features(
    sessions: Sessions, family: Family, pixels: Floats, images: Sequence[ImageShape]
) -> ImageFeatures:
    """Run `vision` on all images.

    Args:
        sessions: The bundle's graphs.
        family: What the host computes for the model.
        pixels: The tiles or patches of all images in order.
        images: The images' shapes.
    """
    feeds = family.vision_feeds(pixels, images, sessions.tiles_per_run)
    return family.assembled([sessions.run_vision(feed) for feed in feeds], images, sessions)


def _place(
    sessions: Sessions, embeds: Embeds, features: Embeds, at: npt.NDArray[np.bool_]
) -> Embeds:
    """Put image features (…, hidden) where the prompt has image tokens, in order."""
    tokens, places = math.prod(features.shape[:-1]), int(at.sum())
    if tokens != places:
        raise BundleError(
            f"the vision graph gave {tokens} image tokens and the prompt holds {places}; "
            "the bundle's settings do not fit its graph, export it again"
        )
    return sessions.place(embeds, features, at)


def route_prompt(
    sessions: Sessions, facts: ModelFacts, inputs: PromptArrays, embeds: Embeds
) -> tuple[Embeds, RouterArrays | None]:
    """Let the router enrich a prompt; return it as it is, and None, where one side is missing in every row.

    Args:
        sessions: The bundle's graphs, with a router.
        facts: What the manifest says of the model.
        inputs: The encoded batch.
        embeds: From `prepare_prompt` without the router.

    Raises:
        UnsupportedError: The bundle holds no router.
    """
    image_positions, text_positions, text_mask = prompt_positions(
        inputs.input_ids,
        inputs.attention_mask,
        facts.image_token_id,
        facts.special_token_ids,
        facts.newline_token_ids,
    )
    if not (image_positions >= 0).any() or not text_mask.any():
        return embeds, None  # one side is missing in every row: the router changes nothing
    return sessions.route(embeds, image_positions, text_positions, text_mask)
