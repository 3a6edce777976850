"""Starts everything in order of readiness, keeps it running, stops it in the reverse order."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from aurora_web.environment import address
from aurora_web.supervisor.child import Child, Program
from aurora_web.supervisor.config import REPO, SupervisorConfig
from aurora_web.supervisor.demo import FALLBACK, NONE, Demo
from aurora_web.supervisor.logs import Logs, tail
from aurora_web.supervisor.ports import EnginePorts
from aurora_web.supervisor.process import ProcessError, start, stop, wait_until
from aurora_web.supervisor.programs import Programs
from aurora_web.supervisor.services import Services

ENGINE_POLL_SECONDS = 1.0
ENGINE_SECONDS = 120.0  # that a start waits for its engines
ENGINE_WAIT_SECONDS = 0.05  # between two looks at them
HEAD_START_SECONDS = 15.0  # of the engines before the workers, which would slow their start
SERVICE_RETRY_SECONDS = 5.0
ONCE_SECONDS = 1800.0  # for a step of the start; fetching a model over a slow line is the longest
ONCE_POLL_SECONDS = 0.05
# By the first word of their names; those of one line at the same time. The console takes what engines say last.
STOP_ORDER = (("traffic",), ("engine", "beat", "trainer", "worker"), ("web",))
Say = Callable[[str], None]


class Engine(NamedTuple):
    """An embedded engine and where it listens."""

    slug: str
    url: str
    child: Child


class Stack:
    """All processes of one state directory. ``say`` gets one line of progress at a time."""

    def __init__(self, config: SupervisorConfig, say: Say) -> None:
        self.config = config
        self.say = say
        self.services = Services(config.state_dir, config.logs, config.database_url, config.redis_url)
        self.children: dict[str, Child] = {}
        self.logs = Logs(config.logs, say)
        self.invite = ""
        self._console = httpx.Client(timeout=2.0, trust_env=False)
        self._ports = EnginePorts(
            config.state_dir / "engines.json", config.engine_host, config.engine_port, frozenset({config.web_port})
        )
        self._portless: set[str] = set()
        self._asked_at = 0.0
        self._services_not_before = 0.0

    def start(self) -> None:
        """Bring everything up; returns when the console answers, and each engine or why it does not is said.

        Raises ProcessError where there would be no console.
        """
        self.say("starting Postgres and Valkey")
        self.services.start(self.say)
        environment = self.config.child_environment(self.services.database_url, self.services.redis_url)
        demo = self._prepare_demo(environment)
        self.say("preparing the database")
        which = ("--demo", demo.name, "--before", demo.before)
        facts = json.loads(self._run_once("prepare", environment, "aurora_web.supervisor.prepare", *which))
        demo.remember(self.config.state_dir)
        self.invite = facts["invite"]
        token = facts["replica_token"]
        self._console.headers["Authorization"] = f"Bearer {token}"
        self.programs = Programs(
            self.config, self.config.child_environment(self.services.database_url, self.services.redis_url, token)
        )
        self.say("starting engine, console and workers")
        self._follow(facts["engines"])  # at once: loading a model takes longest
        self._add(self.programs.web())
        self._wait("web", lambda: self._answers(f"{self.console}/readyz"), 60)
        self.say(f"the console answers: {self.console}")
        self._add(self.programs.traffic())
        self._wait_for_engines()

    def watch(self) -> bool:
        """Restart what ended, follow the console's list of targets, keep logs short.

        True when a process was started or stopped.
        """
        return self._watch_all_but(())

    def _watch_all_but(self, names: Container[str]) -> bool:
        changed = [child.watch() for name, child in list(self.children.items()) if name not in names]
        if time.monotonic() - self._asked_at >= ENGINE_POLL_SECONDS:
            changed.append(self._follow_targets())
        self._watch_services()
        self.logs.look()
        return any(changed)

    def stop(self) -> None:
        """Stop everything: those who write first, the servers that they write to last."""
        with ThreadPoolExecutor(max(1, len(self.children))) as pool:
            for kinds in STOP_ORDER:
                together = [child for name, child in self.children.items() if name.split("-")[0] in kinds]
                list(pool.map(Child.stop, together))
        self.services.stop()
        self._console.close()

    def down(self) -> list[tuple[str, int, str]]:
        """(name, quick ends in a row, log) of each process that does not run just now."""
        down = [child for child in self.children.values() if child.is_down]
        return [(child.program.name, child.num_failures, str(child.program.log)) for child in down]

    def engines(self) -> list[Engine]:
        """The engines of this machine, whether they answer or not."""
        slugs = [name.removeprefix("engine-") for name in self.children if name.startswith("engine-")]
        host = self.config.engine_host
        return [Engine(s, address(host, self._ports.given(s)), self.children[f"engine-{s}"]) for s in slugs]

    def answers(self, engine: Engine) -> bool:
        """Whether requests are served."""
        return self._answers(f"{engine.url}/health")

    @property
    def console(self) -> str:
        return address(self.config.web_host, self.config.web_port)

    def _add(self, program: Program) -> None:
        child = Child(program, self.say)
        self.children[program.name] = child
        child.watch()

    def _wait(self, name: str, is_ready: Callable[[], bool], seconds: float) -> None:
        child = self.children[name]
        if child.process is None:
            raise ProcessError(f"{name} could not be started")
        wait_until(is_ready, name, child.process, child.program.log, seconds)

    def _wait_for_engines(self) -> None:
        """Until each answers, has failed, which is said, or is not wanted any more; all else is watched as ever.

        The workers start after them, or after a head start: an engine measures its costs before anybody else is busy.
        """
        began = time.monotonic()
        waiting = {engine.child.program.name: engine for engine in self.engines()}
        while waiting:
            waiting = {name: engine for name, engine in waiting.items() if self._is_awaited(engine, began)}
            if time.monotonic() - began > HEAD_START_SECONDS:
                self._add_workers()
            self._watch_all_but(waiting)
            time.sleep(ENGINE_WAIT_SECONDS)
        self._add_workers()

    def _is_awaited(self, engine: Engine, began: float) -> bool:
        name = engine.child.program.name
        if self.children.get(name) is not engine.child:
            return False
        why_not = _why_not(engine.child, is_late=time.monotonic() - began > ENGINE_SECONDS)
        if why_not:
            self.say(_gone_on_without(engine, why_not))
        return not why_not and not self.answers(engine)

    def _add_workers(self) -> None:
        """Unless they are there already."""
        for program in (self.programs.worker(), self.programs.beat(), self.programs.trainer()):
            if program.name not in self.children:
                self._add(program)

    def _answers(self, url: str) -> bool:
        try:
            return self._console.get(url).status_code == 200
        except httpx.TransportError:
            return False

    def _follow_targets(self) -> bool:
        """Run one engine per target that the console wants on this machine."""
        self._asked_at = time.monotonic()
        try:
            answer = self._console.get(f"{self.console}/api/v1/engines")
            answer.raise_for_status()
        except httpx.HTTPError:
            return False  # the console is down or starting; engines keep running
        return self._follow(answer.json()["engines"])

    def _follow(self, engines: list[dict[str, Any]]) -> bool:
        """True when an engine was started or stopped."""
        wanted = {f"engine-{each['slug']}": each for each in engines if each["enabled"]}
        running = {name for name in self.children if name.startswith("engine-")}
        for name in running - wanted.keys():
            self.children.pop(name).stop()
        for name in [name for name in wanted if name not in running]:
            self._add_engine(wanted[name]["slug"], wanted[name]["path"])
        return running != {name for name in self.children if name.startswith("engine-")}

    def _add_engine(self, slug: str, path: str) -> None:
        """Start the engine of a target; where no port is left, say so once."""
        try:
            port = self._ports.give(slug)
        except OSError as error:
            if slug not in self._portless:
                self.say(str(error))
            self._portless.add(slug)
            return
        if port != (kept := self._ports.kept(slug)):
            self.say(f"another program listens on port {kept}: the engine of {slug} takes {port} until the next start")
        self._add(self.programs.engine(slug, path, port))

    def _watch_services(self) -> None:
        """Start an embedded server that has ended; where it does not come up, everything else runs on meanwhile."""
        for server in (self.services.postgres, self.services.valkey):
            if server is None or server.process is None or server.process.poll() is None:
                continue
            if time.monotonic() < self._services_not_before:
                return
            name = type(server).__name__
            self.say(f"{name} ended with {server.process.returncode}; starting it again")
            stop(server.process)  # its own processes, if any are left: they hold its files
            try:
                server.start()
            except (ProcessError, OSError) as error:
                self._services_not_before = time.monotonic() + SERVICE_RETRY_SECONDS
                self.say(f"{error}\n{name} is tried again in {SERVICE_RETRY_SECONDS:.0f} s")

    def _prepare_demo(self, environment: dict[str, str]) -> Demo:
        """The demo target's directory; the pocket target's where the other cannot be had."""
        demo = Demo.choose(self.config.demo, self.config.state_dir)
        self.config.models.mkdir(parents=True, exist_ok=True)
        for unfinished in self.config.models.glob(".*"):  # of a start that was killed; only one runs at a time
            shutil.rmtree(unfinished, ignore_errors=True)
        if demo.name == NONE:
            return demo
        self.say(f"preparing the demo target {demo.name}")
        try:
            self._prepare_model(demo.name, environment)
        except ProcessError as error:
            if demo.name == FALLBACK:
                raise
            self.say(str(error))
            self.say(f"going on with the {FALLBACK} target; the next start tries {demo.name} again")
            demo = demo.fallen_back()
            self._prepare_model(demo.name, environment)
        return demo

    def _prepare_model(self, name: str, environment: dict[str, str]) -> None:
        where = str(self.config.models / name)
        self._run_once(f"model-{name}", environment, "serving.model_sources", name, "--out", where, say=self.say)

    def _run_once(
        self, name: str, environment: dict[str, str], module: str, *arguments: str, say: Say | None = None
    ) -> str:
        """Run a module to its end and return what it printed; ``say`` gets it line by line while it runs.

        Raises ProcessError with the end of its log.
        """
        log, output = self.config.logs / f"{name}.log", self.config.logs / f"{name}.out"
        command = [sys.executable, "-m", module, *arguments]
        child = start(command, log=log, output=output, environment=environment, cwd=REPO)
        deadline, num_said = time.monotonic() + ONCE_SECONDS, 0
        try:
            while (code := child.poll()) is None and time.monotonic() < deadline:
                time.sleep(ONCE_POLL_SECONDS)
                if say is not None:
                    num_said = _say_new_lines(output, num_said, say)
        finally:
            stop(child)
        if code is None:
            raise ProcessError(f"{name} did not end within {ONCE_SECONDS:.0f} s; {log} ends with:\n{tail(log)}")
        if code != 0:
            raise ProcessError(f"{name} ended with {code}; {log} ends with:\n{tail(log)}")
        answer = output.read_text(encoding="utf-8")
        output.unlink()
        return answer


def _why_not(child: Child, *, is_late: bool) -> str:
    """Why an engine is waited for no longer; "" = it may still come."""
    if child.process is None:
        return "could not be started and is tried again"
    if (code := child.process.poll()) is not None:
        return f"ended with {code} and is tried again"
    return f"does not answer after {ENGINE_SECONDS:.0f} s" if is_late else ""


def _gone_on_without(engine: Engine, why_not: str) -> str:
    log = engine.child.program.log
    return f"going on without the engine of {engine.slug}, which {why_not}; {log} ends with:\n{tail(log)}"


def _say_new_lines(output: Path, num_said: int, say: Say) -> int:
    """Pass on the whole lines behind the first ``num_said``; returns how many there are now."""
    lines = output.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    for line in lines[num_said:]:
        say(line)
    return len(lines)
