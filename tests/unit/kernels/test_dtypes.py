"""The format that is called the fastest, against the clock."""

import time

import pytest
import torch
from aurora_kernels.dtypes import fastest_dtype


def shortest(dtypes, device):
    """Seconds of a product of the trainer's size in each format, measured in turns."""
    factors = [torch.randn(256, 256).to(device, dtype) for dtype in dtypes]
    found = []
    for _ in range(60):
        for factor in factors:
            began = time.perf_counter()
            factor @ factor
            found.append(time.perf_counter() - began)
    return [min(found[i :: len(dtypes)]) for i in range(len(dtypes))]


@pytest.mark.timed
def test_the_other_format_is_not_much_faster():
    device = torch.device("cpu")
    chosen = fastest_dtype(device)
    [other] = {torch.float32, torch.bfloat16} - {chosen}
    seconds, of_other = shortest((chosen, other), device)
    assert seconds < 2 * of_other


def test_a_gpu_multiplies_bfloat16():
    assert fastest_dtype(torch.device("cuda")) == torch.bfloat16
