"""The process: engine thread, recorder, poster and follower around one HTTP server; started and stopped in order."""

from __future__ import annotations

import json
import logging
import signal
import socket
import time
from contextlib import ExitStack

import uvicorn

from serving.config import ConfigError, ServingConfig
from serving.engine.api import EngineApi
from serving.http.app import Api, create_app
from serving.http.metrics import Metrics
from serving.http.requests import ServedTarget
from serving.http.tokenizer import TargetTokenizer
from serving.trace.parts import running

log = logging.getLogger(__name__)

ENGINE_NAME = "aurora-embedded 0.1"


def run(config: ServingConfig, engine: EngineApi, listener: socket.socket) -> None:
    """Serve on a bound socket until a signal says stop; returns when everything is on disk."""
    target_config = json.loads((config.target_dir / "config.json").read_text(encoding="utf-8"))
    tokenizer = TargetTokenizer(config.target_dir)
    with ExitStack() as stack:
        parts = stack.enter_context(running(config.recording(ENGINE_NAME), engine.aux_layer_ids, engine, target_config))
        engine.start(on_control=parts.recorder.count)
        stack.callback(engine.stop)
        if config.initial_draft:
            engine.swap(1, engine.load_draft(config.initial_draft)).result()
        if parts.follower:
            parts.follower.restore()
            parts.follower.start()
            stack.callback(parts.follower.stop)
        target = ServedTarget(config.slug, engine.max_len, target_config["vocab_size"], tokenizer)
        metrics = Metrics(engine, parts.recorder, parts.gauges)
        api = Api(target, engine, parts.recorder, metrics, config.max_open_requests, int(time.time()))
        stack.callback(api.reading.close)
        _serve(config, api, listener)
        log.info("stopping: %d requests are cut", engine.stats().num_running)


def bind(config: ServingConfig) -> socket.socket:
    """Claim the port before the target is loaded. Raises ConfigError when it cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another") from error
    return listener


def _serve(config: ServingConfig, api: Api, listener: socket.socket) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(api),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=max(1, round(config.grace_seconds)),
        )
    )
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises them again when it has stopped: they must not end the process before its clean-up
        signal.signal(stop_signal, server.handle_exit)
    log.info("serving %s at %s", config.slug, config.public_url)
    server.run(sockets=[listener])
