"""Speculation changes speed, never text: greedy output token for token, sampled output in distribution.

The last tests plant bugs and demand that these very checks fail.
"""

import functools
import threading

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from serving.draft_runner import DraftRunner
from serving.engine.drafting import Drafting
from serving.engine.sequence import Sequence
from serving.engine.stepper import Stepper, Verdict
from serving.model.attention import Span
from speculators import checkpoint, verify
from speculators.eagle3 import Eagle3Draft
from speculators.records import DomainPin, DomainPins
from tests.unit.serving.engine.running import engine_of, of_plain_draft, output, submit

TIE_MARGIN = 1e-4
PROMPTS = [tuple(torch.randint(0, 60, (n,), generator=torch.Generator().manual_seed(n)).tolist()) for n in range(1, 13)]


def plain_greedy(model, prompt, num_tokens):
    """(tokens, top-2 margins) of plain decoding with transformers, without any cache."""
    ids, margins = list(prompt), []
    with torch.no_grad():
        for _ in range(num_tokens):
            top = model(torch.tensor([ids])).logits[0, -1].topk(2)
            ids.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
    return ids[len(prompt) :], margins


@pytest.fixture(scope="module")
def plain(tiny):
    return {prompt: plain_greedy(tiny[1], prompt, 40) for prompt in PROMPTS}


def mismatches(finished, plain):
    """First differences that are no exact tie; after one, the texts have nothing to do with each other."""
    count = 0
    for each in finished:
        tokens, margins = plain[each.tokens[: each.prompt_len]]
        differing = [i for i, (a, b) in enumerate(zip(output(each), tokens, strict=True)) if a != b]
        if differing and margins[differing[0]] >= TIE_MARGIN:
            count += 1
    return count


def run_greedy(target, draft, lookahead, prompts=PROMPTS, after_loading=lambda: None):
    with engine_of(target, fixed_lookahead=lookahead) as engine:
        loaded = engine.load_draft(draft)
        after_loading()
        engine.swap(1, loaded).result(60)
        waiters = [submit(engine, p, max_tokens=40, ignore_eos=True) for p in prompts]
        return [waiter.result() for waiter in waiters]


def recomputed(draft, embed_VH, finished):
    """What the draft proposes at each step of a trace by its plain form: all entries anew, no cache."""
    ids, proposals, committed = list(finished.tokens), [], finished.prompt_len + 1
    with torch.no_grad():
        fused = draft.fuse(finished.states.float()[None])
        for step in finished.steps:
            tokens, hidden = ids[1:committed], fused[:, : committed - 1]
            for _ in step.proposed:
                logits, out = draft(embed_VH[torch.tensor([tokens])], hidden, torch.arange(len(tokens))[None])
                tokens = [*tokens, int(draft.target_ids[logits[0, -1].argmax()])]
                hidden = torch.cat((hidden, out[:, -1:]), 1)
            proposals.append(tuple(tokens[committed - 1 :]))
            committed += step.num_correct_drafts + 1
    return proposals


def share_of_expected_proposals(tiny, folder, finished):
    """Of the steps that drafted: states are kept in float16, so a near-tie may fall the other way."""
    config, state = checkpoint.load(folder)
    draft, embed_VH = Eagle3Draft.from_state(config, state), tiny[1].get_input_embeddings().weight
    pairs = [
        (step.proposed, expected)
        for each in finished
        for step, expected in zip(each.steps, recomputed(draft, embed_VH, each), strict=True)
        if step.proposed
    ]
    return sum(tuple(proposed) == expected for proposed, expected in pairs) / len(pairs)


@pytest.mark.parametrize("draft", ["good", "garbage", "small_vocabulary"])
def test_proposals_are_those_of_the_plain_draft(tiny, draft, request):
    folder = request.getfixturevalue(draft)
    assert share_of_expected_proposals(tiny, folder, run_greedy(tiny[0], folder, 3, PROMPTS[::3])) > 0.95


