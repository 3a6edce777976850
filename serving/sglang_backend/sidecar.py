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
from contextlib import contextmanager
from typing import Any

import httpx

from serving.sglang_backend import config as settings
from serving.sglang_backend.http_engine import HttpEngine
from serving.trace.console import ConsoleClient
from serving.trace.follower import Beside, DesiredFile, Follower, Identity
from serving.trace.pins import PinFollower
from speculators.checkpoint import CheckpointError

log = logging.getLogger(__name__)


def main() -> int:
    """Runs until a signal; returns 2 for settings, or a server, that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = settings.load("127.0.0.1", settings.SGLANG_PORT)
        engine = HttpEngine(config.engine_url, config.admin_key)
        target_config = engine.target_config
    except (settings.PluginConfigError, CheckpointError, OSError, httpx.HTTPError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stopped = threading.Event()
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop_signal, lambda *_: stopped.set())
    with following(engine, config, target_config):
        stopped.wait()
    return 0


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
        follower.restore()
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
        capture_detail="a sidecar sees no hidden states: install the plugin to learn from this server",
        engine_num_verify_steps=engine.counts.num_verify_steps,
        engine_num_accept_tokens=engine.counts.num_accept_tokens,
        target_sha256=engine.target_sha256,
        policy_detail=engine.policy_detail,
    )


if __name__ == "__main__":
    sys.exit(main())
