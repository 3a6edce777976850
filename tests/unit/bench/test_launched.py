"""What a GPU machine would run, as far as that can be said without one."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from aurora_web.registry.launch import CPU_ARGUMENTS, CPU_ENVIRONMENT, VARIANTS
from tests.bench.ring import REPO
from tests.sglang import launched
from tests.sglang import server as sglang_server


class Ring:
    """Answers as the console does: a CPU's settings for the variant of a CPU."""

    def get(self, path: str, variant: str, replica: int) -> dict[str, Any]:
        assert variant in VARIANTS
        is_cpu = variant == "cpu"
        more = [part for pair in CPU_ARGUMENTS for part in pair] if is_cpu else []
        return {
            "is_ready": True,
            "environment": CPU_ENVIRONMENT if is_cpu else {},
            "token_variable": "TOKEN",
            "arguments": ["--host", "127.0.0.1", "--port", "1", *more],
        }

    def post(self, path: str) -> dict[str, str]:
        return {"token": "secret"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_launched_server_runs_on_the_device_of_the_tests(device, monkeypatch, tmp_path):
    for module in (launched, sglang_server):
        monkeypatch.setattr(module, "DEVICE", device)
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    found = launched.Launched(tmp_path, *launched.launch_of(Ring()))
    arguments = found.arguments()
    is_cpu = device == "cpu"
    assert ("SGLANG_USE_CPU_ENGINE" in found.environment, "cpu" in arguments) == (is_cpu, is_cpu)
    backend = arguments[arguments.index("--attention-backend") + 1]
    assert backend == ("intel_amx" if is_cpu else "triton")
    assert ("--cuda-graph-backend-decode" in arguments) == is_cpu
    for flag in ("--mem-fraction-static", "--dtype", "--port"):  # two of them share one device
        assert arguments.count(flag) == 1
    assert found.environment["TOKEN"] == "secret"


def test_what_fails_on_a_gpu_machine_keeps_nothing_else_from_running():
    asked = subprocess.run(
        ["make", "--no-print-directory", "gpu", "MAKE=echo"], cwd=REPO, capture_output=True, text=True, check=True
    )
    words = asked.stdout.split()
    assert "--keep-going" in words
    assert words[-5:] == ["test-gpu", "bench-gpu", "test-sglang", "test-sglang-launches", "bench-sglang"]
