"""One running generation as asyncio sees it: pieces of text, then how it ended.

The engine's callbacks come on the engine's thread; they only wake the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from serving.engine.api import EngineApi, FinishedRequest, Request, RequestError, ignore_step, ignore_tokens
from serving.http.errors import ApiError, internal, unavailable
from serving.http.marks import Marker, Marks
from serving.http.requests import GenerationRequest
from serving.http.tokenizer import Detokeniser, StopFinder, TargetTokenizer
from serving.trace.recorder import Recorder
from speculators.records import StepRecord


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended, in OpenAI's words."""

    finish_reason: str  # "stop" | "length"
    num_completion_tokens: int  # up to the one that completed a stop string
    finished: FinishedRequest


@dataclass(frozen=True, slots=True)
class Piece:
    """What one verify step adds; ``marks`` when the client asked for them."""

    text: str
    marks: Marks | None = None


class Generation:
    """Submit, iterate over ``pieces``, then read ``ending``; ``cancel`` when nobody listens any more."""

    def __init__(self, asked: GenerationRequest, engine: EngineApi, recorder: Recorder, tokenizer: TargetTokenizer):
        self.request_id = uuid.uuid4().hex
        self.ending: Ending | None = None  # set when pieces is exhausted
        self._asked = asked
        self._engine = engine
        self._recorder = recorder
        self._events: asyncio.Queue[tuple[int, ...] | StepRecord | FinishedRequest] = asyncio.Queue()
        self._detokeniser = Detokeniser(tokenizer)
        self._marker = Marker(self._detokeniser) if asked.has_marks else None
        self._stop_finder = StopFinder(asked.stop)
        self._num_tokens = 0

    def submit(self) -> None:
        """Hand the request to the engine; call on the event loop. Raises ApiError."""
        if not self._engine.is_alive:
            raise unavailable("the engine is not running")
        is_trace = self._asked.is_trace and self._recorder.keeps(self._asked.domain)
        put = self._on_loop(self._events.put_nowait)
        needs_tokens = self._asked.is_stream or self._asked.stop
        request = Request(
            request_id=self.request_id,
            prompt=self._asked.prompt,
            sampling=self._asked.sampling,
            domain=self._asked.domain,
            keep_states=is_trace,
            is_control=self._asked.is_control,
            is_alone=self._asked.is_control is not None,
            on_step=put if self._marker else ignore_step,
            on_tokens=put if needs_tokens else ignore_tokens,  # waking the loop costs the engine's thread
            on_finish=functools.partial(self._finished, put, is_trace),
        )
        try:
            self._engine.submit(request)
        except RequestError as error:
            raise ApiError(str(error), param="prompt") from error

    def cancel(self) -> None:
        """Stop decoding; harmless when it has ended."""
        self._engine.cancel(self.request_id)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Text as it comes, cut before a stop string; one piece per verify step at most. Raises ApiError."""
        step: StepRecord | None = None
        while not isinstance(event := await self._events.get(), FinishedRequest):
            if isinstance(event, StepRecord):  # the next event has its tokens
                step = event
            elif self._marker:
                self._num_tokens += len(event)
                marks = self._marker.mark(event, step)
                yield Piece(marks.text, marks)
            elif text := self._push(event):
                yield Piece(text)
            if self._stop_finder.is_found:
                self._engine.cancel(self.request_id, "stop")
                event = await self._end()
                break
        else:
            if rest := self._rest(event):
                yield Piece(rest, self._marker.unfinished(rest) if self._marker else None)
        self.ending = self._ending(event)

    def _push(self, tokens: tuple[int, ...]) -> str:
        text = ""
        for token in tokens:
            self._num_tokens += 1
            text += self._stop_finder.push(self._detokeniser.push(token))
            if self._stop_finder.is_found:
                break
        return text

    def _rest(self, finished: FinishedRequest) -> str:
        """Tokens that did not come one by one, and what was held back."""
        text = self._push(finished.tokens[finished.prompt_len + self._num_tokens :])
        return text + self._stop_finder.push(self._detokeniser.finish()) + self._stop_finder.finish()

    async def _end(self) -> FinishedRequest:
        while not isinstance(event := await self._events.get(), FinishedRequest):
            pass
        return event

    def _ending(self, finished: FinishedRequest) -> Ending:
        if self._stop_finder.is_found:
            return Ending("stop", self._num_tokens, finished)
        if finished.finish_reason == "error":
            raise internal("the engine failed on this request; its log says why")
        if finished.finish_reason == "cancelled":
            raise unavailable("the generation was cut: the server is stopping")
        return Ending(finished.finish_reason, self._num_tokens, finished)

    def _on_loop(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """``call``, to be made from any thread; after the loop is gone nobody is left to tell."""
        loop = asyncio.get_running_loop()

        def wake(value: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(call, value)

        return wake

    def _finished(self, wake: Callable[[FinishedRequest], None], is_trace: bool, finished: FinishedRequest) -> None:
        self._recorder.put(finished, is_trace=is_trace)
        wake(finished)
