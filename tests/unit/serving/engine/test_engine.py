"""What the engine promises its server: queues, cancellation, control, swaps, probes, reverts, errors."""

import queue
import re
import threading
import time
from dataclasses import replace

import pytest
import torch

from serving.engine.api import Request, RequestError, SamplingParams, SwapError
from serving.engine.config import EngineConfig
from serving.engine.control import BLOCK_STEPS
from serving.engine.costs import Costs, Parts
from serving.engine.engine import Engine
from serving.engine.stepper import Stepper
from speculators import checkpoint
from speculators.checkpoint import CheckpointError, OtherLayersError
from speculators.records import NO_DRAFT
from tests.unit.serving.engine.running import engine_of, output, submit

PROMPT = (1, 2, 3, 4, 5)
# Costs of a usual kind: measured ones are of whatever else this machine does just then.
PARTS = Parts(verify={1: 1.0, 9: 1.6}, first={1: 0.1}, further={1: 0.08}, position=0.01)


def test_states_are_those_of_every_token_but_the_last(tiny, good):
    folder, model = tiny
    with engine_of(folder, fixed_lookahead=3) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        finished = submit(engine, PROMPT, max_tokens=30, ignore_eos=True).result()
    assert finished.states.shape == (34, 3 * 32)
    assert finished.final.dtype == torch.float16
    with torch.no_grad():
        hidden = model(torch.tensor([finished.tokens[:-1]]), output_hidden_states=True).hidden_states
    expected = torch.cat([hidden[i + 1][0] for i in engine.aux_layer_ids], -1)
    assert (finished.states.float() - expected).abs().max() < 2e-3 * float(expected.abs().max())
    assert (finished.final.float() - hidden[-1][0]).abs().max() < 2e-3 * float(hidden[-1].abs().max())


def test_no_states_where_none_are_wanted(tiny):
    with engine_of(tiny[0]) as engine:
        finished = submit(engine, PROMPT, max_tokens=5, keep_states=False).result()
    assert finished.states is None
    assert finished.final is None


def test_tokens_stream_in_order_and_end_once(tiny, good):
    with engine_of(tiny[0], fixed_lookahead=4) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        waiter = submit(engine, PROMPT, max_tokens=40, ignore_eos=True)
        finished = waiter.result()
    assert waiter.tokens == output(finished)
    assert len(waiter.tokens) == 40
    assert finished.finish_reason == "length"


def test_end_tokens_stop_and_may_be_ignored(tiny):
    with engine_of(tiny[0]) as engine:
        plain = output(submit(engine, PROMPT, max_tokens=20, ignore_eos=True).result())
        stopped = submit(engine, PROMPT, max_tokens=20, ignore_eos=True, stop_token_ids=(plain[4],)).result()
    assert output(stopped) == plain[: plain.index(plain[4]) + 1]
    assert stopped.finish_reason == "stop"


def test_more_requests_than_slots_wait_and_all_finish(tiny):
    with engine_of(tiny[0], max_requests=2) as engine:
        waiters = [submit(engine, (i + 1,) * 3, max_tokens=10, ignore_eos=True) for i in range(9)]
        finished = [w.result() for w in waiters]
        assert all(len(output(f)) == 10 for f in finished)
        assert engine.stats().num_finished == 9
        assert max(f.mean_batch_size for f in finished) > 1.2


def test_long_prompts_are_prefilled_in_chunks_while_others_go_on(tiny):
    with engine_of(tiny[0], prefill_chunk=16) as engine:
        long = submit(engine, tuple(range(60)), max_tokens=5, ignore_eos=True)
        short = submit(engine, PROMPT, max_tokens=5, ignore_eos=True)
        chunked = output(long.result())
        short.result()
    with engine_of(tiny[0], prefill_chunk=128) as engine:
        assert output(submit(engine, tuple(range(60)), max_tokens=5, ignore_eos=True).result()) == chunked


