"""Replay on held-out traces gives what the engine would have measured."""

import pytest
import torch

from speculators import checkpoint
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from tests.unit.serving.engine.running import engine_of, submit
from training_worker import evaluate
from training_worker.config import TraceSource
from training_worker.evaluate import by_domain, replay
from training_worker.segments import Examples

LOOKAHEAD = 3


@pytest.fixture(scope="module")
def trained(target, traces, tmp_path_factory):
    """A draft that is right now and then."""
    from training_worker.trainer import Recipe, Trainer

    examples, _ = Examples(target, (1, 3, 4)).load(traces(24, seed=9))
    config = DraftConfig.for_target(target.config)
    trainer = Trainer(target, config, LOOKAHEAD, seed=0, recipe=Recipe())
    for _ in range(40):
        trainer.step(examples)
    folder = tmp_path_factory.mktemp("draft") / "v"
    checkpoint.save(folder, config, trainer.averaged)
    return folder


def test_replay_equals_the_engine_step_by_step(target, target_dir, trained):
    config, state = checkpoint.load(trained)
    draft = Eagle3Draft(config)
    draft.load_state_dict(state)
    prompts = [
        tuple(torch.randint(0, 60, (n,), generator=torch.Generator().manual_seed(n)).tolist()) for n in range(3, 15)
    ]
    with engine_of(target_dir, fixed_lookahead=LOOKAHEAD) as engine:
        engine.swap(1, engine.load_draft(trained)).result(60)
        finished = [submit(engine, p, max_tokens=40, ignore_eos=True) for p in prompts]
        finished = [waiter.result() for waiter in finished]
    examples = [
        target.example(
            TraceSource(f.request_id, "x", f.tokens, f.prompt_len, 0.0, f.steps, "", 0, LOOKAHEAD), f.states, f.final
        )
        for f in finished
    ]
    scores = replay(draft, target, examples, LOOKAHEAD)
    correct = sum(f.num_correct_drafts for f in finished)
    assert correct > 20
    # Hidden states are kept in float16, so a rare near-tie may fall the other way.
    assert sum(s.num_correct_drafts for s in scores) == pytest.approx(correct, rel=0.03)
    assert sum(s.num_verify_steps for s in scores) == pytest.approx(sum(f.num_verify_steps for f in finished), rel=0.03)


def test_sampled_traces_replay_by_the_posterior(target, traces, trained):
    config, state = checkpoint.load(trained)
    draft = Eagle3Draft(config)
    draft.load_state_dict(state)
    examples, _ = Examples(target, (1, 3, 4)).load(traces(12, temperature=1.0, seed=4))
    first, second = (replay(draft, target, examples, LOOKAHEAD) for _ in range(2))
    assert first == second  # the coins come from the trace ids
    assert all(0 <= s.num_correct_drafts <= s.num_proposed_drafts for s in first)
    [score] = by_domain(first)
    assert score.num_accept_tokens == score.num_correct_drafts + score.num_verify_steps
    assert score.num_traces == 12
    assert sum(score.correct_by_position) == score.num_correct_drafts
    assert sum(score.proposed_by_position) == score.num_proposed_drafts
    assert list(score.correct_by_position) == sorted(score.correct_by_position, reverse=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_trainers_format_judges_as_float32_does(target, traces, trained, temperature):
    config, state = checkpoint.load(trained)
    draft = Eagle3Draft.from_state(config, state)
    examples, _ = Examples(target, (1, 3, 4)).load(traces(24, temperature=temperature, seed=7))
    [ours], [exact] = (
        by_domain(replay(draft, target, examples, LOOKAHEAD, x)) for x in (torch.bfloat16, torch.float32)
    )
    assert exact.num_correct_drafts > 20
    assert ours.num_correct_drafts == pytest.approx(exact.num_correct_drafts, rel=0.05)
    assert ours.num_verify_steps == pytest.approx(exact.num_verify_steps, rel=0.05)


def test_pairs_are_summed_trace_by_trace(target, traces, trained):
    config, state = checkpoint.load(trained)
    draft = Eagle3Draft(config)
    draft.load_state_dict(state)
    examples, _ = Examples(target, (1, 3, 4)).load(traces(6, seed=5))
    ours = replay(draft, target, examples, LOOKAHEAD)
    theirs = replay(Eagle3Draft(config), target, examples, LOOKAHEAD)
    [paired] = by_domain(ours, theirs)
    assert paired.num_paired == paired.num_traces == 6
    assert paired.sum_xv == sum(a.num_accept_tokens * b.num_verify_steps for a, b in zip(ours, theirs, strict=True))
    assert paired.sum_yu == sum(a.num_verify_steps * b.num_accept_tokens for a, b in zip(ours, theirs, strict=True))
    [alike] = by_domain(ours, ours)
    assert (alike.sum_xu, alike.sum_xv, alike.sum_yv) == (alike.sum_xx, alike.sum_xy, alike.sum_yy)
    assert by_domain(ours)[0].num_paired == 0


def test_a_trace_of_one_token_has_no_step(target, traces):
    from dataclasses import replace

    [source] = traces(1, seed=8)
    short = replace(source, tokens=source.tokens[: source.prompt_len + 1], segment_uri="")
    examples, _ = Examples(target, (1, 3, 4)).load([short])
    draft = Eagle3Draft(DraftConfig.for_target(target.config))
    assert by_domain(replay(draft, target, examples, LOOKAHEAD)) == ()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_leaving_out_chains_that_have_ended_changes_no_score(target, traces, trained, monkeypatch, temperature):
    config, state = checkpoint.load(trained)
    draft = Eagle3Draft.from_state(config, state)
    examples, _ = Examples(target, (1, 3, 4)).load(traces(12, temperature=temperature, seed=6))
    sizes, going_on = [], evaluate._going_on

    def spied(base, passes):
        sizes.append((base.shape[1], going_on(base, passes).shape[1]))
        return going_on(base, passes)

    monkeypatch.setattr(evaluate, "BASES_STEP", 1)
    monkeypatch.setattr(evaluate, "_going_on", spied)
    scores = replay(draft, target, examples, LOOKAHEAD)
    assert any(after < before for before, after in sizes)
    monkeypatch.setattr(evaluate, "_going_on", lambda base, passes: base)
    assert replay(draft, target, examples, LOOKAHEAD) == scores
