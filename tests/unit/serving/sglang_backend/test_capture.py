"""From the hooks' view of passes to finished requests: steps, states, counts, control blocks, losses."""

from __future__ import annotations

import re

import pytest
import torch

from serving.engine.pins import Pins
from serving.engine.versions import Served, Versions
from serving.sglang_backend.assembler import Assembler
from serving.sglang_backend.capture import Capture, EventQueue
from serving.sglang_backend.events import Applied
from serving.sglang_backend.final_states import FinalStates
from serving.sglang_backend.labels import of_warm_up, seen, with_headers
from serving.sglang_backend.trace_ids import TraceIds
from speculators.records import DomainPin, DomainPins
from tests.unit.serving.sglang_backend.fakes import prefill_batch, request, verify_step

RID = "a" * 32


class Draft:
    sha256 = "one"


class Scene:
    """A scheduler's turn by turn life, driven by hand.

    What a test says of a request of a name that runs is said of the same object, as with SGLang.
    """

    def __init__(self, max_bytes: int = 1 << 20, keeps_states: bool = True, probe_steps: int = 4, final=None) -> None:
        self.queue = EventQueue(max_bytes)
        self.seen, self.running = [], {}
        self.capture = Capture(
            self.queue, torch.device("cpu"), final or FinalStates(), keeps_states=keeps_states, pins=Pins(),
            on_seen=lambda: self.seen.append(1),
        )  # fmt: skip
        self.finished, self.warm_ups, self.control, self.collapses, self.problems = [], [], [], [], []
        self.versions = Versions(probe_steps, 4)
        self.assembler = Assembler(
            self.queue, self.versions, lambda f, t: self.finished.append((f, t)), self.warm_ups.append,
            lambda domain, part: self.control.append((domain, part)), self.collapses.append, self.problems.append,
        )  # fmt: skip
        self.applied(1)

    def applied(self, version: int, **more) -> None:
        self.queue.put(Applied(Served(version, Draft()), **more))

    def same(self, requests) -> list:
        """The objects of these requests, brought up to date."""
        for one in requests:
            vars(self.running.setdefault(one.rid, one)).update(vars(one))
        return [self.running[one.rid] for one in requests]

    def prefill(self, requests, prefix_lens, extend_lens, note=None, tails=()) -> None:
        requests, tails = self.same(requests), self.same(tails)
        rows = [p + i for p, n in zip(prefix_lens, extend_lens, strict=True) for i in range(n)]
        states = torch.tensor(rows).reshape(-1, 1).float() * 100 + torch.zeros(1, 6)
        (note or self.capture.final.note)(states[:, :2] + 1)
        self.capture.prefilled(prefill_batch(requests, prefix_lens, extend_lens, tails or None), states)

    def step(self, requests, starts, tokens, accept_lens, **tree) -> None:
        self.capture.step_begins()
        batch, info, result = verify_step(self.same(requests), starts, tokens, accept_lens, **tree)
        self.capture.final.note(result.logits_output.hidden_states[:, :2] + 1)
        self.capture.verified(batch, info, result)
        self.capture.mark()
        self.capture.mark()
        self.capture.step_ends()

    def end(self, one) -> None:
        self.capture.streamed(self.same([one]))
        del self.running[one.rid]
        self.assembler.drain()


def test_steps_partition_the_tokens_and_every_position_has_its_states():
    scene, one = Scene(), request(RID, [5, 6, 7], routing_key="|aurora:sql:")
    scene.prefill([one], [0], [3])  # gives token 10
    scene.step([one], [3], [[10, 11, 12]], [3])  # both drafts pass, bonus 13
    scene.step([one], [6], [[13, 99, 98]], [1])  # none passes, bonus 14
    ended = request(RID, [5, 6, 7], [10, 11, 12, 13, 14], reason="length")
    scene.end(ended)
    [(finished, is_trace)] = scene.finished
    assert is_trace and finished.domain == "sql"
    assert finished.tokens == (5, 6, 7, 10, 11, 12, 13, 14)
    assert [(s.proposed, s.num_correct_drafts) for s in finished.steps] == [((11, 12), 2), ((99, 98), 0)]
    assert finished.states[:, 0].tolist() == [100 * i for i in range(7)]
    assert finished.final[:, 0].tolist() == [100 * i + 1 for i in range(7)]
    assert (finished.version, finished.lookahead, finished.first_state) == (1, 2, 0)
    [part] = finished.parts
    assert (part.num_verify_steps, part.num_proposed_drafts, part.num_correct_drafts, part.num_accept_tokens) == (
        2,
        4,
        2,
        4,
    )
    assert 0 < part.decode_seconds == finished.decode_seconds


