import pytest
import torch

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
