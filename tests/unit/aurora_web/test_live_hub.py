"""Frames: how many a second, and what of the messages is in them."""

import pytest

from aurora_web import live_hub
from aurora_web.live_hub import GAP_SECONDS, coalesced, is_patient


def test_after_a_quiet_moment_four_frames_go_out_at_once(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(live_hub.time, "monotonic", lambda: now)
    pace, sent = live_hub.Pace(), []
    for _ in range(40):
        now += pace.wait_seconds
        pace.count()
        sent.append(now)
    assert sent[:4] == pytest.approx([1000.0 + i * GAP_SECONDS for i in range(4)])
    assert sent[-1] - sent[-2] == pytest.approx(1 / 5)
    assert max(sum(at <= other < at + 1 for other in sent) for at in sent) <= 9  # and one with a page's parts
    now += 60
    assert pace.wait_seconds == 0


@pytest.mark.parametrize(
    ("kind", "data", "waits"),
    [
        ("windows", {}, True),
        ("replica", {"name": "r1"}, True),
        ("slice", {"state": "done"}, True),
        ("progress", {"phase": "evaluate"}, True),
        ("progress", {"phase": "train"}, False),
        ("alert", {}, False),
        ("swap", {}, False),
    ],
)
def test_what_comes_again_and_again_waits_for_company(kind, data, waits):
    assert is_patient({"kind": kind, "target": 1, "data": data, "seq": 1}) is waits


def test_what_replaces_itself_is_sent_once_a_frame():
    def message(seq, kind, **data):
        return {"kind": kind, "target": 1, "data": data, "seq": seq}

    told = [
        message(1, "replica", name="r1"), message(2, "replica", name="r2"), message(3, "gate"),
        message(4, "replica", name="r1"), message(5, "progress", step=1), message(6, "progress", step=2),
    ]  # fmt: skip
    assert [m["seq"] for m in coalesced(told)] == [2, 3, 4, 6]


@pytest.mark.asyncio
async def test_the_last_guest_of_a_hub_that_never_began_ends_no_other(monkeypatch):
    async def fail(hub):
        raise OSError("no broker")

    async def begin(hub):
        pass

    monkeypatch.setattr(live_hub.Hub, "_start", fail)
    never = live_hub.hub_of("a group", None)
    with pytest.raises(OSError, match="no broker"):
        await never.started
    monkeypatch.setattr(live_hub.Hub, "_start", begin)
    other = live_hub.hub_of("a group", None)
    await never.leave(object())
    assert live_hub.hub_of("a group", None) is other
    for _ in range(2):
        await other.leave(object())
    assert not live_hub._hubs