@pytest.mark.parametrize("lookahead", [0, 1, 3, 8, *(pytest.param(k, marks=pytest.mark.long) for k in (2, 4, 5, 6, 7))])
@pytest.mark.parametrize("draft", ["good", "garbage", "small_vocabulary"])
def test_greedy_equals_plain(tiny, plain, lookahead, draft, request):
    finished = run_greedy(tiny[0], request.getfixturevalue(draft), lookahead)
    assert mismatches(finished, plain) == 0
    for each in finished:
        assert sum(step.num_correct_drafts + 1 for step in each.steps) == len(output(each)) - 1
        assert all(len(step.proposed) <= lookahead for step in each.steps)
    if draft == "good" and lookahead >= 3:
        accept = sum(f.num_accept_tokens for f in finished) / sum(f.num_verify_steps for f in finished)
        assert accept > 1.25  # several drafts do pass, else nothing is tested
    if lookahead:
        assert sum(f.num_proposed_drafts - f.num_correct_drafts for f in finished) > 0  # and several are rejected


def test_greedy_equals_plain_with_adaptive_lookahead(tiny, plain, good):
    with engine_of(tiny[0]) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        waiters = [submit(engine, p, max_tokens=40, ignore_eos=True) for p in PROMPTS]
        assert mismatches([w.result() for w in waiters], plain) == 0


@pytest.fixture
def choosy(monkeypatch):
    """Drafts that are likelier than so are verified, others are held back; about as many of each."""

    def lets_through(self, depth, rows, confidences):
        return [confidence > 0.08 for confidence in confidences]

    monkeypatch.setattr(Drafting, "lets_through", lets_through)


@pytest.fixture
def held_back(monkeypatch):
    """Of each draft that was held back behind none: (tokens, temperature, how sure, chance, the target's token)."""
    found, honest = [], Stepper.verify

    def verify_(self, group, proposals):
        verdicts = honest(self, group, proposals)
        for sequence, proposal, verdict in zip(group, proposals, verdicts, strict=True):
            if proposal.held_back is not None and not proposal.tokens:
                told = (proposal.confidences[0], verdict.held_back_chance, verdict.bonus_token)
                found.append((list(sequence.tokens), sequence.request.sampling.temperature, *told))
        return verdicts

    monkeypatch.setattr(Stepper, "verify", verify_)
    return found


def test_greedy_equals_plain_where_unlikely_drafts_are_held_back(tiny, plain, good, choosy, held_back):
    finished = run_greedy(tiny[0], good, 3)
    assert mismatches(finished, plain) == 0
    assert sum(f.num_proposed_drafts for f in finished) > 50
    assert len(held_back) > 50


