"""The sidecar's engine against a real HTTP server with scripted answers; the real SGLang is in tests/sglang."""

from __future__ import annotations

import base64
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.engine.api import EngineAwayError, SwapError
from serving.sglang_backend import http_engine
from serving.sglang_backend.http_engine import HttpEngine
from serving.sglang_backend.weights import VOCABULARY
from speculators import checkpoint
from speculators.checkpoint import CheckpointError
from tests.unit.serving.fakes import wait_until
from tests.unit.serving.sglang_backend.fakes import CONFIG, draft_state
from tests.unit.serving.sglang_backend.test_small_parts import METRICS


def test_a_swap_pauses_writes_the_draft_alone_and_continues(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    outcome = engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    assert scripted.paths() == [
        "/pause_generation", "/begin_weight_update", "/update_weights_from_tensor", "/end_weight_update",
        "/continue_generation",
    ]  # fmt: skip
    sent = next(given for path, given in scripted.calls if path == "/update_weights_from_tensor")
    assert (sent["selector"], sent["flush_cache"], len(sent["serialized_named_tensors"])) == ("draft", False, 2)
    names = {name for name, _ in pickle.loads(base64.b64decode(sent["serialized_named_tensors"][0]))}
    assert "fc.weight" in names and not names & {"d2t", "t2d", "embed_tokens.weight"}
    assert outcome.sha256 == checkpoint.state_digest(draft_state(1))
    assert (engine.stats().version, engine.target_sha256) == (2, "t")


def test_a_refused_write_still_ends_the_session_and_continues(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    scripted.fails = "/update_weights_from_tensor"
    with pytest.raises(SwapError, match="scripted"):
        engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    assert scripted.paths()[-2:] == ["/end_weight_update", "/continue_generation"]
    assert engine.stats().version == 0


def test_a_touched_target_is_an_error(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    scripted.checksums = ["before", "after"]
    with pytest.raises(SwapError, match="target's weights changed"):
        engine.swap(2, engine.load_draft(tmp_path / "next")).result()


def test_another_lineage_and_version_0_are_refused(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    with pytest.raises(SwapError, match="cannot switch speculation off"):
        engine.swap(0, None).result()
    other = {**draft_state(1)}
    checkpoint.save(tmp_path / "other", CONFIG, other)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] = [0, 2, 4]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config differs"):
        engine.load_draft(tmp_path / "other")


def test_a_draft_that_is_too_large_for_http_is_refused(scripted, tmp_path, monkeypatch):
    engine = HttpEngine(scripted.url)
    engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    [sent] = [given for path, given in scripted.calls if path == "/update_weights_from_tensor"]
    state = {name: tensor for name, tensor in draft_state(1).items() if name not in VOCABULARY}
    size = 2 * sum(tensor.nbytes for tensor in state.values()) * 4 // 3
    assert size <= sum(map(len, sent["serialized_named_tensors"]))
    monkeypatch.setattr(http_engine, "MOST_SENT_BYTES", size)
    engine.load_draft(tmp_path / "next")
    monkeypatch.setattr(http_engine, "MOST_SENT_BYTES", size - 2)
    with pytest.raises(CheckpointError, match="to each of 2 ranks while the server stands still"):
        engine.load_draft(tmp_path / "next")


def test_a_collapse_in_the_servers_own_counts_reverts(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    engine.swap(1, engine.load_draft(tmp_path / "launched")).result()
    engine.swap(2, engine.load_draft(tmp_path / "next"), min_accept_length=1.5).result()
    scripted.metrics = METRICS.replace(" 55.0", " 155.0").replace(" 80.0", " 185.0")  # 100 steps, 105 tokens
    stats = engine.stats()
    assert (stats.version, stats.reverted_from) == (1, 2)
    assert "accept length 1.05 over 100 steps" in stats.revert_detail


def test_a_revert_that_fails_is_tried_until_it_succeeds(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    engine.swap(1, engine.load_draft(tmp_path / "launched")).result()
    engine.swap(2, engine.load_draft(tmp_path / "next"), min_accept_length=1.5).result()
    scripted.metrics = METRICS.replace(" 55.0", " 155.0").replace(" 80.0", " 185.0")
    scripted.fails = "/update_weights_from_tensor"
    for _ in range(2):
        assert (engine.stats().version, engine.stats().reverted_from) == (2, None)
    scripted.fails = ""
    assert (engine.stats().version, engine.stats().reverted_from) == (1, 2)
    num_writes = scripted.paths().count("/update_weights_from_tensor")
    engine.stats()
    assert scripted.paths().count("/update_weights_from_tensor") == num_writes


def test_a_server_that_does_not_answer_serves_nothing(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    scripted.status = 503
    stats = engine.stats()
    assert (stats.version, stats.sha256, stats.probe) == (0, "", None)
    assert "503" in stats.away
    num_calls = len(scripted.calls)
    with pytest.raises(EngineAwayError, match="503"):
        engine.swap(3, engine.load_draft(tmp_path / "next")).result()
    assert len(scripted.calls) == num_calls
    scripted.status = 200  # it was only busy
    stats = engine.stats()
    assert (stats.version, stats.sha256, stats.away) == (2, checkpoint.state_digest(draft_state(1)), "")


@pytest.mark.parametrize("said", ["[]", "null", "<html>"])
def test_what_is_no_answer_of_sglangs_is_as_good_as_none(scripted, said):
    engine = HttpEngine(scripted.url)
    scripted.says["/model_info"] = said
    assert "does not say what it serves" in engine.stats().away
    scripted.says.clear()
    assert engine.stats().away == ""


def test_while_a_swap_goes_on_there_is_what_was_true_before_it(scripted, tmp_path):
    """Asked meanwhile, the server names weights that this process has not heard to be there."""
    engine = HttpEngine(scripted.url)
    before = engine.stats()
    scripted.holds = "/end_weight_update"
    draft = engine.load_draft(tmp_path / "next")
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(lambda: engine.swap(2, draft).result())
        wait_until(lambda: scripted.holds in scripted.paths())
        assert scripted.weight_version == "2"
        assert engine.stats() == before
        scripted.gate.set()
        assert future.result(60).version == 2
    assert (engine.stats().version, engine.stats().sha256) == (2, checkpoint.state_digest(draft_state(1)))


def test_a_server_that_came_back_serves_the_draft_of_its_launch(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    scripted.restart()
    stats = engine.stats()
    assert (stats.version, stats.sha256) == (0, checkpoint.state_digest(draft_state(0)))
    assert stats.previous is None
    engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    assert engine.stats().sha256 == checkpoint.state_digest(draft_state(1))


@pytest.mark.parametrize(("label", "version"), [("7", 7), ("of-somebody", 0)])
def test_weights_that_somebody_else_wrote_have_no_checksum(scripted, tmp_path, label, version):
    scripted.weight_version = label  # as a sidecar finds them that was started after its server
    engine = HttpEngine(scripted.url)
    assert (engine.stats().version, engine.stats().sha256) == (version, "")
    outcome = engine.swap(2, engine.load_draft(tmp_path / "next"), min_accept_length=1.5).result()
    assert (outcome.version, outcome.previous) == (2, None)
    scripted.metrics = METRICS.replace(" 55.0", " 155.0").replace(" 80.0", " 185.0")
    assert engine.stats().version == 2  # collapsed, and nothing to go back to


def test_a_target_that_was_touched_leaves_no_claim_about_the_draft(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    scripted.checksums = ["before", "after"]
    engine.swap(2, engine.load_draft(tmp_path / "next")).exception()
    assert (engine.stats().version, engine.stats().sha256) == (2, "")


@pytest.mark.parametrize(("before", "version"), [(300, 1), (110, 2)])  # tokens in 100 steps of version 1
def test_a_shift_of_the_traffic_before_the_swap_reverts_nothing(scripted, tmp_path, before, version):
    engine = HttpEngine(scripted.url)
    engine.swap(1, engine.load_draft(tmp_path / "launched")).result()
    scripted.metrics = METRICS.replace(" 55.0", " 155.0").replace(" 80.0", f" {80 + before}.0")
    engine.swap(2, engine.load_draft(tmp_path / "next"), min_accept_length=1.5).result()
    scripted.metrics = METRICS.replace(" 55.0", " 255.0").replace(" 80.0", f" {185 + before}.0")  # 1.05
    assert engine.stats().version == version


def test_a_server_whose_answer_to_the_pause_was_lost_goes_on(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    scripted.loses = "/pause_generation"
    with pytest.raises(SwapError, match="RemoteProtocolError"):
        engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    assert scripted.paths() == ["/pause_generation", "/continue_generation"]
    assert (scripted.stands_still, engine.stats().away, engine.stats().version) == (False, "", 0)


@pytest.mark.parametrize("how", ["fails", "loses"])
def test_a_server_that_may_stand_still_is_said_to_and_asked_until_it_goes_on(scripted, tmp_path, how):
    engine = HttpEngine(scripted.url)
    setattr(scripted, how, "/continue_generation")
    assert engine.swap(2, engine.load_draft(tmp_path / "next")).result().version == 2
    for num in (2, 3):
        assert "the server may stand still since the last swap" in engine.stats().away
        assert scripted.paths().count("/continue_generation") == num
    with pytest.raises(EngineAwayError, match="may stand still"):
        engine.swap(3, engine.load_draft(tmp_path / "next")).result()
    setattr(scripted, how, "")
    stats = engine.stats()
    assert (stats.away, stats.version, stats.sha256) == ("", 2, checkpoint.state_digest(draft_state(1)))
    num_asked = scripted.paths().count("/continue_generation")
    engine.stats()
    assert (scripted.stands_still, scripted.paths().count("/continue_generation")) == (False, num_asked)


def test_an_end_leaves_no_server_behind_that_stands_still(scripted, tmp_path):
    engine = HttpEngine(scripted.url)
    scripted.fails = "/continue_generation"
    engine.swap(2, engine.load_draft(tmp_path / "next")).result()
    assert scripted.stands_still
    scripted.fails = ""
    engine.close()
    assert not scripted.stands_still


def test_whatever_a_swap_fails_with_is_in_its_future(scripted, tmp_path, monkeypatch):
    engine = HttpEngine(scripted.url)
    draft = engine.load_draft(tmp_path / "next")
    monkeypatch.setattr(engine, "_send", lambda draft, version: 1 // 0)
    assert isinstance(engine.swap(2, draft).exception(), ZeroDivisionError)
