"""The public HTTP API of the embedded engine: OpenAI's calls, health and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.engine.api import EngineApi
from serving.http.answers import CHAT, COMPLETION, Answer, Shape
from serving.http.errors import ApiError, internal
from serving.http.generation import Generation
from serving.http.metrics import Metrics
from serving.http.reading import Reader, Reading
from serving.http.requests import ServedTarget, read_chat, read_completion
from serving.trace.recorder import Recorder

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20
SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes work with."""

    target: ServedTarget
    engine: EngineApi
    recorder: Recorder
    metrics: Metrics
    max_running: int  # requests accepted at once, waiting ones included
    started_at: int
    reading: Reading = field(default_factory=Reading)

    async def completions(self, request: Request) -> Response:
        return await self._generate(request, read_completion, COMPLETION)

    async def chat_completions(self, request: Request) -> Response:
        return await self._generate(request, read_chat, CHAT)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.target.slug:
            raise ApiError(
                f"The model {name!r:.80} does not exist", status=404, kind="not_found_error", code="model_not_found"
            )
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        stats = self.engine.stats()
        is_well = self.engine.is_alive
        body = {
            "status": "ok" if is_well else "engine stopped",
            "target": self.target.slug,
            "version": stats.version,
            "num_running": stats.num_running,
            "num_waiting": stats.num_waiting,
            "traces": "on" if self.recorder.keeps_traces else "off",
        }
        return JSONResponse(body, status_code=200 if is_well else 503)

    async def metrics_text(self, request: Request) -> Response:
        text, content_type = self.metrics.render()
        return Response(text, headers={"content-type": content_type})

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.target.slug,
            "object": "model",
            "created": self.started_at,
            "owned_by": "aurora",
            "max_model_len": self.target.max_len,
        }

    async def _generate(self, request: Request, read: Reader, shape: Shape) -> Response:
        self._check_room()
        body = await _body(request)
        self._check_room()  # others may have come while it arrived
        asked = await self.reading.read(read, body, request.headers, self.target)
        generation = Generation(asked, self.engine, self.recorder, self.target.tokenizer)
        generation.submit()
        self.metrics.opened()
        answer = Answer(shape, generation.request_id, self.target.slug)
        headers = {"x-request-id": generation.request_id}
        if asked.is_stream:
            events = self._events(request, generation, answer, asked.includes_usage)
            return GenerationStream(events, generation, self.metrics, {**SSE_HEADERS, **headers})
        async with _until_closed(generation, self.metrics), _listened_to(request, generation):
            text = "".join([piece.text async for piece in generation.pieces()])
            assert generation.ending is not None
            return JSONResponse(answer.whole(text, generation.ending), headers=headers)

    def _check_room(self) -> None:
        """Raises ApiError while as many requests as may be are running, waiting, or being read."""
        if self.metrics.num_open + self.reading.num_open >= self.max_running:
            message = f"{self.max_running} requests are running or waiting already"
            raise ApiError(message, status=429, kind="rate_limit_error", code="rate_limit_exceeded")

    async def _events(
        self, request: Request, generation: Generation, answer: Answer, includes_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events of one stream; an error after the first byte becomes the last event."""
        try:
            async with _listened_to(request, generation):
                if (first := answer.first_chunk()) is not None:
                    yield _event(first)
                async for piece in generation.pieces():
                    yield _event(answer.chunk(piece.text, piece.marks))
                assert generation.ending is not None
                yield _event(answer.last_chunk(generation.ending))
                if includes_usage:
                    yield _event(answer.usage_chunk(generation.ending))
        except ApiError as error:
            yield _event(error.body())
        yield "data: [DONE]\n\n"


@asynccontextmanager
async def _until_closed(generation: Generation, metrics: Metrics) -> AsyncIterator[None]:
    """Around an answer: whatever ends it, the generation ends with it."""
    started_at = time.monotonic()
    try:
        yield
    finally:
        if generation.ending is None:
            generation.cancel()
        metrics.closed(time.monotonic() - started_at, generation.ending)


@asynccontextmanager
async def _listened_to(request: Request, generation: Generation) -> AsyncIterator[None]:
    """Cancel the generation as soon as the client has gone away."""
    watcher = asyncio.create_task(_cancel_when_gone(request, generation))
    try:
        yield
    finally:
        watcher.cancel()


class GenerationStream(StreamingResponse):
    """A stream of events that closes its generation even when its first event is never asked for."""

    def __init__(
        self, events: AsyncIterator[str], generation: Generation, metrics: Metrics, headers: dict[str, str]
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._generation = generation
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _until_closed(self._generation, self._metrics):
            await super().__call__(scope, receive, send)


def create_app(api: Api) -> Starlette:
    """The ASGI application."""
    return Starlette(
        routes=[
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/completions", api.completions, methods=["POST"]),
            Route("/v1/chat/completions", api.chat_completions, methods=["POST"]),
            Route("/health", api.health),
            Route("/metrics", api.metrics_text),
        ],
        exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_error, Exception: _on_bug},
    )


def _event(payload: dict[str, Any]) -> str:
    return f"data: {json.dumps(payload, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _body(request: Request) -> bytes:
    raw = bytearray()
    try:
        async for part in request.stream():
            raw += part
            if len(raw) > MAX_BODY_BYTES:
                raise ApiError(f"the body is larger than {MAX_BODY_BYTES} bytes", status=413)
    except ClientDisconnect as error:  # nobody reads the answer, and the log needs no traceback
        raise ApiError("the connection was closed within the body") from error
    return bytes(raw)


async def _cancel_when_gone(request: Request, generation: Generation) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    response = ApiError(message, status=error.status_code, kind=kind).response()
    response.headers.update(error.headers or {})
    return response


async def _on_bug(request: Request, error: Exception) -> Response:
    return internal("internal error; the server's log says more").response()  # Starlette logs the traceback
