"""Attention over the first pass and the own chain, and its gradients, against a plain one in double precision."""

import pytest
import torch
from aurora_kernels import training_rows
from aurora_kernels.chain_attention import chain_attention
from aurora_kernels.native import NativeError
from aurora_kernels.packed_linear import is_native

WAYS = [
    pytest.param("native", marks=pytest.mark.skipif(not is_native(), reason="no compiled kernels here")),
    pytest.param("torch"),
]


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    torch.manual_seed(0)
    if request.param == "torch":
        monkeypatch.setattr(training_rows, "library", lambda: NativeError("not in this test"))


def plainly(q, k0, v0, chain_k, chain_v, base):
    """One query at a time: the keys up to its base, then its chain's."""
    out = torch.zeros_like(q)
    group = q.shape[1] // k0.shape[1]
    for b, head, i in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        seen, kv = int(base[b, i]) + 1, head // group
        keys = torch.cat((k0[b, kv, :seen], *(k[b, kv, i : i + 1] for k in chain_k)))
        values = torch.cat((v0[b, kv, :seen], *(v[b, kv, i : i + 1] for v in chain_v)))
        weights = torch.softmax(keys @ q[b, head, i] * q.shape[-1] ** -0.5, 0)
        out = out.index_put((torch.tensor(b), torch.tensor(head), torch.tensor(i)), weights @ values)
    return out


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize(
    ("heads", "kv", "length", "width"), [(6, 2, 64, 32), (3, 3, 16, 64), (2, 1, 40, 16), (2, 2, 16, 8)]
)
def test_against_one_query_at_a_time(heads, kv, length, width, steps):
    base = torch.stack([torch.randperm(length)[:9].sort().values for _ in range(2)])
    base[0, 0], base[0, -1] = 0, length - 1
    shapes = [(2, heads, 9, width), *[(2, kv, length, width)] * 2, *[(2, kv, 9, width)] * 2 * steps]
    inputs = [torch.randn(shape).bfloat16().requires_grad_() for shape in shapes]
    doubles = [x.detach().double().requires_grad_() for x in inputs]

    def run(function, tensors):
        q, k0, v0, *chain = tensors
        return function(q, k0, v0, chain[:steps], chain[steps:], base)

    ours, theirs = run(chain_attention, inputs), run(plainly, doubles)
    slope = torch.randn(theirs.shape).bfloat16()
    ours.backward(slope)
    theirs.backward(slope.double())
    for got, wanted in [(ours, theirs), *((x.grad, d.grad) for x, d in zip(inputs, doubles, strict=True))]:
        assert (got.double() - wanted).abs().max() <= 2e-2 * wanted.abs().max()


def test_large_scores_do_not_overflow():
    q, k0 = (torch.full((1, 1, n, 16), 1e3).bfloat16() for n in (2, 16))
    v0 = torch.arange(16.0)[None, None, :, None].expand(1, 1, 16, 16).contiguous().bfloat16()
    out = chain_attention(q, k0, v0, [], [], torch.tensor([[3, 15]]))
    assert torch.allclose(out[0, 0, :, 0].float(), torch.tensor([1.5, 7.5]), atol=0.05)
