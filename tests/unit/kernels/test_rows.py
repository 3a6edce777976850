"""Norm and gated activation against torch."""

import pytest
import torch
from aurora_kernels import rows
from aurora_kernels.native import NativeError
from aurora_kernels.packed_linear import is_native
from aurora_kernels.rows import rms_norm, silu_times
from torch.nn import functional as F

WAYS = [
    pytest.param("native", marks=pytest.mark.skipif(not is_native(), reason="no compiled kernels here")),
    pytest.param("torch"),
]


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(rows, "library", lambda: NativeError("not in this test"))


@pytest.mark.parametrize("size", [1, 15, 16, 40, 576])
@pytest.mark.parametrize("has_weight", [True, False])
def test_rms_norm(size, has_weight):
    x, weight = torch.randn(5, 2, size), torch.randn(size) if has_weight else None
    expected = F.rms_norm(x.double(), (size,), weight.double() if has_weight else None, 1e-5)
    assert torch.allclose(rms_norm(x, weight, 1e-5).double(), expected, rtol=2e-6, atol=1e-6)


def test_a_row_of_zeros_stays_zeros():
    assert bool((rms_norm(torch.zeros(2, 20), None, 1e-5) == 0).all())


@pytest.mark.parametrize("size", [1, 16, 40])
def test_silu_times(size):
    both = torch.randn(3, 2 * size) * 5
    gate, up = both.double().chunk(2, -1)
    assert torch.allclose(silu_times(both).double(), F.silu(gate) * up, rtol=2e-6, atol=1e-6)


def test_silu_far_from_zero():
    gate = torch.tensor([-1e30, -200.0, -88.0, -0.0, 0.0, 88.0, 200.0, 1e30])
    both = torch.cat((gate, torch.ones(8)))[None]
    assert torch.allclose(silu_times(both)[0].clamp_max(1e30), F.silu(gate).clamp_max(1e30), atol=1e-30)


def test_a_strided_view_is_taken_as_well():
    x = torch.randn(4, 8, 32)[:, :5]
    assert torch.allclose(rms_norm(x, None, 1e-5), F.rms_norm(x, (32,), None, 1e-5), atol=1e-6)
