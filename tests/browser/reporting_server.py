"""Plays SGLang servers with Aurora's plugin towards the console, by the public protocol: nothing but HTTP."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from speculators.records import (
    Announcement,
    CountWindow,
    DesiredState,
    ObservedState,
    SegmentManifest,
    StepRecord,
    TraceRecord,
)

SECONDS = 0.5


class ReportingServer:
    """Reports twice a second and follows what is desired; ``say`` changes the next reports."""

    def __init__(self, console: str, token: str, target: str, name: str, *, model_path: str = "") -> None:
        self.target, self.name, self.model_path = target, name, model_path
        self._http = httpx.Client(
            base_url=f"{console}/api/v1/ingest/",
            headers={"authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=30,
        )
        self.desired = DesiredState(target, 0, 0, "", "", 4, 0.0, 0.0)
        self._changes: dict[str, Any] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, **changes: Any) -> None:
        self._changes = changes

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(60)
        self._http.close()

    def _run(self) -> None:
        while not self._stopped.wait(SECONDS):
            with suppress(httpx.HTTPError):  # the console is away; a server goes on
                self._report()

    def _report(self) -> None:
        answer = self._http.post("observed", json=self.observed().to_json())
        if answer.is_success:
            self.desired = DesiredState.from_json(answer.json())
        elif answer.status_code == 404 and self.model_path:
            self._http.post("announce", json=self.announcement().to_json())

    def announcement(self) -> Announcement:
        """What it serves, for a console that knows no target of its name."""
        config = json.loads((Path(self.model_path) / "config.json").read_text())
        said = self.observed()
        return Announcement(
            self.name, self.target, said.engine, said.url, self.model_path, "", (), config, said.reported_at
        )

    def observed(self) -> ObservedState:
        """Obedient: what was desired last is in memory."""
        plain = ObservedState(
            replica=self.name,
            target=self.target,
            engine="sglang 0.5.21",
            url="http://127.0.0.1:30000",
            generation=self.desired.generation,
            version=self.desired.version,
            sha256=self.desired.sha256,
            state="serving",
            detail="",
            swap_ms=1.5,
            probe_accept_length=0.0,
            probe_num_steps=0,
            num_running=1,
            num_dropped_traces=0,
            spool_bytes=0,
            reported_at=time.time(),
            target_sha256="a" * 64,
            ranks=(self.desired.sha256, self.desired.sha256) if self.desired.sha256 else (),
        )
        return dataclasses.replace(plain, **self._changes)

    def send_traces(self, count: int) -> None:
        """Finished requests that repeat themselves, so that a draft learns them in seconds.

        The segment's file is not there: the trainer recomputes the hidden states from the tokens.
        """
        segment_id = uuid.uuid4().hex
        traces = [self._trace(segment_id, i) for i in range(count)]
        manifest = SegmentManifest(
            segment_id=segment_id,
            target=self.target,
            replica=self.name,
            uri=f"/nowhere/{segment_id}.safetensors",
            sha256="0" * 64,
            size_bytes=1,
            num_traces=count,
            num_tokens=sum(len(trace.tokens) for trace in traces),
            aux_layer_ids=(1, 3, 4),
            hidden_size=256,
            dtype="float16",
            sealed_at=time.time(),
        )
        body = {"segment": manifest.to_json(), "traces": [trace.to_json() for trace in traces]}
        self._http.post("segments", json=body).raise_for_status()

    def _trace(self, segment_id: str, number: int) -> TraceRecord:
        tokens = tuple(20 + (i + number) % 6 for i in range(40))
        return TraceRecord(
            trace_id=uuid.uuid4().hex,
            target=self.target,
            domain="sql",
            version=self.desired.version,
            tokens=tokens,
            prompt_len=8,
            temperature=0.0,
            finish_reason="length",
            started_at=time.time(),
            decode_seconds=0.3,
            lookahead=4,
            steps=tuple(StepRecord((1, 1, 1, 1), 0) for _ in range(31)),
            segment_id=segment_id,
        )

    def send_counts(self, seconds: float, count: int = 60) -> None:
        """Requests of 60 tokens that took ``seconds`` each, in several reports."""
        now = time.time()
        windows = []
        for _ in range(6):
            n = count // 6
            windows.append(
                CountWindow(
                    window_id=uuid.uuid4().hex,
                    target=self.target,
                    replica=self.name,
                    domain="sql",
                    version=self.desired.version,
                    lookahead=4,
                    batch_bucket=1,
                    started_at=now,
                    ended_at=now,
                    num_requests=n,
                    num_verify_steps=30 * n,
                    num_proposed_drafts=120 * n,
                    num_correct_drafts=30 * n,
                    num_accept_tokens=60 * n,
                    decode_seconds=seconds * n,
                    sum_xx=3600.0 * n,
                    sum_yy=seconds**2 * n,
                    sum_xy=60.0 * seconds * n,
                )
            )
        self._http.post("counts", json={"counts": [w.to_json() for w in windows]}).raise_for_status()