@pytest.mark.parametrize("draft", ["good", "small_vocabulary"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_draft_that_was_held_back_is_judged_as_if_it_had_been_verified(
    tiny, request, choosy, held_back, draft, temperature
):
    folder = request.getfixturevalue(draft)
    with engine_of(tiny[0], fixed_lookahead=3) as engine:
        engine.swap(1, engine.load_draft(folder)).result(60)
        sampling = {"max_tokens": 40, "ignore_eos": True, "temperature": temperature, "seed": 3}
        [waiter.result() for waiter in [submit(engine, prompt, **sampling) for prompt in PROMPTS]]
    assert len(held_back) > 50
    for tokens, _, sure, chance, bonus in held_back[::7]:
        expected_sure, expected = of_plain_draft(tiny[1], folder, [*tokens, bonus], temperature, 1)
        assert sure == pytest.approx(*expected_sure, abs=2e-2)
        assert chance == pytest.approx(*expected, abs=2e-2)


def test_greedy_equals_plain_with_other_pins_beside_it_in_the_batch(tiny, plain, good):
    """No drafts, two, four, and the engine's choice, in the same verify passes."""
    pins = (DomainPin("off", speculation_off=True), DomainPin("two", 2), DomainPin("four", 4))
    with engine_of(tiny[0]) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        engine.pins.replace(DomainPins(1, pins))
        domains = ["off", "two", "four", "free"] * 3
        waiters = [
            submit(engine, p, domain=d, max_tokens=40, ignore_eos=True) for p, d in zip(PROMPTS, domains, strict=True)
        ]
        finished = [waiter.result() for waiter in waiters]
    assert mismatches(finished, plain) == 0
    widths = {d: {len(s.proposed) for f in finished if f.domain == d for s in f.steps[:-4]} for d in set(domains)}
    assert widths["off"] == {0}
    assert (widths["two"], widths["four"]) == ({2}, {4})
    assert max(f.mean_batch_size for f in finished if f.domain == "off") > 2  # and it did share its steps


def test_greedy_equals_plain_across_swaps(tiny, plain, good, garbage, small_vocabulary):
    """Swaps all the while, one of them to another vocabulary; running requests keep their version."""
    with engine_of(tiny[0], fixed_lookahead=4) as engine:
        drafts = [engine.load_draft(good), engine.load_draft(garbage), engine.load_draft(small_vocabulary), None]
        engine.swap(1, drafts[0]).result(60)
        stopped = threading.Event()

        def keep_swapping():
            number = 1
            while not stopped.wait(0.002):
                number += 1
                engine.swap(number, drafts[number % len(drafts)]).result(60)

        swapper = threading.Thread(target=keep_swapping)
        swapper.start()
        waiters = [submit(engine, p, max_tokens=40, ignore_eos=True) for p in PROMPTS * 4]
        finished = [w.result() for w in waiters]
        stopped.set()
        swapper.join()
        assert engine.stats().num_errors == 0
    assert mismatches(finished, plain) == 0
    assert len({f.version for f in finished}) > 3


def test_swap_in_mid_request_keeps_its_version(tiny, plain, good, garbage):
    with engine_of(tiny[0], fixed_lookahead=3) as engine:
        engine.swap(1, engine.load_draft(good)).result(60)
        second = engine.load_draft(garbage)
        waiter = submit(engine, PROMPTS[3], max_tokens=40, ignore_eos=True)
        assert waiter.started.wait(60)
        outcome = engine.swap(2, second).result(60)
        finished = waiter.result()
        after = submit(engine, PROMPTS[4], max_tokens=40, ignore_eos=True).result()
    assert (outcome.version, outcome.previous, outcome.sha256) == (2, 1, second.sha256)
    assert (finished.version, after.version) == (1, 2)
    assert mismatches([finished, after], plain) == 0


# -- sampled output --------------------------------------------------------------------------------------------------

NUM_TOKENS = 4  # the first comes from the prefill, the others from one or two verify steps
P_LEAST = 1e-4


def sample(target, draft, lookahead, temperature=1.0, top_p=1.0, num_samples=600):
    """Counts [NUM_TOKENS, V] of the tokens at the first places after one prompt."""
    counts = torch.zeros(NUM_TOKENS, 61)
    with engine_of(target, fixed_lookahead=lookahead, max_requests=64) as engine:
        if draft is not None:
            engine.swap(1, engine.load_draft(draft)).result(60)
        waiters = [
            submit(
                engine,
                PROMPTS[5],
                max_tokens=NUM_TOKENS,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                ignore_eos=True,
                keep_states=False,
            )
            for seed in range(num_samples)
        ]
        for waiter in waiters:
            for place, token in enumerate(output(waiter.result())):
                counts[place, token] += 1
    return counts


def p_value(counts, expected):
    """Chi-square of counts [V] against their expectation; cells that expect fewer than 8 are pooled."""
    big = expected >= 8
    counts, expected = (torch.cat((x[big], x[~big].sum()[None])).double() for x in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2), torch.tensor(statistic / 2)))


def is_same_distribution(counts, expected):
    """True when no place whose probabilities are given, but the prefill's, differs significantly from them."""
    return all(p_value(c, c.sum() * p) > P_LEAST for c, p in zip(counts[1:], expected[1:], strict=False))


@pytest.fixture(scope="module")
def exact(tiny):
    """Probabilities [places, V] from transformers over every text before them, so that no engine's bug is in them."""

    @functools.cache
    @torch.no_grad()
    def compute(num_places, temperature=1.0, top_p=1.0):
        warp = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])
        places, texts, weights = [], torch.tensor([PROMPTS[5]]), torch.ones(1, 1)
        for _ in range(num_places):
            logits = torch.cat([tiny[1](some, logits_to_keep=1).logits[:, -1] for some in texts.split(4096)])
            weights = weights.reshape(-1, 1) * torch.softmax(warp(texts, logits), -1)
            places.append(weights.sum(0))
            texts = torch.cat((texts.repeat_interleave(61, 0), torch.arange(61).repeat(len(texts))[:, None]), 1)
        return torch.stack(places)

    return compute


@pytest.mark.parametrize("draft", ["good", "garbage"])
def test_sampled_output_has_the_targets_distribution(tiny, exact, draft, request):
    assert is_same_distribution(sample(tiny[0], request.getfixturevalue(draft), 3), exact(3))


