"""Attention over a cache: both ways against torch's own; rows of one step don't touch each other."""

import pytest
import torch
from aurora_kernels.native import library
from aurora_kernels.packed_linear import is_native
from torch.nn import functional as F

from serving.model.attention import Heads, NativeKeyValues, Rows, Span, TorchKeyValues
from serving.model.rotary import CausalMasks, Rotary
from speculators.target_config import RopeScaling

LENGTH = 75
needs_native = pytest.mark.skipif(not is_native(), reason="no compiled kernels here")
HEADS = [Heads(3, 3, 16), Heads(9, 3, 64), Heads(14, 2, 32), Heads(8, 1, 128), Heads(5, 5, 48), Heads(6, 3, 80)]
WAYS = [pytest.param("native", marks=needs_native), "torch"]


def rotary(head_dim):
    return Rotary(LENGTH, head_dim, 10000.0, RopeScaling("default"))


def cache_of(way, heads, slots=3):
    if way == "native":
        return NativeKeyValues(library(), slots, heads, rotary(heads.head_dim))
    return TorchKeyValues(
        slots, heads, rotary(heads.head_dim), CausalMasks(LENGTH, heads.num_heads // heads.num_kv_heads)
    )


def numbers(num_rows, heads, seed):
    width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed))


def run(cache, qkv, *spans):
    rows = Rows(spans)
    return cache.attend(cache.write(qkv.clone(), rows), rows)


def expected(qkv, heads):
    """All rows of one request at positions 0, 1, ..., in float64 -> [N, H D]."""
    num_rows, rope = len(qkv), rotary(heads.head_dim)
    x = qkv.view(num_rows, -1, heads.head_dim)
    num_rotated = heads.num_heads + heads.num_kv_heads
    rotated = rope.rotate(x[:, :num_rotated], torch.arange(num_rows)).double().transpose(0, 1)
    values = x[:, num_rotated:].double().transpose(0, 1)
    groups = heads.num_heads // heads.num_kv_heads
    keys, values = (t.repeat_interleave(groups, 0) for t in (rotated[heads.num_heads :], values))
    out = F.scaled_dot_product_attention(rotated[: heads.num_heads], keys, values, is_causal=True)
    return out.transpose(0, 1).reshape(num_rows, -1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_equals_the_whole_attention(way, heads):
    """A prompt in two chunks, then tokens one by one and three at a time."""
    qkv, cache = numbers(61, heads, seed=1), cache_of(way, heads)
    found, done = [], 0
    for num in (20, 13, 1, 1, 3, 16, 3, 1, 3):
        found.append(run(cache, qkv[done : done + num], Span(2, done, num)))
        done += num
    assert done == 61
    assert torch.allclose(torch.cat(found).double(), expected(qkv, heads), atol=2e-6)


@needs_native
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_a_row_has_the_same_bits_whatever_runs_beside_it(heads):
    a, b = numbers(40, heads, seed=2), numbers(40, heads, seed=3)
    alone = cache_of("native", heads)
    one_by_one = [run(alone, a[i : i + 1], Span(0, i, 1)) for i in range(40)]
    together = cache_of("native", heads)
    first = run(together, torch.cat((a[:30], b[:17])), Span(0, 0, 30), Span(1, 0, 17))
    second = run(together, torch.cat((b[17:20], a[30:])), Span(1, 17, 3), Span(0, 30, 10))
    assert torch.equal(torch.cat((first[:30], second[3:])), torch.cat(one_by_one))


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_behind_a_row_is_not_read(way):
    """Rolled back drafts and the request before in a slot leave their keys there."""
    heads = HEADS[1]
    qkv, clean, used = numbers(21, heads, seed=4), cache_of(way, heads), cache_of(way, heads)
    run(used, numbers(LENGTH, heads, seed=5) * 100, Span(1, 0, LENGTH))
    for cache in (clean, used):
        run(cache, qkv[:20], Span(1, 0, 20))
    assert torch.equal(run(clean, qkv[20:], Span(1, 20, 1)), run(used, qkv[20:], Span(1, 20, 1)))


@pytest.mark.parametrize("way", WAYS)
def test_scores_far_apart(way):
    """One key far above all others takes everything; nothing overflows."""
    heads = Heads(1, 1, 16)
    qkv = numbers(18, heads, seed=6)
    qkv[:, :32] *= 60
    assert torch.allclose(run(cache_of(way, heads), qkv, Span(0, 0, 18)).double(), expected(qkv, heads), atol=1e-3)


def test_the_last_rows():
    rows = Rows([Span(2, 5, 3), Span(0, 9, 1)]).last()
    assert rows.where.tolist() == [[2, 7], [0, 9]]
