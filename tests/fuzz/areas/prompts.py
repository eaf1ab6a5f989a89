"""Prompts, conversations, contexts and generation settings, as a caller may give them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.area import Area, Case, Strategy, register

_TEXTS = (
    "", " ", "\n", "\0", "a", "é" * 100, "\ud800", "\udfff x", "<image>", "<image><image>", "<|im_start|>User:", "<end_of_utterance>",
    "<fake_token_around_image><global-img>", "<row_1_col_1>", "{{ 7 * 7 }}", "{% for x in y %}", "漢字" * 50, "\u202e abc", "👩‍👩‍👧‍👦" * 20,
    "\x1b[2J", "a\u0300" * 300, "%s %d {0}", "x" * 100_000, "word " * 100_000, "<image>" * 10_000, "\t" * 50_000, "🙂" * 3_000_000,
    "x" * 10_000_000,
)  # fmt: skip
_ODD = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, 10**30, 0.5, 1.0, -0.0, 1e308, float("nan"), float("inf"), "", "1", "off", b"x",
    [], [1], [[]], {}, {"a": 1}, (), set(), object, np.int64(3), np.float32(0.5), np.bool_(True), np.array([1, 2]), np.array(3),
    "x" * 10_000, [""] * 1000, ["a"] * 100_000, list(range(100_000)), range(5), 1 + 2j, Path("x"),
)  # fmt: skip
_SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop", "router", "generation_config", "ignore_generation_config", "settings")  # fmt: skip
_CONFIG = (
    "eos_token_id", "max_new_tokens", "max_length", "min_new_tokens", "min_length", "stop_strings", "repetition_penalty",
    "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
    "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "sequence_bias", "do_sample",
    "num_beams", "num_return_sequences", "penalty_alpha", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "pad_token_id",
    "cache_implementation", "guidance_scale", "remove_invalid_values", "renormalize_logits", "no such key", "",
)  # fmt: skip


@register
class Prompts(Area):
    """The public API of an opened bundle."""

    name = "prompts"
    share = 1400
    sliced = 30
    needs = ("int4",)

    def warm(self) -> None:
        from PIL import Image

        from moir_edge import load

        self.picture = Image.linear_gradient("L").convert("RGB").resize((40, 30))
        self.model = load(self.seeds / "int4", threads=1, provider="cpu")
        self.model.generate("Which digit?", self.picture, max_new_tokens=2)

    def strategies(self) -> Sequence[Strategy]:
        return (self._texts, self._conversation, self._setting, self._config, self._batch)

    def attempt(self, payload: Any) -> None:
        method, words, named = payload
        given = getattr(self.model, method)(*words, **named)
        if method == "stream":
            list(given)

    def _texts(self, rng: random.Random, folder: Path) -> Case:
        text = rng.choice(_TEXTS)
        if rng.random() < 0.3:
            text = rng.choice(_TEXTS)[:2000] + text
        named = (
            {"context": rng.choice((None, text[:3000], rng.choice(_ODD)))}
            if rng.random() < 0.3
            else {}
        )
        images = rng.choice((self.picture, None, [self.picture] * 2, []))
        return self._call(rng, f"text of {len(text)}: {ascii(text)[:40]}", text, images, named)

    def _conversation(self, rng: random.Random, folder: Path) -> Case:
        turns = [self._turn(rng) for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 300)))]
        return self._call(rng, f"{len(turns)} turns: {_shown(turns)}", turns, self.picture, {})

    def _turn(self, rng: random.Random) -> Any:
        parts: list[Any] = [{"type": "image"}, {"type": "text", "text": "Which digit?"}]
        turn: dict[Any, Any] = {"role": "user", "content": parts}
        way = rng.choice(("role", "content", "part", "key", "type", "text", "deep", "turn", "none"))
        if way in ("role", "content"):
            turn[way] = rng.choice((*_ODD, *_TEXTS[:24]))
        elif way == "part":
            parts[rng.randrange(2)] = rng.choice(_ODD)
        elif way == "key":
            del turn[rng.choice(("role", "content"))]
        elif way == "type":
            parts[1]["type"] = rng.choice(("video", "audio", "", None, 3, "image_url", "tool_use"))
        elif way == "text":
            parts[1]["text"] = rng.choice((*_ODD, *_TEXTS[:24]))
        elif way == "deep":
            deep: Any = "x"
            for _ in range(rng.choice((10, 500, 5000))):
                deep = [deep]
            parts[1]["text"] = deep
        elif way == "turn":
            return rng.choice(_ODD)
        if rng.random() < 0.1:
            turn["self"] = turn
        return turn

    def _setting(self, rng: random.Random, folder: Path) -> Case:
        named = {name: rng.choice(_ODD) for name in rng.sample(_SETTINGS, rng.choice((1, 1, 2)))}
        return self._call(rng, _shown(named), "Which digit?", self.picture, named)

    def _config(self, rng: random.Random, folder: Path) -> Case:
        config = {name: rng.choice(_ODD) for name in rng.sample(_CONFIG, rng.choice((1, 1, 2)))}
        named = {
            "generation_config": config,
            "temperature": rng.choice((0, 1.0)),
            "max_new_tokens": 3,
        }
        return self._call(rng, _shown(config), "Which digit?", self.picture, named)

    def _batch(self, rng: random.Random, folder: Path) -> Case:
        rows = rng.choice((0, 1, 2, 3, 5))
        prompts: Any = ["Which digit?"] * rows
        images: Any = [self.picture] * rows
        for given in (prompts, images):
            if given and rng.random() < 0.5:
                given[rng.randrange(rows)] = rng.choice((*_ODD, *_TEXTS[:24]))
        if rng.random() < 0.3:
            images = rng.choice(_ODD)
        if rng.random() < 0.2:
            prompts = rng.choice(_ODD)
        return self._call(rng, f"batch {_shown(prompts)}", prompts, images, {})

    def _call(
        self, rng: random.Random, recipe: str, prompts: Any, images: Any, named: dict[str, Any]
    ) -> Case:
        method = rng.choice(("generate", "generate", "stream", "encode", "routing_map"))
        if method in ("encode", "routing_map"):
            named = {"context": named["context"]} if "context" in named else {}
        elif "max_new_tokens" not in named and "settings" not in named:
            named = {"max_new_tokens": 2, **named}
        return Case(f"{method}: {recipe}", (method, (prompts, images), named))


def _shown(value: Any) -> str:
    try:
        return ascii(value)[:120]
    except RecursionError:
        return "nested deeply"
