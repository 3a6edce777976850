"""The sidecar's engine against a real HTTP server with scripted answers; the real SGLang is in tests/sglang."""

from __future__ import annotations

import base64
import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.engine.api import SwapError
from serving.sglang_backend.http_engine import HttpEngine
from speculators import checkpoint
from speculators.checkpoint import CheckpointError
from tests.unit.serving.sglang_backend.fakes import CONFIG, draft_state
from tests.unit.serving.sglang_backend.test_small_parts import METRICS


class Scripted:
    """Routes of SGLang that the sidecar uses; ``fails`` names one that says no."""

    def __init__(self, draft: Path) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.fails = ""
        self.checksums = ["t"]
        self.metrics = METRICS
        self.info = {"tp_size": 2, "speculative_draft_model_path": str(draft), "model_path": str(draft)}
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = scripted.metrics.encode() if self.path == "/metrics" else json.dumps(scripted.info).encode()
                self._send(200, body, "text/plain" if self.path == "/metrics" else "application/json")

            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["content-length"])))
                scripted.calls.append((self.path, given))
                said = {"success": self.path != scripted.fails, "message": "scripted"}
                if self.path == "/weights_checker":
                    said["per_engine_checksum"] = scripted.checksums.pop(0) if scripted.checksums else "t"
                self._send(200, json.dumps(said).encode(), "application/json")

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *given: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls if path != "/weights_checker"]


@pytest.fixture
def scripted(tmp_path):
    checkpoint.save(tmp_path / "launched", CONFIG, draft_state(0))
    checkpoint.save(tmp_path / "next", CONFIG, draft_state(1))
    found = Scripted(tmp_path / "launched")
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_swap_pauses_writes_the_draft_alone_and_continues(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    outcome = engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    assert scripted.paths() == [
        "/pause_generation", "/begin_weight_update", "/update_weights_from_tensor", "/end_weight_update",
        "/continue_generation",
    ]  # fmt: skip
    sent = next(given for path, given in scripted.calls if path == "/update_weights_from_tensor")
    assert (sent["selector"], sent["flush_cache"], len(sent["serialized_named_tensors"])) == ("draft", False, 2)
    names = {name for name, _ in pickle.loads(base64.b64decode(sent["serialized_named_tensors"][0]))}
    assert "fc.weight" in names and not names & {"d2t", "t2d", "embed_tokens.weight"}
    assert outcome.sha256 == checkpoint.state_digest(draft_state(1))
    assert (engine.stats().version, engine.target_sha256) == (2, "t")


def test_a_refused_write_still_ends_the_session_and_continues(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    scripted.fails = "/update_weights_from_tensor"
    with pytest.raises(SwapError, match="scripted"):
        engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    assert scripted.paths()[-2:] == ["/end_weight_update", "/continue_generation"]
    assert engine.stats().version == 0


def test_a_touched_target_is_an_error(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    scripted.checksums = ["before", "after"]
    with pytest.raises(SwapError, match="target's weights changed"):
        engine.swap(2, engine.load_draft(tmp_path / "next")).result()


def test_another_lineage_and_version_0_are_refused(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    with pytest.raises(SwapError, match="cannot switch speculation off"):
        engine.swap(0, None).result()
    other = {**draft_state(1)}
    checkpoint.save(tmp_path / "other", CONFIG, other)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] = [0, 2, 4]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config differs"):
        engine.load_draft(tmp_path / "other")


def test_a_collapse_in_the_servers_own_counts_reverts(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    engine.swap(1, engine.load_draft(tmp_path / "launched")).result()
    engine.swap(2, engine.load_draft(tmp_path / "next"), min_accept_length=1.5).result()
    scripted.metrics = METRICS.replace(" 55.0", " 155.0").replace(" 80.0", " 185.0")  # 100 steps, 105 tokens
    stats = engine.stats()
    assert (stats.version, stats.reverted_from) == (1, 2)
    assert "accept length 1.05 over 100 steps" in stats.revert_detail


@pytest.mark.parametrize(("before", "version"), [(300, 1), (110, 2)])  # tokens in 100 steps of version 1
def test_a_shift_of_the_traffic_before_the_swap_reverts_nothing(scripted, tmp_path, before, version):
    engine = HttpEngine(scripted.url)
    engine.swap(1, engine.load_draft(tmp_path / "launched")).result()
    scripted.metrics = METRICS.replace(" 55.0", " 155.0").replace(" 80.0", f" {80 + before}.0")
    engine.swap(2, engine.load_draft(tmp_path / "next"), min_accept_length=1.5).result()
    scripted.metrics = METRICS.replace(" 55.0", " 255.0").replace(" 80.0", f" {185 + before}.0")  # 1.05
    assert engine.stats().version == version
