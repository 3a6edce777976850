"""Memory for weights: parts of large mappings."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from aurora_kernels import pages
from aurora_kernels.pages import HUGE, LINE, Pages


def test_parts_of_one_mapping_lie_apart_and_begin_at_lines_of_the_cache():
    source = Pages(chunk=HUGE)
    parts = [source.empty(count, torch.bfloat16) for count in (1, 33, 1000, 0)]
    for number, part in enumerate(parts):
        part.fill_(number)
    assert [part.tolist() for part in parts] == [[0.0], [1.0] * 33, [2.0] * 1000, []]
    starts = [part.data_ptr() for part in parts[:3]]
    assert starts[0] % HUGE == 0 and [start % LINE for start in starts] == [0, 0, 0]
    assert starts == sorted(starts) and starts[2] - starts[0] == 3 * LINE


@pytest.mark.parametrize("count", [HUGE, 3 * HUGE + 1])
def test_what_does_not_fit_gets_a_mapping_of_its_own(count):
    source = Pages(chunk=HUGE)
    source.empty(1, torch.uint8)
    found = source.empty(count, torch.uint8)
    found.fill_(7)
    assert found.data_ptr() % HUGE == 0 and int(found[-1]) == 7


def test_a_mapping_is_given_back_with_its_last_part(monkeypatch):
    made = []

    class Mapping(pages.mmap.mmap):  # the same, and can be watched
        def __new__(cls, *given, **named):
            self = super().__new__(cls, *given, **named)
            made.append(weakref.ref(self))
            return self

    monkeypatch.setattr(pages.mmap, "mmap", Mapping)
    source = Pages(chunk=HUGE)
    first, second = source.empty(HUGE // 2, torch.uint8), source.empty(HUGE // 2, torch.uint8)
    after = source.empty(1, torch.uint8)
    del first
    gc.collect()
    assert made[0]() is not None
    second.fill_(1)
    del second
    gc.collect()
    assert [each() is None for each in made] == [True, False]
    after.fill_(1)


def test_without_huge_pages_it_is_memory_all_the_same(monkeypatch):
    monkeypatch.delattr(pages.mmap, "MADV_HUGEPAGE")
    assert Pages().empty(3, torch.float16).fill_(2).tolist() == [2, 2, 2]


def test_threads_never_get_the_same_part():
    source = Pages(chunk=HUGE)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda number: source.empty(1000, torch.int64).fill_(number), range(3000)))
    assert all(bool((part == number).all()) for number, part in enumerate(parts))
