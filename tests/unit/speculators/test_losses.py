import pytest
import torch

from speculators.candidates import Candidates
from speculators.losses import head_loss, soft_targets


def reference(hidden, head, ids, probs, weight, share=0.0):
    """The same sum by autograd, with the whole [N, V] matrix in memory."""
    log_probs = torch.log_softmax(hidden @ head.T, -1).gather(1, ids)
    accepted = torch.minimum(log_probs.exp(), probs).sum(-1)
    return -(weight * ((1 - share) * (probs * log_probs).sum(-1) + share * accepted.log())).sum()


def example():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 8, generator=generator, requires_grad=True)
    head = torch.randn(11, 8, generator=generator, requires_grad=True)
    ids = torch.stack([torch.randperm(11, generator=generator)[:3] for _ in range(6)])
    probs = torch.softmax(torch.randn(6, 3, generator=generator), -1)
    return hidden, head, ids, probs, torch.rand(6, generator=generator)


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_value_and_gradients_equal_autograd(share):
    hidden, head, ids, probs, weight = example()
    expected = torch.autograd.grad(reference(hidden, head, ids, probs, weight, share), (hidden, head))
    loss = head_loss(hidden, head, ids, probs, weight, share).sum()
    assert loss.item() == pytest.approx(reference(hidden, head, ids, probs, weight).item(), rel=1e-5)
    for ours, theirs in zip(torch.autograd.grad(loss, (hidden, head)), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_positions_without_weight_teach_nothing():
    hidden, head, ids, probs, weight = example()
    weight = weight.clone()
    weight[2] = 0
    [gradient] = torch.autograd.grad(head_loss(hidden, head, ids, probs, weight).sum(), (hidden,))
    assert gradient[2].abs().max() == 0
    assert gradient[3].abs().max() > 0


def test_bfloat16_is_close():
    hidden, head, ids, probs, weight = example()
    exact = reference(hidden, head, ids, probs, weight).item()
    assert head_loss(hidden.bfloat16(), head, ids, probs, weight).sum().item() == pytest.approx(exact, rel=0.03)


def test_the_emitted_token_is_blended_into_greedy_rows_only():
    probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]])
    blended = soft_targets(probs, torch.tensor([True, False]), 0.5)
    assert blended[0].tolist() == pytest.approx([0.8, 0.2])
    assert blended[1].tolist() == pytest.approx([0.6, 0.4])
    with pytest.raises(ValueError, match=r"token_share=1\.5"):
        soft_targets(probs, torch.tensor([True, True]), 1.5)


def drawn(ids, probs, size, num_drawn, seed=0):
    return Candidates.drawn(ids, probs, size, num_drawn, torch.Generator().manual_seed(seed))


def test_candidates_are_what_is_taught_and_some_others_that_stand_for_the_rest():
    ids = torch.tensor([[3, 700], [3, 4000]])
    probs = torch.tensor([[0.9, 0.1], [1.0, 1e-4]])  # the last is not worth a place
    found = drawn(ids, probs, 4096, 100)
    assert len(found.ids) == 512
    assert {3, 700} <= set(found.ids.tolist())
    assert found.ids.equal(found.ids.unique())
    counts = found.bias.exp()
    assert counts[found.place[[3, 700]]].tolist() == [1, 1]
    assert counts.sum().item() == pytest.approx(4096, rel=1e-4)
    places, weights = found.weighted(ids, probs)
    assert found.ids[places[0]].tolist() == [3, 700]
    assert weights[0].tolist() == probs[0].tolist()
    known = 4000 in found.ids.tolist()
    assert weights[1, 1].item() == pytest.approx(1e-4 if known else 0)


def test_where_candidates_would_be_most_of_the_vocabulary_it_is_taken_whole():
    ids = torch.arange(600)[None]
    probs = torch.full((1, 600), 1 / 600)
    assert drawn(ids, probs, 2047, 100) is None
    assert len(drawn(ids, probs, 2048, 100).ids) == 1024
    assert len(drawn(ids, probs, 4096, 600).ids) == 1536


def test_the_loss_of_candidates_is_the_whole_one_on_average():
    """And so is its gradient; one draw of 490 others of 4,086 is off by a few percent."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(8, 16, generator=generator, requires_grad=True)
    head = (0.3 * torch.randn(4096, 16, generator=generator)).requires_grad_()
    ids = torch.randint(0, 10, (8, 3), generator=generator)
    probs = torch.softmax(torch.randn(8, 3, generator=generator), -1)
    weighted = ids, probs, torch.rand(8, generator=generator)
    whole = head_loss(hidden, head, *weighted).sum()
    expected = torch.autograd.grad(whole, (hidden, head))
    losses, gradients = [], []
    for seed in range(60):
        loss = head_loss(hidden, head, *weighted, 0.0, drawn(ids, probs, 4096, 400, seed)).sum()
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, (hidden, head)))
    assert torch.stack(losses).std() > 0
    assert torch.stack(losses).mean().item() == pytest.approx(whole.item(), rel=0.005)
    for ours, theirs in zip(zip(*gradients, strict=True), expected, strict=True):
        off = torch.stack(ours).mean(0) - theirs
        assert off.norm() < 0.05 * theirs.norm()


def test_only_candidates_learn():
    hidden, head, *_ = torch.randn(4, 8, requires_grad=True), torch.randn(2048, 8, requires_grad=True)
    ids, probs = torch.tensor([[5]] * 4), torch.ones(4, 1)
    candidates = drawn(ids, probs, 2048, 10)
    loss = head_loss(hidden, head, ids, probs, torch.ones(4), 0.8, candidates).sum()
    [gradient] = torch.autograd.grad(loss, (head,))
    assert (gradient.abs().sum(1) > 0).nonzero()[:, 0].equal(candidates.ids)
