"""The scheduler's side of capture: turns what the hooks see into events on a bounded queue, at a few microseconds each.

Nothing here waits for a device, a lock that a slow thread holds, or a disk. When the queue is full, hidden states are
left out and counted; the tokens of a step always fit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from serving.engine.pins import Pins
from serving.sglang_backend.copies import Copier
from serving.sglang_backend.events import Clock, Event, Finish, Gone, Origin, Prefill, Span, Step
from serving.sglang_backend.final_states import FinalStates
from serving.sglang_backend.labels import label_of, was_seen

HEALTH_CHECK = "HEALTH_CHECK"  # SGLang's own probes: their request ids begin so


class EventQueue:
    """Events from the scheduler to the assembler, and an account of the states that both hold. Appending takes no lock.

    States count from the pass that they are of until the request that they are of is handed on or dropped.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_left_out = 0  # passes whose states did not fit
        self._events: deque[Event] = deque()
        self._put_bytes = 0  # written by the scheduler's thread only
        self._settled_bytes = 0  # written by the assembler's thread only

    @property
    def num_bytes(self) -> int:
        return self._put_bytes - self._settled_bytes

    def put(self, event: Event) -> None:
        """Append; states that do not fit are taken out of the event."""
        if isinstance(event, Prefill | Step):
            size = sum(copy.nbytes for copy in (event.states, event.final) if copy is not None)
            if self.num_bytes + size > self.max_bytes:
                event.states = event.final = None
                self.num_left_out += 1
                size = 0
            event.size = size
            self._put_bytes += size
        self._events.append(event)

    def peek(self) -> Event | None:
        return self._events[0] if self._events else None

    def pop(self) -> Event:
        """Take the first one away; its bytes stay on the account until they are settled."""
        return self._events.popleft()

    def hold(self, num_bytes: int) -> None:
        """The assembler keeps a copy of so many bytes of the event that it has in hand."""
        self._settled_bytes -= num_bytes

    def settle(self, num_bytes: int) -> None:
        """The assembler has let go of so many bytes."""
        self._settled_bytes += num_bytes


@dataclass(frozen=True, slots=True)
class Known:
    """A request that has not ended: SGLang's object, as the name alone may be another request's by now."""

    request: Any
    origin: Origin


