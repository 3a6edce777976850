"""The writer's side of capture: events in, finished requests out; a thread of its own, awake fifty times a second.

Per request it keeps the states of its own rows, no rejected ones, and what each step did for it; when the request ends,
they become one ``FinishedRequest`` whose steps partition the generated tokens. All states stay on the queue's account
until then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from serving.engine.api import FinishedRequest, FinishReason, Part
from serving.engine.control import Tally
from serving.engine.versions import Versions
from serving.sglang_backend.capture import HEALTH_CHECK, EventQueue
from serving.sglang_backend.events import Applied, Event, Finish, Gone, Origin, Prefill, Span, Step
from serving.sglang_backend.trace_ids import TraceIds
from serving.sglang_backend.tree import proposed_path, take_apart
from speculators.records import StepRecord, VersionSpan

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
IDLE_SECONDS = 1.0  # without a step, after which an open block of the control is closed
MOST_HELD = 0.75  # of the queue's limit, by requests that run; the rest is for passes that wait
NO_FINAL = "of some passes the target's final states cannot be had: a CUDA graph copies none, or ranks split them"


@dataclass(frozen=True, slots=True)
class Use:
    """What one step, or a prefill after a retraction, did for one request."""

    version: int = 0  # that drafted
    depth: int = 0  # 0 = without drafts
    proposed: tuple[int, ...] = ()
    num_tokens: int = 1
    seconds: float = 0.0
    batch_size: int = 1
    is_verify: bool = True  # False: a prefill


@dataclass(slots=True)
class Track:
    """A request that has not ended."""

    origin: Origin
    chunks: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)  # first position, states, final
    uses: list[Use] = field(default_factory=list)
    num_bytes: int = 0  # of the chunks
    is_holed: bool = False  # states of some pass are not there


class Assembler:
    """Consumes the queue. ``on_finished`` gets (request, whether it is a trace), ``on_control`` (domain, part).

    ``on_warm_up`` gets requests that are nobody's traffic: they are in no count by domain, and never traces.

    ``on_collapse`` is told why the live version must go, ``on_broken`` why capture is of no use. Counters run since the
    start.
    """

    def __init__(
        self,
        queue: EventQueue,
        versions: Versions[Any],
        on_finished: Callable[[FinishedRequest, bool], None],
        on_warm_up: Callable[[FinishedRequest], None],
        on_control: Callable[[str, Part], None],
        on_collapse: Callable[[str], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self.queue = queue
        self.versions = versions
        self.on_finished = on_finished
        self.on_warm_up = on_warm_up
        self.on_control = on_control
        self.on_collapse = on_collapse
        self.on_broken = on_broken
        self.num_finished = self.num_steps = self.num_proposed = self.num_correct = self.num_accepted = 0
        self.num_dropped = 0  # traces whose states, or steps, were not all there
        self.num_errors = 0
        self._trace_ids = TraceIds()
        self._tracks: dict[str, Track] = {}
        self._num_bytes = 0  # of all tracks
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
            finally:
                self.queue.settle(event.size if isinstance(event, Prefill | Step) else 0)
        if self._controls and time.monotonic() - self._stepped_at > IDLE_SECONDS:
            self._close_controls()

    def _take(self, event: Event) -> None:
        if isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Prefill):
            self._prefill(event)
        elif isinstance(event, Finish):
            self._finish(event)
        elif isinstance(event, Gone):
            self._forget(event)
        else:
            self._applied(event)

    def _prefill(self, event: Prefill) -> None:
        self._look_for_final(event)
        row = 0
        for span in event.spans:
            rows = slice(row, row + span.num_rows)
            row += span.num_rows
            if not span.rid.startswith(HEALTH_CHECK):
                track = self._tracks.setdefault(span.rid, Track(span.origin))
                if not span.is_tail:
                    _go_back(track, span)
                if span.is_last and (span.num_generated or span.is_tail):  # the first token is of no step
                    track.uses.append(Use(is_verify=False))
                self._keep(track, span.start, event, rows, rows)
        self._make_room()

    def _step(self, step: Step) -> None:
        if step.block != self._control_block:
            self._close_controls()
            self._control_block = step.block
        rows = take_apart(step)
        if rows.num_final < len(step.rids) * step.num_nodes:
            step.final = None
        self._look_for_final(step)
        self._stepped_at = time.monotonic()
        live = self.versions.live
        seconds = step.clock.seconds(with_catching_up=step.depth > 0)
        for row, rid in enumerate(step.rids):
            track = self._tracks.get(rid)
            if track is None:
                continue
            num, begin = rows.accept_lens[row], row * step.num_nodes
            proposed = proposed_path(rows, row) if step.depth else ()
            version = live.version if step.depth else 0
            track.uses.append(Use(version, step.depth, proposed, num, seconds, len(step.rids)))
            self._keep(track, rows.starts[row], step, slice(begin, begin + num), rows.accept_index[row][:num])
            domain = track.origin.label.domain
            if not track.origin.label.is_traffic:
                continue
            if step.depth == 0:
                self._controls.setdefault(domain, Tally()).add(seconds, len(step.rids))
            elif collapse := self.versions.observe(live, domain, step.depth, num):
                self.on_collapse(collapse)
        self._make_room()

    def _look_for_final(self, event: Prefill | Step) -> None:
        if event.states is not None and event.final is None:
            self.on_broken(NO_FINAL)

    def _keep(
        self, track: Track, start: int, event: Prefill | Step, rows: slice, final_rows: slice | list[int]
    ) -> None:
        """Copy the rows of one request out of a pass; where they are not there, nothing of it is of use any more."""
        if not track.origin.label.is_trace or track.is_holed:
            return
        if event.states is None or event.final is None:
            self._give_up(track)
            return
        states, final = event.states.tensor[rows].clone(), event.final.tensor[final_rows].clone()
        num_bytes = states.nbytes + final.nbytes
        self.queue.hold(num_bytes)
        self._num_bytes += num_bytes
        track.num_bytes += num_bytes
        track.chunks.append((start, states, final))

    def _make_room(self) -> None:
        """The largest request gives up its trace: a queue without room would take those of all that run."""
        while self._num_bytes > MOST_HELD * self.queue.max_bytes:
            self._give_up(max(self._tracks.values(), key=lambda track: track.num_bytes))

    def _give_up(self, track: Track) -> None:
        track.is_holed = True
        self._let_go(track)

    def _let_go(self, track: Track) -> None:
        track.chunks.clear()
        self.queue.settle(track.num_bytes)
        self._num_bytes -= track.num_bytes
        track.num_bytes = 0

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
        try:
            finished = assemble(event, track, self._trace_ids.of(event.rid))
        finally:
            self._let_go(track)
        self.num_finished += 1
        kept = track.uses[: finished.num_verify_steps]  # the others were launched after its end
        self.num_steps += sum(use.is_verify for use in kept)
        self.num_proposed += finished.num_proposed_drafts
        self.num_correct += finished.num_correct_drafts
        self.num_accepted += finished.num_accept_tokens
        if not track.origin.label.is_traffic:
            self.on_warm_up(finished)
            return
        wants = track.origin.label.is_trace
        if wants and finished.num_verify_steps > 0 and (finished.states is None or not _is_partitioned(finished)):
            self.num_dropped += 1
            wants = False
        self.on_finished(finished, wants)

    def _forget(self, event: Gone) -> None:
        track = self._tracks.pop(event.rid, None)
        if track is not None:
            self._let_go(track)


def _is_ready(event: Event) -> bool:
    if isinstance(event, Prefill):
        return all(copy is None or copy.is_ready for copy in (event.states, event.final))
    if isinstance(event, Step):
        copies = (event.integers, event.states, event.final)
        return event.clock.is_ready and all(copy is None or copy.is_ready for copy in copies)
    return True


def _go_back(track: Track, span: Span) -> None:
    """To what SGLang knows of a request when it reads it: after a retraction it has discarded the step in flight.

    It reads the tokens generated so far with the prompt, and what comes of that is one more, of no verify step. So does
    what comes of a tail; but the step in flight before that one holds, though SGLang does not know its tokens yet.
    """
    kept, num_left = [], span.num_generated - 1  # the first token came from a prefill too
    for use in track.uses:
        if use.num_tokens > num_left:
            break
        kept.append(use)
        num_left -= use.num_tokens
    track.uses = kept


def _is_partitioned(finished: FinishedRequest) -> bool:
    return sum(step.num_correct_drafts + 1 for step in finished.steps) == finished.num_accept_tokens


def assemble(event: Finish, track: Track, trace_id: str) -> FinishedRequest:
    """The report of a finished request: tokens that SGLang kept, steps cut to them, states of every position."""
    prompt, output = tuple(int(t) for t in event.prompt), tuple(int(t) for t in event.output)
    tokens = prompt + output
    steps, parts, uses = _steps(track.uses, len(output) - 1)
    first, states, final = _states(track.chunks, len(tokens) - 1)
    version, lookahead = _served_by(parts)
    reason: FinishReason = "stop" if event.reason == "stop" else "length" if event.reason == "length" else "cancelled"
    return FinishedRequest(
        request_id=trace_id,
        domain=track.origin.label.domain,
        version=version,
        tokens=tokens,
        prompt_len=len(prompt),
        temperature=track.origin.temperature,
        finish_reason=reason,
        started_at=track.origin.started_at,
        prefill_seconds=0.0,
        decode_seconds=sum(use.seconds for use in uses),
        mean_batch_size=sum(use.batch_size for use in uses) / len(uses) if uses else 1.0,
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
        num = min(use.num_tokens, num_left)
        num_left -= num
        records.append(StepRecord(use.proposed, num - 1))
        kept.append(use)
        if use.depth and use.version:
            total = sums.setdefault((use.version, use.depth), [0.0] * 6)
            for i, value in enumerate((1, len(use.proposed), num - 1, num, use.seconds, use.batch_size)):
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


def _states(chunks: list[tuple[int, Tensor, Tensor]], num_positions: int) -> tuple[int, Tensor | None, Tensor | None]:
    """(first position, states [T, K*Ht], final [T, Ht]) without a gap up to the last position, else None for both.

    Later passes overwrite earlier ones: a prompt that was read again, a step that SGLang had discarded.
    """
    if not chunks or num_positions <= 0:
        return 0, None, None
    width, hidden = chunks[0][1].shape[1], chunks[0][2].shape[1]
    states = torch.empty(num_positions, width, dtype=torch.float16)
    final = torch.empty(num_positions, hidden, dtype=torch.float16)
    is_known = torch.zeros(num_positions, dtype=torch.bool)
    for start, rows, final_rows in chunks:
        num = min(len(rows), num_positions - start)
        if num > 0:
            states[start : start + num] = rows[:num]
            final[start : start + num] = final_rows[:num]
            is_known[start : start + num] = True
    unknown = torch.nonzero(~is_known)
    first = int(unknown[-1]) + 1 if len(unknown) else 0
    if first >= num_positions:
        return 0, None, None
    return (first, states[first:].clone(), final[first:].clone()) if first else (0, states, final)