def test_cancel_running_and_waiting(tiny, slow_steps):
    with engine_of(tiny[0], max_requests=1) as engine:
        running = submit(engine, PROMPT, max_tokens=100, ignore_eos=True)
        waiting = submit(engine, PROMPT, max_tokens=100, ignore_eos=True)
        assert running.started.wait(60)
        engine.cancel(waiting.request_id)
        assert waiting.result().finish_reason == "cancelled"
        engine.cancel(running.request_id, "stop")
        assert running.result().finish_reason == "stop"
        engine.cancel("nobody")
        assert submit(engine, PROMPT, max_tokens=3).result().finish_reason in ("length", "stop")


@pytest.mark.parametrize(
    ("prompt", "options", "named"),
    [
        ((), {}, "prompt is empty"),
        (PROMPT, {"max_tokens": 0}, "max_tokens=0"),
        (PROMPT, {"max_tokens": 124}, "together at most 128"),
        ((1, 61), {}, "token 61"),
        (PROMPT, {"temperature": -1.0}, "temperature=-1.0"),
        (PROMPT, {"top_p": 0.0}, "top_p=0.0"),
    ],
)
def test_requests_that_can_never_be_served_are_refused(tiny, prompt, options, named):
    engine = Engine(tiny[0], EngineConfig(max_len=128))
    with pytest.raises(RequestError, match=named):
        submit(engine, prompt, **{"max_tokens": 4, **options})


def test_the_same_id_twice_is_refused(tiny):
    with engine_of(tiny[0]) as engine:
        first = submit(engine, PROMPT, max_tokens=100, ignore_eos=True, request_id="a")
        with pytest.raises(RequestError, match="running already"):
            submit(engine, PROMPT, max_tokens=2, request_id="a")
        first.result()
        submit(engine, PROMPT, max_tokens=2, request_id="a").result()


def test_the_control_is_blocks_of_steps_of_the_same_requests(tiny, good):
    """Its parts and the requests' own are all that was decoded, and drafts are made outside its steps alone."""
    told = []
    with engine_of(
        tiny[0], fixed_lookahead=2, control_share=0.25, seed=1, on_control=lambda *a: told.append(a)
    ) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        waiters = [
            submit(engine, PROMPT, is_control=None, domain=domain, max_tokens=100, ignore_eos=True)
            for domain in ("a", "b") * 15
        ]
        finished = [w.result() for w in waiters]
    assert {part.num_verify_steps for _, part in told} <= set(range(1, 4 * BLOCK_STEPS + 1))
    assert all((part.version, part.lookahead, part.num_proposed_drafts) == (0, 0, 0) for _, part in told)
    assert all(part.num_accept_tokens == part.num_verify_steps and part.decode_seconds > 0 for _, part in told)
    assert {domain for domain, _ in told} == {"a", "b"}
    assert all(f.version == 1 for f in finished)
    kept = [part for f in finished for part in ([f] if f.parts is None else f.parts)]
    assert all(part.version == 1 and part.lookahead == 2 for part in kept)
    control = sum(part.num_verify_steps for _, part in told)
    assert control + sum(part.num_verify_steps for part in kept) == sum(f.num_verify_steps for f in finished)
    tokens = sum(part.num_accept_tokens for _, part in told) + sum(part.num_accept_tokens for part in kept)
    assert tokens == 30 * 99
    seconds = sum(part.decode_seconds for _, part in told) + sum(part.decode_seconds for part in kept)
    assert seconds == pytest.approx(sum(f.decode_seconds for f in finished))
    # A draft is possible in every step but the last of a request: those without one are the control's.
    plain = sum(not step.proposed for f in finished for step in f.steps)
    assert control <= plain <= control + len(finished)
    assert 0.1 < control / sum(f.num_verify_steps for f in finished) < 0.5


def test_no_block_is_drawn_where_speculation_is_off_or_nothing_is_live(tiny, good):
    told = []
    with engine_of(tiny[0], control_share=1.0, on_control=lambda *a: told.append(a)) as engine:
        submit(engine, PROMPT, is_control=None, max_tokens=20, ignore_eos=True).result()
        engine.swap(1, engine.load_draft(good)).result(60)
        engine.set_policy(max_lookahead=0)
        submit(engine, PROMPT, is_control=None, max_tokens=20, ignore_eos=True).result()
    assert told == []


