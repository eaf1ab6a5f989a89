"""The server's paths, as an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moir_edge.finite import json_text
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.logprobs import TokenLogprob
from moir_edge.serve.answers import AnswerForm
from moir_edge.serve.conversation import conversation_of
from moir_edge.serve.errors import ApiError, api_error
from moir_edge.serve.images import ImageSources
from moir_edge.serve.metrics import CONTENT_TYPE, Metrics
from moir_edge.serve.page_files import page_routes
from moir_edge.serve.requests import ChatRequest, parse_chat
from moir_edge.serve.worker import Event, Failed, Job, Piece, Worker

__all__ = ["ServeSettings", "build_app"]

_OPEN_PATHS = ("/health", "/health/ready")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How the server treats its clients.

    Attributes:
        api_key: The bearer token that every request needs but those for health; None needs none.
        images: Where images may come from.
        most_waiting: Requests that wait for the device at most.
        most_images: Images of one request at most.
        most_body_bytes: Bytes of one request at most.
        timeout: Seconds from a request's arrival to the end of its answer.
        body_timeout: Seconds in which a client has to send its whole request.
        ping: Seconds between two signs of life in a stream.
        grace: Seconds that running requests get when the server stops.
    """

    api_key: str | None = None
    images: ImageSources = field(default_factory=ImageSources)
    most_waiting: int = 16
    most_images: int = 8
    most_body_bytes: int = 64 << 20
    timeout: float = 300
    body_timeout: float = 30
    ping: float = 10
    grace: float = 30


def build_app(models: Mapping[str, EdgeModel], settings: ServeSettings | None = None) -> Starlette:
    """Return the application that serves bundles, one request after the other.

    Args:
        models: The loaded bundles by the names that requests give.
        settings: How clients are treated.
    """
    settings = settings or ServeSettings()
    server = _Server(models, settings)
    routes = [
        Route("/v1/chat/completions", server.guarded(server.chat), methods=["POST"]),
        Route("/v1/models", server.guarded(server.models)),
        Route("/v1/models/{name}", server.guarded(server.one_model)),
        Route("/tokenize", server.guarded(server.tokenize), methods=["POST"]),
        Route("/metrics", server.guarded(server.metrics_text)),
        Route("/health", server.guarded(server.health)),
        Route("/health/ready", server.guarded(server.ready)),
        *page_routes(),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.worker.stop, settings.grace)

    return Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: server.http_problem},
    )


