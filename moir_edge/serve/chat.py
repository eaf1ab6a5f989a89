"""`/v1/chat/completions`: one conversation to one answer, whole or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from moir_edge.runtime import EdgeModel
from moir_edge.serve.answers import AnswerForm
from moir_edge.serve.bodies import Bodies
from moir_edge.serve.conversation import conversation_of, size_of
from moir_edge.serve.following import Following, emitter
from moir_edge.serve.jobs import Done, Event, Failed, Job, Piece
from moir_edge.serve.json_response import json_response, text_of
from moir_edge.serve.metrics import Metrics
from moir_edge.serve.requests import ChatRequest, parse_chat
from moir_edge.serve.settings import ServeSettings
from moir_edge.serve.worker import Worker

__all__ = ["Chat"]

_AT_ONCE = (
    1 << 20
)  # characters of data URLs whose decoding takes less than a turn to another thread
_PING = ": ping\n\n"
_LAST_WORDS = 1.0  # seconds after the deadline in which a client can take the end of a stream


class Chat:
    """Answers conversations.

    Args:
        model: Returns the loaded bundle of a name.
        worker: Computes.
        metrics: Count the answers.
        bodies: Reads the requests.
        settings: How clients are treated.
    """

    def __init__(
        self,
        *,
        model: Callable[[str], EdgeModel],
        worker: Worker,
        metrics: Metrics,
        bodies: Bodies,
        settings: ServeSettings,
    ) -> None:
        self._model = model
        self._worker = worker
        self._metrics = metrics
        self._bodies = bodies
        self._settings = settings

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        asked = parse_chat(await self._bodies.json(request))
        model = self._model(asked.model)
        form = AnswerForm(
            asked.model,
            model.processor.tokenizer,
            logprobs=asked.logprob_count is not None,
            routing_map=asked.routing_map,
        )
        following = await self._begun(request, asked, model)
        if not asked.stream:
            return await self._whole(form, following)
        return await self._stream(asked, form, following)

    async def _begun(self, request: Request, asked: ChatRequest, model: EdgeModel) -> Following:
        arguments = (asked.messages, self._settings.images, self._settings.most_images)
        if size_of(asked.messages) <= _AT_ONCE:
            turns, images = conversation_of(*arguments)
        else:
            turns, images = await asyncio.to_thread(conversation_of, *arguments)
        events: asyncio.Queue[Event] = asyncio.Queue()
        job = Job(
            model=model,
            conversation=turns,
            images=images,
            settings=asked.settings(),
            logprobs=asked.logprob_count,
            stream=bool(asked.stream),
            emit=emitter(events),
        )
        self._worker.submit(job)
        return Following(self._worker, job, events, request, self._settings.timeout)

    async def _whole(self, form: AnswerForm, following: Following) -> Response:
        try:
            event = await following.next()
        finally:
            following.end()
        if isinstance(event, Failed):
            raise event.error
        assert isinstance(event, Done)
        self._metrics.answer(event)
        return json_response(form.whole(event))

    async def _stream(
        self, asked: ChatRequest, form: AnswerForm, following: Following
    ) -> StreamingResponse:
        """Stream an answer; what goes wrong soon, before the first piece, still gets a status of its own."""
        try:
            first = await following.next(self._settings.ping)
            if isinstance(first, Failed):
                raise first.error
        except BaseException:
            following.end()
            raise
        following.unwatch()
        return _Stream(self._chunks(asked, form, following, first), following)

    async def _chunks(
        self, asked: ChatRequest, form: AnswerForm, following: Following, event: Event | None
    ) -> AsyncIterator[str]:
        yield _event(text_of(form.first_chunk()))
        while event is None or isinstance(event, Piece):
            if event is None:
                yield _PING
            else:
                yield _event(text_of(form.chunk(event.text, event.logprobs)))
            event = await following.next(self._settings.ping)
        if isinstance(event, Failed):
            following.end()
            yield _event(text_of(event.error.body))
        else:
            self._metrics.answer(event)
            yield _event(text_of(form.last_chunk(event)))
            if asked.stream_options is not None and asked.stream_options.include_usage:
                yield _event(text_of(form.usage_chunk(event)))
        yield _event("[DONE]")


class _Stream(StreamingResponse):
    """A stream that ends with its job, and ends its job, also where the client takes nothing."""

    def __init__(self, chunks: AsyncIterator[str], following: Following) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(chunks, media_type="text/event-stream", headers=headers)
        self._following = following

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            with anyio.move_on_after(self._following.left + _LAST_WORDS):
                await super().__call__(scope, receive, send)
        finally:
            self._following.end()


def _event(text: str) -> str:
    return f"data: {text}\n\n"