def test_what_drafting_would_cost_is_told_while_it_is_off(tiny):
    """Else nothing could be predicted of a version that comes meanwhile."""
    with engine_of(tiny[0], fixed_lookahead=None, max_lookahead=3) as engine:
        for wanted, known in ((2, 3), (0, 4)):
            engine.set_policy(max_lookahead=wanted)
            assert len(engine.stats().step_seconds) == known


def test_what_is_decoded_before_a_first_version_counts_on_neither_side(tiny, good):
    told = []
    with engine_of(tiny[0], control_share=1.0, on_control=lambda *a: told.append(a)) as engine:
        early = [
            submit(engine, PROMPT, is_control=c, max_tokens=6, ignore_eos=True).result() for c in (None, True, False)
        ]
        engine.swap(1, engine.load_draft(good)).result(60)
        submit(engine, PROMPT, is_control=None, max_tokens=6, ignore_eos=True).result()
    assert [finished.version for finished in early] == [0, 0, 0]
    parts = [part for finished in early for part in finished.parts]
    assert [(part.version, part.lookahead, part.num_accept_tokens) for part in parts] == [(NO_DRAFT, 0, 5)] * 3
    assert sum(part.num_verify_steps for _, part in told) == 5


def test_a_control_that_a_client_chose_counts_on_neither_side(tiny, good):
    told = []
    with engine_of(tiny[0], control_share=1.0, on_control=lambda *a: told.append(a)) as engine:
        engine.swap(3, engine.load_draft(good)).result(60)
        chosen = submit(engine, PROMPT, is_control=True, max_tokens=6, ignore_eos=True).result()
        drawn = submit(engine, PROMPT, is_control=None, max_tokens=6, ignore_eos=True).result()
        kept_out = submit(engine, PROMPT, is_control=False, max_tokens=6, ignore_eos=True, is_alone=True).result()
    assert (chosen.version, chosen.num_proposed_drafts, drawn.version, kept_out.version) == (0, 0, 3, 3)
    assert chosen.tokens == drawn.tokens == kept_out.tokens
    [part] = chosen.parts
    assert (part.version, part.lookahead, part.num_verify_steps, part.num_accept_tokens) == (3, 0, 5, 5)
    assert part.decode_seconds == chosen.decode_seconds
    assert drawn.parts == () and kept_out.parts is None
    assert [(domain, part.num_verify_steps) for domain, part in told] == [("default", 5)]


def test_a_request_that_is_alone_shares_no_step(tiny, good):
    with engine_of(tiny[0], fixed_lookahead=2) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        long = {"max_tokens": 100, "ignore_eos": True}
        crowd = [submit(engine, PROMPT, **long) for _ in range(2)]
        assert all(each.started.wait(60) for each in crowd)
        alone = submit(engine, PROMPT, is_alone=True, **{**long, "max_tokens": 12}).result()
        shared = [each.result() for each in crowd]
    assert alone.mean_batch_size == 1.0
    assert max(each.mean_batch_size for each in shared) > 1.5
    assert alone.tokens == shared[0].tokens[: len(alone.tokens)]


def test_a_step_is_told_before_its_tokens(tiny, good):
    events = []
    with engine_of(tiny[0]) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        done = queue.SimpleQueue()
        sampling = SamplingParams(max_tokens=12, ignore_eos=True)
        engine.submit(
            Request("a", PROMPT, sampling, is_control=False, on_step=events.append, on_tokens=events.append,
                    on_finish=done.put)
        )  # fmt: skip
        finished = done.get(timeout=60)
    steps, tokens = events[1::2], events[0::2]
    assert tuple(steps) == finished.steps
    assert sum(tokens, ()) == finished.tokens[finished.prompt_len :]


def test_a_draft_that_reads_other_layers_is_refused(tiny, garbage, tmp_path):
    """Its input would be as wide, and mean something else."""
    config, state = checkpoint.load(garbage)
    checkpoint.save(tmp_path / "shifted", replace(config, aux_layer_ids=(0, 3, 4)), state)
    engine = Engine(tiny[0], EngineConfig(max_requests=2, max_len=64))
    with pytest.raises(OtherLayersError, match=r"reads layers \(0, 3, 4\), this engine captures \(1, 3, 4\)"):
        engine.load_draft(tmp_path / "shifted")
    assert engine.load_draft(garbage)