def test_a_trace_is_called_as_its_request_unless_a_client_uses_a_name_twice():
    """Two traces of one name in a segment would have the console refuse all traces of it."""
    scene = Scene()
    for rid in (RID, RID, "no hex digits"):
        one = request(rid, [5])
        scene.prefill([one], [0], [1])
        scene.step([one], [1], [[10, 11]], [2])
        scene.end(request(rid, [5], [10, 11, 12], reason="length"))
    names = [finished.request_id for finished, _ in scene.finished]
    assert names[0] == RID
    assert len({*names}) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


def test_names_are_remembered_for_longer_than_a_segment_and_not_for_ever():
    ids = TraceIds(most=2)
    rids = [f"{i:032x}" for i in range(3)]
    assert [ids.of(rid) for rid in rids] == rids
    assert ids.of(rids[0]) == rids[0]
    assert ids.of(rids[2]) != rids[2]


def test_the_last_step_is_cut_to_what_sglang_kept_and_a_step_launched_after_the_end_counts_nothing():
    scene, one = Scene(), request(RID, [5])
    scene.prefill([one], [0], [1])
    scene.step([one], [1], [[10, 11, 12]], [3])
    scene.step([one], [4], [[13, 14, 15]], [2])
    ended = request(RID, [5], [10, 11, 12, 13], reason="stop", num_kept=3)  # SGLang keeps 13 for itself
    scene.end(ended)
    [(finished, _)] = scene.finished
    assert [s.num_correct_drafts for s in finished.steps] == [1]
    assert finished.num_accept_tokens == 2
    assert finished.tokens == (5, 10, 11, 12)
    assert len(finished.states) == 3
    assert finished.finish_reason == "stop"


def test_a_cached_prefix_moves_the_first_state():
    scene, one = Scene(), request(RID, [5, 6, 7, 8])
    scene.prefill([one], [2], [2])
    scene.step([one], [4], [[10, 11]], [2])
    scene.end(request(RID, [5, 6, 7, 8], [10, 11, 12], reason="length"))
    [(finished, _)] = scene.finished
    assert finished.first_state == 2
    assert finished.states[:, 0].tolist() == [200, 300, 400, 500]


