"""The unroll is the engine's chain, run from every position at once."""

import pytest
import torch

from serving.draft_runner import DraftRunner
from serving.model.attention import Span
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from training_worker.batches import make_batch
from training_worker.device import CPU
from training_worker.segments import Examples
from training_worker.unroll import unroll

AUX = (1, 3, 4)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of a logit; the second relative to the largest one


def setup(target, traces, num=3):
    config = DraftConfig.for_target(target.config)
    draft = Eagle3Draft(config, seed=5)
    examples, missing = Examples(target, AUX).load(traces(num))
    assert not missing
    return config, draft, examples


def engine_chain(draft, config, target, example, base, depth, dtype):
    """Logits of each depth as the engine computes them: extend to ``base``, then feed the real tokens."""
    runner = DraftRunner(config, draft.state_dict(), target.embed_VH, 1, 64, dtype)
    tokens = torch.tensor(example.source.tokens)
    guess = runner.extend(example.features[: base + 1].float(), tokens[1 : base + 2], [Span(0, 0, base + 1)])
    logits = [guess.logits[0]]
    for k in range(1, depth):
        guess = runner.chain(guess.hidden, tokens[base + 1 + k][None], [Span(0, base + k, 1)])
        logits.append(guess.logits[0])
    return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unroll_gives_the_engines_logits_at_every_base_and_depth(target, traces, dtype):
    config, draft, examples = setup(target, traces)
    batch = make_batch(examples).to(CPU, torch.float32)
    length, depths = batch.tokens.shape[1], 4
    everything = torch.arange(length).expand(len(examples), length)
    with torch.no_grad():
        ours = [draft.logits(d.out) for d in unroll(draft, target.embed_VH, batch, [everything] * depths)]
    for row, example in enumerate(examples):
        for base in (0, 4, 11):
            for k, expected in enumerate(engine_chain(draft, config, target, example, base, depths, dtype)):
                largest = max(1.0, float(expected.abs().max()))
                assert (ours[k][row, base] - expected).abs().max() < TOLERANCE[dtype] * largest


def test_a_subset_of_bases_gives_the_same_values(target, traces):
    _, draft, examples = setup(target, traces)
    batch = make_batch(examples).to(CPU, torch.float32)
    length = batch.tokens.shape[1]
    everything = torch.arange(length).expand(len(examples), length)
    some = torch.tensor([[1, 4, 9], [0, 5, 6], [2, 3, 10]])
    fewer = some[:, 1:]
    with torch.no_grad():
        full = [d.out for d in unroll(draft, target.embed_VH, batch, [everything] * 3)]
        part = [d.out for d in unroll(draft, target.embed_VH, batch, [some, some, fewer])]
    rows = torch.arange(3)[:, None]
    assert torch.allclose(part[0], full[0][rows, some], atol=1e-5)
    assert torch.allclose(part[1], full[1][rows, some], atol=1e-5)
    assert torch.allclose(part[2], full[2][rows, fewer], atol=1e-5)


def test_depth_zero_is_the_drafts_own_forward(target, traces):
    _, draft, examples = setup(target, traces, 1)
    batch = make_batch(examples).to(CPU, torch.float32)
    length = batch.tokens.shape[1]
    with torch.no_grad():
        [depth] = unroll(draft, target.embed_VH, batch, [torch.arange(length)[None]])
        _, out = draft(target.embed_VH[batch.tokens], draft.fuse(batch.features), torch.arange(length)[None])
    assert torch.allclose(depth.out, out, atol=1e-5)
