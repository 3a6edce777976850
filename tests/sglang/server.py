"""A real SGLang 0.5.21 server, with or without the plugin, in an environment of its own.

``AURORA_SGLANG_DEVICE`` (cpu or cuda) and ``AURORA_SGLANG_PYTHON`` say on what and with which; the Makefile sets both.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.bench.ring import REPO, free_ports

DEVICE = os.environ.get("AURORA_SGLANG_DEVICE", "cpu")
PYTHON = Path(os.environ.get("AURORA_SGLANG_PYTHON", REPO / ".venv-sglang" / "bin" / "python"))
LOOKAHEAD = 4
ON_DEVICE = {
    "cpu": {"--attention-backend": "intel_amx", "--cuda-graph-backend-decode": "disabled"},
    "cuda": {"--attention-backend": "triton"},  # the one that takes float32; CUDA graphs and overlap as SGLang has them
}
# Several servers share the device, and the judge of what they write computes in float32.
SMALL = {
    "--dtype": "float32",
    "--mem-fraction-static": "0.3",
    "--max-total-tokens": "16384",
    "--max-running-requests": "16",
}
ENVIRONMENT = {"cpu": {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}, "cuda": {}}
NOISE = re.compile(r"server_args=|Ignore import error")


class Server:
    """One server process; ``environment`` switches the plugin on."""

    def __init__(
        self, folder: Path, target: Path, draft: Path, environment: dict[str, str] | None = None, *options: str
    ) -> None:
        self.folder = folder
        self.target = target
        self.draft = draft
        self.options = options
        [self.port] = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AURORA_")}
        self.environment = {
            **kept,
            **ENVIRONMENT[DEVICE],
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": "",
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=self.url, timeout=120.0, trust_env=False)

    @property
    def log_file(self) -> Path:
        return self.folder / "sglang.log"

    def log(self) -> str:
        """What the server has said, without its own long lists."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if not NOISE.search(line))

    def start(self, seconds: float = 180.0) -> None:
        """Launch, again after a stop too, and wait until it answers; raises RuntimeError with the end of its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.http.is_closed:
            self.http = httpx.Client(base_url=self.url, timeout=120.0, trust_env=False)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [str(PYTHON), "-m", "sglang.launch_server", *self.arguments()],
                cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + seconds
        while "ready to roll" not in self.log_file.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SGLang did not start:\n{self.log()[-3000:]}")
            time.sleep(0.5)

    def arguments(self) -> list[str]:
        return [
            "--model-path", str(self.target), "--served-model-name", "demo",
            "--host", "127.0.0.1", "--port", str(self.port), "--sleep-on-idle",
            *with_missing(["--device", DEVICE], ON_DEVICE[DEVICE] | SMALL),
            "--enable-metrics", "--speculative-algorithm", "EAGLE3",
            "--speculative-draft-model-path", str(self.draft), "--speculative-num-steps", str(LOOKAHEAD),
            "--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", str(LOOKAHEAD + 1), *self.options,
        ]  # fmt: skip

    def stop(self) -> None:
        self.http.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(20)

    def generate(self, prompt: list[int], max_tokens: int, **more: Any) -> dict[str, Any]:
        """SGLang's own endpoint, greedy, through end-of-sequence tokens; ``output_ids`` and ``meta_info``."""
        sampling = {"max_new_tokens": max_tokens, "temperature": 0, "ignore_eos": True, **more.pop("sampling", {})}
        answer = self.http.post("/generate", json={"input_ids": prompt, "sampling_params": sampling, **more})
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def stream(self, prompt: list[int], max_tokens: int) -> Iterator[tuple[float, int]]:
        """See ``stream``."""
        return stream(self.url, prompt, max_tokens)


def with_missing(arguments: list[str], wanted: dict[str, str]) -> list[str]:
    """The arguments, and those of the wanted options that they do not say."""
    more = [(flag, value) for flag, value in wanted.items() if flag not in arguments]
    return [*arguments, *(part for pair in more for part in pair)]


def with_plugin(folder: Path, code: str) -> Path:
    """A plugin of SGLang's that is found, and therefore called, before those of the environment: set as PYTHONPATH."""
    facts = folder / "spoiler-0.dist-info"
    facts.mkdir(parents=True)
    (folder / "spoiler.py").write_text(code)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: spoiler\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[sglang.srt.plugins]\nspoiler = spoiler:activate\n")
    return folder


def stream(url: str, prompt: list[int], max_tokens: int) -> Iterator[tuple[float, int]]:
    """(monotonic time, tokens so far) of every piece of a streamed greedy answer, through end-of-sequence tokens."""
    sampling = {"max_new_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    body = {"input_ids": prompt, "sampling_params": sampling, "stream": True}
    with httpx.stream("POST", f"{url}/generate", json=body, timeout=300.0, trust_env=False) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield time.monotonic(), json.loads(line[6:])["meta_info"]["completion_tokens"]
