"""What a figure was measured on, and of what."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path


def machine() -> str:
    """Model of the processor, cores, memory, GPU if there is one, and Python, as a line for RESULTS.md."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = (model or platform.machine(), f"{os.cpu_count()} cores", f"{gigabytes:.0f} GB", *_gpus())
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def commit() -> str:
    """The short hash of what is checked out; ``-dirty`` where files differ from it, RESULTS.md apart."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!RESULTS.md")
    return (_git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def _gpus() -> list[str]:
    """As the driver calls them; [] where there is none."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()
