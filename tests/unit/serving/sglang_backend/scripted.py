"""An SGLang server of scripted answers, over real HTTP."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.unit.serving.sglang_backend.test_small_parts import METRICS


class Scripted:
    """Routes of SGLang that the sidecar uses; ``fails`` names one that says no, ``status`` what all of them answer.

    What is posted to ``loses`` is carried out, and the connection ends without an answer. What asks for ``holds`` waits
    for ``gate``. ``says``: answers of routes as they are, instead of those of SGLang.
    """

    def __init__(self, draft: Path) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.fails = ""
        self.loses = ""
        self.holds = ""
        self.gate = threading.Event()
        self.says: dict[str, str] = {}
        self.stands_still = False
        self.checksums = ["t"]
        self.metrics = METRICS
        self.weight_version = "default"
        self.status = 200
        self.info = {
            "tp_size": 2,
            "speculative_num_steps": 4,
            "speculative_draft_model_path": str(draft),
            "model_path": str(draft),
        }
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._hold()
                model = {"weight_version": scripted.weight_version}
                body = json.dumps(model if self.path == "/model_info" else scripted.info)
                body = scripted.metrics if self.path == "/metrics" else scripted.says.get(self.path, body)
                kind = "text/plain" if self.path == "/metrics" else "application/json"
                self._send(scripted.status, body.encode(), kind)

            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["content-length"])))
                scripted.calls.append((self.path, given))
                self._hold()
                said = {"success": self.path != scripted.fails, "message": "scripted"}
                if said["success"] and self.path in ("/pause_generation", "/continue_generation"):
                    scripted.stands_still = self.path == "/pause_generation"
                if self.path == scripted.loses:
                    return
                if said["success"] and "weight_version" in given:
                    scripted.weight_version = given["weight_version"]
                if self.path == "/weights_checker":
                    said["per_engine_checksum"] = scripted.checksums.pop(0) if scripted.checksums else "t"
                self._send(scripted.status, json.dumps(said).encode(), "application/json")

            def _hold(self) -> None:
                if self.path == scripted.holds:
                    scripted.gate.wait(60)

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

    def restart(self) -> None:
        """As it was launched."""
        self.weight_version, self.status, self.stands_still = "default", 200, False

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls if path != "/weights_checker"]
