"""What capture holds in memory, and for how long: limits, requests that end without a word."""

from __future__ import annotations

from types import SimpleNamespace

from serving.sglang_backend.capture import rids_of
from serving.sglang_backend.guard import MAX_FAILURES
from serving.sglang_backend.plugin import Plugin
from serving.sglang_backend.replica import SWEEP_SECONDS, Replica
from tests.unit.serving.sglang_backend.fakes import request
from tests.unit.serving.sglang_backend.test_capture import RID, Scene


def held(scene) -> int:
    scene.assembler.drain()
    return scene.queue.num_bytes


def test_states_stay_on_the_account_until_their_request_ends():
    """Rows of 6 and 2 float16: 16 bytes. Of a step only what the target has accepted is kept."""
    scene = Scene()
    a, b = request("a" * 32, [1, 2]), request("b" * 32, [3])
    scene.prefill([a, b], [0, 0], [2, 1])
    assert held(scene) == 3 * 16
    scene.step([a, b], [2, 1], [[10, 11, 12], [20, 21, 22]], [1, 2])
    assert scene.queue.num_bytes == (3 + 6) * 16
    assert held(scene) == (3 + 3) * 16
    scene.end(request("a" * 32, [1, 2], [10, 13], reason="length"))
    assert held(scene) == (1 + 2) * 16
    scene.step([a, b], [3, 3], [[13, 11, 12], [22, 23, 24]], [1, 1])  # launched before the end was known
    assert held(scene) == (1 + 2 + 1) * 16
    scene.end(request("b" * 32, [3], [20, 21, 22, 25], reason="length"))
    assert held(scene) == 0
    assert [is_trace for _, is_trace in scene.finished] == [True, True]


def test_nothing_is_held_for_requests_that_are_not_learnt_from():
    scene = Scene()
    a, b = request("a" * 32, [1, 2]), request("b" * 32, [3], routing_key="|aurora::no-train")
    scene.prefill([a, b], [0, 0], [2, 1])
    scene.step([a, b], [2, 1], [[10, 11], [20, 21]], [1, 2])
    assert held(scene) == 3 * 16


def test_when_the_states_of_running_requests_fill_three_quarters_the_largest_gives_up_and_the_others_go_on():
    scene, long, short = Scene(max_bytes=20 * 16), request("a" * 32, [1]), request("b" * 32, [3])
    scene.prefill([long], [0], [1])
    for i in range(12):
        scene.step([long], [1 + i], [[10, 11]], [1])
        scene.assembler.drain()
    scene.prefill([short], [0], [1])
    assert held(scene) == 14 * 16
    scene.step([long, short], [13, 1], [[10, 11], [20, 21]], [1, 1])
    assert held(scene) == 2 * 16
    scene.end(request("b" * 32, [3], [20, 22], reason="length"))
    scene.step([long], [14], [[10, 11]], [1])
    assert held(scene) == 0
    scene.end(request("a" * 32, [1], [10] * 15, reason="length"))
    assert [is_trace for _, is_trace in scene.finished] == [True, False]
    assert (scene.assembler.num_dropped, scene.queue.num_left_out) == (1, 0)
    assert scene.finished[1][0].num_verify_steps == 14  # counted all the same


def test_requests_without_end_never_hold_more_than_the_limit():
    scene = Scene(max_bytes=10 * 16)
    many = [request(letter * 32, [1]) for letter in "abc"]
    scene.prefill(many, [0] * 3, [1] * 3)
    most = 0
    for i in range(40):
        scene.step(many, [1 + i] * 3, [[10, 11]] * 3, [1] * 3)
        most = max(most, scene.queue.num_bytes)
        if i % 2:
            scene.assembler.drain()
    assert 0 < most <= 10 * 16
    assert held(scene) == 0
    scene.prefill([request("d" * 32, [1, 2])], [0], [2])  # there is room again
    assert held(scene) == 2 * 16


def test_a_request_that_sglang_drops_without_a_last_output_is_forgotten():
    scene = Scene()
    a, b, c = (request(letter * 32, [1, 2]) for letter in "abc")
    scene.prefill([a, b, c], [0, 0, 0], [2, 2, 2])
    scene.step([a, b, c], [2, 2, 2], [[10, 11]] * 3, [1, 1, 1])
    scene.capture.swept({a.rid, c.rid})  # c waits after a retraction, say; b may be on its way between two places
    assert (held(scene), scene.assembler.num_running) == (3 * 3 * 16, 3)
    scene.capture.swept({a.rid, b.rid, c.rid})
    scene.capture.swept({a.rid, b.rid})
    assert (held(scene), scene.assembler.num_running) == (3 * 3 * 16, 3)
    scene.capture.swept({a.rid, b.rid})
    assert (held(scene), scene.assembler.num_running) == (2 * 3 * 16, 2)
    scene.end(request(b.rid, [1, 2], [10, 12], reason="length"))
    scene.capture.swept({a.rid})
    scene.capture.swept({a.rid})
    assert (held(scene), scene.assembler.num_running) == (3 * 16, 1)
    assert [finished.request_id for finished, _ in scene.finished] == [b.rid]
    assert scene.capture._known.keys() == {a.rid}


def test_what_sglang_has_is_asked_for_where_it_looks_itself():
    a, b, c = (request(letter * 32, [1]) for letter in "abc")
    scheduler = SimpleNamespace(collect_inflight_reqs=lambda: [a], waiting_queue=[b], chunked_req=c)
    assert rids_of(scheduler) == {a.rid, b.rid, c.rid}
    scheduler.chunked_req = None
    assert rids_of(scheduler) == {a.rid, b.rid}


def test_the_scheduler_is_asked_now_and_then_also_when_capture_has_given_up():
    scene, one = Scene(), request(RID, [1, 2])
    scene.prefill([one], [0], [2])
    plugin = Plugin()
    plugin.has_begun = True
    plugin.replica = object.__new__(Replica)
    plugin.replica.capture, plugin.replica._swept_at = scene.capture, 0.0
    plugin.guard.num_failures = MAX_FAILURES
    asked = []
    scheduler = SimpleNamespace(collect_inflight_reqs=lambda: asked.append(1) or [], waiting_queue=[], chunked_req=None)
    for _ in range(3):
        assert plugin.before_turn(scheduler, []) is None
    assert (len(asked), held(scene)) == (1, 2 * 16)
    plugin.replica._swept_at -= SWEEP_SECONDS + 1
    plugin.before_turn(scheduler, [])
    assert (len(asked), held(scene)) == (2, 0)
    assert plugin.guard.num_failures == MAX_FAILURES
