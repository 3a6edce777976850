"""Fixtures of what stands beside an SGLang server."""

from __future__ import annotations

import pytest

from speculators import checkpoint
from tests.unit.serving.sglang_backend.fakes import CONFIG, draft_state
from tests.unit.serving.sglang_backend.scripted import Scripted


@pytest.fixture
def scripted(tmp_path):
    checkpoint.save(tmp_path / "launched", CONFIG, draft_state(0))
    checkpoint.save(tmp_path / "next", CONFIG, draft_state(1))
    found = Scripted(tmp_path / "launched")
    yield found
    found.gate.set()
    found.server.shutdown()
    found.server.server_close()
