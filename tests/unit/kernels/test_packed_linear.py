"""The packed linear against its reference."""

import os
import subprocess
import sys

import pytest
import torch
from aurora_kernels import packed_linear
from aurora_kernels.native import NativeError
from aurora_kernels.packed_linear import (
    PackedLinear,
    is_fbgemm_available,
    is_half_available,
    is_held_by_half,
    is_native,
    is_packing_available,
    is_tiled,
    leanest_dtype,
)
from aurora_kernels.packed_linear_reference import linear

WAYS = [
    pytest.param("plain"),
    pytest.param(
        "onednn", marks=pytest.mark.skipif(not is_packing_available(), reason="this torch has no packing operators")
    ),
    pytest.param("fbgemm", marks=pytest.mark.skipif(not is_fbgemm_available(), reason="no FBGEMM for this processor")),
    pytest.param("native", marks=pytest.mark.skipif(not is_native(), reason="no compiled kernels here")),
    pytest.param("tiles", marks=pytest.mark.skipif(not is_tiled(), reason="no AMX on this processor")),
]


def numbers(*shape, seed):
    """Random, and such that bfloat16 (so float16 too) holds them."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


@pytest.fixture
def only(monkeypatch):
    """only(way): as on a machine that has no other."""

    def leave(way):
        if way != "tiles":
            monkeypatch.setattr(packed_linear, "is_tiled", lambda: False)
        if way not in ("tiles", "native"):
            monkeypatch.setattr(packed_linear, "library", lambda: NativeError("not in this test"))
        if way not in ("tiles", "native", "fbgemm"):
            monkeypatch.setattr(packed_linear, "is_half_available", lambda: False)
        if way == "plain":
            monkeypatch.setattr(packed_linear, "packable_dtypes", set)

    return leave


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [1, 2, 5, 17, 300])
@pytest.mark.parametrize("shape", [(96, 64), (33, 7)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_equals_the_reference(only, way, rows, shape, has_bias):
    only(way)
    weight, x = numbers(*shape, seed=rows), torch.randn(rows, shape[1])
    bias = torch.randn(shape[0]) if has_bias else None
    expected = linear(x, weight, bias)
    assert torch.allclose(PackedLinear(weight, bias)(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("way", WAYS[2:])
def test_a_row_does_not_depend_on_the_rows_beside_it(only, way):
    only(way)
    apply, x = PackedLinear(numbers(192, 576, seed=0)), torch.randn(40, 576)
    together = apply(x)
    for rows in (1, 2, 5, 13, 15, 29):
        assert torch.equal(apply(x[:rows]), together[:rows])
        assert torch.equal(apply(x[-rows:].clone()), together[-rows:])


@pytest.mark.skipif(not is_native(), reason="no compiled kernels here")
def test_weights_that_only_bfloat16_holds_are_read_in_two_bytes(only, monkeypatch):
    only("native")
    monkeypatch.delattr(packed_linear, "_packed")
    weight, x = numbers(96, 64, seed=1) * 2.0**100, torch.randn(5, 64)
    assert not is_held_by_half(weight)
    assert torch.equal(PackedLinear(weight)(x), PackedLinear(weight * 2.0**-100)(x) * 2.0**100)


@pytest.mark.parametrize(
    ("weight", "is_held"),
    [
        (torch.zeros(2, 3), True),
        (torch.tensor([[1.0, -(2**-8)], [65504.0, 1.0]]), True),
        (torch.tensor([[1.0, 2**-30]]), True),  # lost, and nothing beside the row's largest
        (torch.tensor([[1.0, 1.0], [1 + 2**-12, 1.0]]), False),
        (torch.tensor([[1e5, 1.0]]), False),
        (torch.tensor([[1e30, 1.0]]), False),  # whose square float32 doesn't hold
        (torch.tensor([[2**-24 * 1.5, 2**-23]]), False),  # a row of small ones
    ],
)
def test_float16_holds_what_float32_would_not_miss(weight, is_held):
    assert is_held_by_half(weight) == is_held


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_float16_does_not_hold_stay_float32(only, way):
    only(way)
    weight, x = torch.randn(96, 64), torch.randn(5, 64)
    assert not is_held_by_half(weight)
    expected = x.double() @ weight.double().T
    assert (PackedLinear(weight)(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.01), (torch.float16, 0.001)])
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_rounded_weights_take_and_give_float32(only, way, dtype, tolerance, rows):
    only(way)
    weight, x = torch.randn(96, 64), torch.randn(rows, 64)
    out = PackedLinear(weight.to(dtype), rows=1)(x)
    assert out.dtype == torch.float32
    expected = linear(x, weight, None)
    assert torch.allclose(out, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_leading_shapes_are_kept(dtype):
    weight = numbers(8, 4, seed=0).to(dtype)
    assert PackedLinear(weight)(torch.randn(2, 3, 4)).shape == (2, 3, 8)


def test_bfloat16_stays_bfloat16():
    weight = torch.randn(8, 4, dtype=torch.bfloat16)
    assert PackedLinear(weight)(torch.randn(3, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_leanest_format_has_two_bytes_wherever_it_is_multiplied():
    assert leanest_dtype(torch.device("cuda")) == torch.bfloat16
    assert leanest_dtype(torch.device("cpu")) == torch.float16 or not is_half_available()


def test_a_deprecated_operator_warns_nobody():
    code = "import torch; from aurora_kernels.packed_linear import *; PackedLinear(torch.eye(8))(torch.ones(1, 8))"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "deprecated" not in done.stderr
