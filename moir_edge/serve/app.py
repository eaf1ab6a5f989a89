"""The server's paths, as an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from moir_edge.runtime import EdgeModel
from moir_edge.runtime.prompt_bound import PromptBound
from moir_edge.serve.bodies import Bodies
from moir_edge.serve.chat import Chat
from moir_edge.serve.errors import ApiError, api_error
from moir_edge.serve.json_response import json_response, problem
from moir_edge.serve.metrics import CONTENT_TYPE, Metrics
from moir_edge.serve.page_files import page_routes
from moir_edge.serve.settings import ServeSettings
from moir_edge.serve.worker import Worker

__all__ = ["build_app"]

_OPEN_PATHS = ("/health", "/health/ready")
_LOG = logging.getLogger("moir_edge.serve")

Endpoint = Callable[[Request], Awaitable[Response]]


def build_app(models: Mapping[str, EdgeModel], settings: ServeSettings | None = None) -> Starlette:
    """Return the application that serves bundles, one request after the other.

    Args:
        models: The loaded bundles by the names that requests give.
        settings: How clients are treated.
    """
    settings = settings or ServeSettings()
    server = _Server(models, settings)
    routes = [
        server.route("/v1/chat/completions", server.chat, method="POST"),
        server.route("/v1/models", server.models),
        server.route("/v1/models/{name:path}", server.one_model),
        server.route("/tokenize", server.tokenize, method="POST"),
        server.route("/metrics", server.metrics_text),
        server.route("/health", server.health),
        server.route("/health/ready", server.ready),
        *page_routes(),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.worker.stop, settings.grace)

    handlers: Any = {HTTPException: server.http_problem}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class _Server:
    """All that the paths share."""

    def __init__(self, models: Mapping[str, EdgeModel], settings: ServeSettings) -> None:
        self.loaded = dict(models)
        self.settings = settings
        self.worker = Worker(
            most_waiting=settings.most_waiting, most_together=settings.most_together
        )
        self.metrics = Metrics(self.worker)
        self.bodies = Bodies(most_bytes=settings.most_body_bytes, seconds=settings.body_timeout)
        self.chat = Chat(
            model=self._model,
            worker=self.worker,
            metrics=self.metrics,
            bodies=self.bodies,
            settings=settings,
        )
        self._created = int(time.time())

    def route(self, path: str, answer: Endpoint, *, method: str = "GET") -> Route:
        """Return a route that checks who asks, states errors in OpenAI's form, and counts."""

        async def endpoint(request: Request) -> Response:
            try:
                self._check_host(request)
                self._check_key(request)
                response = await answer(request)
            except ClientDisconnect:
                response = Response(status_code=400)  # nobody reads it
            except Exception as error:
                told = api_error(error)
                if told.status == 500:
                    _LOG.error("%s", told, exc_info=told.__cause__)
                response = problem(told)
            self.metrics.request(path, response.status_code)
            return response

        return Route(path, endpoint, methods=[method])

    def http_problem(self, request: Request, error: HTTPException) -> Response:
        """Answer a path or method that does not exist."""
        known = "/v1/chat/completions, /v1/models, /tokenize, /metrics, /health"
        text = f"{request.method[:20]} is not taken here"
        if error.status_code != 405:
            text = "the path does not exist"
        response = problem(ApiError(error.status_code, f"{text}; the paths are {known}"))
        response.headers.update(error.headers or {})
        self.metrics.request("other", error.status_code)
        return response

    async def models(self, request: Request) -> Response:
        """List the models."""
        del request
        cards = [self._card(name, model) for name, model in self.loaded.items()]
        return json_response({"object": "list", "data": cards})

    async def one_model(self, request: Request) -> Response:
        """Describe a model."""
        name = request.path_params["name"]
        return json_response(self._card(name, self._model(name)))

    async def tokenize(self, request: Request) -> Response:
        """Return the token ids of a text."""
        body = await self.bodies.json(request)
        fields = body if isinstance(body, dict) else {}
        name, text = fields.get("model"), fields.get("content")
        if not isinstance(name, str) or not isinstance(text, str) or len(fields) != 2:
            raise ApiError(
                400, 'the body must be {"model": NAME, "content": TEXT}', param="content"
            )
        ids = await asyncio.to_thread(self._ids, self._model(name), text)
        return json_response({"tokens": ids, "count": len(ids)})

    @staticmethod
    def _ids(model: EdgeModel, text: str) -> list[int]:
        tokenizer = model.processor.tokenizer
        PromptBound(tokenizer.backend, model.manifest.model.context_length).check(len(text))
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    async def metrics_text(self, request: Request) -> Response:
        """Return the figures for Prometheus."""
        del request
        # Sensors of a board take some milliseconds.
        text = await asyncio.to_thread(self.metrics.text)
        return Response(text, media_type=CONTENT_TYPE)

    async def health(self, request: Request) -> Response:
        """Say that the process answers, and whether the other paths need a key."""
        del request
        return json_response({"status": "ok", "api_key": self.settings.api_key is not None})

    async def ready(self, request: Request) -> Response:
        """Say whether requests are taken."""
        del request
        if not self.worker.ready:
            raise ApiError(503, "the server does not take requests", code="not_ready")
        return json_response({"status": "ready", "waiting": self.worker.waiting})

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

    def _check_host(self, request: Request) -> None:
        names = self.settings.host_names
        given = request.headers.get("host", "")
        try:
            host = urlsplit(f"//{given}").hostname or ""
        except ValueError:
            host = given
        if names is not None and host not in names:
            raise ApiError(
                403, f"the server is not known as {host[:100]!r}; ask it as {', '.join(names)}"
            )

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
