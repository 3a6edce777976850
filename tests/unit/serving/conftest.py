"""Fixtures of the serving tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from serving.engine.api import FinishedRequest, Request
from speculators.records import StepRecord
from tests.unit.serving.fakes import ConsoleServer, FakeConsole, make_finished


@pytest.fixture
def console_server() -> Iterator[ConsoleServer]:
    server = ConsoleServer()
    yield server
    server.stop()


@pytest.fixture
def console(console_server: ConsoleServer) -> FakeConsole:
    return console_server.console


@pytest.fixture
def finished() -> Callable[..., FinishedRequest]:
    """Make finished requests: ``finished("id", domain=...)``."""

    def make(request_id: str, *, domain: str = "sql", num_tokens: int = 5, keep_states: bool = True) -> FinishedRequest:
        request = Request(request_id, (1, 2, 3), domain=domain, keep_states=keep_states)
        steps = tuple(StepRecord((9, 9, 9), 1) for _ in range((num_tokens - 1) // 2))
        return make_finished(request, list(range(num_tokens)), steps)

    return make
