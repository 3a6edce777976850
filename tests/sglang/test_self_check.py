"""An SGLang that has moved what the plugin hooks: it serves and swaps, and the console is told what is missing."""

from __future__ import annotations

from tests.sglang.conftest import Replica
from tests.sglang.server import with_plugin

MOVED = "sglang.srt.managers.scheduler_components.output_streamer"
PLUGIN = f"""
def activate():
    import sglang.srt.managers.scheduler  # keeps the class that it has imported
    import {MOVED} as module

    del module.SchedulerOutputStreamer
"""


def test_a_hook_that_this_sglang_lacks_is_named_and_serving_and_swaps_go_on(tmp_path, target, drafts, judge):
    path = str(with_plugin(tmp_path / "plugin", PLUGIN))
    server = Replica(tmp_path / "server", target, drafts.random(0), tmp_path / "state", PYTHONPATH=path)
    with server.running() as replica:
        assert replica.observed()["capture_state"] == "broken"
        assert (
            f"this SGLang has no {MOVED}.SchedulerOutputStreamer.stream_output" in replica.observed()["capture_detail"]
        )
        replica.swap(1, drafts.random(1))
        prompt = judge.prompt("sql")
        answer = replica.server.generate(prompt, 24)
        assert answer["output_ids"] == judge.greedy(prompt, 24)
        assert answer["meta_info"]["weight_version"] == "1"
        assert replica.traces() == {}
