"""The writer's side of capture: events in, finished requests out; a thread of its own, awake fifty times a second.

Per request it keeps the states of its prompt and which row of which step was its own; when the request ends, they
become one ``FinishedRequest`` whose steps partition the generated tokens.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from serving.engine.api import FinishedRequest, FinishReason, Part
from serving.engine.control import Tally
from serving.engine.versions import Versions
from serving.sglang_backend.capture import HEALTH_CHECK, EventQueue
from serving.sglang_backend.events import Applied, Event, Finish, Origin, Prefill, Step
from serving.sglang_backend.tree import StepRows, proposed_path, take_apart
from speculators.records import StepRecord, VersionSpan

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
IDLE_SECONDS = 1.0  # without a step, after which an open block of the control is closed
FORGET_SECONDS = 1800.0  # a request of which nothing has been heard
HEX = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class Use:
    """One request's share of one step."""

    step: Step
    row: int
    version: int


@dataclass(slots=True)
class Track:
    """A request that has not ended."""

    origin: Origin
    seen_at: float  # monotonic
    chunks: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)  # first position, states, final
    uses: list[Use] = field(default_factory=list)
    is_holed: bool = False  # states of some pass did not fit the queue


class Assembler:
    """Consumes the queue. ``on_finished`` gets (request, whether it is a trace), ``on_control`` (domain, part).

    ``on_collapse`` is told why the live version must go. Counters run since the start.
    """

    def __init__(
        self,
        queue: EventQueue,
        versions: Versions[Any],
        on_finished: Callable[[FinishedRequest, bool], None],
        on_control: Callable[[str, Part], None],
        on_collapse: Callable[[str], None],
    ) -> None:
        self.queue = queue
        self.versions = versions
        self.on_finished = on_finished
        self.on_control = on_control
        self.on_collapse = on_collapse
        self.num_finished = self.num_steps = self.num_proposed = self.num_correct = self.num_accepted = 0
        self.num_dropped = 0  # traces whose states were not all there
        self.num_errors = 0
        self._tracks: dict[str, Track] = {}
        self._controls: dict[str, Tally] = {}  # of the block that runs, by domain
        self._control_block = -1
        self._stepped_at = 0.0  # monotonic
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="assembler", daemon=True)

    @property
    def num_running(self) -> int:
        return len(self._tracks)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self.drain()

    def drain(self) -> None:
        """Take every event whose copies have arrived, oldest first."""
        while (event := self.queue.peek()) is not None and _is_ready(event):
            self.queue.pop()
            try:
                self._take(event)
            except Exception:
                self.num_errors += 1
                log.exception("an event of the scheduler could not be used; serving goes on")
        if self._controls and time.monotonic() - self._stepped_at > IDLE_SECONDS:
            self._close_controls()

    def _take(self, event: Event) -> None:
        if isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Prefill):
            self._prefill(event)
        elif isinstance(event, Finish):
            self._finish(event)
        else:
            self._applied(event)

    def _prefill(self, event: Prefill) -> None:
        row, now = 0, time.monotonic()
        for span in event.spans:
            if not span.rid.startswith(HEALTH_CHECK):
                track = self._tracks.setdefault(span.rid, Track(span.origin, now))
                rows = slice(row, row + span.num_rows)
                if event.states is not None and event.final is not None:
                    states, final = event.states.tensor[rows].clone(), event.final.tensor[rows].clone()
                    track.chunks.append((span.start, states, final))
                else:
                    track.is_holed = True
            row += span.num_rows
        if len(self._tracks) > 4096:
            self._forget(now)

    def _step(self, step: Step) -> None:
        if step.block != self._control_block:
            self._close_controls()
            self._control_block = step.block
        step.rows = take_apart(step)
        self._stepped_at = time.monotonic()
        live = self.versions.live
        version = live.version if step.depth else 0
        for row, rid in enumerate(step.rids):
            track = self._tracks.get(rid)
            if track is None:
                continue
            track.uses.append(Use(step, row, version))
            track.is_holed |= step.states is None or step.final is None
            domain = track.origin.label.domain
            if step.depth == 0:
                seconds = step.clock.seconds(with_catching_up=False)
                self._controls.setdefault(domain, Tally()).add(seconds, len(step.rids))
            elif collapse := self.versions.observe(live, domain, step.depth, step.rows.accept_lens[row]):
                self.on_collapse(collapse)

    def _close_controls(self) -> None:
        tallies, self._controls = self._controls, {}
        for domain, tally in tallies.items():
            self.on_control(domain, tally.part())

    def _applied(self, event: Applied) -> None:
        if event.detail:
            self.versions.revert(event.detail)
        else:
            self.versions.swap(event.served.version, event.served.draft, event.min_accept_length)

    def _finish(self, event: Finish) -> None:
        track = self._tracks.pop(event.rid, None)
        if track is None:
            return
        finished = assemble(event, track)
        self.num_finished += 1
        self.num_steps += finished.num_verify_steps
        self.num_proposed += finished.num_proposed_drafts
        self.num_correct += finished.num_correct_drafts
        self.num_accepted += finished.num_accept_tokens
        wants = track.origin.label.is_trace
        if wants and finished.states is None and finished.num_verify_steps > 0:
            self.num_dropped += 1
            wants = False
        self.on_finished(finished, wants)

    def _forget(self, now: float) -> None:
        for rid in [r for r, track in self._tracks.items() if now - track.seen_at > FORGET_SECONDS]:
            del self._tracks[rid]