def test_versions_share_steps_and_each_request_drafts_with_its_own(tiny, good, garbage, monkeypatch):
    """After a swap two versions serve side by side: what each proposes is what it proposes alone."""
    prompts = [(7, 3, i) for i in range(6)]

    def alone(draft, some):
        with engine_of(tiny[0], fixed_lookahead=3) as engine:
            engine.swap(1, engine.load_draft(draft)).result(60)
            waiters = [submit(engine, prompt, max_tokens=60, ignore_eos=True) for prompt in some]
            return [waiter.result().steps for waiter in waiters]

    expected = alone(good, prompts[:3]) + alone(garbage, prompts[3:])
    seen, honest, swapped = [], Stepper.verify, threading.Event()

    def watch(self, group, proposals):
        assert len(group) < 3 or swapped.wait(60)
        seen.append([(s.served.version, bool(s.request.is_control)) for s in group])
        return honest(self, group, proposals)

    monkeypatch.setattr(Stepper, "verify", watch)
    with engine_of(tiny[0], fixed_lookahead=3) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        waiters = [submit(engine, prompt, max_tokens=60, ignore_eos=True) for prompt in prompts[:3]]
        assert all(w.started.wait(60) for w in waiters)
        engine.swap(2, engine.load_draft(garbage))
        waiters += [submit(engine, prompt, max_tokens=60, ignore_eos=True) for prompt in prompts[3:]]
        chosen = submit(engine, PROMPT, is_control=True, max_tokens=20, ignore_eos=True)
        swapped.set()
        control = chosen.result()
        finished = [w.result() for w in waiters]
    assert [each.version for each in finished] == [1, 1, 1, 2, 2, 2]
    assert [each.steps for each in finished] == expected
    assert control.num_proposed_drafts == 0
    assert any({version for version, _ in group} == {1, 2} for group in seen)
    assert all(len({is_control for _, is_control in group}) == 1 for group in seen)


def test_a_block_of_the_control_is_for_all_versions_of_a_step(tiny, good, garbage, monkeypatch):
    parts, seen, honest, swapped = [], [], Stepper.verify, threading.Event()

    def watch(self, group, proposals):
        assert len(group) < 2 or swapped.wait(60)
        seen.append(({s.served.version for s in group}, {len(p.tokens) > 0 for p in proposals}))
        return honest(self, group, proposals)

    monkeypatch.setattr(Stepper, "verify", watch)
    config = EngineConfig(max_requests=4, max_len=128, control_share=0.5, seed=3, fixed_lookahead=2)
    engine = Engine(tiny[0], config)
    engine.start(lambda domain, part: parts.append(part))
    try:
        engine.swap(1, engine.load_draft(good)).result(60)
        waiters = [submit(engine, (i, 5), is_control=None, max_tokens=100, ignore_eos=True) for i in range(2)]
        assert all(w.started.wait(60) for w in waiters)
        engine.swap(2, engine.load_draft(garbage))
        waiters += [submit(engine, (i, 9), is_control=None, max_tokens=100, ignore_eos=True) for i in range(2)]
        swapped.set()
        finished = [w.result() for w in waiters]
    finally:
        engine.stop()
    assert ({1, 2}, {True}) in seen
    assert ({1, 2}, {False}) in seen
    steps = sum(part.num_verify_steps for each in finished for part in each.parts or ())
    assert steps + sum(part.num_verify_steps for part in parts) == sum(len(each.steps) for each in finished)
    counted = [*parts, *(part for each in finished for part in each.parts or ())]
    assert sum(part.num_plain_steps for part in counted) == sum(each.num_plain_steps for each in finished) > 0


