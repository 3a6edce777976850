"""Rank 0 of a server with its scheduler, without SGLang."""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path

from serving.engine.pins import Pins
from serving.engine.versions import Served, Versions
from serving.sglang_backend.control import ControlPolicy
from serving.sglang_backend.engine import PROBE_STEPS, SglangEngine, launched
from serving.sglang_backend.guard import Guard
from serving.sglang_backend.ranks import RankSwapper
from serving.sglang_backend.roll_call import RollCall
from serving.sglang_backend.weights import DraftMemory
from speculators import checkpoint
from tests.unit.serving.sglang_backend.fakes import CONFIG, FakeDraftModel, FakeRunner, draft_state


def agrees(line: str) -> str:
    return line


class Pair:
    """Two ranks; ``other`` is what the second one says where the first says ``line``."""

    size = 2

    def __init__(self) -> None:
        self.other = agrees

    def gather(self, line: str) -> tuple[str, str]:
        return line, self.other(line)


class Booked:
    """An assembler that has nothing else to do."""

    num_running = num_finished = num_steps = num_proposed = num_correct = num_accepted = num_errors = 0

    def __init__(self, versions: Versions) -> None:
        self.versions = versions
        self.queue = self

    def put(self, event) -> None:
        if event.detail:
            self.versions.revert(event.detail)
        else:
            self.versions.swap(event.served.version, event.served.draft, event.min_accept_length)


class Rank:
    """Rank 0 with its scheduler: ``engine`` is what the follower sees, ``memory`` what serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = DraftMemory(FakeRunner(FakeDraftModel()))
        self.memory.load(self.memory.staged(draft_state(0)))
        self.pair, self.policy, self.guard = Pair(), ControlPolicy(4), Guard()
        self.swapper = RankSwapper(self.memory, self.pair, self._applied, self._policy)
        versions: Versions = Versions(PROBE_STEPS, 4)
        versions.live = Served(0, launched(self.memory, "/launch"))
        roll = RollCall()
        roll.say()
        given = (self.swapper, roll, versions, Booked(versions), self.policy, CONFIG.aux_layer_ids, Pins())
        self.engine = SglangEngine(*given, num_drafts=4)
        self.is_turning = threading.Event()
        self.is_turning.set()
        self.before = self.after = lambda command: None  # what the scheduler does around each command
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._turns, daemon=True)
        self._thread.start()

    def _applied(self, command) -> None:
        self.engine.assembler.queue.put(self.engine.applied(command))

    def _policy(self, command) -> None:
        self.policy.control_share, self.policy.is_speculating = command.control_share, command.is_speculating

    def _turns(self) -> None:
        while not self._stopped.is_set():
            while self.engine.outbox and self.is_turning.is_set():
                self.before(self.engine.outbox[0])
                command = self.engine.outbox.popleft()
                self.guard.run("command", lambda command=command: self.swapper.handle(command), is_owed=True)
                self.after(command)
            time.sleep(0.001)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def uri(self, seed: int) -> Path:
        folder = self.folder / f"v{seed}"
        if not folder.exists():
            checkpoint.save(folder, CONFIG, draft_state(seed))
        return folder

    def swap(self, version: int):
        return self.engine.swap(version, self.engine.load_draft(self.uri(version), sha256(version)))

    def shown(self) -> tuple[int, str]:
        stats = self.engine.stats()
        return stats.version, stats.sha256


@functools.cache
def sha256(seed: int) -> str:
    return checkpoint.state_digest(draft_state(seed))
