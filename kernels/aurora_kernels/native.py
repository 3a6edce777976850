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

SOURCE = Path(__file__).with_name("half_linear.c")
BUILT = Path(__file__).with_name("built")
FLAGS = ("-O3", "-shared", "-fPIC")
NATIVE = ("-march=native",)
COMPILE_SECONDS = 120.0


class NativeError(RuntimeError):
    """Why there are no compiled kernels here."""


def build(march: tuple[str, ...] = NATIVE, folder: Path = BUILT) -> Path:
    """The library for these flags, compiled unless it is there. Raises NativeError."""
    path = folder / f"half_linear-{_digest(march)}.so"
    if path.exists():
        return path
    compiler = shutil.which("cc")
    if compiler is None:
        raise NativeError("no C compiler: install one (Debian: apt-get install gcc libc6-dev)")
    written = path.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(exist_ok=True)
        subprocess.run(
            [compiler, *FLAGS, *march, str(SOURCE), "-o", str(written)],
            check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS,
        )  # fmt: skip
        written.replace(path)  # another process may compile too
    except subprocess.CalledProcessError as error:
        raise NativeError(f"{compiler} did not compile {SOURCE.name}: {error.stderr.strip()[:500]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"{SOURCE.name} was not compiled: {error}") from None
    return path


def load(path: Path) -> ctypes.CDLL:
    """The library with the types of its functions. Raises NativeError."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"{path}: {error}") from None
    pointer, number = ctypes.c_void_p, ctypes.c_long
    for function, arguments in (
        (library.half_linear_pack, [pointer] * 2 + [number] * 2),
        (library.half_linear, [pointer] * 3 + [number] * 3),
    ):
        function.argtypes, function.restype = arguments, None
    return library


@cache
def library() -> ctypes.CDLL | NativeError:
    """The kernels for this machine, or why there are none."""
    try:
        return load(build())
    except NativeError as error:
        return error


def _digest(march: tuple[str, ...]) -> str:
    """Of what the code depends on: its source, the flags, and for the machine's own the machine."""
    parts = [SOURCE.read_bytes(), *(flag.encode() for flag in (*FLAGS, *march))]
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