def test_swap_proof_and_way_back(tiny, good, garbage):
    with engine_of(tiny[0]) as engine:
        drafts = [engine.load_draft(good), engine.load_draft(garbage)]
        engine.swap(7, drafts[0]).result(60)
        outcome = engine.swap(8, drafts[1]).result(60)
        assert (outcome.version, outcome.sha256, outcome.previous) == (8, drafts[1].sha256, 7)
        back = engine.revert("because").result(60)
        assert (back.version, back.sha256) == (7, drafts[0].sha256)
        stats = engine.stats()
        assert (stats.version, stats.reverted_from, stats.revert_detail) == (7, 8, "because")
        with pytest.raises(LookupError, match="no previous"):
            engine.revert("again").result(60)


def test_weights_that_changed_since_they_were_read_do_not_serve(tiny, good, garbage):
    with engine_of(tiny[0]) as engine:
        engine.swap(7, engine.load_draft(good)).result(60)
        draft = engine.load_draft(garbage)
        draft._out = engine.load_draft(good)._out
        with pytest.raises(SwapError, match=f"in memory is [0-9a-f]{{64}}, not .* {draft.sha256}"):
            engine.swap(8, draft)
        assert engine.stats().version == 7


@pytest.fixture
def damaged_before(tiny, good, garbage):
    """An engine whose live version is another, and the version before it no more what was read."""
    with engine_of(tiny[0], probe_steps=16) as engine:
        draft = engine.load_draft(good)
        engine.swap(7, draft).result(60)
        engine.swap(8, engine.load_draft(garbage), min_accept_length=1.4).result(60)
        draft._out = engine.load_draft(garbage)._out
        yield engine, f"in memory is [0-9a-f]{{64}}, not .* {draft.sha256}"


def test_nobody_returns_to_weights_that_changed_since_they_served(damaged_before):
    engine, said = damaged_before
    with pytest.raises(SwapError, match=said):
        engine.revert("somebody wants it")
    assert (engine.stats().version, engine.stats().reverted_from) == (8, None)


def test_a_collapse_does_not_return_to_weights_that_changed_since_they_served(damaged_before):
    engine, said = damaged_before
    submit(engine, PROMPT, max_tokens=100, ignore_eos=True).result()
    stats = engine.stats()
    assert (stats.version, stats.sha256, stats.reverted_from) == (0, "", 8)
    assert re.search(f"least allowed is 1.40; the version before: {said}", stats.revert_detail)
    finished = submit(engine, PROMPT, max_tokens=20, ignore_eos=True).result()
    assert len(output(finished)) == 20 and not any(step.proposed for step in finished.steps)


@pytest.mark.timed
def test_a_swap_takes_milliseconds(tiny, good, garbage):
    with engine_of(tiny[0]) as engine:
        drafts = [engine.load_draft(good), engine.load_draft(garbage)]
        swaps = [engine.swap(number, drafts[number % 2]).result(60).swap_ms for number in range(1, 8)]
    assert sorted(swaps)[3] < 50


def test_a_collapse_reverts_by_itself(tiny, good, garbage):
    with engine_of(tiny[0], probe_steps=16) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        engine.swap(2, engine.load_draft(garbage), min_accept_length=1.4).result(60)
        submit(engine, PROMPT, max_tokens=100, ignore_eos=True).result()
        stats = engine.stats()
        assert (stats.version, stats.reverted_from) == (1, 2)
        assert "least allowed is 1.40" in stats.revert_detail


def test_a_good_version_passes_its_probe(tiny, good):
    with engine_of(tiny[0], probe_steps=60) as engine:
        engine.swap(1, engine.load_draft(good), min_accept_length=1.1).result(60)
        waiters = [submit(engine, (i, 2 * i, 3), max_tokens=100, ignore_eos=True) for i in range(1, 5)]
        [w.result() for w in waiters]
        probe = engine.stats().probe
        assert probe.is_complete
        assert probe.num_steps == 60
        assert probe.accept_length > 1.1
        assert engine.stats().reverted_from is None