class _Server:
    """What the paths share."""

    def __init__(self, models: Mapping[str, EdgeModel], settings: ServeSettings) -> None:
        self.loaded = dict(models)
        self.settings = settings
        self.worker = Worker(most_waiting=settings.most_waiting)
        self.metrics = Metrics(self.worker)
        self._created = int(time.time())

    def guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that checks the key, states errors in OpenAI's form, and counts."""

        async def endpoint(request: Request) -> Response:
            try:
                self._check_key(request)
                response = await answer(request)
            except ClientDisconnect:
                response = Response(status_code=400)  # nobody reads it
            except Exception as error:
                response = _problem(api_error(error))
            self.metrics.request(request.scope["route"].path, response.status_code)
            return response

        return endpoint

    def http_problem(self, request: Request, error: Exception) -> Response:
        """Answer a path or method that does not exist."""
        assert isinstance(error, HTTPException)
        known = "/v1/chat/completions, /v1/models, /tokenize, /metrics, /health"
        text = f"{request.method} is not taken here" if error.status_code == 405 else "no such path"
        response = _problem(ApiError(error.status_code, f"{text}; the paths are {known}"))
        response.headers.update(error.headers or {})
        self.metrics.request("other", error.status_code)
        return response

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        arrived = time.monotonic()
        asked = parse_chat(await self._json(request))
        model = self._model(asked.model)
        turns, images = await asyncio.to_thread(
            conversation_of, asked.messages, self.settings.images, self.settings.most_images
        )
        events: asyncio.Queue[Event] = asyncio.Queue()
        job = Job(
            model=model,
            conversation=turns,
            images=images,
            settings=asked.settings(),
            logprobs=asked.logprob_count,
            emit=_emitter(asyncio.get_running_loop(), events),
            deadline=arrived + self.settings.timeout,
        )
        self.worker.submit(job)
        form = AnswerForm(
            asked.model,
            model.processor.tokenizer,
            logprobs=asked.logprob_count is not None,
            routing_map=asked.routing_map,
        )
        if asked.stream:
            return await self._stream(asked, form, job, events)
        return await self._whole(request, form, job, events)

    async def _whole(
        self, request: Request, form: AnswerForm, job: Job, events: asyncio.Queue[Event]
    ) -> Response:
        gone = asyncio.create_task(_disconnected(request))
        try:
            logprobs: list[TokenLogprob] = []
            while True:
                event = await _next(events, gone)
                if isinstance(event, Piece):
                    logprobs += event.logprobs
                elif isinstance(event, Failed):
                    raise event.error
                else:
                    self.metrics.answer(event)
                    return _json(form.whole(event, logprobs))
        finally:
            job.cancelled.set()
            gone.cancel()

    async def _stream(
        self, asked: ChatRequest, form: AnswerForm, job: Job, events: asyncio.Queue[Event]
    ) -> Response:
        """Stream an answer; what goes wrong before the first piece still gets a status of its own."""
        try:
            first = await events.get()
        except asyncio.CancelledError:
            job.cancelled.set()
            raise
        if isinstance(first, Failed):
            raise first.error
        chunks = self._chunks(asked, form, job, events, first)
        return EventSourceResponse(chunks, ping=int(self.settings.ping), sep="\n")

    async def _chunks(
        self,
        asked: ChatRequest,
        form: AnswerForm,
        job: Job,
        events: asyncio.Queue[Event],
        event: Event,
    ) -> AsyncIterator[str]:
        try:
            yield _text(form.first_chunk())
            while isinstance(event, Piece):
                yield _text(form.chunk(event.text, event.logprobs))
                event = await events.get()
            if isinstance(event, Failed):
                yield _text(event.error.body)
            else:
                self.metrics.answer(event)
                yield _text(form.last_chunk(event))
                if asked.stream_options is not None and asked.stream_options.include_usage:
                    yield _text(form.usage_chunk(event))
            yield "[DONE]"
        finally:
            job.cancelled.set()

    async def models(self, request: Request) -> Response:
        """List the model."""
        del request
        cards = [self._card(name, model) for name, model in self.loaded.items()]
        return _json({"object": "list", "data": cards})

    async def one_model(self, request: Request) -> Response:
        """Describe the model."""
        name = request.path_params["name"]
        return _json(self._card(name, self._model(name)))

    async def tokenize(self, request: Request) -> Response:
        """Return the token ids of a text."""
        body = await self._json(request)
        name, text = (
            (body.get(key) for key in ("model", "content"))
            if isinstance(body, dict)
            else (None,) * 2
        )
        if not isinstance(name, str) or not isinstance(text, str) or len(body) != 2:
            raise ApiError(
                400, 'the body must be {"model": NAME, "content": TEXT}', param="content"
            )
        tokenizer = self._model(name).processor.tokenizer
        encoded = await asyncio.to_thread(tokenizer.encode, text, add_special_tokens=False)
        return _json({"tokens": list(encoded.ids), "count": len(encoded.ids)})

    async def metrics_text(self, request: Request) -> Response:
        """Return the figures for Prometheus."""
        del request
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def health(self, request: Request) -> Response:
        """Say that the process answers."""
        del request
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Say whether requests are taken."""
        del request
        if not self.worker.ready:
            raise ApiError(503, "the server does not take requests", code="not_ready")
        return _json({"status": "ready", "waiting": self.worker.waiting})

    def _card(self, name: str, model: EdgeModel) -> dict[str, Any]:
        manifest = model.manifest
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "moir-edge",
            "input_modalities": ["text", "image"],
            "output_modalities": ["text"],
            "context_length": manifest.model.context_length,
            "model_type": manifest.model.model_type,
            "precision": manifest.precision,
            "provider": model.sessions.provider,
            "router": model.sessions.has_router,
        }

    def _model(self, name: str) -> EdgeModel:
        if name not in self.loaded:
            raise ApiError(
                404,
                f"model {name[:100]!r} is not served here; this server has {', '.join(self.loaded)}",
                param="model",
                code="model_not_found",
            )
        return self.loaded[name]

    def _check_key(self, request: Request) -> None:
        key = self.settings.api_key
        if key is None or request.url.path in _OPEN_PATHS:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.encode(), key.encode())
        if scheme.lower() != "bearer" or not right:
            raise ApiError(
                401,
                "the API key is missing or wrong; send Authorization: Bearer KEY",
                code="invalid_api_key",
            )

    async def _json(self, request: Request) -> Any:
        """Return the body of a request as JSON."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, f"the content type is {kind or 'missing'}, expected application/json"
            )
        if request.headers.get("content-encoding", "identity") != "identity":
            raise ApiError(415, "the body is compressed, which is not taken; send it as it is")
        try:
            body = await asyncio.wait_for(self._body(request), self.settings.body_timeout)
        except asyncio.TimeoutError:
            raise ApiError(
                408, f"the request did not arrive in {self.settings.body_timeout:g} s"
            ) from None
        try:
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the body is not JSON: {error}") from None

    async def _body(self, request: Request) -> bytes:
        most = self.settings.most_body_bytes
        stated = request.headers.get("content-length", "0")
        if not stated.isdigit() or int(stated) > most:
            raise _too_large(most)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise _too_large(most)
        return bytes(body)


def _emitter(
    loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event]
) -> Callable[[Event], None]:
    """Return what hands events from the worker's thread to a queue of the loop."""

    def emit(event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(events.put_nowait, event)

    return emit


async def _disconnected(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _next(events: asyncio.Queue[Event], gone: asyncio.Task[None]) -> Event:
    """Return the next event, unless the client goes first."""
    waiting = asyncio.ensure_future(events.get())
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        waiting.cancel()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the request has more than {most:,} bytes; send fewer or smaller images")


def _text(data: Any) -> str:
    return json_text(data, ensure_ascii=False, separators=(",", ":"))


def _json(data: Any) -> Response:
    return Response(_text(data).encode(), media_type="application/json")


def _problem(error: ApiError) -> Response:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)
