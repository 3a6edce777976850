"""What the plugin's wheel holds and needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[4]
PROJECT = tomllib.loads((REPO / "deploy" / "sglang" / "pyproject.toml").read_text())
MODULES = "serving.sglang_backend.plugin, serving.sglang_backend.sidecar, serving.sglang_backend.replica"


def test_it_brings_no_torch_and_shadows_nothing():
    names = [each.split(">")[0].split("=")[0] for each in PROJECT["project"]["dependencies"]]
    assert names == ["httpx"]
    tops = {each.split(".")[0] for each in PROJECT["tool"]["setuptools"]["packages"]}
    assert tops == {"serving", "speculators"}
    assert PROJECT["project"]["entry-points"]["sglang.srt.plugins"] == {
        "aurora": "serving.sglang_backend.plugin:activate"
    }


def test_its_packages_are_enough(tmp_path):
    """Only what is packed can be imported: not the trainer, not our kernels, not the console, not SGLang itself."""
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        source, target = REPO / package.replace(".", "/"), tmp_path / package.replace(".", "/")
        target.mkdir(parents=True, exist_ok=True)
        for file in source.glob("*.py"):
            (target / file.name).symlink_to(file)
    code = f"""
import sys
import {MODULES}
bad = {{"django", "celery", "aurora_kernels", "training_worker", "aurora_web", "sglang", "fastapi", "uvicorn"}}
assert not bad & sys.modules.keys(), bad & sys.modules.keys()
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
