import random
from dataclasses import replace

import pytest
import torch
from aurora_kernels.dtypes import fastest_dtype

from speculators import candidates
from speculators.candidates import Candidates
from speculators.checkpoint import tensor_problems
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from speculators.records import StepRecord
from training_worker import trainer as trainer_module
from training_worker import vocabulary
from training_worker.batches import training_batches
from training_worker.device import CPU
from training_worker.evaluate import replay
from training_worker.segments import Examples
from training_worker.trainer import DRAWN_TOKENS, Recipe, Trainer

AUX = (1, 3, 4)


def test_batches_hold_every_example_and_few_shapes(target, traces):
    examples, _ = Examples(target, AUX).load(traces(23))
    batches = training_batches(examples, 256, random.Random(0))
    assert {e.source.trace_id for batch in batches for e in batch} == {e.source.trace_id for e in examples}
    assert {len(batch) for batch in batches} == {4}
    assert all(len({e.source.trace_id for e in batch}) == 4 for batch in batches)


def trainer_of(target, **recipe):
    return Trainer(target, DraftConfig.for_target(target.config), 3, seed=1, recipe=Recipe(max_positions=128, **recipe))


def accept_length(trainer, target, examples):
    scores = replay(trainer.published(), target, examples, 3)
    return sum(s.num_accept_tokens for s in scores) / sum(s.num_verify_steps for s in scores)


def losses_of(trainer, examples, num_steps):
    losses = []
    for _ in range(num_steps):
        trainer.step(examples)
        losses.append(trainer.loss)
    return losses


def test_it_learns_the_target(target, traces):
    examples, _ = Examples(target, AUX).load(traces(24))
    trainer = trainer_of(target, token_share=0.7)  # with less, the teacher's own entropy would be most of the loss
    before = accept_length(trainer, target, examples)
    first = last = 0.0
    for epoch in range(10):
        for batch in training_batches(examples, 128, random.Random(epoch)):
            trainer.step(batch)
            last = trainer.loss
            first = first or last
    assert last < 0.6 * first
    assert accept_length(trainer, target, examples) > before + 0.8


@pytest.fixture
def small_steps(monkeypatch):
    """Candidates of a vocabulary of some dozens; how many there were each time."""
    monkeypatch.setattr(candidates, "STEP", 4)
    monkeypatch.setattr(candidates, "LEAST_TAUGHT", 0.4)
    honest, sizes = Candidates.drawn, []

    def drawn(*given):
        found = honest(*given)
        sizes.append(len(found.ids))  # None would be the whole vocabulary, which these tests are not about
        return found

    monkeypatch.setattr(Candidates, "drawn", drawn)
    return sizes


def test_it_learns_from_a_part_of_the_vocabulary(target, traces, small_steps):
    examples, _ = Examples(target, AUX).load(traces(16))
    trainer = trainer_of(target, drawn_tokens=8)
    before = accept_length(trainer, target, examples)
    for epoch in range(10):
        for batch in training_batches(examples, 128, random.Random(epoch)):
            trainer.step(batch)
    assert small_steps and max(small_steps) <= trainer.config.draft_vocab_size // 2
    assert accept_length(trainer, target, examples) > before + 0.5


def test_a_draw_of_a_resumed_run_is_that_of_one_that_was_not_killed(target, traces, tmp_path, small_steps):
    check_resumption(target, traces, tmp_path, drawn_tokens=8)
    assert small_steps


def test_a_run_killed_and_resumed_equals_one_that_was_not(target, traces, tmp_path):
    check_resumption(target, traces, tmp_path)


def check_resumption(target, traces, tmp_path, **recipe):
    examples, _ = Examples(target, AUX).load(traces(3))
    whole, part = trainer_of(target, **recipe), trainer_of(target, **recipe)
    for _ in range(3):
        whole.step(examples)
        part.step(examples)
    part.save(tmp_path / "t.pt")
    resumed = trainer_of(target, **recipe)
    resumed.load(tmp_path / "t.pt")
    for _ in range(3):
        whole.step(examples)
        resumed.step(examples)
    assert resumed.step_count == whole.step_count == 6
    for name, expected in whole.draft.state_dict().items():
        assert torch.equal(resumed.draft.state_dict()[name], expected), name
        assert torch.equal(resumed.averaged[name], whole.averaged[name]), name


