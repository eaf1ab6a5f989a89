from __future__ import annotations

import json
from typing import Any

import pytest

from moir_edge.serve.errors import ApiError
from moir_edge.serve.requests import parse_chat

MESSAGES = [{"role": "user", "content": "What is it?"}]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, **fields}


def refused(fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_chat(fields)
    assert caught.value.status == 400
    return caught.value


def test_settings_are_those_of_the_request() -> None:
    request = parse_chat(
        body(max_tokens=5, temperature=0.5, top_p=0.9, top_k=3, seed=7, stop="x", router="off")
    )
    settings = request.settings()
    assert (settings.max_new_tokens, settings.temperature, settings.top_p) == (5, 0.5, 0.9)
    assert (settings.top_k, settings.seed, settings.stop, settings.router) == (3, 7, ("x",), False)


def test_what_is_not_given_is_left_to_the_checkpoint() -> None:
    settings = parse_chat(body()).settings()
    assert settings.max_new_tokens is None
    assert settings.temperature == 0
    assert settings.generation_config == {}
    assert settings.router


def test_what_shapes_the_answer_reaches_the_generation_config() -> None:
    asked = body(repetition_penalty=1.2, min_tokens=3, ignore_eos=True)
    assert parse_chat(asked).settings().generation_config == {
        "repetition_penalty": 1.2,
        "min_new_tokens": 3,
        "eos_token_id": (),
    }


@pytest.mark.parametrize(
    "neutral",
    [
        {"n": 1},
        {"frequency_penalty": 0, "presence_penalty": 0.0},
        {"tools": [], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"logit_bias": {}, "metadata": {}, "store": False},
        {"n": None, "tools": None, "stop": None, "seed": None, "stream": None},
    ],
)
def test_fields_that_ask_for_nothing_are_taken(neutral: dict[str, Any]) -> None:
    assert parse_chat(body(**neutral)).settings() == parse_chat(body()).settings()


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"n": 2}, "n is not supported: one answer is given", "n"),
        ({"n": True}, "n is not supported", "n"),
        ({"frequency_penalty": 0.5}, "use repetition_penalty", "frequency_penalty"),
        ({"tools": [{}]}, "tools is not supported: the runtime calls no functions", "tools"),
        ({"response_format": {"type": "json_object"}}, "answers are plain text", "response_format"),
        ({"logit_bias": {"1": 2}}, "logit_bias is not supported", "logit_bias"),
        ({"max_token": 5}, "max_token is not a field that this server knows", "max_token"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2", "temperature"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number", "temperature"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1", "max_tokens"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer", "max_tokens"),
        ({"top_p": 0}, "top_p: Input should be greater than 0", "top_p"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs: true", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: Input", "top_logprobs"),
        ({"stream_options": {}}, "stream_options needs stream: true", "stream_options"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "are both given; give one", "max_tokens"),
        ({"router": "maybe"}, "router: Input should be 'on' or 'off'", "router"),
        (
            {"messages": MESSAGES * 5000},
            "messages: List should have at most 4096 items",
            "messages",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 5000}]},
            "messages[0].content: List should have at most 4096 items",
            "messages[0].content",
        ),
        ({"temperature": 1e-300}, "temperature is 1e-300; it must be 0 (greedy) or at least", None),
        ({"messages": []}, "messages: List should have at least 1 item", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "messages[0].role"),
        ({"stop": [""]}, "stop is ''; it must be not empty", None),
        ({"stop": ["x" * 200] * 10_000}, "stop is 2000000 characters long", None),
    ],
)
def test_what_is_not_supported_is_refused(
    fields: dict[str, Any], message: str, param: str | None
) -> None:
    error = refused(body(**fields))
    assert message in str(error)
    if param is not None:
        assert error.param == param
    assert error.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_a_body_that_is_not_an_object_is_refused(value: Any) -> None:
    assert "expected a JSON object" in str(refused(value))


@pytest.mark.parametrize(
    ("content", "message", "param"),
    [
        (5, "Input should be a valid string", "messages[0].content"),
        (None, "Input should be a valid string", "messages[0].content"),
        ([5], "Input should be a valid dictionary", "messages[0].content[0]"),
        ([{"type": "input_audio"}], "expected tags: 'text', 'image_url'", "messages[0].content[0]"),
        ([{"type": "text", "text": 5}], "valid string", "messages[0].content[0].text"),
        ([{"type": "text"}], "Field required", "messages[0].content[0].text"),
        ([{"type": "text", "text": "", "moon": 1}], "not a field", "messages[0].content[0].moon"),
        (
            [{"type": "text", "text": ""}, {"type": "image_url", "image_url": {"url": 5}}],
            "valid string",
            "messages[0].content[1].image_url.url",
        ),
    ],
)
def test_the_place_of_a_fault_is_named(content: Any, message: str, param: str) -> None:
    error = refused(body(messages=[{"role": "user", "content": content}]))
    assert message in str(error)
    assert error.param == param


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    answer = {"role": "assistant", "content": "A cup.", "refusal": None, "tool_calls": []}
    request = parse_chat(body(messages=[*MESSAGES, answer, *MESSAGES]))
    assert request.messages[1].content == "A cup."
    calls = {**answer, "tool_calls": [{"id": "x"}]}
    assert "messages[1].tool_calls" in str(refused(body(messages=[*MESSAGES, calls])))


def test_names_of_unknown_fields_may_be_of_any_length() -> None:
    error = refused(body(**{"x" * 100_000: 1}))
    assert len(json.dumps(error.body)) < 3000


def test_images_belong_to_the_user() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    error = refused(body(messages=[{"role": "assistant", "content": [part]}, *MESSAGES]))
    assert str(error) == (
        "messages[0] of the assistant holds an image; images belong in a user message"
    )
