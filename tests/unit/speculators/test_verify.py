"""The verification rule: exact on a vocabulary small enough to enumerate."""

import pytest
import torch

from speculators import verify


def test_greedy_keeps_the_longest_right_prefix():
    assert verify.verify_greedy([5, 6, 7, 8], [5, 6, 9]) == (2, 7)
    assert verify.verify_greedy([5], []) == (0, 5)
    assert verify.verify_greedy([5, 6], [5]) == (1, 6)
    assert verify.verify_greedy([5, 6], [4]) == (0, 5)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_token_is_distributed_as_the_target(seed):
    """P(x) = p(x) min(1, q/p) + P(rejected) residual(x) = q(x), summed exactly from the pieces that the code uses."""
    generator = torch.Generator().manual_seed(seed)
    q, p = (torch.softmax(2 * torch.randn(7, generator=generator), -1) for _ in range(2))
    grid = (torch.arange(20_000) + 0.5) / 20_000
    accepted = torch.tensor(
        [
            sum(verify.is_accepted(float(a), float(b), float(u)) for u in grid[::20]) / 1000
            for a, b in zip(q, p, strict=True)
        ]
    )
    total = p * accepted + (1 - (p * accepted).sum()) * verify.residual(q, p)
    assert (total - q).abs().max() < 2e-3


def test_a_draft_equal_to_the_target_is_always_kept():
    generator = torch.Generator().manual_seed(0)
    q = torch.softmax(torch.randn(3, 9, generator=generator), -1)
    for _ in range(200):
        tokens = [verify.draw(q[i], generator) for i in range(2)]
        assert verify.verify_sampled(q, q[:2], tokens, generator)[0] == 2


def test_a_draft_that_the_target_never_says_is_never_kept():
    generator = torch.Generator().manual_seed(0)
    q, p = torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    assert all(verify.verify_sampled(q, p, [0], generator) == (0, 1) for _ in range(100))


def test_top_p_keeps_the_smallest_set():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert verify.distribution(logits, 1.0, 0.7).tolist()[0] == pytest.approx([0.625, 0.375, 0, 0], abs=1e-6)
    assert verify.distribution(logits, 1.0, 0.01).tolist()[0] == [1.0, 0.0, 0.0, 0.0]
    assert verify.distribution(logits, 1.0, 1.0).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 8.0])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99, 0.9999])
def test_top_p_over_a_large_vocabulary_is_that_of_a_full_sort(scale, top_p):
    logits = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(1)) * scale
    full = verify.distribution(logits, 1.0, 1.0).double()
    ordered, order = full.sort(-1, descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    expected = torch.zeros_like(full).scatter_(-1, order, kept / kept.sum(-1, keepdim=True))
    got = verify.distribution(logits, 1.0, top_p).double()
    # Tokens next to each other in the order may swap at the border, where rounding decides.
    assert float((got - expected).abs().sum(-1).max()) < 1e-3


def test_temperature_sharpens():
    logits = torch.tensor([[1.0, 0.0]])
    assert verify.distribution(logits, 0.5, 1.0)[0, 0] > verify.distribution(logits, 1.0, 1.0)[0, 0]


def test_draw_never_returns_an_impossible_token():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])
    drawn = [verify.draw(probabilities, generator) for _ in range(2000)]
    assert set(drawn) == {1, 3}
    assert drawn.count(3) / 2000 == pytest.approx(0.7, abs=0.04)