def test_published_weights_are_an_average_over_a_share_of_all_steps(target, traces):
    """Over the last step alone at first, so that day 0 does not lag; over no more than ``most_averaged`` ever."""
    examples, _ = Examples(target, AUX).load(traces(4))
    trainer = trainer_of(target, average_share=0.25, most_averaged=4)
    name = "lm_head.weight"
    expected = None
    for step in range(1, 24):
        trainer.step(examples)
        num_averaged = max(1.0, min(4.0, step / 4))
        trained = trainer.draft.state_dict()[name]
        expected = trained.clone() if num_averaged == 1 else expected.lerp(trained, 1 / num_averaged)
        assert torch.allclose(trainer.averaged[name], expected, atol=1e-6)
    assert not torch.allclose(trainer.averaged[name], trainer.draft.state_dict()[name], atol=1e-4)


def test_bfloat16_goes_where_float32_goes(target, traces):
    examples, _ = Examples(target, AUX).load(traces(8))
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        trainer = trainer_of(target, dtype=dtype)
        losses.append(losses_of(trainer, examples, 12))
    assert abs(losses[0][-1] - losses[1][-1]) < 0.1 * losses[0][-1]
    assert losses[0][-1] < losses[0][0]


def with_drafts(source, num_correct):
    """The trace as steps of three drafts leave it, so many of them kept; what comes after those is a wrong token."""
    steps, place = [], source.prompt_len + 1
    while place < len(source.tokens):
        kept = source.tokens[place : place + num_correct]
        wrong = [token + 1 for token in source.tokens[place + len(kept) :]]
        steps.append(StepRecord((*kept, *wrong)[:3], len(kept)))
        place += num_correct + 1
    return replace(source, steps=tuple(steps))


def kept_places(source):
    """Local positions whose draft was kept: the base at position t predicts token t + 2."""
    place, found = source.prompt_len + 1, []
    for step in source.steps:
        found += range(place, place + step.num_correct_drafts)
        place += step.num_correct_drafts + 1
    return [token - 2 - source.first_state for token in found]


@pytest.fixture
def kept_drafts_alone(monkeypatch):
    """Plants the mistake that the next tests are about: plant(examples) has only kept drafts learnt from."""
    honest = trainer_module.sample_bases

    def plant(examples):
        def masked(batch, *given):
            bases, is_chosen = honest(batch, *given)
            is_kept = torch.zeros_like(is_chosen)
            for row, example in enumerate(examples):
                is_kept[row, kept_places(example.source)] = 1.0
            return bases, is_chosen * is_kept

        monkeypatch.setattr(trainer_module, "sample_bases", masked)

    return plant


def gained(target, sources, plant=lambda examples: None):
    """How much longer accept lengths are after some steps on these traces."""
    examples, _ = Examples(target, AUX).load(sources)
    trainer = trainer_of(target, token_share=0.7)
    before = accept_length(trainer, target, examples)
    plant(examples)
    for _ in range(20):
        trainer.step(examples)
    return accept_length(trainer, target, examples) - before


def test_rejected_positions_are_learnt_from(target, traces):
    """As on day 0, when a random draft is always wrong."""
    assert gained(target, [with_drafts(source, 0) for source in traces(8)]) > 0.5


def test_from_kept_drafts_alone_nothing_would_ever_begin(target, traces, kept_drafts_alone):
    sources = traces(8)
    assert gained(target, [with_drafts(source, 0) for source in sources], kept_drafts_alone) == 0
    assert gained(target, [with_drafts(source, 3) for source in sources], kept_drafts_alone) > 0.5  # the mask is sound


def test_a_reduced_vocabulary_learns_what_it_can_say(target, traces):
    config = replace(DraftConfig.for_target(target.config), draft_vocab_size=30)
    examples, _ = Examples(target, AUX).load(traces(8))
    trainer = Trainer(target, config, 3, seed=1, recipe=Recipe(max_positions=128))
    losses = losses_of(trainer, examples, 15)
    assert losses[-1] < losses[0]


