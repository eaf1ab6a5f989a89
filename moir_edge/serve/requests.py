"""Fields of OpenAI's chat completions, checked. A field without effect here is refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.limits import REQUEST_PARTS
from moir_edge.printable import bounded
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.serve.errors import ApiError

__all__ = ["ChatRequest", "ImagePart", "Message", "TextPart", "parse_chat"]

MOST_TOP_LOGPROBS = 20
"""As many as OpenAI's API gives."""

_LONGEST_NAME = 200

_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Strict):
    """Words of a message."""

    type: Literal["text"]
    text: str


class _ImageUrl(_Strict):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Strict):
    """An image of a message; `detail` has no effect, because the checkpoint's processor decides how it is seen."""

    type: Literal["image_url"]
    image_url: _ImageUrl


_WORDS, _PARTS = "words", "parts"
Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """One turn of a conversation; an answer of this server may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag(_WORDS)]
        | Annotated[list[Part], Field(max_length=REQUEST_PARTS), Tag(_PARTS)],
        Discriminator(lambda content: _PARTS if isinstance(content, list) else _WORDS),
    ]
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None


class _StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatRequest(_Strict):
    """The body of a request for a chat completion."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=REQUEST_PARTS)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[_Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[_Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[_Number, Field(gt=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    router: Literal["on", "off"] = "on"
    routing_map: bool = False
    user: str | None = None

    def settings(self) -> GenerationSettings:
        """Return the settings of the answer.

        Raises:
            DataError: A value cannot be used.
            UnsupportedError: The runtime does not apply one.
        """
        config: dict[str, Any] = {
            "repetition_penalty": self.repetition_penalty,
            "min_new_tokens": self.min_tokens,
            "eos_token_id": () if self.ignore_eos else None,
        }
        return GenerationSettings(
            max_new_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature or 0.0,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=self.stop,
            router=self.router == "on",
            generation_config={key: one for key, one in config.items() if one is not None},
        )

    @property
    def logprob_count(self) -> int | None:
        """Other tokens whose log-probabilities are told with each token's own; None tells none."""
        return (self.top_logprobs or 0) if self.logprobs else None


# Fields of OpenAI's API that are taken as long as they ask for nothing: name -> values, and why others are refused.
_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "one answer is given; send the request again for another"),
    "frequency_penalty": ((0,), "use repetition_penalty, as the runtime has it"),
    "presence_penalty": ((0,), "use repetition_penalty, as the runtime has it"),
    "logit_bias": (({},), "the runtime weighs no single tokens in a request"),
    "tools": (([],), "the runtime calls no functions"),
    "tool_choice": (("none", "auto"), "the runtime calls no functions"),
    "functions": (([],), "the runtime calls no functions"),
    "parallel_tool_calls": ((True, False), "the runtime calls no functions"),
    "response_format": (({"type": "text"},), "answers are plain text"),
    "modalities": ((["text"],), "answers are plain text"),
    "store": ((False,), "nothing is stored"),
    "metadata": (({},), "nothing is stored"),
    "service_tier": (("auto", "default"), "there is one tier"),
}


def parse_chat(body: Any) -> ChatRequest:
    """Check the body of a request.

    Args:
        body: What the JSON says.

    Raises:
        ApiError: A field is missing, unknown, of a wrong type, out of range or not supported.
    """
    if not isinstance(body, Mapping):
        raise ApiError(400, f"the body is {type(body).__name__}, expected a JSON object")
    fields = dict(body)
    for name, (neutral, reason) in _NEUTRAL.items():
        value = fields.pop(name, None)
        if value is not None and not any(_same(value, one) for one in neutral):
            raise ApiError(
                400,
                f"{name} is not supported: {reason}; leave it out",
                param=name,
                code="unsupported_parameter",
            )
    try:
        request = ChatRequest.model_validate(fields)
        request.settings()
    except ValidationError as error:
        raise _first_problem(error) from None
    except (DataError, UnsupportedError) as error:
        raise ApiError(400, str(error)) from None
    _check_together(request)
    return request


def _same(value: Any, neutral: Any) -> bool:
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _check_together(request: ChatRequest) -> None:
    if request.max_tokens and request.max_completion_tokens:
        raise ApiError(
            400, "max_tokens and max_completion_tokens are both given; give one", param="max_tokens"
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    for at, message in enumerate(request.messages):
        parts = message.content if isinstance(message.content, list) else []
        if message.role != "user" and any(isinstance(part, ImagePart) for part in parts):
            raise ApiError(
                400,
                f"messages[{at}] of the {message.role} holds an image; images belong in a user message",
                param=f"messages[{at}].content",
            )


def _first_problem(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = bounded(_path(first["loc"]), _LONGEST_NAME)
    if first["type"] == "extra_forbidden":
        text = f"{where} is not a field that this server knows; leave it out (docs/serve.md lists them)"
        return ApiError(400, text, param=where, code="unknown_parameter")
    return ApiError(400, f"{where}: {first['msg']}", param=where)


def _path(places: Sequence[int | str]) -> str:
    """Return a place as one would write it; the names of alternatives, which pydantic adds, are left out."""
    kept = [
        part
        for at, part in enumerate(places)
        if not (part in (_WORDS, _PARTS) and places[at - 1] == "content")
        and not (at > 1 and isinstance(places[at - 1], int) and places[at - 2] == _PARTS)
    ]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in kept).lstrip(
        "."
    )
