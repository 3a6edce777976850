"""The compiled kernels: every variant gives the bits of one chain of fused multiply-adds; without them all goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from aurora_kernels import native, packed_linear
from aurora_kernels.native import NativeError, build, library, load
from aurora_kernels.packed_linear import (
    PackedLinear,
    half_linear,
    is_fbgemm_available,
    is_native,
    is_tiled,
    tile_linear,
)

CAPABILITY = torch.backends.cpu.get_cpu_capability()  # DEFAULT, AVX2, AVX512, ...
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
VARIANTS = [
    pytest.param(
        "haswell", marks=pytest.mark.skipif(not CAPABILITY.startswith("AVX"), reason="no AVX2 on this processor")
    ),
    pytest.param(
        "skylake-avx512", marks=pytest.mark.skipif(CAPABILITY != "AVX512", reason="no AVX-512 on this processor")
    ),
]
FORMATS = [torch.float16, torch.bfloat16]
SHAPES = [(1, 1), (7, 33), (16, 8), (24, 5), (33, 7), (64, 96), (100, 576)]  # outputs, inputs


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """kernels(march): the library for a processor of that kind."""
    folder = tmp_path_factory.mktemp("built")
    return lambda march: load(build((f"-march={march}",), folder))


def chain(weight_OI, x_NI):
    """Each output as the kernels define it: multiply-adds over the inputs in order, rounded once each.

    A product of float16 (or bfloat16) and float32 has 35 bits (or 32), so that in float64 it is exact, and the sum
    all but exact.
    """
    out = torch.zeros(len(x_NI), len(weight_OI))
    for i in range(weight_OI.shape[1]):
        out = (out.double() + x_NI[:, i : i + 1].double() * weight_OI[:, i].double()).float()
    return out


@needs_compiler
@pytest.mark.parametrize("march", VARIANTS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_variant_gives_the_same_bits(kernels, march, dtype, shape):
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=generator).to(dtype)
    apply, x = half_linear(kernels(march), weight, None), torch.randn(29, shape[1], generator=generator)
    expected = chain(weight.float(), x)
    for rows in (*range(1, 15), 29):
        assert torch.equal(apply(x[:rows]), expected[:rows])


@needs_compiler
@pytest.mark.parametrize("march", VARIANTS)
@pytest.mark.parametrize("name", ["half_linear", "bfloat_linear"])
def test_nothing_is_written_beside_the_outputs(kernels, march, name):
    """Outputs that don't fill a panel, in the middle of memory that must stay as it is."""
    dtype = torch.float16 if name == "half_linear" else torch.bfloat16
    weight, rows = torch.ones(37, 3, dtype=dtype), 5
    packed = torch.empty(64 * 3, dtype=dtype)
    room = torch.full((3 * rows * 37,), 7.0)
    x, inside = torch.ones(rows, 3), room[rows * 37 : 2 * rows * 37]
    library = kernels(march)
    getattr(library, f"{name}_pack")(weight.data_ptr(), packed.data_ptr(), 37, 3)
    getattr(library, name)(packed.data_ptr(), x.data_ptr(), inside.data_ptr(), rows, 37, 3)
    assert bool((inside == 3).all())
    assert bool((room[: rows * 37] == 7).all()) and bool((room[2 * rows * 37 :] == 7).all())


@needs_compiler
@pytest.mark.parametrize("dtype", FORMATS)
def test_weights_of_all_sizes_are_multiplied_as_they_are(kernels, dtype):
    """The smallest below the normal ones, the largest, both signs of nothing."""
    facts = torch.finfo(dtype)
    weight = torch.tensor([facts.tiny * facts.eps, -facts.tiny, facts.max, -facts.max, 0.0, -0.0]).to(dtype)
    out = half_linear(kernels("haswell"), weight.diag_embed(), None)(torch.ones(1, 6))
    assert torch.equal(out[0], weight.float())


@pytest.mark.skipif(not (is_native() and is_fbgemm_available()), reason="needs both ways to multiply float16 weights")
def test_the_same_bits_as_fbgemm(monkeypatch):
    """So what an engine answers doesn't depend on whether a compiler was at hand."""
    weight, x = torch.randn(192, 576).half().float(), torch.randn(9, 576)
    native_out = PackedLinear(weight.half())(x)
    monkeypatch.setattr(packed_linear, "library", lambda: NativeError("not in this test"))
    assert torch.equal(PackedLinear(weight.half())(x), native_out)


@needs_compiler
def test_what_does_not_fit_is_refused(kernels):
    apply = half_linear(kernels("haswell"), torch.ones(4, 3).half(), None)
    for x in (torch.ones(2, 4), torch.ones(2, 3, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"must be float32 of \[\.\.\., 3\]"):
            apply(x)


@pytest.mark.skipif(not is_tiled(), reason="no AMX on this processor")
@pytest.mark.parametrize("shape", [*SHAPES, (96, 1536)])
def test_tiles_multiply_as_exactly_as_float32(shape):
    """Three parts of an input are all of it: an error is one of the sum."""
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=generator).bfloat16().float()
    x = torch.randn(70, shape[1], generator=generator)
    apply = tile_linear(library(), weight, None)
    found, expected = apply(x), x.double() @ weight.double().T
    terms = x.double().abs() @ weight.double().abs().T
    assert bool(((found - expected).abs() <= 3e-7 * terms).all())
    for rows in (1, 2, 15, 16, 17, 31, 32, 33, 69):
        assert torch.equal(apply(x[:rows]), found[:rows])
        assert torch.equal(apply(x[-rows:].clone()), found[-rows:])


@pytest.mark.skipif(not is_tiled(), reason="no AMX on this processor")
def test_tiles_take_inputs_of_all_sizes():
    """Nothing is lost where an input needs all 24 bits, or its parts lie far apart."""
    x = torch.tensor([[1 + 2**-23, -(2**100) * (1 + 2**-12 + 2**-23), 2**-90 * (1 + 2**-20), 0.0]]).diag_embed()[0]
    assert torch.equal(tile_linear(library(), torch.eye(4), None)(x), x)


@needs_compiler
def test_compiled_once(tmp_path):
    first = build(folder=tmp_path)
    written = first.stat().st_mtime_ns
    assert build(folder=tmp_path) == first
    assert first.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [first]


def test_without_a_compiler_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeError, match="apt-get install gcc libc6-dev"):
        build(folder=tmp_path)


@needs_compiler
def test_a_failing_compiler_is_quoted(tmp_path):
    with pytest.raises(NativeError, match=r"did not compile the kernels: .*no-such-processor"):
        build(("-march=no-such-processor",), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_library_is_named(tmp_path):
    path = tmp_path / "kernels-0.so"
    path.write_text("text")
    with pytest.raises(NativeError, match=str(path)):
        load(path)


def test_a_folder_that_cannot_be_written_is_no_error_of_the_engine(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(native, "BUILT", tmp_path / "file" / "built")
    with pytest.raises(NativeError, match="were not compiled"):
        build(folder=native.BUILT)


def test_the_command_says_only_what_is_missing(tmp_path):
    path = Path(native.__file__).parents[1]
    said = subprocess.run(
        [sys.executable, "-m", "aurora_kernels.native"],
        env={"PYTHONPATH": str(path), "PATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert ("no C compiler" in said) == (not any(native.BUILT.glob("kernels-*.so")))