def _is_ready(event: Event) -> bool:
    if isinstance(event, Prefill):
        return all(copy is None or copy.is_ready for copy in (event.states, event.final))
    if isinstance(event, Step):
        copies = (event.integers, event.states, event.final)
        return event.clock.is_ready and all(copy is None or copy.is_ready for copy in copies)
    return True


def assemble(event: Finish, track: Track) -> FinishedRequest:
    """The report of a finished request: tokens that SGLang kept, steps cut to them, states of every position."""
    prompt, output = tuple(int(t) for t in event.prompt), tuple(int(t) for t in event.output)
    tokens = prompt + output
    steps, parts, uses = _steps(track.uses, len(output) - 1)
    first, states, final = _states(track, uses, len(tokens) - 1)
    spent = [use.step.clock.seconds(with_catching_up=use.step.depth > 0) for use in uses]
    version, lookahead = _served_by(parts)
    reason: FinishReason = "stop" if event.reason == "stop" else "length" if event.reason == "length" else "cancelled"
    return FinishedRequest(
        request_id=event.rid if HEX.fullmatch(event.rid) else uuid.uuid4().hex,
        domain=track.origin.label.domain,
        version=version,
        tokens=tokens,
        prompt_len=len(prompt),
        temperature=track.origin.temperature,
        finish_reason=reason,
        started_at=track.origin.started_at,
        prefill_seconds=0.0,
        decode_seconds=sum(spent),
        mean_batch_size=sum(len(use.step.rids) for use in uses) / len(uses) if uses else 1.0,
        lookahead=lookahead,
        steps=tuple(steps),
        states=states,
        final=final,
        first_state=first,
        parts=tuple(parts),
        version_spans=_spans(uses),
    )


def _spans(uses: list[Use]) -> tuple[VersionSpan, ...]:
    """Which versions drafted, in turn, steps without drafts among what was before them; () where it was one."""
    spans: list[tuple[int, int]] = []
    num_before = 0  # steps without drafts at the very beginning
    for use in uses:
        if use.version and (not spans or spans[-1][0] != use.version):
            spans.append((use.version, num_before + 1))
            num_before = 0
        elif spans:
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            num_before += 1
    return tuple(VersionSpan(version, num) for version, num in spans) if len(spans) > 1 else ()


def _steps(uses: list[Use], num_left: int) -> tuple[list[StepRecord], list[Part], list[Use]]:
    """(records, parts by version, the uses that they are about). A step launched after the end committed nothing."""
    records: list[StepRecord] = []
    kept: list[Use] = []
    sums: dict[tuple[int, int], list[float]] = {}
    for use in uses:
        if num_left <= 0:
            break
        rows: StepRows = use.step.rows
        num = min(rows.accept_lens[use.row], num_left)
        num_left -= num
        proposed = proposed_path(rows, use.row) if use.step.depth else ()
        records.append(StepRecord(proposed, num - 1))
        kept.append(use)
        if use.step.depth and use.version:
            total = sums.setdefault((use.version, use.step.depth), [0.0] * 6)
            seconds = use.step.clock.seconds(with_catching_up=True)
            for i, value in enumerate((1, len(proposed), num - 1, num, seconds, len(use.step.rids))):
                total[i] += value
    parts = [
        Part(version, depth, t[5] / t[0], int(t[0]), int(t[1]), int(t[2]), int(t[3]), t[4], 0)
        for (version, depth), t in sums.items()
    ]
    return records, parts, kept


def _served_by(parts: list[Part]) -> tuple[int, int]:
    """(version, lookahead) of the part with the most tokens; (0, 0) when all of it was control."""
    most = max(parts, key=lambda part: part.num_accept_tokens, default=None)
    return (most.version, most.lookahead) if most else (0, 0)


def _states(track: Track, uses: list[Use], num_positions: int) -> tuple[int, Tensor | None, Tensor | None]:
    """(first position, states [T, K*Ht], final [T, Ht]) without a gap up to the last position, else None for both.

    A prompt that was prefilled again (after a retraction) overwrites what it had.
    """
    if track.is_holed or not track.chunks or num_positions <= 0:
        return 0, None, None
    width, hidden = track.chunks[0][1].shape[1], track.chunks[0][2].shape[1]
    states = torch.empty(num_positions, width, dtype=torch.float16)
    final = torch.empty(num_positions, hidden, dtype=torch.float16)
    is_known = torch.zeros(num_positions, dtype=torch.bool)

    def put(start: int, rows: Tensor, final_rows: Tensor) -> None:
        num = min(len(rows), num_positions - start)
        if num > 0:
            states[start : start + num] = rows[:num]
            final[start : start + num] = final_rows[:num]
            is_known[start : start + num] = True

    for chunk in track.chunks:
        put(*chunk)
    for use in uses:
        step, rows = use.step, use.step.rows
        if step.states is None or step.final is None:
            return 0, None, None
        num, begin = rows.accept_lens[use.row], use.row * step.num_nodes
        path = torch.tensor(rows.accept_index[use.row][:num])
        put(rows.starts[use.row], step.states.tensor[begin : begin + num], step.final.tensor[path])
    unknown = torch.nonzero(~is_known)
    first = int(unknown[-1]) + 1 if len(unknown) else 0
    if first >= num_positions:
        return 0, None, None
    return (first, states[first:].clone(), final[first:].clone()) if first else (0, states, final)
