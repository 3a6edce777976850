"""``python -m aurora_web.supervisor up|down|status``: a whole Aurora on one machine."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from django.core.exceptions import ImproperlyConfigured

from aurora_web.supervisor import ports, reach
from aurora_web.supervisor.claim import Claim
from aurora_web.supervisor.config import SupervisorConfig
from aurora_web.supervisor.process import ProcessError
from aurora_web.supervisor.stack import Stack

STOP_SECONDS = 90.0


class Stopped(Exception):
    """Somebody asked us to stop."""


def say(line: str) -> None:
    """One line of progress, seen at once also through a pipe."""
    print(f"Aurora: {line}", flush=True)


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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    started = time.monotonic()
    stack = Stack(config, say)
    try:
        claim.write({"console": config.console_url, "state": "starting"})
        stack.start()
        claim.write({"console": config.console_url, "state": "running"})
        _announce(config, stack, time.monotonic() - started)
        _watch(stack, claim)
    except Stopped:
        return 0
    except ProcessError as error:
        say(str(error))
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave anything running
        say("stopping")
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


def _watch(stack: Stack, claim: Claim) -> NoReturn:
    claim.write_children(identity for child in stack.children.values() if (identity := child.identity))
    while True:
        if stack.watch():
            claim.write_children(identity for child in stack.children.values() if (identity := child.identity))
        time.sleep(0.2)


def _announce(config: SupervisorConfig, stack: Stack, seconds: float) -> None:
    say(f"ready after {seconds:.1f} s")
    say(f"console        {config.console_url}")
    for engine in stack.engines():
        where = f"{engine.url}/v1" if stack.answers(engine) else f"does not answer yet, see {engine.child.program.log}"
        say(f"engine         {where}  (model {engine.slug})")
    say(f"logs           {config.logs}")
    if stack.invite:
        say(f"first admin    {stack.invite}  (works once)")


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise Stopped


def down(config: SupervisorConfig) -> int:
    """Stop the supervisor of this state directory and wait until nothing is left. 0 also when none ran."""
    claim = Claim(config.state_dir)
    holder = claim.holder()
    if holder is not None:
        os.kill(holder["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while not claim.take():
        if time.monotonic() > deadline:
            say(f"did not stop within {STOP_SECONDS:.0f} s")
            return 1
        time.sleep(0.1)
    claim.release()
    say("stopped" if holder else "was not running")
    return 0


def status(config: SupervisorConfig) -> int:
    """Say whether it runs and where. 0 when it runs, 3 when not."""
    holder = Claim(config.state_dir).holder()
    say(f"{holder['state']}: {holder['console']} (pid {holder['pid']})" if holder else "not running")
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
