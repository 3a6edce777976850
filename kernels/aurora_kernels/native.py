"""The kernels in C, compiled where they run: for this processor, once, beside their source.

``python -m aurora_kernels.native`` does it ahead of time, and says so where it can't.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
SERVING = ("half_linear.c", "tile_linear.c", "attention.c", "rows.c", "sampling.c")
TRAINING = ("training_rows.c", "chain_attention.c")
SOURCES = [FOLDER / name for name in (*SERVING, *TRAINING)]
HEADERS = [FOLDER / "vectors.h"]
BUILT = Path(__file__).with_name("built")
FLAGS = ("-O3", "-Wno-psabi", "-shared", "-fPIC")
NATIVE = ("-march=native",)
COMPILE_SECONDS = 120.0
TYPES = {"p": ctypes.c_void_p, "n": ctypes.c_long, "x": ctypes.c_float, "d": ctypes.c_double}
FUNCTIONS = {
    "half_linear_pack": "ppnn",
    "half_linear": "pppnnn",
    "bfloat_linear_pack": "ppnn",
    "bfloat_linear": "pppnnn",
    "tile_linear_available": "",
    "tile_linear_pack": "ppnn",
    "tile_linear": "ppppnnn",
    "attention_write": "ppppppnnnnn",
    "attention_read": "pnpppppnnnnnx",
    "rms_norm": "pppnnx",
    "silu_times": "ppnn",
    "greatest": "ppnn",
    "softmax": "ppnnx",
    "draw": "ppnd",
    "rms_norm_forward": "ppppnnx",
    "rms_norm_backward": "ppppppnn",
    "silu_times_forward": "pppn",
    "silu_times_backward": "pppppn",
    "rotate": "ppppnnnnn",
    "cross_entropy": "pppppnnnxx",
    "chain_softmax": "ppppppnnnnnnnx",
    "chain_mix": "pppnnnnnn",
    "chain_softmax_backward": "pppppppppppnnnnnnnx",
}


class NativeError(RuntimeError):
    """Why there are no compiled kernels here."""


def build(march: tuple[str, ...] = NATIVE, folder: Path = BUILT) -> Path:
    """The library for these flags, compiled unless it is there. Raises NativeError."""
    path = folder / f"kernels-{_digest(march)}.so"
    if path.exists():
        return path
    compiler = shutil.which("cc")
    if compiler is None:
        raise NativeError("no C compiler: install one (Debian: apt-get install gcc libc6-dev)")
    written = path.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(exist_ok=True)
        subprocess.run(
            [compiler, *FLAGS, *march, *map(str, SOURCES), "-o", str(written), "-lm"],
            check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS,
        )  # fmt: skip
        written.replace(path)  # another process may compile too
    except subprocess.CalledProcessError as error:
        raise NativeError(f"{compiler} did not compile the kernels: {error.stderr.strip()[:500]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"the kernels were not compiled: {error}") from None
    return path


def load(path: Path) -> ctypes.CDLL:
    """The library with the types of its functions. Raises NativeError."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"{path}: {error}") from None
    for name, arguments in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes = [TYPES[letter] for letter in arguments]
        function.restype = None if arguments else ctypes.c_int
    return library


@cache
def library() -> ctypes.CDLL | NativeError:
    """The kernels for this machine, or why there are none."""
    try:
        return load(build())
    except NativeError as error:
        return error


def _digest(march: tuple[str, ...]) -> str:
    """Of what the code depends on: its sources, the flags, and for the machine's own the machine."""
    parts = [*(path.read_bytes() for path in (*SOURCES, *HEADERS)), *(flag.encode() for flag in (*FLAGS, *march))]
    if march == NATIVE:
        parts.append(_processor())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> bytes:
    """What this processor can do; a checkout may move to another one."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return os.uname().machine.encode()
    first = lines[: lines.index(b"")] if b"" in lines else lines
    return b"\n".join(line for line in first if line.startswith((b"model", b"flags")))


if __name__ == "__main__":
    found = library()
    if isinstance(found, NativeError):
        print(f"Aurora: decoding on this machine will be slower than it could be: {found}")
