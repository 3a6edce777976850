"""An SGLang that has moved what the plugin hooks: it serves and swaps, and the console is told what is missing."""

from __future__ import annotations

from pathlib import Path

from tests.bench.ring import wait_for
from tests.sglang.conftest import Replica

MOVED = "sglang.srt.managers.scheduler_components.output_streamer"
PLUGIN = f"""
def activate():
    import sglang.srt.managers.scheduler  # keeps the class that it has imported
    import {MOVED} as module

    del module.SchedulerOutputStreamer
"""


def installed(folder: Path) -> Path:
    """A plugin that is found, and therefore called, before those of the environment."""
    facts = folder / "moved-0.dist-info"
    facts.mkdir(parents=True)
    (folder / "moved.py").write_text(PLUGIN)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: moved\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[sglang.srt.plugins]\nmoved = moved:activate\n")
    return folder


def test_a_hook_that_this_sglang_lacks_is_named_and_serving_and_swaps_go_on(tmp_path, target, drafts, judge):
    path = str(installed(tmp_path / "plugin"))
    replica = Replica(tmp_path / "server", target, drafts.random(0), tmp_path / "state", PYTHONPATH=path)
    try:
        replica.server.start()
        wait_for("the first report", lambda: replica.console.console.of("/api/v1/ingest/observed"), 60)
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
    finally:
        replica.stop()
