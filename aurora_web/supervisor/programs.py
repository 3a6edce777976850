"""The processes of an Aurora on one machine: which command each is, and what it needs."""

from __future__ import annotations

import sys
from dataclasses import replace

from aurora_web.supervisor.child import Program
from aurora_web.supervisor.config import REPO, SupervisorConfig
from aurora_web.supervisor.names import replica_name

# glibc: tensors of a few MB are taken from memory that the trainer keeps, instead of fresh pages at every step; larger
# ones, of a real LLM's vocabulary, would leave holes of a gigabyte in it. oneDNN: it keeps a compiled product with its
# buffers for each shape, 1,024 of them unless told otherwise: chains and prompts have so many that it held 0.4 GB.
KEEP_MEMORY = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
# glibc: what an engine has freed goes back to the system, large blocks each on their own, and its threads share two
# heaps: 0.4 GB less for SmolLM2 after its start.
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_ARENA_MAX": "2"}
CELERY = ("-m", "celery", "-A", "aurora_web", "--quiet")


def web_command(host: str, port: int) -> tuple[str, ...]:
    """One process with the console; frames of its sockets go out plain: packing each one for each socket cost most."""
    return ("-m", "uvicorn", "aurora_web.asgi:application", "--host", host, "--port", str(port), "--no-access-log",
            "--timeout-graceful-shutdown", "5", "--ws-per-message-deflate", "false")  # fmt: skip


class Programs:
    """Makes the programs of one configuration."""

    def __init__(self, config: SupervisorConfig, environment: dict[str, str]) -> None:
        self.config = config
        self.environment = environment

    def web(self) -> Program:
        """The console: HTTP and websockets."""
        return self._python("web", *web_command(self.config.web_host, self.config.web_port))

    def worker(self) -> Program:
        """Celery for everything that is quick."""
        return self._python("worker", *CELERY, "worker", "-Q", "default", "--pool=threads", "--concurrency=4",
                            "-n", "worker@%h", "--without-gossip", "--without-mingle", niceness=2)  # fmt: skip

    def trainer(self) -> Program:
        """Celery for training slices: one at a time, in the worker itself, below everything else in priority."""
        program = self._python("trainer", *CELERY, "worker", "-Q", "gpu", "--pool=solo", "-n", "trainer@%h",
                            "--without-gossip", "--without-mingle", niceness=5)  # fmt: skip
        return replace(program, environment={**program.environment, **KEEP_MEMORY})

    def beat(self) -> Program:
        """Celery's clock."""
        schedule = str(self.config.state_dir / "celerybeat-schedule")
        return self._python("beat", *CELERY, "beat", "--schedule", schedule, "--pidfile=", niceness=2)

    def traffic(self) -> Program:
        """The demo's client; asks the console what to send."""
        return self._python("traffic", "-m", "serving.traffic", niceness=1)

    def engine(self, slug: str, path: str, port: int) -> Program:
        """An embedded engine for one target; on another port it is the same replica."""
        program = self._python(f"engine-{slug}", "-m", "serving", "--target", path, "--slug", slug,
                               "--replica", replica_name(slug),
                               "--host", self.config.engine_host, "--port", str(port))  # fmt: skip
        return replace(program, environment={**program.environment, **RETURN_MEMORY})

    def _python(self, name: str, *arguments: str, niceness: int = 0) -> Program:
        log = self.config.logs / f"{name}.log"
        return Program(name, (sys.executable, *arguments), self.environment, REPO, log, niceness)