def test_sampled_output_has_it_where_unlikely_drafts_are_held_back(tiny, exact, good, choosy, held_back):
    assert is_same_distribution(sample(tiny[0], good, 3), exact(3))
    assert 180 < len(held_back) < 1020, "of two or three steps of each, some"


@pytest.mark.long
@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (1.0, 1.0), (1.5, 0.7)])
@pytest.mark.parametrize("draft", ["good", "garbage", "small_vocabulary"])
def test_every_place_has_it_at_any_temperature_and_top_p(tiny, exact, draft, temperature, top_p, request):
    counts = sample(tiny[0], request.getfixturevalue(draft), 3, temperature, top_p, num_samples=1200)
    assert is_same_distribution(counts, exact(NUM_TOKENS, temperature, top_p))


def test_a_seed_repeats_a_request(tiny, good):
    def once():
        with engine_of(tiny[0], fixed_lookahead=3) as engine:
            engine.swap(1, engine.load_draft(good)).result(60)
            return output(submit(engine, PROMPTS[2], max_tokens=30, temperature=1.0, seed=11).result())

    assert once() == once()


# -- planted bugs ----------------------------------------------------------------------------------------------------


def test_a_flipped_ratio_is_caught(tiny, exact, garbage, monkeypatch):
    honest = verify.is_accepted
    monkeypatch.setattr(verify, "is_accepted", lambda q, p, u: honest(p, q, u))
    assert not is_same_distribution(sample(tiny[0], garbage, 3, num_samples=300), exact(3))


def test_a_residual_that_forgets_the_draft_is_caught(tiny, exact, garbage, monkeypatch):
    monkeypatch.setattr(verify, "residual", lambda q, p: q)
    assert not is_same_distribution(sample(tiny[0], garbage, 3), exact(3))


def test_holding_a_draft_back_for_what_it_says_is_caught(tiny, exact, good, monkeypatch):
    """That a draft is unsure may be a reason, that it has drawn an unlikely token may not."""
    honest = Stepper._pick

    def picky(self, draft, group, active, through, logits_BV, proposals):
        honest(self, draft, group, active, through, logits_BV, proposals)
        for row, i in enumerate(active):
            token, p_V = proposals[i].tokens[-1], proposals[i].probabilities[-1]
            if p_V[token] < 0.5 * p_V.max():
                proposals[i].tokens.pop()
                proposals[i].probabilities.pop()
                through[row] = False

    monkeypatch.setattr(Stepper, "_pick", picky)
    assert not is_same_distribution(sample(tiny[0], good, 3), exact(3))


def test_a_dropped_bonus_token_is_caught(tiny, plain, good, monkeypatch):
    honest = Stepper.verify

    def without_bonus(self, group, proposals):
        return [
            Verdict(v.num_correct_drafts - 1, p.tokens[v.num_correct_drafts - 1], None)
            if v.num_correct_drafts > 1
            else Verdict(v.num_correct_drafts, p.tokens[0], None)
            if p.tokens
            else v
            for v, p in zip(honest(self, group, proposals), proposals, strict=True)
        ]

    monkeypatch.setattr(Stepper, "verify", without_bonus)
    assert mismatches(run_greedy(tiny[0], good, 3), plain) > 0


def test_a_cache_length_off_by_one_is_caught(tiny, plain, good, monkeypatch):
    def one_too_early(self, num_drafts):
        return Span(self.slot, max(0, self.num_cached - 1), num_drafts + 1)

    monkeypatch.setattr(Sequence, "verify_span", one_too_early)
    assert mismatches(run_greedy(tiny[0], good, 3), plain) > 0


def test_a_draft_feature_off_by_one_is_caught(tiny, good, monkeypatch):
    """It changes no text, only what is proposed; and no such draft would be loaded."""
    honest = DraftRunner.extend

    def plant():
        monkeypatch.setattr(DraftRunner, "extend", lambda self, g, ids, spans: honest(self, g.roll(1, 0), ids, spans))

    finished = run_greedy(tiny[0], good, 3, after_loading=plant)
    assert share_of_expected_proposals(tiny, good, finished) < 0.9
    with pytest.raises(checkpoint.CheckpointError, match="differ from the reference"):
        run_greedy(tiny[0], good, 3)
