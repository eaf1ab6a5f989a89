"""The ways to choose image tokens that are compared, and the run of one prompt with one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from moir_edge.runtime import EdgeModel, Generation
from moir_edge.runtime.generation import GenerationRun
from moir_edge.runtime.interface import Ints
from moir_edge.runtime.processor import ModelInputs
from moir_edge.runtime.pruning import ImageTokens, Pruning, Selector, selector_named
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.runtime.timing import Stopwatch

__all__ = ["CANDIDATES", "DENSITY", "RANDOM", "REVERSED", "SHARES", "Candidate", "answer"]

SHARES = (0.125, 0.25, 0.5, 0.75)
DENSITY, RANDOM, REVERSED = "density", "random", "density, the most dropped"
_RANDOM_SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to choose.

    Attributes:
        selector: Chooses the tokens that stay.
        needs_density: Whether it reads the router's scores.
        seeds: Scores are the mean over them.
    """

    selector: Selector
    needs_density: bool = False
    seeds: tuple[int, ...] = (0,)

    def prunings(self, share: float) -> Iterator[Pruning]:
        """Give what is dropped for each seed."""
        for seed in self.seeds:
            yield Pruning(
                share=share,
                selector=self.selector,
                needs_density=self.needs_density,
                seed=seed,
            )


def _least_dense(tokens: ImageTokens, keep: int) -> Ints:
    """Keep the tokens that the router scores lowest: a score that is the wrong way round shows here."""
    scores = None if tokens.density is None else -tokens.density
    return selector_named("density")(replace(tokens, density=scores), keep)


CANDIDATES = {
    DENSITY: Candidate(selector=selector_named("density"), needs_density=True),
    REVERSED: Candidate(selector=_least_dense, needs_density=True),
    "similarity": Candidate(selector=selector_named("similarity")),
    "norm": Candidate(selector=selector_named("norm")),
    RANDOM: Candidate(selector=selector_named("random"), seeds=_RANDOM_SEEDS),
}
"""By the names that the tables show."""


def answer(
    model: EdgeModel, inputs: ModelInputs, pruning: Pruning | None, *, most_tokens: int
) -> Generation:
    """Answer a batch greedily; features of pictures come from the model's cache where it has them.

    Args:
        model: The bundle.
        inputs: The encoded batch.
        pruning: What is dropped; None for nothing.
        most_tokens: Of each answer.
    """
    settings = GenerationSettings(max_new_tokens=most_tokens)
    facts = model.manifest.model
    run = GenerationRun(
        sessions=model.sessions,
        family=model.processor.family,
        tokenizer=model.processor.tokenizer,
        inputs=inputs,
        settings=settings,
        rules=settings.rules(model.generation_config, vocab_size=facts.vocab_size),
        watch=Stopwatch(),
        image_cache=model.image_cache,
        pruning=pruning,
    )
    for _ in run:
        pass
    return run.result
