"""The greatest, the distribution and a draw, against torch."""

import pytest
import torch
from aurora_kernels import sampling
from aurora_kernels.native import NativeError
from aurora_kernels.packed_linear import is_native

WAYS = [
    pytest.param("native", marks=pytest.mark.skipif(not is_native(), reason="no compiled kernels here")),
    pytest.param("torch"),
]
SIZES = [1, 2, 15, 16, 17, 255, 256, 257, 1000, 49152]


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(sampling, "library", lambda: NativeError("not in this test"))


def logits(*shape, scale=4.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1])) * scale


@pytest.mark.parametrize("size", SIZES)
def test_the_greatest_of_each_row(size):
    x = logits(5, size)
    assert sampling.greatest(x) == x.argmax(-1).tolist()


@pytest.mark.parametrize("places", [[3, 700], [0, 999], [998, 999], [15, 16]])
def test_of_equals_the_first_is_the_greatest(places):
    x = logits(1, 1000)
    x[0, places] = 100.0
    assert sampling.greatest(x) == places[:1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 2.0])
def test_the_distribution_at_a_temperature(size, temperature):
    x = logits(3, size)
    expected = torch.softmax(x.double() / temperature, -1)
    got = sampling.softmax(x, temperature).double()
    # The difference to the greatest is rounded to float32, which shows the more, the lower the temperature.
    assert torch.allclose(got, expected, rtol=2e-5 / temperature, atol=1e-37)
    assert torch.allclose(got.sum(-1), torch.ones(3).double(), atol=1e-6)


def test_a_token_that_is_ruled_out_has_no_mass():
    x = logits(1, 300)
    x[0, [0, 100, 299]] = -torch.inf
    got = sampling.softmax(x, 1.0)[0]
    assert got[[0, 100, 299]].tolist() == [0.0, 0.0, 0.0]
    assert torch.allclose(got, torch.softmax(x[0], -1), rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_draw_is_the_inverse_of_the_sums(size):
    p = sampling.softmax(logits(1, size), 1.0)[0]
    sums = p.double().cumsum(0) / p.double().sum()
    for share in torch.linspace(0, 1, 201, dtype=torch.float64)[:-1].tolist():
        place = sampling.draw(p, share)
        assert sums[place] > share - 1e-9
        assert place == 0 or sums[place - 1] <= share + 1e-9
        assert p[place] > 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999999999999999, 1 - 2**-53])
@pytest.mark.parametrize("places", [[0], [299], [700], [999], [255, 256], [16, 999]])
def test_only_what_has_mass_is_drawn(places, share):
    p = torch.zeros(1000)
    p[places] = torch.tensor([0.1, 0.2][: len(places)])
    expected = places[0] if share < 1 / 3 or len(places) == 1 else places[1]
    assert sampling.draw(p, share) == expected


def test_a_row_of_a_stack_is_taken_as_it_is():
    p = torch.zeros(3, 400)
    p[1, 390] = 1.0
    assert sampling.draw(p[1], 0.5) == 390
    assert sampling.greatest(p[:, 390:391].expand(3, 5)) == [0, 0, 0]


def test_at_the_least_temperature_everything_is_finite_and_below_it_is_not_asked_for():
    x = logits(3, 1000, scale=1e4)
    got = sampling.softmax(x, sampling.LEAST_TEMPERATURE)
    assert torch.allclose(got.sum(-1), torch.ones(3), atol=1e-6)
    assert sampling.greatest(got) == sampling.greatest(x)
    with pytest.raises(AssertionError):
        sampling.softmax(x, 1e-40)
