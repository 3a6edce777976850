"""The embedded engine: one thread that schedules, proposes, verifies, commits and records."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import torch

from serving import draft_runner
from serving.draft_runner import DraftRunner
from serving.engine import costs as cost_model
from serving.engine.acceptance import Acceptance
from serving.engine.api import (
    DamagedDraftError,
    DomainStats,
    EngineStats,
    FinishReason,
    LoadedDraft,
    Part,
    Request,
    RequestError,
    SwapError,
    SwapOutcome,
    ignore_control,
)
from serving.engine.config import MAX_LOOKAHEAD, EngineConfig
from serving.engine.control import ControlBlocks
from serving.engine.costs import Costs
from serving.engine.drafting import SWAP_PROBE_LOOKAHEAD, Drafting, Planner
from serving.engine.pins import Pins
from serving.engine.queues import Inbox, Submitted
from serving.engine.sequence import Proposal, Sequence
from serving.engine.stepper import Stepper, Verdict
from serving.engine.versions import CONTROL, Versions
from serving.engine.watch import Watch
from serving.model.attention import Span
from serving.model.decoder import Decoder
from speculators import checkpoint
from speculators.checkpoint import OtherLayersError
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from speculators.records import NO_DRAFT, DomainPin, StepRecord

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.5


class Engine:
    """Serves a Hugging Face directory; see ``serving.engine.api.EngineApi`` for the calls.

    Raises FileNotFoundError or ValueError for a directory that it cannot serve.
    """

    def __init__(self, target_dir: Path, config: EngineConfig) -> None:
        self.config = config
        self.pins = Pins()
        hf = json.loads((target_dir / "config.json").read_text(encoding="utf-8"))
        self._draft_config = DraftConfig.for_target(hf)
        self._decoder = Decoder(target_dir, self._draft_config.aux_layer_ids, config.max_requests, config.max_len)
        self._stepper = Stepper(self._decoder, config.max_requests)
        self._ends = frozenset(self._decoder.config.eos_token_ids)
        self._inbox = Inbox()
        self._versions: Versions[DraftRunner] = Versions(config.probe_steps, MAX_LOOKAHEAD)
        self._max_lookahead = config.max_lookahead
        self._watch = Watch()
        self._planner = Planner()
        self._control = ControlBlocks(config.control_share, config.seed, ignore_control)
        self._free_slots = list(range(config.max_requests))
        self._running: list[Sequence] = []
        self._prefilling: list[tuple[Sequence, int]] = []  # and how many prompt tokens are through
        self._turn = itertools.count(1)
        self._last_turn: dict[int, int] = {}  # Sequence.group -> turn in which it ran
        self._costs: Costs | None = None
        self._num_finished = self._num_steps = self._num_errors = 0
        self._num_proposed = self._num_correct = self._num_accepted = 0
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    @property
    def aux_layer_ids(self) -> tuple[int, ...]:
        return self._decoder.aux_layer_ids

    @property
    def max_len(self) -> int:
        return self._decoder.max_len

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self, on_control: Callable[[str, Part], None] = ignore_control) -> None:
        self._control.on_part = on_control
        if self.config.fixed_lookahead is None:  # nobody asks what a step costs where the lookahead is given
            self._costs = self.measure_costs()
            log.info("measured: %s", self._costs.in_words())
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        self._inbox.stop()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def submit(self, request: Request) -> None:
        self._check(request)
        self._inbox.submit(request, time.time())

    def cancel(self, request_id: str, reason: FinishReason = "cancelled") -> None:
        self._inbox.cancel(request_id, reason)

    def load_draft(self, directory: Path, expected_sha256: str | None = None) -> LoadedDraft:
        decoder = self._decoder
        if (wanted := checkpoint.read_config(directory).aux_layer_ids) != decoder.aux_layer_ids:
            ids = f"it reads layers {wanted}, this engine captures {decoder.aux_layer_ids}"
            raise OtherLayersError(f"{directory}: {ids}")
        return draft_runner.load(
            directory, decoder.embed_VH, self.config.max_requests, decoder.max_len, expected_sha256
        )

    def swap(self, version: int, draft: LoadedDraft | None, *, min_accept_length: float = 0.0) -> Future[SwapOutcome]:
        assert draft is None or isinstance(draft, DraftRunner)
        _check_memory(draft)  # it may have waited since it was tried
        return self._between_steps(lambda: self._versions.swap(version, draft, min_accept_length))

    def revert(self, detail: str) -> Future[SwapOutcome]:
        if (previous := self._versions.previous) is not None:
            _check_memory(previous.draft)  # it has waited while another served
        return self._between_steps(lambda: self._versions.revert(detail))

    def set_policy(self, *, control_share: float | None = None, max_lookahead: int | None = None) -> None:
        if control_share is not None:
            if not 0.0 <= control_share <= 1.0:
                raise ValueError(f"control_share={control_share!r}: must lie between 0 and 1")
            self._control.share = control_share
        if max_lookahead is not None:
            if not 0 <= max_lookahead <= MAX_LOOKAHEAD:
                raise ValueError(f"max_lookahead={max_lookahead!r}: must lie between 0 and {MAX_LOOKAHEAD}")
            self._max_lookahead = max_lookahead

    def stats(self) -> EngineStats:
        versions = self._versions
        live, previous, probe = versions.live, versions.previous, versions.probe
        return EngineStats(
            version=live.version,
            sha256=live.sha256,
            previous=previous.version if previous else None,
            num_running=len(self._running) + len(self._prefilling),
            num_waiting=self._inbox.num_waiting,
            num_finished=self._num_finished,
            num_verify_steps=self._num_steps,
            num_proposed_drafts=self._num_proposed,
            num_correct_drafts=self._num_correct,
            num_accept_tokens=self._num_accepted,
            num_errors=self._num_errors,
            probe=probe.snapshot() if probe else None,
            reverted_from=versions.reverted_from,
            revert_detail=versions.revert_detail,
            domains=self._domain_stats(),
            step_seconds=self._costs.of_late(self._max_lookahead or self.config.max_lookahead) if self._costs else (),
        )

    def measure_costs(self) -> Costs:
        """Time steps on scratch slots; only before ``start``."""
        state = Eagle3Draft(self._draft_config).state_dict()
        size = self.config.max_requests
        with torch.inference_mode():
            draft = DraftRunner(self._draft_config, state, self._decoder.embed_VH, size, self.max_len)
            return cost_model.measure(self._decoder, draft, size)

    def step(self) -> None:
        """schedule -> propose -> verify -> commit -> record, for one group of requests."""
        group = self._schedule()
        if not group:
            return
        is_control = self._is_compared(group) and self._control.draw()
        started = time.perf_counter()
        drafting = Drafting([0] * len(group)) if is_control else self._drafting(group)
        looked = 0.0 if is_control or self._costs is None else self._look(group, drafting.limits)
        num_taken_in = sum(s.num_pending for s, limit in zip(group, drafting.limits, strict=True) if limit)
        proposals = self._stepper.propose(group, drafting)
        verdicts = self._stepper.verify(group, proposals)
        kept = self._commit(group, proposals, verdicts)
        seconds = time.perf_counter() - started
        if is_control:
            self._count_control(group, seconds)
        if not is_control:
            self._learn(group, proposals, verdicts)
        self._record(group, proposals, kept, seconds)
        if self._costs is not None:
            num_drafts = sum(len(proposal.tokens) for proposal in proposals)
            num_passes = max(len(proposal.confidences) for proposal in proposals)
            self._costs.observe(len(group), num_drafts, num_passes, num_taken_in, seconds - looked)
            self._watch.save(seconds)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._inbox.is_stopping:
            try:
                for command in self._inbox.take_commands():
                    command()
                self._end_cancelled()
                self._prefill_next()
                self.step()
            except Exception:
                self._num_errors += 1
                log.exception("a step failed; its requests end with an error")
                self._fail_all()
            if not self._running and not self._prefilling:
                self._control.close()
                self._inbox.wait(IDLE_SECONDS)
        self._end_all("cancelled")

    def _schedule(self) -> list[Sequence]:
        """The group whose turn it is, as ``Sequence.group`` says: most are of one; each waits for the others once."""
        groups: dict[int, list[Sequence]] = {}
        for sequence in self._running:
            groups.setdefault(sequence.group, []).append(sequence)
        if not groups:
            return []
        key = min(groups, key=lambda k: self._last_turn.get(k, 0))
        self._last_turn = {k: self._last_turn.get(k, 0) for k in groups} | {key: next(self._turn)}
        return groups[key]

    def _is_compared(self, group: list[Sequence]) -> bool:
        """Whether these are requests that the control's lottery is about: those that speculation is tried on."""
        return not group[0].request.is_alone and any(sequence.lookahead for sequence in group)

    def _count_control(self, group: list[Sequence], seconds: float) -> None:
        for sequence in group:
            if sequence.lookahead:  # else a pin keeps it without speculation, whatever is drawn
                sequence.control.add(seconds, len(group))
                self._control.count(sequence.request.domain, seconds, len(group))

    def _drafting(self, group: list[Sequence]) -> Drafting:
        limits = [max(0, min(sequence.lookahead, sequence.num_left - 1)) for sequence in group]
        if self.config.fixed_lookahead is not None or self._costs is None or not any(limits):
            return Drafting(limits)
        floors, free = list(limits), {}
        for i, sequence in enumerate(group):
            if limits[i] and not sequence.is_pinned:
                free[i] = self._acceptance(sequence)
                floors[i] = min(limits[i], SWAP_PROBE_LOOKAHEAD * self._versions.is_probing(sequence.served))
        costs = partial(self._costs.of_batch, len(group), sum(limits))
        return self._planner.draft(limits, floors, free, costs, [sequence.num_pending for sequence in group])

    def _look(self, group: list[Sequence], limits: list[int]) -> float:
        off = [s for s, k in zip(group, limits, strict=True) if not k and s.lookahead and not s.is_pinned]
        return self._watch.look(off, [self._acceptance(sequence) for sequence in off], self._stepper)

    def _acceptance(self, sequence: Sequence) -> Acceptance:
        """What is known of the sequence's domain under the version that it is bound to."""
        return self._versions.chooser_of(sequence.served).acceptance(sequence.request.domain)

    def _commit(self, group: list[Sequence], proposals: list[Proposal], verdicts: list[Verdict]) -> list[list[int]]:
        """Append what passed and the bonus token; the tokens that each request kept."""
        kept = []
        for sequence, proposal, verdict in zip(group, proposals, verdicts, strict=True):
            tokens = [*proposal.tokens[: verdict.num_correct_drafts], verdict.bonus_token]
            kept.append(sequence.append(tokens, self._ends))
        return kept

    def _learn(self, group: list[Sequence], proposals: list[Proposal], verdicts: list[Verdict]) -> None:
        """What the step has told of each request's draft."""
        for sequence, proposal, verdict in zip(group, proposals, verdicts, strict=True):
            if sequence.served.draft is not None:
                num_correct, _, chance = verdict
                seen = proposal.seen(num_correct, chance)
                self._acceptance(sequence).observe(seen, num_correct)

    def _record(self, group: list[Sequence], proposals: list[Proposal], kept: list[list[int]], seconds: float) -> None:
        """One StepRecord per request, counters, the probe; then tell those who wait."""
        for sequence, proposal, tokens in zip(group, proposals, kept, strict=True):
            num_proposed, num_correct = len(proposal.tokens), len(tokens) - 1
            sequence.steps.append(StepRecord(tuple(proposal.tokens), num_correct))
            sequence.decode_seconds += seconds
            sequence.batch_size_sum += len(group)
            self._num_steps += 1
            self._num_proposed += num_proposed
            self._num_correct += num_correct
            self._num_accepted += len(tokens)
            if num_proposed:
                domain = sequence.request.domain
                if collapse := self._versions.observe(sequence.served, domain, num_proposed, len(tokens)):
                    self._revert_by_itself(collapse)
            sequence.request.on_step(sequence.steps[-1])
            sequence.request.on_tokens(tuple(tokens))
        for sequence in [s for s in group if s.finish_reason is not None]:
            self._running.remove(sequence)
            self._finish(sequence)

    def _revert_by_itself(self, collapse: str) -> None:
        """Back to the version before; where its draft is damaged, to no speculation until the console says more."""
        previous = self._versions.previous
        try:
            _check_memory(previous.draft if previous else None)
        except SwapError as error:
            log.error("the version before does not serve either: %s", error)
            self._versions.previous, collapse = CONTROL, f"{collapse}; the version before: {error}"
        self._versions.revert(collapse)

    # -- requests come and go ---------------------------------------------------------------------------------------

    def _prefill_next(self) -> None:
        """Admit a request when a slot is free, and run one chunk of one prompt."""
        if self._free_slots and (submitted := self._inbox.take_request()):
            self._prefilling.append((self._admit(submitted), 0))
        if not self._prefilling:
            return
        sequence, done = self._prefilling[0]
        started = time.perf_counter()
        num = min(self.config.prefill_chunk, len(sequence.tokens) - done)
        first = self._stepper.prefill(sequence, Span(sequence.slot, done, num))
        sequence.prefill_seconds += time.perf_counter() - started
        if first is None:
            self._prefilling[0] = (sequence, done + num)
            return
        del self._prefilling[0]
        sequence.append([first], self._ends)
        sequence.request.on_tokens((first,))
        if sequence.finish_reason is None:
            self._running.append(sequence)
        else:
            self._finish(sequence)

    def _admit(self, submitted: Submitted) -> Sequence:
        request = submitted.request
        pin = self.pins.of(request.domain)
        served = CONTROL if request.is_control else self._versions.live
        pinned, fixed = self._pinned_lookahead(pin), self.config.fixed_lookahead
        limit = pinned if pinned is not None else self._max_lookahead if fixed is None else fixed
        lookahead = limit if served.draft is not None else 0
        is_pinned = pinned is not None
        sequence = Sequence(
            request, served, self._free_slots.pop(), lookahead, submitted.submitted_at, is_pinned=is_pinned
        )
        if served.draft is None:
            sequence.counted_version = NO_DRAFT if self._versions.live.draft is None else self._versions.live.version
        return sequence

    def _pinned_lookahead(self, pin: DomainPin) -> int | None:
        """What a pin says, within the policy's bound; None = the engine chooses."""
        if pin.speculation_off:
            return 0
        return None if pin.lookahead is None else min(pin.lookahead, self._max_lookahead)

    def _finish(self, sequence: Sequence) -> None:
        self._free_slots.append(sequence.slot)
        self._num_finished += 1
        self._inbox.close(sequence.request.request_id)
        keeps = sequence.request.keep_states and sequence.finish_reason in ("stop", "length")
        span = Span(sequence.slot, 0, sequence.num_cached)
        states = self._stepper.states
        finished = sequence.finished(states.features(span) if keeps else None, states.final(span) if keeps else None)
        sequence.request.on_finish(finished)

    def _end_cancelled(self) -> None:
        cancelled = self._inbox.take_cancelled()
        if not cancelled:
            return
        for submitted in self._inbox.take_waiting(cancelled):
            self._end_waiting(submitted, cancelled[submitted.request.request_id])
        for sequence in [*self._running, *(s for s, _ in self._prefilling)]:
            if sequence.request.request_id in cancelled:
                self._end(sequence, cancelled[sequence.request.request_id])

    def _end(self, sequence: Sequence, reason: FinishReason, error: str = "") -> None:
        self._running = [s for s in self._running if s is not sequence]
        self._prefilling = [(s, done) for s, done in self._prefilling if s is not sequence]
        sequence.finish_reason, sequence.error = reason, error
        self._finish(sequence)

    def _end_waiting(self, submitted: Submitted, reason: FinishReason) -> None:
        sequence = Sequence(submitted.request, CONTROL, 0, 0, submitted.submitted_at)
        sequence.finish_reason = reason
        self._num_finished += 1
        self._inbox.close(submitted.request.request_id)
        submitted.request.on_finish(sequence.finished(None, None))

    def _fail_all(self) -> None:
        for sequence in [*self._running, *(s for s, _ in self._prefilling)]:
            self._end(sequence, "error", "the engine failed in a step that this request took part in")

    def _end_all(self, reason: FinishReason) -> None:
        for sequence in [*self._running, *(s for s, _ in self._prefilling)]:
            self._end(sequence, reason)
        for submitted in self._inbox.take_waiting():
            self._end_waiting(submitted, reason)

    # -- what the calls above need ----------------------------------------------------------------------------------

    def _between_steps(self, change: Callable[[], None]) -> Future[SwapOutcome]:
        def work() -> SwapOutcome:
            started = time.perf_counter()
            change()
            versions = self._versions
            previous = versions.previous.version if versions.previous else None
            swap_ms = (time.perf_counter() - started) * 1e3
            return SwapOutcome(versions.live.version, versions.live.sha256, previous, swap_ms)

        future: Future[Any] = self._inbox.call(work)
        return future

    def _check(self, request: Request) -> None:
        sampling, vocab_size = request.sampling, self._decoder.config.vocab_size
        if not request.prompt:
            raise RequestError("prompt is empty: at least one token is needed")
        if sampling.max_tokens < 1:
            raise RequestError(f"max_tokens={sampling.max_tokens}: must be at least 1")
        if len(request.prompt) + sampling.max_tokens > self.max_len:
            size = f"prompt of {len(request.prompt)} tokens + max_tokens={sampling.max_tokens}"
            raise RequestError(f"{size}: together at most {self.max_len}")
        if unknown := [t for t in request.prompt if not 0 <= t < vocab_size]:
            raise RequestError(f"prompt has token {unknown[0]}: ids go from 0 to {vocab_size - 1}")
        if sampling.temperature < 0:
            raise RequestError(f"temperature={sampling.temperature}: must be 0 or more")
        if not 0 < sampling.top_p <= 1:
            raise RequestError(f"top_p={sampling.top_p}: must lie above 0 and be at most 1")

    def _domain_stats(self) -> tuple[DomainStats, ...]:
        if self._costs is None or self._versions.live.draft is None:
            return ()
        return tuple(
            DomainStats(domain, acceptance.tokens_per_step)
            for domain, acceptance in sorted(self._versions.chooser.domains().items())
        )


def _check_memory(draft: DraftRunner | None) -> None:
    """Raises DamagedDraftError where the weights of a draft in memory are not what was read."""
    if draft is not None and (found := draft.in_memory()) != draft.sha256:
        raise DamagedDraftError(f"in memory is {found}, not the version that was read, {draft.sha256}")
