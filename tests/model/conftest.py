"""The default target, SmolLM2-135M-Instruct, as `make test-model` has prepared it."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def smollm2() -> Path:
    folder = Path(os.environ.get("AURORA_TEST_MODEL", ""))
    if not (folder / "config.json").is_file():
        pytest.fail(f"AURORA_TEST_MODEL={str(folder)!r} has no config.json: run `make test-model`, which prepares it")
    torch.set_num_threads(os.cpu_count() or 1)
    return folder
