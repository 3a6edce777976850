"""A GPU, and the tiny target of the unit tests on it and on the CPU.

Needs torch with CUDA, transformers, safetensors and httpx; no Django and no services.
"""

import pytest
import torch

from tests.unit.training_worker.conftest import AUX, target, target_dir, traces  # noqa: F401 - fixtures
from training_worker.device import find_device
from training_worker.segments import Examples
from training_worker.target import Target


def pytest_sessionstart():
    if not torch.cuda.is_available():
        pytest.exit(f"tests/gpu needs a CUDA GPU; torch {torch.__version__} sees none", returncode=1)


@pytest.fixture(scope="session")
def gpu():
    return find_device("cuda")


@pytest.fixture(scope="session")
def gpu_target(target_dir, gpu):  # noqa: F811
    return Target(target_dir, gpu)


@pytest.fixture(scope="session")
def examples(target, traces):  # noqa: F811
    """Greedy traces and sampled ones, with states and teacher as the CPU makes them."""
    found, missing = Examples(target, AUX).load((*traces(16, seed=11), *traces(8, temperature=0.7, seed=12)))
    assert not missing
    return found