def test_a_parents_vocabulary_is_learnt_in(target, traces, tmp_path):
    """The teacher's tokens are looked up in the map of the parent, after a start and after a resumption."""
    config = replace(DraftConfig.for_target(target.config), draft_vocab_size=30)
    ids = torch.arange(30) * 2 + 1
    parent = Eagle3Draft(config, seed=5)
    parent.d2t.copy_(ids - torch.arange(30))
    trainer, resumed = (Trainer(target, config, 3, seed=1) for _ in range(2))
    trainer.start_from(parent.state_dict())
    trainer.save(tmp_path / "t.pt")
    resumed.load(tmp_path / "t.pt")
    for each in (trainer, resumed):
        place, probs = each._to_draft(torch.tensor([[1, 2, 59]]), torch.tensor([[0.5, 0.3, 0.2]]))
        assert (probs > 0).tolist() == [[True, False, True]]
        assert place[0, [0, 2]].tolist() == [0, 29]


def test_the_vocabulary_follows_the_traffic_and_learning_goes_on(target, traces, tmp_path, monkeypatch):
    """Tokens that stay keep what was learnt of them; the others begin unlikely; a resumed run counts on."""
    monkeypatch.setattr(vocabulary, "PRIOR_TOKENS", 30.0)  # few are said here
    config = replace(DraftConfig.for_target(target.config), draft_vocab_size=30)
    sources = traces(24)
    examples, _ = Examples(target, AUX).load(sources)
    trainer = Trainer(target, config, 3, seed=1, recipe=Recipe(max_positions=128))
    losses_of(trainer, examples, 5)
    ids, head = trainer.draft.target_ids, trainer.draft.lm_head.weight.detach().clone()
    moments = trainer._optimisers[1].state[trainer.draft.lm_head.weight]
    before, learnt = trainer.coverage(sources), moments["exp_avg"].clone()
    num_exchanged = trainer.follow(sources)
    now = trainer.draft.target_ids
    assert num_exchanged == len(set(now.tolist()) - set(ids.tolist())) > 0
    assert trainer.coverage(sources) > before
    assert trainer.coverage([]) is None
    stay = [(i, ids.tolist().index(each)) for i, each in enumerate(now.tolist()) if each in ids]
    come = [i for i, each in enumerate(now.tolist()) if each not in ids]
    after = trainer.draft.lm_head.weight.detach()
    for i, was in stay:
        assert torch.equal(after[i], head[was]) and torch.equal(moments["exp_avg"][i], learnt[was])
    going = [i for i, each in enumerate(ids.tolist()) if each not in now]
    assert all(torch.allclose(after[i], head[going].mean(0)) for i in come)
    assert all(moments["exp_avg"][i].abs().max() == 0 for i in come)
    assert tensor_problems(config, trainer.averaged) == []
    assert torch.equal(trainer.published().target_ids, now)
    assert trainer.follow([]) == 0
    trainer.save(tmp_path / "t.pt")
    resumed = Trainer(target, Trainer.config_of(tmp_path / "t.pt"), 3, seed=1, recipe=Recipe(max_positions=128))
    resumed.load(tmp_path / "t.pt")
    assert torch.equal(resumed.token_counts, trainer.token_counts)
    assert losses_of(resumed, examples, 12) == losses_of(trainer, examples, 12)
    assert torch.equal(resumed._draft_ids, now)
    said = {token for source in sources for token in source.tokens[source.prompt_len :]}
    assert said & set(now[come].tolist())
    assert accept_length(trainer, target, examples) > 1.0


def test_the_embedding_is_kept_once_in_each_format(target):
    """It is the largest thing that a small target's trainer holds; a tied head is the same."""
    one, other = (trainer_of(target, dtype=torch.bfloat16) for _ in range(2))
    assert one._embed is other._embed
    dtype = fastest_dtype(CPU)
    assert target.config["tie_word_embeddings"] == (target._head is target.embed_in(dtype))
    assert torch.equal(target._head, target.head_VH.to(dtype))


def test_a_real_llm_on_a_cpu_is_learnt_from_a_part_of_its_vocabulary(target):
    config = DraftConfig.for_target(target.config)
    reduced = replace(config, draft_vocab_size=config.vocab_size // 2)
    assert Recipe.fitting(CPU, config).drawn_tokens == 0
    assert Recipe.fitting(CPU, reduced).drawn_tokens == DRAWN_TOKENS
    assert Recipe.fitting(torch.device("cuda"), reduced).drawn_tokens == 0  # a GPU is not to be asked what is taught


def test_a_whole_vocabulary_has_nothing_to_follow(target, traces):
    trainer = trainer_of(target)
    sources = traces(3)
    assert (trainer.follow(sources), trainer.coverage(sources)) == (0, 1.0)
