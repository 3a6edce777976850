"""One real SGLang server with the plugin: text, states, drafts, swaps and failures, in this order."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import pytest
import torch

from speculators import checkpoint
from speculators.eagle3 import Eagle3Draft
from tests.bench.ring import wait_for
from tests.sglang.conftest import PROMPTS

NUM = 48
AWAY_SECONDS = 60.0


def test_the_servers_own_first_prompt_proves_the_hooks_and_is_nobodys_traffic(replica, judge):
    assert [replica.observed()[name] for name in ("capture_state", "capture_detail")] == ["working", ""]
    rid = replica.server.generate(judge.prompt("sql"), 8, custom_params={})["meta_info"]["id"]
    replica.trace(rid)
    assert set(replica.traces()) == {rid}
    wait_for("its counts", replica.counts, 60)
    assert sum(each["num_requests"] for each in replica.counts()) == 1


@pytest.mark.parametrize("domain", sorted(PROMPTS))
def test_greedy_text_equals_transformers_with_capture_on(replica, judge, domain):
    prompt = judge.prompt(domain)
    answer = replica.server.generate(prompt, NUM, custom_params={})
    assert answer["output_ids"] == judge.greedy(prompt, NUM)
    assert replica.observed()["capture_state"] == "working"


def test_states_equal_transformers_at_the_stated_layers(replica, judge, drafts):
    """Both sides are fp32; float16 keeps 11 bits, so half a unit in the last place of the largest value is allowed."""
    prompt = judge.prompt("arithmetic")
    answer = replica.server.generate(prompt, NUM, extra_key="apart")  # a namespace of its own: no cached prefix
    trace, states, final = replica.trace(answer["meta_info"]["id"])
    assert list(trace.tokens) == prompt + answer["output_ids"]
    assert trace.first_state == 0
    layers = drafts.config.aux_layer_ids
    segment = replica.console.console.of("/api/v1/ingest/segments")[-1]["segment"]
    assert tuple(segment["aux_layer_ids"]) == layers
    expected, expected_final = judge.states(list(trace.tokens[:-1]), layers)
    torch.testing.assert_close(states.float(), expected, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(final.float(), expected_final, rtol=1e-3, atol=2e-3)


def test_a_cached_prefix_has_no_states_and_the_trace_says_so(replica, judge, drafts):
    prompt = judge.prompt("json_tools") + judge.prompt("sql")
    first = replica.server.generate(prompt, 8)
    again = replica.server.generate(prompt, NUM)
    cached = again["meta_info"]["cached_tokens"]
    assert cached > 4
    trace, states, final = replica.trace(again["meta_info"]["id"])
    assert trace.first_state == cached
    assert len(states) == len(final) == len(trace.tokens) - 1 - cached
    expected, _ = judge.states(list(trace.tokens[:-1]), drafts.config.aux_layer_ids)
    torch.testing.assert_close(states.float(), expected[cached:], rtol=1e-3, atol=2e-3)
    assert first["output_ids"] == again["output_ids"][:8]


def proposals(draft, embed, tokens, features, position, num):
    """What an EAGLE-3 draft proposes after ``tokens[: position + 1]``, by our own forward pass over everything."""
    hidden = draft.fuse(features[None, :position])
    embeds = embed[torch.tensor(tokens[1 : position + 1])][None]
    found = []
    for _ in range(num):
        positions = torch.arange(hidden.shape[1])[None]
        logits, out = draft(embeds, hidden, positions)
        found.append(int(draft.target_ids[logits[0, -1].argmax()]))
        hidden = torch.cat((hidden, out[:, -1:]), 1)
        embeds = torch.cat((embeds, embed[found[-1]][None, None]), 1)
    return found


@torch.inference_mode()
def assert_nodes(replica, judge, folder, prompt, num=24):
    """Every step's proposals by our draft from transformers' states; what is kept by transformers' greedy choice.

    Returns the prompt's cached tokens, and of each step how many drafts were accepted of how many.
    """
    answer = replica.server.generate(prompt, num)
    trace, states, _ = replica.trace(answer["meta_info"]["id"])
    config, state = checkpoint.load(folder)
    draft = Eagle3Draft(config)
    draft.load_state_dict(state)
    tokens = list(trace.tokens)
    features, _ = judge.states(tokens, config.aux_layer_ids)
    torch.testing.assert_close(states.float(), features[trace.first_state : -1], rtol=1e-3, atol=2e-3)
    embed = judge.model.get_input_embeddings().weight
    truth = judge.greedy(prompt, num)
    assert answer["output_ids"] == truth
    done = 1
    for step in trace.steps:
        position = len(prompt) + done - 1  # of the last committed token
        expected = proposals(draft, embed, tokens, features, position, len(step.proposed))
        assert list(step.proposed) == expected, f"step at token {done}"
        correct = 0
        while correct < len(expected) and done + correct < len(truth) and expected[correct] == truth[done + correct]:
            correct += 1
        assert step.num_correct_drafts == min(correct, len(truth) - done - 1)
        done += step.num_correct_drafts + 1
    assert done == len(truth)
    return answer["meta_info"]["cached_tokens"], [(step.num_correct_drafts, len(step.proposed)) for step in trace.steps]


def test_nodes_of_a_random_draft_equal_a_recomputation(replica, judge, drafts):
    assert_nodes(replica, judge, drafts.random(0), judge.prompt("sql") + judge.prompt("arithmetic"))


def test_accepted_and_rejected_nodes_of_a_draft_that_has_learnt_equal_a_recomputation(replica, judge, drafts):
    """Steps that keep all, some and none of what was drafted; text and states too."""
    replica.swap(60, drafts.good())
    kept = [step for name in PROMPTS for step in assert_nodes(replica, judge, drafts.good(), judge.prompt(name), 96)[1]]
    assert {"all", "some", "none"} == {
        "all" if correct == proposed else "some" if correct else "none" for correct, proposed in kept if proposed > 1
    }


def test_a_prefix_that_another_draft_has_read_is_read_anew(replica, judge, drafts):
    """Else it would draft from what that one wrote; see serving/sglang_backend/prefixes.py."""
    prompt = judge.prompt("arithmetic") + judge.prompt("json_tools")
    before, after = drafts.random(0), drafts.random(6)
    replica.swap(61, before)
    assert_nodes(replica, judge, before, prompt)
    replica.swap(62, after)
    assert assert_nodes(replica, judge, after, prompt)[0] == 0
    assert assert_nodes(replica, judge, after, prompt)[0] > 4
    replica.swap(63, before)
    assert assert_nodes(replica, judge, before, prompt)[0] > 4
    replica.swap(1, before)  # what the next tests count on


def test_our_counts_equal_sglangs_own(replica):
    def equal():
        last = replica.observed()
        ours = (last["num_verify_steps"], last["num_accept_tokens"])
        theirs = (last["engine_num_verify_steps"], last["engine_num_accept_tokens"])
        return ours == theirs and ours[0] > 0

    wait_for("equal counts", equal, 60)


def test_labels_survive_from_the_headers_to_the_trace(replica, judge):
    body = {"model": "demo", "prompt": PROMPTS["sql"], "max_tokens": 6, "temperature": 0}
    before = set(replica.traces())
    replica.server.http.post("/v1/completions", json=body, headers={"x-aurora-domain": "sql"}).raise_for_status()
    secret = {"x-aurora-domain": "sql", "x-aurora-no-train": "1"}
    for route, asked in (
        ("/v1/completions", {}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 6}),
        ("/generate", {"text": "hello", "sampling_params": {"max_new_tokens": 6}}),
    ):
        replica.server.http.post(route, json=body | asked, headers=secret).raise_for_status()
    replica.server.generate(judge.prompt("sql"), 6, sampling={"custom_params": {"aurora_domain": "by-params"}})
    last = replica.server.generate(judge.prompt("sql"), 6)["meta_info"]["id"]
    replica.trace(last)  # traces come in the order in which requests ended: one of the secret would be here
    new = [replica.traces()[rid] for rid in set(replica.traces()) - before - {last}]
    assert sorted(trace.domain for trace in new) == ["by-params", "sql"]
    assert sum(c["num_requests"] for c in replica.counts() if c["domain"] == "sql") == 5  # the others are counted


@pytest.mark.parametrize(
    ("domain", "asked"),
    [
        ("one-in-a-list", {"prompt": [PROMPTS["sql"]]}),
        ("two-in-a-list", {"prompt": [PROMPTS["sql"], PROMPTS["arithmetic"]]}),
        ("two-answers", {"prompt": PROMPTS["sql"], "n": 2}),
    ],
)
def test_every_part_of_a_request_has_its_labels(replica, judge, domain, asked):
    def traces_of(name):
        return [trace for trace in replica.traces().values() if trace.domain == name]

    body = {"model": "demo", "max_tokens": 6, "temperature": 0, "ignore_eos": True, **asked}
    labels = {"x-aurora-domain": domain}
    answer = replica.server.http.post("/v1/completions", json=body, headers=labels)
    answer.raise_for_status()
    num = len(answer.json()["choices"])
    wait_for("a trace of each", lambda: len(traces_of(domain)) == num, 60)
    secret = {"x-aurora-domain": f"secret-{domain}", "x-aurora-no-train": "1"}
    replica.server.http.post("/v1/completions", json=body, headers=secret).raise_for_status()
    replica.trace(replica.server.generate(judge.prompt("sql"), 6)["meta_info"]["id"])
    assert len(traces_of(domain)) == num
    assert not traces_of(f"secret-{domain}")
    assert sum(c["num_requests"] for c in replica.counts() if c["domain"] == f"secret-{domain}") == num


def test_a_swap_is_proved_and_leaves_the_target_alone(replica, judge, drafts):
    before = wait_for("the target's fingerprint", lambda: replica.observed()["target_sha256"], 60)
    report = replica.swap(2, drafts.random(1))
    assert report["sha256"] == replica.console.console.desired["sha256"]
    assert wait_for("the target's, read again", lambda: replica.observed()["target_sha256"], 60) == before
    prompt = judge.prompt("sql")
    answer = replica.server.generate(prompt, NUM)
    assert answer["output_ids"] == judge.greedy(prompt, NUM)
    assert answer["meta_info"]["weight_version"] == "2"
    trace, _, _ = replica.trace(answer["meta_info"]["id"])
    assert trace.version == 2


def test_a_corrupt_version_is_refused_and_the_running_one_serves_on(replica, judge, drafts, tmp_path):
    broken = tmp_path / "broken"
    config, state = checkpoint.load(drafts.random(1))
    state["fc.weight"][0, 0] = float("nan")
    checkpoint.save(broken, config, state)
    report = replica.swap(3, broken, state="swap_failed")
    assert "finite" in report["detail"]
    assert (report["version"], report["state"]) == (2, "swap_failed")
    prompt = judge.prompt("sql")
    assert replica.server.generate(prompt, 8)["output_ids"] == judge.greedy(prompt, 8)
    cut = tmp_path / "cut"
    checkpoint.save(cut, *checkpoint.load(drafts.random(3)))
    (cut / checkpoint.WEIGHTS).write_bytes((cut / checkpoint.WEIGHTS).read_bytes()[:-1000])
    report = replica.swap(4, cut, state="swap_failed")
    assert report["version"] == 2
    replica.swap(5, drafts.random(0))


def test_a_collapse_reverts_by_itself(replica, judge, drafts):
    """A random draft cannot reach accept length 3: the version before it comes back."""
    generation = replica.set_desired(6, drafts.random(2), min_accept_length=3.0)
    wait_for("the swap", lambda: replica.observed()["generation"] == generation, 60)
    replica.server.generate(judge.prompt("json_tools"), 100)
    report = wait_for(
        "the revert, proved",
        lambda: (last := replica.observed())["state"] == "reverted" and last["sha256"] and last,
        60,
    )
    assert "accept length" in report["detail"]
    assert report["version"] == 5
    assert report["sha256"] == checkpoint.state_digest(checkpoint.load(drafts.random(0))[1])
    replica.swap(7, drafts.random(0))


def test_the_control_is_decoded_without_drafts_and_counted_apart(replica, judge, drafts):
    """From the poll on that brings another share, without a swap."""
    replica.swap(8, drafts.random(0))
    replica.console.console.desired["control_share"] = 0.5
    reports = len(replica.console.console.of("/api/v1/ingest/observed"))
    wait_for("a poll", lambda: len(replica.console.console.of("/api/v1/ingest/observed")) > reports + 2, 60)
    before = len(replica.counts())
    threads = [threading.Thread(target=replica.server.generate, args=(judge.prompt(domain), 150)) for domain in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    prompt = judge.prompt("sql")
    answer = replica.server.generate(prompt, 64)
    assert answer["output_ids"] == judge.greedy(prompt, 64)
    num_tokens = len(PROMPTS) * 149 + 63
    wait_for("all counts", lambda: sum(c["num_accept_tokens"] for c in replica.counts()[before:]) >= num_tokens, 60)
    new = replica.counts()[before:]
    control = [c for c in new if c["version"] == 0]
    speculative = [c for c in new if c["version"] == 8]
    assert control and speculative
    assert all(c["lookahead"] == 0 and c["num_proposed_drafts"] == 0 for c in control)
    assert all(c["num_accept_tokens"] == c["num_verify_steps"] for c in control)
    tokens = sum(c["num_accept_tokens"] for c in new)
    assert tokens == num_tokens
    share = sum(c["num_verify_steps"] for c in control) / sum(c["num_verify_steps"] for c in new)
    assert 0.2 < share < 0.8
    trace, _, _ = replica.trace(answer["meta_info"]["id"])
    assert any(not step.proposed for step in trace.steps)


def test_version_0_serves_without_speculation(replica, judge):
    report = replica.swap(0, None)
    assert (report["version"], report["sha256"]) == (0, "")
    prompt = judge.prompt("sql")
    answer = replica.server.generate(prompt, 16)
    assert answer["output_ids"] == judge.greedy(prompt, 16)
    assert answer["meta_info"]["spec_verify_ct"] == 15


def test_eight_streams_during_fifty_swaps(replica, judge, drafts):
    """No request is dropped; what it costs them in time is measured by tests/bench/bench_sglang.py."""
    replica.swap(9, drafts.random(0))
    prompts = [judge.prompt(domain) for domain in itertools.islice(itertools.cycle(PROMPTS), 8)]
    versions = [drafts.random(0), drafts.good()]  # half of the steps accept several drafts
    num_tokens, total, num_streams = [], 0, 0

    def read(prompt: list[int]) -> None:
        num_tokens.append(list(replica.server.stream(prompt, 80))[-1][1])

    while total < 50:
        threads = [threading.Thread(target=read, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and total < 50:
            replica.swap(10 + total, versions[total % 2])
            total += 1
        for thread in threads:
            thread.join()
        num_streams += len(prompts)
        assert num_tokens == [80] * num_streams
    reports = replica.console.console.of("/api/v1/ingest/observed")
    assert len({each["target_sha256"] for each in reports} - {""}) == 1


def test_swaps_that_reach_a_request_change_no_text_and_its_trace_says_who_drafted(replica, judge, drafts):
    """Versions change under one request for as long as it runs: of a draft whose tokens pass, and of a random one."""
    replica.swap(100, drafts.random(0))
    prompt, num_tokens, answers = judge.prompt("arithmetic"), 300, []
    request = threading.Thread(
        target=lambda: answers.append(replica.server.generate(prompt, num_tokens, extra_key="swapped"))
    )
    request.start()
    numbers = itertools.count(101)
    while request.is_alive():
        replica.swap(next(numbers), drafts.good())
        replica.swap(next(numbers), drafts.random(0))
    request.join()
    assert answers[0]["output_ids"] == judge.greedy(prompt, num_tokens)
    trace, _, _ = replica.trace(answers[0]["meta_info"]["id"])
    versions = [span.version for span in trace.version_spans]
    assert len(versions) > 1
    assert versions == sorted(set(versions))
    assert sum(span.num_steps for span in trace.version_spans) == len(trace.steps)
    assert trace.version in versions
    assert any(step.num_correct_drafts > 1 for step in trace.steps)
    assert any(step.num_correct_drafts == 0 for step in trace.steps if len(step.proposed) > 1)


def waiting(replica) -> str:
    """What the replica keeps on its disk for the console."""
    texts = []
    for path in replica.state_dir.rglob("spool/**/*.json"):
        with contextlib.suppress(FileNotFoundError):  # the console has just taken it
            texts.append(path.read_text())
    return "".join(texts)


def test_the_console_away_for_a_minute_while_a_swap_is_due_loses_nothing(replica, judge, drafts):
    before, version = set(replica.traces()), replica.observed()["version"]
    replica.console.stop()
    back_at = time.monotonic() + AWAY_SECONDS
    generation = replica.set_desired(200, drafts.random(1))
    ids = []
    while time.monotonic() < back_at:
        ids.append(replica.server.generate(judge.prompt("sql"), 100)["meta_info"]["id"])
    wait_for("announcements of all", lambda: all(rid in waiting(replica) for rid in ids), 60)
    replica.console.start()
    wait_for("the traces", lambda: set(ids) <= set(replica.traces()) - before, 60)
    assert {replica.traces()[rid].version for rid in ids} == {version}
    wait_for(
        "the swap",
        lambda: (
            [replica.observed()[name] for name in ("generation", "version", "state")] == [generation, 200, "serving"]
        ),
        60,
    )
    assert replica.server.generate(judge.prompt("sql"), 12)["meta_info"]["weight_version"] == "200"


def test_nothing_of_ours_has_failed(replica):
    assert "Traceback" not in replica.server.log().replace("CheckpointError", "")
    assert replica.observed()["capture_state"] == "working"
    assert replica.observed()["num_dropped_traces"] == 0


def test_a_restarted_server_serves_its_last_good_version_without_the_console(replica, judge, drafts):
    """Launched with another draft and nobody to ask: what it served before comes back from its own state directory."""
    before = replica.swap(70, drafts.random(1))
    assert before["sha256"] == checkpoint.state_digest(checkpoint.load(drafts.random(1))[1])
    num_reports = len(replica.console.console.of("/api/v1/ingest/observed"))
    replica.console.stop()
    replica.server.stop()
    replica.server.start()
    assert replica.server.draft == drafts.random(0)
    prompt = judge.prompt("sql")

    def restored() -> bool:
        return replica.server.generate(prompt, 4)["meta_info"]["weight_version"] == "70"

    wait_for("version 70 without a console", restored, 60)
    assert replica.server.generate(prompt, 24)["output_ids"] == judge.greedy(prompt, 24)
    replica.console.start()

    def reports() -> list:
        return replica.console.console.of("/api/v1/ingest/observed")[num_reports:]

    first = wait_for("a report", reports, 60)[0]
    assert (first["version"], first["sha256"], first["state"]) == (70, before["sha256"], "serving")
    assert "Traceback" not in replica.server.log()