def test_costs_are_told_what_each_step_drafted_and_took_in(tiny, garbage, monkeypatch):
    """A request's first draft takes the whole prompt in, which is not what drafting costs."""
    seen, observed, honest = [], [], Stepper.propose

    def watch(self, group, drafting):
        pending = sum(s.num_pending for s, limit in zip(group, drafting.limits, strict=True) if limit)
        proposals = honest(self, group, drafting)
        num_passes = max(len(proposal.confidences) for proposal in proposals)
        seen.append((len(group), sum(len(proposal.tokens) for proposal in proposals), num_passes, pending))
        return proposals

    monkeypatch.setattr(Stepper, "propose", watch)
    monkeypatch.setattr(Engine, "measure_costs", lambda self: Costs(PARTS))
    monkeypatch.setattr(Costs, "observe", lambda self, *step: observed.append(step))
    with engine_of(tiny[0], probe_steps=4) as engine:
        engine.swap(1, engine.load_draft(garbage)).result(60)
        for _ in range(3):
            submit(engine, PROMPT * 4, max_tokens=100, ignore_eos=True).result()
    assert [step[:4] for step in observed] == seen
    assert max(step[3] for step in seen) > 8
    assert min(step[4] for step in observed) > 0


@pytest.mark.parametrize("damage", ["truncate", "digest", "shape", "nan", "missing"])
def test_a_damaged_checkpoint_is_refused_and_serving_goes_on(tiny, good, tmp_path, damage):
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(good, tmp_path / "v")
    weights = folder / "model.safetensors"
    expected = None
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "digest":
        expected = "0" * 64
    elif damage == "missing":
        weights.unlink()
    elif damage == "shape":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 47}))
    else:
        state = load_file(weights)
        state["fc.weight"][0, 0] = float("nan")
        save_file(state, weights)
    with engine_of(tiny[0]) as engine:
        with pytest.raises(CheckpointError, match="v"):
            engine.load_draft(folder, expected)
        assert len(output(submit(engine, PROMPT, max_tokens=5, ignore_eos=True).result())) == 5


def test_an_exception_in_a_step_ends_its_requests_and_nothing_else(tiny, good, monkeypatch):
    with engine_of(tiny[0], fixed_lookahead=2) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        honest = Stepper.propose

        def broken(self, group, drafting):
            raise RuntimeError("planted")

        monkeypatch.setattr(Stepper, "propose", broken)
        assert submit(engine, PROMPT, max_tokens=9, ignore_eos=True).result().finish_reason == "error"
        monkeypatch.setattr(Stepper, "propose", honest)
        assert submit(engine, PROMPT, max_tokens=9, ignore_eos=True).result().finish_reason == "length"
        assert engine.stats().num_errors >= 1


def test_stop_ends_everybody(tiny):
    engine = Engine(tiny[0], EngineConfig(max_len=128, max_requests=1))
    engine.start()
    waiters = [submit(engine, PROMPT, max_tokens=120, ignore_eos=True) for _ in range(3)]
    assert waiters[0].started.wait(60)
    engine.stop()
    assert {w.result().finish_reason for w in waiters} <= {"cancelled", "length"}
    assert not engine.is_alive
    with pytest.raises(RequestError, match="stopping"):
        submit(engine, PROMPT, max_tokens=2)


@pytest.mark.parametrize(("name", "value"), [("control_share", 1.5), ("max_lookahead", 99)])
def test_a_wrong_policy_is_named(tiny, name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Engine(tiny[0], EngineConfig(max_len=128)).set_policy(**{name: value})


def test_submitting_from_many_threads(tiny):
    with engine_of(tiny[0], max_requests=4) as engine:
        waiters, lock = [], threading.Lock()

        def send(i):
            for j in range(10):
                waiter = submit(engine, (i + 1, j + 1), max_tokens=3, ignore_eos=True)
                with lock:
                    waiters.append(waiter)
                time.sleep(0.001)

        threads = [threading.Thread(target=send, args=(i,)) for i in range(5)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert all(len(output(w.result())) == 3 for w in waiters)
        assert len(waiters) == 50


@pytest.mark.parametrize("temperature", [1e-45, 1e-39, 9e-6])
def test_next_to_no_temperature_is_greedy(tiny, good, temperature):
    with engine_of(tiny[0], fixed_lookahead=2) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        greedy, cold = (submit(engine, PROMPT, max_tokens=20, temperature=t).result() for t in (0.0, temperature))
    assert (cold.tokens, cold.temperature) == (greedy.tokens, 0.0)
