"""The server's parts around a running engine, without a listener and without a console."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import config
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.http.app import Api
from serving.http.metrics import Metrics
from serving.http.requests import ServedTarget
from serving.http.tokenizer import TargetTokenizer
from serving.trace.parts import running


@contextmanager
def running_api(folder: Path, state_dir: Path, max_open_requests: int) -> Iterator[Api]:
    """The API of the target in ``folder``, under that folder's name."""
    wanted = config.load(["--target", str(folder), "--slug", folder.name, "--state-dir", str(state_dir)], {})
    engine = Engine(folder, EngineConfig())
    with running(wanted.recording("test"), engine.aux_layer_ids, engine, {}) as parts:
        engine.start(on_control=parts.recorder.count)
        try:
            target = ServedTarget(folder.name, engine.max_len, 512, TargetTokenizer(folder))
            metrics = Metrics(engine, parts.recorder, parts.gauges)
            yield Api(target, engine, parts.recorder, metrics, max_open_requests, 0)
        finally:
            engine.stop()
