"""Settings of one answer, checked, and joined with the checkpoint's generation config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from moir_edge.arguments import integer, mapping, number, strings, switch
from moir_edge.errors import DataError
from moir_edge.limits import STOP_CHARACTERS
from moir_edge.runtime.generation_config import (
    LEAST_FACTOR,
    GenerationRules,
    check_names,
    refuse_beam_search,
)
from moir_edge.runtime.pruning.settings import check_selector, check_share

__all__ = ["DEFAULT_NEW_TOKENS", "GenerationOptions", "GenerationSettings"]

DEFAULT_NEW_TOKENS = 64


class GenerationOptions(TypedDict, total=False):
    """The keywords of `GenerationSettings`, for type checkers."""

    max_new_tokens: int | None
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    router: bool
    prune_image_tokens: float | None
    prune_by: str | None
    generation_config: Mapping[str, Any] | None
    ignore_generation_config: bool


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """Settings of one answer; None takes the value of the checkpoint's generation config.

    Attributes:
        max_new_tokens: Tokens at most, at least 1; the context length may end an answer earlier. Where neither the
            caller nor the config names a limit, 64.
        temperature: 0 takes the most likely token, also where the config says `do_sample`; larger values, from 1e-30, flatten
            the distribution.
        top_k: Draw from this many most likely tokens; 0 takes all.
        top_p: Draw from the smallest set of tokens whose probabilities reach this sum, in (0, 1].
        seed: Makes drawing repeatable; None draws a fresh one.
        stop: An answer ends before the first of these strings; one string or several.
        router: Let the router enrich the prompt (no effect in a bundle without one).
        prune_image_tokens: Share of the image tokens that the language model does not read, at least 0 and below 1; None
            takes the model's own, see `moir_edge.load`.
        prune_by: Which ones are dropped: those of the least ``"density"``, the shortest ones by ``"norm"``, those of the most
            ``"similarity"`` to kept ones, or ``"random"`` ones by `seed` (0 without one); None takes the model's own.
        generation_config: Values that go before those of the bundle's `generation_config.json`; None leaves a key out.
        ignore_generation_config: Leave out the bundle's `generation_config.json`, its end tokens excepted.

    Raises:
        DataError: A value has a wrong type or is out of range.
        UnsupportedError: `generation_config` has a key that the runtime does not apply, or `prune_by` names nothing known.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    router: bool = True
    prune_image_tokens: float | None = None
    prune_by: str | None = None
    generation_config: Mapping[str, Any] | None = None
    ignore_generation_config: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed"):
            self._set(name, integer(name, getattr(self, name)))
        for name in ("temperature", "top_p"):
            self._set(name, number(name, getattr(self, name)))
        _require(self.temperature is not None, "temperature", None, "0 (greedy) or a number")
        for name in ("router", "ignore_generation_config"):
            self._set(name, switch(name, getattr(self, name)))
        self._set("prune_image_tokens", check_share("prune_image_tokens", self.prune_image_tokens))
        check_selector("prune_by", self.prune_by)
        self._set("stop", strings("stop", self.stop))
        self._set("generation_config", mapping("generation_config", self.generation_config))
        self._check_ranges()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_ranges(self) -> None:
        tokens, top_k, top_p, seed = self.max_new_tokens, self.top_k, self.top_p, self.seed
        _require(tokens is None or tokens >= 1, "max_new_tokens", tokens, "at least 1")
        usable = self.temperature == 0 or LEAST_FACTOR <= self.temperature < float("inf")
        expected = f"0 (greedy) or at least {LEAST_FACTOR:g}"
        _require(usable, "temperature", self.temperature, expected)
        _require(top_k is None or top_k >= 0, "top_k", top_k, "at least 1, or 0 for no limit")
        _require(top_p is None or 0 < top_p <= 1, "top_p", top_p, "above 0 and at most 1")
        _require(seed is None or seed >= 0, "seed", seed, "0 or larger")
        _require(all(self.stop or ()), "stop", "''", "not empty")
        _require_short("stop", self.stop or ())
        check_names(self.generation_config or {})

    def rules(self, config: Mapping[str, Any], *, vocab_size: int | None = None) -> GenerationRules:
        """Join these settings with a checkpoint's generation config.

        Args:
            config: What `read_generation_config` gives.
            vocab_size: Width of the logits, for the check of token ids.

        Raises:
            DataError: A value of the config cannot be used.
            UnsupportedError: The config asks for beam search.
        """
        own = {
            "max_new_tokens": self.max_new_tokens,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "stop_strings": self.stop,
        }
        joined = {
            **({} if self.ignore_generation_config else config),
            **(self.generation_config or {}),
            **{key: value for key, value in own.items() if value is not None},
        }
        refuse_beam_search(joined)
        given = {*(self.generation_config or {}), *(key for key in own if own[key] is not None)}
        rules = GenerationRules.of(joined, vocab_size=vocab_size, given=given)
        _require_short("stop_strings", rules.stop_strings)
        return rules


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise DataError(f"{name} is {value}; it must be {expected}")


def _require_short(name: str, stops: Sequence[str]) -> None:
    """Refuse stop strings that take long to look for after each token."""
    length = sum(map(len, stops))
    expected = f"at most {STOP_CHARACTERS} characters in all"
    _require(length <= STOP_CHARACTERS, name, f"{length} characters long", expected)
