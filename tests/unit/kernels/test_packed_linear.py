"""The packed linear against its reference."""

import pytest
import torch
from aurora_kernels.packed_linear import PackedLinear, is_packing_available
from aurora_kernels.packed_linear_reference import linear


@pytest.mark.parametrize(
    "packed",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not is_packing_available(), reason="this torch has no packing operators")
        ),
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 5, 17, 300])
@pytest.mark.parametrize("has_bias", [True, False])
def test_equals_the_reference(packed, rows, has_bias):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(96, 64, generator=generator)
    bias = torch.randn(96, generator=generator) if has_bias else None
    x = torch.randn(rows, 64, generator=generator)
    expected = linear(x, weight, bias)
    assert torch.allclose(PackedLinear(weight, bias, packed=packed)(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_bfloat16_weights_take_and_give_float32(rows):
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1))
    out = PackedLinear(weight.bfloat16(), rows=1)(x)
    assert out.dtype == torch.float32
    expected = linear(x, weight, None)
    assert torch.allclose(out, expected, rtol=0, atol=0.01 * float(expected.abs().max()))


def test_leading_shapes_are_kept():
    weight = torch.randn(8, 4)
    assert PackedLinear(weight)(torch.randn(2, 3, 4)).shape == (2, 3, 8)


def test_bfloat16_stays_bfloat16():
    weight = torch.randn(8, 4, dtype=torch.bfloat16)
    assert PackedLinear(weight)(torch.randn(3, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
