"""The torch side runs without Django, the web side without torch; proved in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'kernels'}"}
BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ImportError(name + " is not to be imported here")
sys.meta_path.insert(0, Block())
"""
TORCH_SIDE = """
import serving.__main__, serving.engine.engine, serving.traffic.__main__, serving.http.server
import serving.sglang_backend.plugin, serving.sglang_backend.sidecar
import training_worker.slices, speculators.eagle3, aurora_kernels.packed_linear
"""
WEB_SIDE = """
import django, os
os.environ["DJANGO_SETTINGS_MODULE"] = "aurora_web.settings"
import aurora_web.asgi, aurora_web.celery, aurora_web.urls
import aurora_web.training.tasks, aurora_web.traces.tasks, aurora_web.metrics.tasks, aurora_web.rollouts.tasks
import aurora_web.supervisor.__main__
from speculators import records
"""


@pytest.mark.parametrize(
    ("code", "blocked"),
    [
        (TORCH_SIDE, {"django", "celery", "channels", "aurora_web"}),
        (WEB_SIDE, {"torch", "serving", "training_worker", "aurora_kernels", "safetensors", "transformers"}),
        ("from speculators import records", {"torch", "numpy", "django", "orjson"}),
    ],
    ids=["torch side", "web side", "records"],
)
def test_runs_without(code, blocked):
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=blocked) + code],
        cwd=REPO,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_kernels_is_no_regular_package():
    assert not (REPO / "kernels" / "__init__.py").exists()


def test_the_import_contracts_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