class Capture:
    """What one forward pass after another leaves behind; only the scheduler's thread calls it.

    ``on_seen`` is called for every new request that has passed the hook in the HTTP process.
    """

    def __init__(
        self,
        queue: EventQueue,
        device: torch.device,
        final: FinalStates,
        *,
        keeps_states: bool,
        pins: Pins,
        on_seen: Callable[[], None],
    ) -> None:
        self.queue = queue
        self.device = device
        self.final = final
        self.keeps_states = keeps_states
        self.pins = pins
        self.on_seen = on_seen
        self.block = 0  # set by the control policy
        self._copier = Copier(device)
        self._known: dict[str, Known] = {}  # requests that have not finished
        self._absent: set[str] = set()  # of these, the ones that SGLang did not have when it was last asked
        self._clock: Clock | None = None
        self._step: Step | None = None

    def step_begins(self) -> None:
        """A decoding step is about to run: draft, verify, the draft catches up."""
        self.final.pass_begins()
        self._clock, self._step = Clock(self.device), None
        self._clock.mark()

    def mark(self) -> None:
        """The draft begins or ends to catch up."""
        if self._clock is not None:
            self._clock.mark()

    def step_ends(self) -> None:
        """Everything of the step has been launched."""
        clock, step = self._clock, self._step
        self._clock = self._step = None
        if clock is not None and step is not None:
            clock.mark()
            self.queue.put(step)

    def prefilled(self, batch: Any, hidden_TK: Tensor) -> None:
        """Prompt rows have gone through the target; ``batch`` still has the unshifted tokens."""
        if batch.forward_mode.is_idle():
            return
        tails = {id(request) for request in batch.decoding_reqs or ()}
        spans = []
        for request, start, num in zip(batch.reqs, batch.prefix_lens, batch.extend_lens, strict=True):
            num_generated = len(request.output_ids)
            is_last = int(start) + int(num) >= len(request.origin_input_ids) + num_generated
            place = (int(start), int(num), num_generated)
            spans.append(Span(request.rid, self._origin(request), *place, is_last, id(request) in tails))
        final = self.final.eager(len(hidden_TK))
        event = Prefill(tuple(spans))
        if self.keeps_states and any(_is_wanted(span.rid, span.origin) for span in spans):
            event.states = self._copier.states(hidden_TK)
            event.final = None if final is None else self._copier.states(final)
        self.queue.put(event)

    def verified(self, batch: Any, tree: Any, result: Any) -> None:
        """A verify pass has been launched; ``tree`` is its input, ``result`` what it gave."""
        num, origins = tree.draft_token_num, [self._known_origin(request) for request in batch.reqs]
        rids = tuple("" if o is None else request.rid for request, o in zip(batch.reqs, origins, strict=True))
        if not rids or self._clock is None:
            return
        is_tree = (tree.topk or 1) > 1
        parts = [result.accept_lens, result.accept_index, tree.draft_token, tree.positions]
        if is_tree:
            parts += [tree.retrieve_next_token, tree.retrieve_next_sibling]
        num_rows, num_written = len(rids) * num, None
        final = self.final.eager(num_rows)
        if final is None and (replayed := self.final.replayed(num_rows)) is not None:
            final, num_written = replayed
            parts.append(num_written)
        step = Step(
            rids, num, 0 if num == 1 else int(tree.spec_steps), is_tree, num_written is not None, self.block,
            self._clock, self._copier.integers(*parts),
        )  # fmt: skip
        if self.keeps_states and any(o is not None and _is_wanted(r, o) for r, o in zip(rids, origins, strict=True)):
            step.states = self._copier.states(result.logits_output.hidden_states[:num_rows])
            step.final = None if final is None else self._copier.states(final)
        self._step = step

    def streamed(self, requests: Any) -> None:
        """SGLang is about to send what these requests have; those that have finished come here once."""
        for request in requests:
            if request.finished_reason is None or request.finished_output:
                continue
            if self._known_origin(request) is None:
                continue
            del self._known[request.rid]
            reason = str(request.finished_reason.to_json().get("type", "abort"))
            output = request.output_ids_through_stop  # the last step may have brought more than was asked for
            self.queue.put(Finish(request.rid, request.origin_input_ids, output, reason, time.time()))

    def swept(self, running: set[str]) -> None:
        """``running``: ids of all requests that SGLang has. Who is missing twice has ended without a last output.

        SGLang drops some requests that are aborted so: waiting ones that it had retracted, half-read prompts.
        """
        absent = self._known.keys() - running
        gone = absent & self._absent
        self._absent = absent - gone
        for rid in gone:
            self._forget(rid)

    def _forget(self, rid: str) -> None:
        del self._known[rid]
        self._absent.discard(rid)
        self.queue.put(Gone(rid))

    def _known_origin(self, request: Any) -> Origin | None:
        """Of this very request; None where it is not known, or its name is another one's."""
        known = self._known.get(request.rid)
        return known.origin if known is not None and known.request is request else None

    def _origin(self, request: Any) -> Origin:
        """As it was first seen. SGLang may have dropped another request of its name, which a client uses again."""
        found = self._known_origin(request)
        if found is None:
            if request.rid in self._known:
                self._forget(request.rid)
            found = self._first_seen(request)
            self._known[request.rid] = Known(request, found)
        return found

    def _first_seen(self, request: Any) -> Origin:
        sampling, key = request.sampling_params, getattr(request, "routing_key", None)
        is_greedy = self.device.type == "cpu" or sampling.top_k == 1  # on a CPU SGLang verifies greedily always
        if was_seen(key):
            self.on_seen()
        label = label_of(key, sampling.custom_params)
        if not self.keeps_states or self.pins.of(label.domain).no_training or not _is_of_its_tokens(request):
            label = replace(label, is_trace=False)
        return Origin(label, 0.0 if is_greedy else float(sampling.temperature), time.time())


def _is_of_its_tokens(request: Any) -> bool:
    """Whether its states are what the target makes of its tokens, as teacher and replay take for granted.

    Embeddings stand beside tokens that SGLang has made up, or instead of some; an adapter is not the target.
    """
    others = (request.input_embeds, request.positional_embed_overrides, request.multimodal_inputs, request.lora_id)
    return all(other is None for other in others)


def _is_wanted(rid: str, origin: Origin) -> bool:
    return origin.label.is_trace and not rid.startswith(HEALTH_CHECK)


def rids_of(scheduler: Any) -> set[str]:
    """Of every request that SGLang's scheduler has, where it looks for them itself when a weight version changes."""
    chunked = scheduler.chunked_req
    requests = [*scheduler.collect_inflight_reqs(), *scheduler.waiting_queue, *([] if chunked is None else [chunked])]
    return {request.rid for request in requests}
