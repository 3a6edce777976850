"""``python -m aurora_web.supervisor up|down|status``: a whole Aurora on one machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from django.core.exceptions import ImproperlyConfigured

from aurora_web.environment import wrong
from aurora_web.supervisor import ports, reach
from aurora_web.supervisor.claim import Claim
from aurora_web.supervisor.config import SupervisorConfig
from aurora_web.supervisor.process import ProcessError
from aurora_web.supervisor.stack import Stack

STOP_SECONDS = 90.0
STANDARD_OUTPUT = 1  # without Python's buffer, which would be tried again at the end and spoil the exit status
SAY_SECONDS = 1.0  # that a paused terminal or a full pipe is waited for
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """Somebody asked us to stop."""


def say(line: str) -> None:
    """One line of progress, seen at once also through a pipe. Where nobody reads, it is lost and nothing else."""
    if sys.__stdout__ is None:  # closed at our start: the number may be another file's
        return
    with contextlib.suppress(OSError):  # the reader, the terminal or the room is gone
        if select.select([], [STANDARD_OUTPUT], [], SAY_SECONDS)[1]:
            os.write(STANDARD_OUTPUT, f"Aurora: {line}\n".encode(errors="replace"))


def up(config: SupervisorConfig) -> int:
    """Start everything and stay until told to stop. 0 after a clean stop or when it runs already."""
    claim = Claim(config.state_dir)
    if not claim.take():
        holder = claim.holder()
        where = f"{holder['console']} (pid {holder['pid']})" if holder else "and is starting or stopping"
        say(f"runs already: {where}; state in {config.state_dir}. `make down` stops it")
        return 0
    try:
        return _run(config, claim)
    finally:
        claim.release()


def _run(config: SupervisorConfig, claim: Claim) -> int:
    _check(config)
    for number in STOP_SIGNALS:
        signal.signal(number, _on_signal)
    started = time.monotonic()
    stack = Stack(config, say)
    try:
        if why_not := _write_state(claim, config, "starting"):
            raise wrong("AURORA_STATE_DIR", str(config.state_dir), f"expected a directory with room ({why_not})")
        stack.start()
        if why_not := _write_state(claim, config, "running"):
            say(f"`make status` goes on saying that this is starting: {why_not}")
        _announce(config, stack, time.monotonic() - started)
        _watch(stack, claim, config)
    except Stopped:
        return 0
    except ProcessError as error:
        say(str(error))
        return 1
    finally:
        try:
            _ignore_signals()
            say("stopping")
        finally:
            stack.stop()
        say("stopped; nothing is left running")


def _check(config: SupervisorConfig) -> None:
    """What only this machine can tell of the settings. Raises ImproperlyConfigured."""
    ports.check("AURORA_WEB", config.web_host, config.web_port)
    ports.check("AURORA_ENGINE", config.engine_host, config.engine_port)
    if config.database_url:
        reach.check_database(config.database_url)
    if config.redis_url:
        reach.check_redis(config.redis_url)


def _watch(stack: Stack, claim: Claim, config: SupervisorConfig) -> NoReturn:
    """Whatever of it cannot be written down runs on all the same, and is tried again."""
    told: list[tuple[str, int, str]] = []

    def write() -> None:
        claim.write_children(identity for child in stack.children.values() if (identity := child.identity))

    why_not, has_changed = "", True
    while True:
        if has_changed or why_not:
            before, why_not = why_not, _try_to_write(write)
            if why_not and not before:
                say(f"which processes run is not written down, for a start after this one was killed: {why_not}")
        if (down := stack.down()) != told and not _write_state(claim, config, "running", down):
            told = down
        time.sleep(0.2)
        has_changed = stack.watch()


def _write_state(claim: Claim, config: SupervisorConfig, state: str, down: Sequence[tuple[str, int, str]] = ()) -> str:
    return _try_to_write(lambda: claim.write({"console": config.console_url, "state": state, "down": list(down)}))


def _try_to_write(write: Callable[[], None]) -> str:
    """Why it could not be written, as on a full disk; "" = it was."""
    try:
        write()
    except OSError as error:
        return str(error)
    return ""


def _announce(config: SupervisorConfig, stack: Stack, seconds: float) -> None:
    say(f"ready after {seconds:.1f} s")
    say(f"console        {config.console_url}")
    for engine in stack.engines():
        where = f"{engine.url}/v1" if stack.answers(engine) else f"does not answer yet, see {engine.child.program.log}"
        say(f"engine         {where}  (model {engine.slug})")
    say(f"logs           {config.logs}")
    if elsewhere := stack.services.database_elsewhere:
        say(f"database       {elsewhere}  (the user that Postgres runs as may not enter {config.state_dir})")
    if stack.invite:
        say(f"first admin    {stack.invite}  (works once)")


def _on_signal(number: int, frame: FrameType | None) -> None:
    _ignore_signals()
    raise Stopped


def _ignore_signals() -> None:
    """Once we stop: a second Ctrl-C, or one beside a closed terminal, must not leave anything running."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def down(config: SupervisorConfig) -> int:
    """Stop the supervisor of this state directory and wait until nothing is left. 0 also when none ran."""
    claim = Claim(config.state_dir)
    asked: set[tuple[int, str]] = set()
    was_held, deadline = False, time.monotonic() + STOP_SECONDS
    while not claim.take():
        was_held = True
        _ask_to_stop(claim, asked)
        if time.monotonic() > deadline:
            say(f"did not stop within {STOP_SECONDS:.0f} s")
            return 1
        time.sleep(0.1)
    claim.release()
    say("stopped" if was_held else "was not running")
    return 0


def _ask_to_stop(claim: Claim, asked: set[tuple[int, str]]) -> None:
    """Once each: one that checks its settings has not said yet who it is, and one may end before it is asked."""
    holder = claim.holder()
    if holder is None or (identity := (holder["pid"], holder["started"])) in asked:
        return
    asked.add(identity)
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder["pid"], signal.SIGTERM)


def status(config: SupervisorConfig) -> int:
    """Say whether it runs, where, and what of it does not. 0 when it runs, 3 when not."""
    holder = Claim(config.state_dir).holder()
    say(f"{holder['state']}: {holder['console']} (pid {holder['pid']})" if holder else "not running")
    for name, times, log in (
        holder.get("down", ()) if holder else ()
    ):  # a supervisor from before an upgrade says nothing
        say(f"{name} is down: it has ended {times} times in a row, and is tried again (log: {log})")
    return 0 if holder else 3


def main() -> int:
    """Read the command line and the environment."""
    parser = argparse.ArgumentParser(prog="python -m aurora_web.supervisor", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status"))
    command = parser.parse_args().command
    try:
        return {"up": up, "down": down, "status": status}[command](SupervisorConfig.from_environment())
    except ImproperlyConfigured as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
