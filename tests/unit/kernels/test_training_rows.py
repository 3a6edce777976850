"""What a training step does between its products of matrices, and its gradients, against torch in double precision."""

import pytest
import torch
from aurora_kernels import training_rows
from aurora_kernels.native import NativeError
from aurora_kernels.packed_linear import is_native
from aurora_kernels.training_rows import cross_entropy_, rms_norm, rotated, silu_times
from torch.nn import functional as F

WAYS = [
    pytest.param("native", marks=pytest.mark.skipif(not is_native(), reason="no compiled kernels here")),
    pytest.param("torch"),
]
SIZES = [16, 48, 576, 20]  # the last is no multiple of 16: torch does it


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    torch.manual_seed(0)
    if request.param == "torch":
        monkeypatch.setattr(training_rows, "library", lambda: NativeError("not in this test"))


def leaves(*shapes):
    return [(torch.randn(shape) * 2).bfloat16().requires_grad_() for shape in shapes]


def agree(function, expected, inputs):
    """Both give the same, and so do their gradients, up to rounding to bfloat16."""
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    ours, theirs = function(*inputs), expected(*doubles)
    slope = torch.randn(theirs.shape).bfloat16()
    ours.backward(slope)
    theirs.backward(slope.double())
    pairs = [(ours, theirs), *((x.grad, d.grad) for x, d in zip(inputs, doubles, strict=True))]
    for got, wanted in pairs:
        assert got.isfinite().all()
        assert (got.double() - wanted).abs().max() <= 1e-2 * wanted.abs().max()


@pytest.mark.parametrize("size", SIZES)
def test_rms_norm(size):
    (x,) = leaves((5, 3, size))
    weight = torch.randn(size, requires_grad=True)
    agree(lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: F.rms_norm(x, (size,), w, 1e-5), [x, weight])


def test_rms_norm_takes_a_strided_view_and_rows_of_zeros():
    x = torch.zeros(4, 8, 32, dtype=torch.bfloat16)[:, :5]
    assert bool((rms_norm(x, torch.ones(32), 1e-5) == 0).all())


@pytest.mark.parametrize("size", SIZES)
def test_silu_times(size):
    agree(silu_times, lambda gate, up: F.silu(gate) * up, leaves((7, size), (7, size)))


def test_silu_far_from_zero():
    gate = torch.tensor([-1e30, -200.0, -88.0, -0.0, 0.0, 88.0, 200.0, 1e30] * 2).bfloat16().requires_grad_()
    out = silu_times(gate, torch.ones(16, dtype=torch.bfloat16))
    out.sum().backward()
    assert torch.allclose(out.float(), F.silu(gate.detach().float()), rtol=1e-2, atol=1e-30)
    assert torch.allclose(gate.grad[[0, 1, 3, 6, 7]].float(), torch.tensor([0, 0, 0.5, 1, 1]))


@pytest.mark.parametrize("head_dim", [32, 64, 40])
def test_rotated(head_dim):
    angles = torch.rand(2, 6, head_dim // 2) * 6
    turn = torch.polar(torch.ones_like(angles).double(), angles.double())[:, None]

    def expected(x):
        low, high = x.transpose(1, 2).chunk(2, -1)
        both = torch.complex(low, high) * turn
        return torch.cat((both.real, both.imag), -1)

    agree(lambda x: rotated(x, angles.cos(), angles.sin()), expected, leaves((2, 6, 3, head_dim)))


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("size", [64, 8192, 50])
def test_cross_entropy_and_acceptance(size, share):
    logits = (torch.randn(9, size) * 4).bfloat16()
    ids = torch.stack([torch.randperm(size)[:7] for _ in range(9)])
    target = torch.softmax(torch.randn(9, 7), -1)
    exact = logits.double().requires_grad_()
    losses = -(target.double() * torch.log_softmax(exact, -1).gather(1, ids)).sum(-1)
    accepted = torch.minimum(torch.softmax(exact, -1).gather(1, ids), target.double()).sum(-1)
    ((1 - share) * losses - share * accepted.log()).sum().backward()
    got = cross_entropy_(logits, ids, target, 1e-30, share)
    assert torch.allclose(got.double(), losses, rtol=1e-2)
    assert torch.allclose(logits.double(), exact.grad, atol=4e-3)  # one rounding of a number below 1


def test_cross_entropy_adds_up_ids_that_repeat_and_bounds_a_loss():
    logits = torch.zeros(1, 16, dtype=torch.bfloat16)
    logits[0, 3] = -100.0
    losses = cross_entropy_(logits, torch.tensor([[5, 5, 3, 5]]), torch.tensor([[0.25, 0.0, 0.5, 0.25]]), 1e-8)
    assert logits[0, 5].item() == pytest.approx(1 / 15 - 0.5, abs=2e-3)
    assert logits[0, 3].item() == pytest.approx(-0.5, abs=2e-3)
    bounded = -0.5 * torch.tensor(1e-8).log() - 0.5 * torch.tensor(1 / 15).log()
    assert losses.item() == pytest.approx(bounded.item(), rel=1e-2)