def test_chunks_fit_together():
    scene, one = Scene(), request(RID, [5, 6, 7, 8])
    scene.prefill([one], [0], [2])
    scene.prefill([one], [2], [2])
    scene.step([one], [4], [[10, 11]], [1])
    scene.end(request(RID, [5, 6, 7, 8], [10, 12], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert is_trace
    assert finished.states[:, 0].tolist() == [0, 100, 200, 300, 400]


def test_the_token_that_a_second_prefill_gives_after_a_retraction_is_a_step_without_drafts():
    """SGLang reads prompt and output anew, here in two chunks with a cached prefix, and appends what comes of it."""
    scene, one = Scene(), request(RID, [5, 6, 7, 8])
    scene.prefill([one], [0], [4])
    scene.step([one], [4], [[10, 11]], [2])
    again = request(RID, [5, 6, 7, 8], [10, 11, 12])
    scene.prefill([again], [2], [2])
    scene.prefill([again], [4], [3])  # gives token 13
    scene.step([again], [7], [[13, 98]], [1])
    scene.end(request(RID, [5, 6, 7, 8], [10, 11, 12, 13, 14], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert is_trace
    assert [(s.proposed, s.num_correct_drafts) for s in finished.steps] == [((11,), 1), ((), 0), ((98,), 0)]
    assert finished.states[:, 0].tolist() == [100 * i for i in range(8)]
    assert (scene.assembler.num_steps, scene.assembler.num_accepted) == (2, 4)  # as SGLang counts


def test_a_step_in_flight_that_sglang_discards_with_a_retraction_is_not_counted():
    scene, one = Scene(), request(RID, [5, 6])
    scene.prefill([one], [0], [2])
    scene.step([one], [2], [[10, 11]], [2])
    scene.step([one], [4], [[12, 77]], [2])  # discarded
    again = request(RID, [5, 6], [10, 11, 12])
    scene.prefill([again], [0], [5])  # gives token 13
    scene.step([again], [5], [[13, 14]], [2])
    scene.end(request(RID, [5, 6], [10, 11, 12, 13, 14, 15], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert is_trace
    assert [(s.proposed, s.num_correct_drafts) for s in finished.steps] == [((11,), 1), ((), 0), ((14,), 1)]
    assert finished.states[:, 0].tolist() == [100 * i for i in range(7)]
    [part] = finished.parts
    assert (part.num_verify_steps, part.num_accept_tokens) == (2, 4)


def test_a_request_retracted_before_its_first_token_begins_anew():
    scene, one = Scene(), request(RID, [5, 6])
    scene.prefill([one], [0], [2])
    scene.step([one], [2], [[10, 11]], [2])  # discarded, and the first token with it
    scene.prefill([one], [0], [2])
    scene.step([one], [2], [[10, 99]], [1])
    scene.end(request(RID, [5, 6], [10, 11], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert is_trace
    assert [(s.proposed, s.num_correct_drafts) for s in finished.steps] == [((99,), 0)]


def test_a_trace_whose_steps_do_not_account_for_every_token_is_dropped():
    """A second prefill brings all states, but of the token before it nobody has seen the step."""
    scene = Scene()
    scene.prefill([request(RID, [5])], [0], [1])
    scene.prefill([request(RID, [5], [10, 11])], [0], [3])
    scene.end(request(RID, [5], [10, 11, 12], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert len(finished.states) == 3
    assert (is_trace, scene.assembler.num_dropped) == (False, 1)


def test_two_requests_of_one_batch_do_not_mix():
    scene = Scene()
    a, b = request("a" * 32, [1, 2]), request("b" * 32, [3], routing_key="k|aurora:x:no-train")
    scene.prefill([a, b], [0, 0], [2, 1])
    scene.step([a, b], [2, 1], [[10, 11], [20, 21]], [1, 2])
    scene.end(request("b" * 32, [3], [20, 21, 22], reason="length"))
    scene.end(request("a" * 32, [1, 2], [10, 12], reason="length"))
    (second, is_trace_b), (first, is_trace_a) = scene.finished
    assert (is_trace_a, is_trace_b) == (True, False)
    assert second.steps[0].num_correct_drafts == 1
    assert first.states[:, 0].tolist() == [0, 100, 200]
    assert first.mean_batch_size == 2.0


def test_a_domain_pinned_to_no_training_leaves_no_states_and_no_trace():
    scene = Scene()
    scene.capture.pins.replace(DomainPins(1, (DomainPin("x", no_training=True),)))
    one = request(RID, [1, 2], routing_key="|aurora:x:")
    scene.prefill([one], [0], [2])
    scene.step([one], [2], [[10, 11]], [1])
    scene.end(request(RID, [1, 2], [10, 12], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert not is_trace
    assert (finished.states, scene.assembler.num_dropped) == (None, 0)
    assert (finished.domain, finished.num_verify_steps) == ("x", 1)  # counted all the same


def test_health_checks_leave_nothing():
    scene, probe = Scene(), request("HEALTH_CHECK_1", [5])
    scene.prefill([probe], [0], [1])
    scene.end(request("HEALTH_CHECK_1", [5], [6], reason="length"))
    assert scene.finished == []


def test_a_swap_under_a_request_splits_its_counts():
    scene, one = Scene(), request(RID, [5])
    scene.prefill([one], [0], [1])
    scene.step([one], [1], [[10, 11]], [1])
    scene.applied(2)
    scene.step([one], [2], [[12, 13]], [2])
    scene.step([one], [4], [[14, 15]], [2])
    scene.end(request(RID, [5], [10, 12, 13, 14, 15, 16], reason="length"))
    [(finished, _)] = scene.finished
    assert [(p.version, p.num_verify_steps, p.num_accept_tokens) for p in finished.parts] == [(1, 1, 1), (2, 2, 4)]
    assert finished.version == 2
    assert [(span.version, span.num_steps) for span in finished.version_spans] == [(1, 1), (2, 2)]


def test_steps_without_drafts_belong_to_the_span_around_them_and_one_version_has_no_spans():
    scene, one, two = Scene(), request(RID, [5]), request("b" * 32, [6])
    scene.prefill([one, two], [0, 0], [1, 1])
    for position, (version, block) in enumerate(((1, 1), (1, 0), (2, 2), (2, 0), (1, 0)), start=1):
        scene.applied(version)
        scene.capture.block = block
        scene.step([one], [position], [[10]] if block else [[12, 13]], [1])
    scene.end(request(RID, [5], [10] * 6, reason="length"))
    [(finished, _)] = scene.finished
    assert [(span.version, span.num_steps) for span in finished.version_spans] == [(1, 3), (2, 1), (1, 1)]
    scene.step([two], [1], [[12, 13]], [1])
    scene.end(request("b" * 32, [6], [10, 12], reason="length"))
    assert scene.finished[1][0].version_spans == ()


def test_control_steps_are_one_part_per_domain_and_block():
    scene, one = Scene(), request(RID, [5], routing_key="|aurora:sql:")
    scene.prefill([one], [0], [1])
    scene.capture.block = 1
    scene.step([one], [1], [[10]], [1])
    scene.step([one], [2], [[11]], [1])
    scene.capture.block = 2
    scene.step([one], [3], [[12, 13]], [2])
    scene.end(request(RID, [5], [10, 11, 12, 13, 14], reason="length"))
    [(domain, part)] = scene.control
    assert (domain, part.version, part.lookahead, part.num_verify_steps, part.num_accept_tokens) == ("sql", 0, 0, 2, 2)
    [(finished, _)] = scene.finished
    assert [s.proposed for s in finished.steps] == [(), (), (13,)]
    assert [p.num_verify_steps for p in finished.parts] == [1]  # the control is counted there, not twice
    assert finished.num_verify_steps == 3


def test_an_open_control_block_is_counted_when_the_server_goes_idle():
    scene, one = Scene(), request(RID, [5])
    scene.prefill([one], [0], [1])
    scene.step([one], [1], [[10]], [1])
    scene.assembler.drain()
    assert scene.control == []
    scene.assembler._stepped_at -= 2.0
    scene.assembler.drain()
    assert [part.num_verify_steps for _, part in scene.control] == [1]


def test_the_drafts_catching_up_is_not_charged_to_the_control():
    scene, one = Scene(), request(RID, [5])
    scene.prefill([one], [0], [1])
    scene.assembler.drain()
    scene.step([one], [1], [[10]], [1])
    clock = scene.queue._events[0].clock
    clock._marks = [0.0, 1.0, 3.0, 3.5]
    assert (clock.seconds(with_catching_up=True), clock.seconds(with_catching_up=False)) == (3.5, 1.5)


def test_a_full_queue_leaves_states_out_and_counts_the_trace():
    scene, one = Scene(max_bytes=20), request(RID, [5, 6, 7])
    scene.prefill([one], [0], [3])
    scene.step([one], [3], [[10, 11]], [1])
    scene.end(request(RID, [5, 6, 7], [10, 12], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert not is_trace and finished.states is None
    assert scene.queue.num_left_out == 2
    assert scene.assembler.num_dropped == 1
    assert scene.queue.num_bytes == 0
    assert [p.num_verify_steps for p in finished.parts] == [1]  # still counted


def test_states_are_not_copied_when_nobody_wants_them():
    scene, one = Scene(keeps_states=False), request(RID, [5, 6, 7])
    scene.prefill([one], [0], [3])
    scene.step([one], [3], [[10, 11]], [1])
    scene.end(request(RID, [5, 6, 7], [10, 12], reason="length"))
    assert scene.finished[0][0].states is None
    assert scene.assembler.num_dropped == 0, "a choice is no loss"


def test_a_collapsed_version_is_reported_once():
    scene, one = Scene(), request(RID, [5])
    scene.applied(2, min_accept_length=2.0)
    scene.prefill([one], [0], [1])
    for i in range(6):
        scene.step([one], [1 + i], [[10, 11, 12]], [1])
    scene.assembler.drain()
    [detail] = scene.collapses
    assert "accept length 1.00 over 4 steps" in detail


def test_of_a_tree_the_accepted_path_and_its_likeliest_continuation_are_recorded():
    """Nodes: 0 -> (1, 2); 1 -> 3; 2 -> 4 -> 5. Node 2 is accepted, then 4 and 5 would have been next."""
    scene, one = Scene(), request(RID, [5])
    scene.prefill([one], [0], [1])
    tree = {
        "topk": 2,
        "next_token": torch.tensor([1, 3, 4, -1, 5, -1]),
        "next_sibling": torch.tensor([-1, 2, -1, -1, -1, -1]),
    }
    scene.capture.step_begins()
    batch, info, result = verify_step([one], [1], [[10, 21, 22, 23, 24, 25]], [2], **tree)
    result.accept_index = torch.tensor([[0, 2, -1, -1]])
    info.spec_steps = 3
    scene.capture.final.note(torch.arange(6).reshape(6, 1).float().expand(6, 2))
    scene.capture.verified(batch, info, result)
    scene.capture.step_ends()
    scene.end(request(RID, [5], [10, 22, 30], reason="length"))
    [(finished, _)] = scene.finished
    assert finished.steps[0].proposed == (22, 24, 25)
    assert finished.steps[0].num_correct_drafts == 1
    assert finished.final[1:, 0].tolist() == [0, 2]  # final states are in node order


def test_an_unusable_event_does_not_end_the_thread():
    scene, one = Scene(), request(RID, [5])
    scene.prefill([one], [0], [1])
    scene.step([one], [1], [[10, 11]], [1])
    scene.queue._events[-1].integers.tensor = None
    scene.assembler.drain()
    assert scene.assembler.num_errors == 1
    scene.end(request(RID, [5], [10], reason="length"))
    assert len(scene.finished) == 1


def test_every_new_request_that_the_hook_has_seen_is_told_of_once():
    scene = Scene()
    keys = {"a": seen("k"), "b": "|aurora:sql:", "c": None}
    a, b, c = (request(letter * 32, [1], routing_key=key) for letter, key in keys.items())
    scene.prefill([a, b, c], [0, 0, 0], [1, 1, 1])
    scene.step([a, b, c], [1, 1, 1], [[10, 11]] * 3, [1, 1, 1])
    assert len(scene.seen) == 1


# -- a name that is used again -----------------------------------------------------------------------------------------


def test_a_name_that_is_used_again_is_another_request():
    """SGLang drops a request that is aborted while its prompt is read, and frees its name, without telling anybody."""
    scene = Scene()
    scene.prefill([request(RID, [7] * 20, routing_key="|aurora:first:")], [0], [8])
    scene.running.clear()
    scene.capture.swept(set())
    second = request(RID, [9] * 8, routing_key="|aurora:second:no-train")
    scene.prefill([second], [3], [5])
    scene.step([second], [8], [[10, 11]], [2])
    scene.capture.swept({RID})
    scene.end(request(RID, [9] * 8, [10, 11, 12], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert (finished.domain, is_trace, finished.states) == ("second", False, None)
    assert (scene.capture._known, scene.assembler.num_running, scene.queue.num_bytes) == ({}, 0, 0)


def test_states_of_a_request_that_was_dropped_do_not_fill_the_cached_prefix_of_the_next_of_its_name():
    scene = Scene()
    scene.prefill([request(RID, [7] * 20)], [0], [8])
    scene.running.clear()
    second = request(RID, [9] * 8)
    scene.prefill([second], [3], [5])  # three tokens are cached
    scene.step([second], [8], [[10, 11]], [2])
    scene.end(request(RID, [9] * 8, [10, 11, 12], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert is_trace
    assert (finished.first_state, finished.states[:, 0].tolist()) == (3, [100 * i for i in range(3, 10)])


def test_what_the_former_request_of_a_name_still_does_is_not_the_next_ones():
    scene, former, second = Scene(), request(RID, [7]), request(RID, [9])
    scene.prefill([former], [0], [1])
    scene.running.clear()
    scene.prefill([second], [0], [1])
    scene.running.clear()
    scene.step([former], [1], [[77, 78]], [2])
    scene.end(request(RID, [7], [77, 78, 79], reason="abort"))
    assert scene.finished == []
    scene.step([second], [1], [[10, 11]], [2])
    vars(second).update(vars(request(RID, [9], [10, 11, 12], reason="length")))
    scene.end(second)
    [(finished, is_trace)] = scene.finished
    assert is_trace
    assert [step.proposed for step in finished.steps] == [(11,)]


# -- what is no text of the target's -----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["input_embeds", "positional_embed_overrides", "multimodal_inputs", "lora_id"])
def test_a_request_whose_states_are_not_those_of_its_tokens_is_counted_and_no_trace(field):
    scene, one = Scene(), request(RID, [1, 1], **{field: "given"})
    scene.prefill([one], [0], [2])
    scene.step([one], [2], [[10, 11]], [2])
    scene.end(request(RID, [1, 1], [10, 11, 12], reason="length", **{field: "given"}))
    [(finished, is_trace)] = scene.finished
    assert (is_trace, finished.states, finished.num_verify_steps) == (False, None, 1)


def test_sglangs_own_warm_up_is_looked_at_and_neither_counted_nor_a_trace():
    scene, one = Scene(), request(RID, [5, 6], routing_key=of_warm_up(with_headers(None, {})))
    scene.prefill([one], [0], [2])
    scene.capture.block = 1
    scene.step([one], [2], [[10]], [1])
    scene.capture.block = 2
    scene.step([one], [3], [[11, 12]], [2])
    scene.end(request(RID, [5, 6], [10, 11, 12, 13], reason="length"))
    [looked_at] = scene.warm_ups
    assert (len(looked_at.states), looked_at.num_verify_steps, scene.seen) == (5, 2, [1])
    assert (scene.finished, scene.control) == ([], [])
    assert (scene.assembler.num_steps, scene.assembler.num_dropped) == (2, 0), "SGLang counts its steps too"


# -- prompts that are read beside requests that run (--enable-mixed-chunk) ---------------------------------------------


def mixed(scene, one, is_overlapped) -> None:
    """A step of two tokens, of which SGLang does not know yet under the overlap schedule, then a mixed pass."""
    scene.prefill([one], [0], [3])
    one.output_ids = [10]
    scene.step([one], [3], [[10, 11]], [2])
    one.output_ids = [10] if is_overlapped else [10, 11, 12]
    other = request("b" * 32, [1, 2])
    scene.prefill([other, one], [0, 5], [2, 1], tails=[one])


@pytest.mark.parametrize("is_overlapped", [False, True])
def test_a_request_that_goes_on_beside_a_prompt_keeps_the_step_in_flight_and_its_trace(is_overlapped):
    scene, one = Scene(), request(RID, [5, 6, 7])
    mixed(scene, one, is_overlapped)  # gives token 13
    scene.step([one], [6], [[13, 98]], [1])
    scene.end(request(RID, [5, 6, 7], [10, 11, 12, 13, 14], reason="length"))
    [(finished, is_trace)] = scene.finished
    assert is_trace
    assert [(s.proposed, s.num_correct_drafts) for s in finished.steps] == [((11,), 1), ((), 0), ((98,), 0)]
    assert finished.states[:, 0].tolist() == [100 * i for i in range(7)]
    assert (scene.assembler.num_steps, scene.assembler.num_accepted) == (2, 4)  # as SGLang counts


def test_a_request_that_goes_on_after_its_end_costs_no_step_in_the_counts():
    scene, one = Scene(), request(RID, [5, 6, 7])
    mixed(scene, one, is_overlapped=True)
    scene.end(request(RID, [5, 6, 7], [10, 11, 12], reason="stop"))
    [(finished, is_trace)] = scene.finished
    assert is_trace and len(finished.steps) == 1
    assert scene.assembler.num_steps == 1
