"""Servers that are not as one would wish: somebody else's draft, a disk that is full; and one without the plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from speculators import checkpoint
from speculators.eagle3 import Eagle3Draft
from tests.bench.ring import REPO, wait_for
from tests.sglang import full_disk
from tests.sglang.conftest import PROMPTS, Replica
from tests.sglang.draft_passes import DraftPasses
from tests.sglang.server import Server
from tests.unit.serving.fakes import ConsoleServer
from training_worker.config import SliceJob
from training_worker.day_zero import import_draft
from training_worker.slices import run_slice


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, drafts) -> Path:
    """A checkpoint by SGLang's conventions: layers.0 names, no vocabulary map, an embedding, a flat config."""
    folder = tmp_path_factory.mktemp("foreign") / "draft"
    folder.mkdir()
    state = Eagle3Draft(drafts.config, 5).state_dict()
    kept = {
        name.replace("midlayer.", "layers.0."): tensor.clone()
        for name, tensor in state.items()
        if name not in ("d2t", "t2d")
    }
    size = (drafts.config.vocab_size, drafts.config.hidden_size)
    kept["embed_tokens.weight"] = torch.randn(size, generator=torch.Generator().manual_seed(0))
    save_file(kept, folder / checkpoint.WEIGHTS)
    (folder / checkpoint.CONFIG).write_text(json.dumps(drafts.config.to_hf()))
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory, target) -> Path:
    """A version as the trainer publishes it."""
    folder = tmp_path_factory.mktemp("published")
    config = json.loads((target / "config.json").read_text())
    job = SliceJob(
        target_slug="demo", target_path="", run_id="run", work_dir=str(folder / "work"),
        versions_dir=str(folder / "versions"), parent_version=None, parent_uri="", live_uri="", fresh=(), replay=(),
        held_out=(), lookahead=3, budget_seconds=1.0, seed=11, code_version="test", publish=True, target_config=config,
    )  # fmt: skip
    manifest = run_slice(job, lambda progress: None).manifest
    assert manifest is not None
    return Path(manifest.uri)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with full_disk.at(tmp_path_factory.mktemp("disk")) as found:
        yield found


@pytest.fixture(scope="module")
def cramped(tmp_path_factory, target, foreign, disk):
    folder = tmp_path_factory.mktemp("cramped")
    passes = DraftPasses(folder)
    found = Replica(folder, target, foreign, disk.folder, PYTHONPATH=str(passes.path))
    found.passes = passes
    with found.running():
        yield found


def test_a_foreign_checkpoint_is_in_sglangs_memory_as_we_import_it(cramped, foreign, target, drafts):
    """The plugin's digest is of SGLang's memory in our layout, vocabulary map included."""
    config, state = import_draft(foreign, json.loads((target / "config.json").read_text()))
    assert cramped.observed()["sha256"] == checkpoint.state_digest(state)
    assert config.aux_layer_ids == drafts.config.aux_layer_ids


@torch.inference_mode()
def assert_our_logits(server, judge, passes, config, state):
    """SGLang's LlamaForCausalLMEagle3, head and logits processor included, and our Eagle3Draft after the same prompts.

    Two fp32 implementations of one decoder layer differ by a few units of 1e-6 of the largest activation: 2e-4 of the
    logits' scale (their spread is above 0.1) leaves room for another order of sums, and none for a wrong layer or head.
    """
    draft = Eagle3Draft(config)
    draft.load_state_dict(state)
    for domain in sorted(PROMPTS):
        prompt = judge.prompt(domain)
        server.generate(prompt, 4, extra_key=f"logits of {domain}")  # a namespace of its own: no cached prefix
        seen = passes.of(prompt)
        embeds = judge.model.get_input_embeddings().weight[seen["input_ids"]][None]  # the target's, not the file's
        ours, _ = draft(embeds, draft.fuse(seen["hidden_states"].float()[None]), seen["positions"][None])
        assert float(ours[0, -1].std()) > 0.1
        assert seen["logits"].shape == (1, config.draft_vocab_size)
        torch.testing.assert_close(seen["logits"][0].float(), ours[0, -1], rtol=2e-4, atol=2e-4)


def test_sglangs_draft_gives_our_logits_with_a_shared_embedding(cramped, judge, foreign, target):
    imported = import_draft(foreign, json.loads((target / "config.json").read_text()))
    assert_our_logits(cramped.server, judge, cramped.passes, *imported)


