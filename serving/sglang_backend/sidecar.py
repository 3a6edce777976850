"""``python -m serving.sglang_backend.sidecar``: swaps drafts on a server that cannot have the plugin.

Same variables, same conversation with the console as the plugin; ``AURORA_ENGINE_URL`` says where the server is. No
traces come from such a replica: let another one, with the plugin, feed the trainer.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx

from serving.sglang_backend import config as settings
from serving.sglang_backend.http_engine import PINS_DETAIL, HttpEngine
from serving.sglang_backend.off import EVERY_SECONDS, OffReporter, nothing_yet
from serving.trace.console import ConsoleClient
from serving.trace.desired_file import DesiredFile
from serving.trace.follower import Follower
from serving.trace.identity import Beside, Identity
from serving.trace.pins import PinFollower
from speculators.checkpoint import CheckpointError
from speculators.records import ObservedState

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # between two looks whether the server has answered; a signal is seen at once
PATIENCE_SECONDS = 1.0  # with what served before a restart, until reports begin beside it
NO_CAPTURE = "a sidecar sees no hidden states: install the plugin to learn from this server"


def main() -> int:
    """Runs until a signal; returns 2 for settings, or a server, that cannot be used. A server may come later."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopped = threading.Event()
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, lambda *_: stopped.set())
    try:
        config = settings.load("127.0.0.1", settings.SGLANG_PORT)
        settings.check_state_dir(config.state_dir)
        engine = _met_unless_stopped(config, stopped)
        if engine is None:
            return 0
        target_config = engine.target_config
    except (settings.PluginConfigError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with following(engine, config, target_config):
        stopped.wait()
    return 0


def _met_unless_stopped(config: settings.PluginConfig, stopped: threading.Event) -> HttpEngine | None:
    """As ``met``, on a thread of its own, which a signal does not wait for: a server may be silent for a minute."""
    found: Future[HttpEngine | None] = Future()

    def run() -> None:
        try:
            found.set_result(met(config, stopped))
        except BaseException as error:  # noqa: BLE001  belongs to who waits
            found.set_exception(error)

    threading.Thread(target=run, name="meet", daemon=True).start()
    while not found.done():
        if stopped.wait(POLL_SECONDS):
            return None
    return found.result()


def met(
    config: settings.PluginConfig, stopped: threading.Event, every_seconds: float = EVERY_SECONDS
) -> HttpEngine | None:
    """The server, once it answers, which takes minutes while it loads; None when it is ``stopped`` before that.

    Until then, from the beginning on, the console hears that the replica is starting, and why. Raises
    PluginConfigError where another server is, or one that wants another key; CheckpointError and OSError where its
    draft cannot be read.
    """
    waiting = Waiting(
        config, f"sglang, aurora sidecar {settings.PLUGIN_VERSION}", _waiting(config, "no answer yet"), every_seconds
    )
    waiting.start()
    try:
        while not stopped.is_set():
            try:
                return HttpEngine(config.engine_url, config.admin_key)
            except httpx.HTTPError as error:
                detail = _not_yet(config, error)
            except CheckpointError:
                raise
            except (ValueError, LookupError):
                raise settings.PluginConfigError(_no_sglang(config, "its /server_info names none")) from None
            if detail != waiting.problem:
                log.info("%s", detail)
            waiting.problem = detail
            stopped.wait(every_seconds)
    finally:
        waiting.stop()
    return None


class Waiting(OffReporter):
    """Reports a replica whose server has not answered; ``problem`` is what is known of it."""

    def observed(self) -> ObservedState:
        return replace(
            nothing_yet(self.config, self.engine), detail=self.problem, capture_state="off", capture_detail=NO_CAPTURE,
            pins_detail=PINS_DETAIL,
        )  # fmt: skip


def _not_yet(config: settings.PluginConfig, error: httpx.HTTPError) -> str:
    """Why there is no answer so far. Raises PluginConfigError for one that will stay as it is."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        said = f"{error.request.url.path} answers HTTP {status}"
        if status in (401, 403):
            right = "must be the server's --admin-api-key, or its --api-key where that is all it has"
            raise settings.PluginConfigError(f"AURORA_SGLANG_KEY: {right}: {said} at {config.engine_url}")
        if status < 500:
            raise settings.PluginConfigError(_no_sglang(config, said))
    return _waiting(config, said)


def _waiting(config: settings.PluginConfig, said: str) -> str:
    return f"waiting for the SGLang server at {config.engine_url} (AURORA_ENGINE_URL): {said}"


def _no_sglang(config: settings.PluginConfig, said: str) -> str:
    return f"AURORA_ENGINE_URL={config.engine_url!r}: must be the address of an SGLang server with a draft: {said}"


@contextmanager
def following(engine: HttpEngine, config: settings.PluginConfig, target_config: dict[str, Any]) -> Iterator[Follower]:
    """What served well before a restart, then what the console wants, until the end of the block."""
    client = ConsoleClient(config.console_url, config.token)
    recording = config.recording(
        f"sglang {engine.server.get('version', '?')}, aurora sidecar {settings.PLUGIN_VERSION}",
        str(engine.server["model_path"]),
        str(engine.server["speculative_draft_model_path"]),
    )
    identity = Identity(
        config.replica,
        config.slug,
        recording.engine_name,
        config.engine_url,
        recording.model_path,
        recording.draft_path,
        engine.aux_layer_ids,
    )
    file = DesiredFile(recording.desired_file)
    pins = PinFollower(engine.pins, recording.pins_file)
    follower = Follower(engine, client, identity, target_config, file, pins, lambda: _beside(engine))
    try:
        follower.restore(PATIENCE_SECONDS)
    except Exception:
        log.exception("what served before the restart could not be restored; the console will be asked")
    follower.start()
    try:
        yield follower
    finally:
        follower.stop()
        engine.close()
        client.close()


def _beside(engine: HttpEngine) -> Beside:
    return Beside(
        capture_state="off",
        capture_detail=NO_CAPTURE,
        engine_num_verify_steps=engine.counts.num_verify_steps,
        engine_num_accept_tokens=engine.counts.num_accept_tokens,
        target_sha256=engine.target_sha256,
        policy_detail=engine.policy_detail,
    )


if __name__ == "__main__":
    sys.exit(main())
