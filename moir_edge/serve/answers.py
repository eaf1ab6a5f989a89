"""Answers in OpenAI's form: whole, and in chunks."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Sequence
from typing import Any

from moir_edge.runtime import Generation
from moir_edge.runtime.logprobs import TokenLogprob
from moir_edge.runtime.tokenizer import Tokenizer
from moir_edge.serve.jobs import Done

__all__ = ["AnswerForm"]

_SERVER, _NUMBERS = uuid.uuid4().hex, itertools.count(1)
_REASONS = {"stop_token": "stop", "stop_string": "stop", "length": "length"}


class AnswerForm:
    """Writes the JSON of one answer.

    Args:
        model: The name of the model.
        tokenizer: Spells the tokens of log-probabilities.
        logprobs: Whether log-probabilities were asked for.
        routing_map: Whether the routing map was asked for.
    """

    def __init__(
        self, model: str, tokenizer: Tokenizer, *, logprobs: bool, routing_map: bool
    ) -> None:
        self._common = {
            "id": f"chatcmpl-{_SERVER}-{next(_NUMBERS)}",
            "created": int(time.time()),
            "model": model,
        }
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._routing_map = routing_map

    def whole(self, done: Done) -> dict[str, Any]:
        """Return a chat completion."""
        generation = done.generation
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": generation.texts[0], "refusal": None},
            "logprobs": self._told(done.logprobs),
            "finish_reason": _REASONS[generation.finish_reasons[0]],
        }
        return {
            **self._common,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(generation),
            "timings": timings(done),
            **self._map(generation),
        }

    def first_chunk(self) -> dict[str, Any]:
        """Return the chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return the chunk of a piece of text."""
        return self._chunk({"content": text}, logprobs=self._told(logprobs))

    def last_chunk(self, done: Done) -> dict[str, Any]:
        """Return the chunk that says why the answer ended, with timings and the routing map."""
        generation = done.generation
        chunk = self._chunk({}, reason=_REASONS[generation.finish_reasons[0]])
        return {**chunk, "timings": timings(done), **self._map(generation)}

    def usage_chunk(self, done: Done) -> dict[str, Any]:
        """Return the chunk of the token counts, which has no choice."""
        common = {**self._common, "object": "chat.completion.chunk", "choices": []}
        return {**common, "usage": usage(done.generation)}

    def _chunk(
        self, delta: dict[str, Any], *, reason: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice]}

    def _map(self, generation: Generation) -> dict[str, Any]:
        if not self._routing_map:
            return {}
        maps = generation.routing
        return {"routing_map": None if maps is None else maps[0].to_dict()}

    def _told(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            {
                **self._token(one.token_id, one.logprob),
                "top_logprobs": [self._token(token, score) for token, score in one.top],
            }
            for one in logprobs
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        whole = "\ufffd" not in text  # else the token ends within a character
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}


def usage(generation: Generation) -> dict[str, Any]:
    """Return the token counts of an answer."""
    prompt, answer = generation.prompt_tokens[0], len(generation.token_ids[0])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


def timings(done: Done) -> dict[str, float | int | None]:
    """Return where the time went, in milliseconds."""
    generation = done.generation
    spent = generation.timings
    return {
        "queue_ms": done.queue_ms,
        "prompt_n": generation.prompt_tokens[0],
        "cached_n": generation.cached_tokens,
        "preprocess_ms": spent.preprocess_ms,
        "vision_ms": spent.vision_ms,
        "router_ms": spent.router_ms,
        "prefill_ms": spent.prefill_ms,
        "ttft_ms": spent.ttft_ms,
        "predicted_n": len(generation.token_ids[0]),
        "predicted_ms": sum(spent.decode_ms),
        "predicted_per_token_ms": spent.tpot_ms,
        "predicted_per_second": spent.tokens_per_second,
    }