def test_a_full_disk_costs_traces_and_nothing_else(cramped, judge, disk):
    """Serving goes on; when there is room again, traces come again."""
    prompt = judge.prompt("sql")
    before = cramped.server.generate(prompt, 24)
    wait_for("a trace", lambda: before["meta_info"]["id"] in cramped.traces(), 60)
    num_dropped = cramped.observed()["num_dropped_traces"]

    def is_told() -> bool:
        """Where states do not fit, but what acknowledged ones have freed is enough to announce a trace, in the log."""
        return cramped.observed()["num_dropped_traces"] > num_dropped or disk.complaint in cramped.server.log()

    disk.fill()
    ids = [cramped.server.generate(prompt, 24) for _ in range(4)]
    assert all(each["output_ids"] == judge.greedy(prompt, 24) for each in ids)
    wait_for("the complaint", is_told, 60)
    disk.empty()
    answer = cramped.server.generate(prompt, 24)
    wait_for("a trace again", lambda: answer["meta_info"]["id"] in cramped.traces(), 60)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, target, published):
    """A server whose environment says nothing of Aurora: the plugin is installed and off."""
    folder = tmp_path_factory.mktemp("plain")
    passes = DraftPasses(folder)
    found = Server(folder, target, published, {"PYTHONPATH": str(passes.path)})
    found.passes = passes
    try:
        found.start()
        yield found
    finally:
        found.stop()


def test_a_published_version_gives_our_logits_in_sglang(plain, judge, published):
    """As SGLang loads its file, without any help of ours."""
    assert_our_logits(plain, judge, plain.passes, *checkpoint.load(published))


def test_the_sidecar_swaps_over_http(plain, judge, drafts, tmp_path):
    console = ConsoleServer()
    follower = Replica.__new__(Replica)  # only its conversation: this server has no plugin
    follower.console, follower.generation = console, 0
    follower.set_desired(1, drafts.random(0))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}",
        "AURORA_CONSOLE_URL": console.console.url,
        "AURORA_TARGET_SLUG": "demo",
        "AURORA_REPLICA": "demo-sidecar",
        "AURORA_STATE_DIR": str(tmp_path),
        "AURORA_ENGINE_URL": plain.url,
    }
    command = [sys.executable, "-m", "serving.sglang_backend.sidecar"]
    sidecar = subprocess.Popen(command, cwd=REPO, env=environment)
    try:
        wait_for("its report", lambda: console.console.of("/api/v1/ingest/observed"), 90)
        follower.swap(1, drafts.random(0))
        before = accepted(plain, judge)
        report = follower.swap(2, drafts.random(1))
        assert (report["capture_state"], report["version"]) == ("off", 2)
        assert report["sha256"] == console.console.desired["sha256"]
        prompt = judge.prompt("sql")
        answer = plain.generate(prompt, 24)
        assert answer["output_ids"] == judge.greedy(prompt, 24)
        assert answer["meta_info"]["weight_version"] == "2"
        wait_for("the server's counts", lambda: follower.observed()["engine_num_verify_steps"] >= before, 60)
        plain.stop()
        wait_for("a report that nothing is served", lambda: follower.observed()["state"] == "starting", 60)
        assert (follower.observed()["version"], follower.observed()["sha256"]) == (0, "")
        plain.start()
        wait_for("version 2", lambda: follower.observed()["sha256"] == console.console.desired["sha256"], 120)
        assert plain.generate(prompt, 24)["meta_info"]["weight_version"] == "2"
        broken = tmp_path / "broken"
        config, state = checkpoint.load(drafts.random(1))
        state["norm.weight"][0] = float("inf")
        checkpoint.save(broken, config, state)
        assert "finite" in follower.swap(3, broken, state="swap_failed")["detail"]
        assert plain.generate(prompt, 24)["output_ids"] == judge.greedy(prompt, 24)
        follower.set_desired(0, None)
        wait_for("a refusal", lambda: "speculation" in follower.observed()["detail"], 60)
    finally:
        sidecar.terminate()
        assert sidecar.wait(20) == 0
        console.stop()


def accepted(server: Server, judge) -> int:
    """Verify steps of one request."""
    return int(server.generate(judge.prompt("sql"), 24)["meta_info"]["spec_verify_ct"])
