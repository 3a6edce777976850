"""An SGLang server over its own HTTP routes: what can be had where the plugin cannot be installed.

Routes of SGLang 0.5.21. The draft's weights travel inside the request; nothing is captured, nothing is decoded for the
control, and probes read the server's metrics. What is served is what the server says: ``/model_info`` names the version
that was written last, and a server that was started again names the one of its launch. ``update_weights_from_disk`` is
never used: it would load the same files into the target as well.
"""

from __future__ import annotations

import base64
import json
import logging
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from torch import Tensor

from serving.engine.api import EngineAwayError, EngineStats, LoadedDraft, SwapError, SwapOutcome
from serving.engine.pins import Pins
from serving.engine.versions import Served, Versions
from serving.sglang_backend.metrics import EngineCounts, parse
from serving.sglang_backend.weights import VOCABULARY
from speculators import checkpoint
from speculators.checkpoint import CheckpointError

log = logging.getLogger(__name__)

PROBE_STEPS = 64
LOOK_SECONDS = 3.0  # for the server to say what it serves, and for a connection to it
SEND_SECONDS = 60.0  # for anything else
MOST_SENT_BYTES = 2 << 30  # of weights in one request: the server stands still while it reads them
PINS_OBEYED = ("no_training",)  # a sidecar keeps no traces at all
PINS_DETAIL = "over SGLang's routes only weights can be changed: the lookahead is that of the launch command"


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """A checkpoint as the server takes it."""

    sha256: str
    encoded: str


class HttpEngine:
    """FollowedEngine over HTTP. Raises httpx.HTTPError, CheckpointError, OSError where the server cannot be met.

    What answers, but not as SGLang does, is a ValueError or a LookupError. While a swap goes on, on whichever thread,
    nothing is asked: what was true before it is what there is to say.
    """

    def __init__(self, engine_url: str, admin_key: str = "") -> None:
        headers = {"authorization": f"Bearer {admin_key}"} if admin_key else {}
        timeout = httpx.Timeout(SEND_SECONDS, connect=LOOK_SECONDS)
        self._http = httpx.Client(base_url=engine_url, headers=headers, timeout=timeout, trust_env=False)
        self.counts = EngineCounts()
        self.pins = Pins(PINS_OBEYED, PINS_DETAIL)
        self.policy_detail = ""  # what of the policy the server does not do, and why
        self.target_sha256 = ""
        self._away = ""  # why the server said nothing when it was asked last
        self._pause = ""  # why the server may stand still because of us; "" = it is known to go on
        self._collapse = ""  # why the live version must go, until it has gone
        self._conversation = threading.RLock()  # one at a time
        self._last_stats: EngineStats | None = None
        try:
            self._meet()
        except BaseException:
            self._http.close()
            raise
        self._look()
        self._read_counts()

    @property
    def aux_layer_ids(self) -> tuple[int, ...]:
        """The layers that the launched draft reads, and the server therefore captures."""
        return self._lineage.aux_layer_ids

    @property
    def target_config(self) -> dict[str, Any]:
        """The target's ``config.json``, which must be readable here. Raises OSError, CheckpointError."""
        file = Path(str(self.server["model_path"])) / "config.json"
        try:
            return _object(json.loads(file.read_text(encoding="utf-8")), str(file))
        except ValueError as error:
            raise CheckpointError(f"{file}: must be the target's config.json, with one JSON object: {error}") from error

    def load_draft(self, directory: Path, expected_sha256: str | None = None) -> Payload:
        config, state = checkpoint.load(directory, expected_sha256)
        if config != self._lineage:
            raise CheckpointError(f"{directory}: its config differs from that of the draft on the launch line")
        for name, tensor in self._vocabulary.items():
            if not tensor.equal(state[name]):
                raise CheckpointError(
                    f"{directory}: {name} differs from the running draft's, which is read at start only"
                )
        self._check_size(directory, state)
        return Payload(expected_sha256 or checkpoint.state_digest(state), _encoded(state))

    def _check_size(self, directory: Path, state: dict[str, Tensor]) -> None:
        """Every rank is sent the whole draft as base64, which is a third longer. Raises CheckpointError."""
        size = sum(tensor.nbytes for name, tensor in state.items() if name not in VOCABULARY) * 4 // 3
        if size * self._num_ranks > MOST_SENT_BYTES:
            raise CheckpointError(
                f"{directory}: a swap would send {size / 2**20:,.1f} MiB to each of {self._num_ranks} ranks while the "
                f"server stands still, more than {MOST_SENT_BYTES / 2**20:,.1f} MiB in all: install the plugin"
            )

    def swap(self, version: int, draft: LoadedDraft | None, *, min_accept_length: float = 0.0) -> Future[SwapOutcome]:
        return self._done(lambda: self._swap(version, draft, min_accept_length))

    def revert(self, detail: str) -> Future[SwapOutcome]:
        return self._done(lambda: self._revert(detail))

    def set_policy(self, *, control_share: float | None = None, max_lookahead: int | None = None) -> None:
        """Neither can be changed over HTTP: ``policy_detail`` says what of it does not hold."""
        steps, refused = int(self.server.get("speculative_num_steps") or 0), []
        if max_lookahead is not None and (max_lookahead == 0 or max_lookahead < steps):
            refused.append(f"largest lookahead {max_lookahead} (the server drafts {steps} tokens, as it was launched)")
        if control_share:
            refused.append(f"control share {control_share:g} (no step is decoded without drafts)")
        why = "SGLang's routes change weights only. The plugin can stop drafting; other lookaheads need a launch."
        self.policy_detail = f"{' and '.join(refused)}: {why}" if refused else ""

    def close(self) -> None:
        """Leave no server behind that stands still because of us."""
        if self._pause:
            self._go_on()
        self._http.close()

    def stats(self) -> EngineStats:
        """Asks the server; a version whose probe has collapsed is reverted here, on the caller's thread.

        A revert that fails is tried again each time. While the server is away, nothing is served.
        """
        if not self._conversation.acquire(blocking=self._last_stats is None):
            assert self._last_stats is not None
            return self._last_stats
        try:
            self._last_stats = self._stats()
            return self._last_stats
        finally:
            self._conversation.release()

    def _stats(self) -> EngineStats:
        self._look()
        if not self._away:
            self._read_counts()
        if self._collapse and not self._away and (error := self.revert(self._collapse).exception()):
            log.error("version %d has collapsed and is still served: %s", self._versions.live.version, error)
        versions, probe = self._versions, self._versions.probe
        found = EngineStats(
            version=versions.live.version,
            sha256=versions.live.sha256,
            previous=versions.previous.version if versions.previous else None,
            num_running=0,
            num_waiting=0,
            num_finished=0,
            num_verify_steps=0,  # the server's counts are no second opinion about themselves
            num_proposed_drafts=0,
            num_correct_drafts=0,
            num_accept_tokens=0,
            num_errors=0,
            probe=probe.snapshot() if probe else None,
            reverted_from=versions.reverted_from,
            revert_detail=versions.revert_detail,
            domains=(),
        )
        return replace(found, version=0, sha256="", previous=None, probe=None, away=self._away) if self._away else found

    def _meet(self, seconds: float = SEND_SECONDS) -> None:
        """Learn how the server was launched. Raises as the constructor does."""
        info = self._http.get("/server_info", timeout=httpx.Timeout(seconds, connect=LOOK_SECONDS))
        info.raise_for_status()
        self.server: dict[str, Any] = _object(info.json(), "/server_info")
        num_ranks = self.server.get("tp_size") or 1
        self._num_ranks = num_ranks if isinstance(num_ranks, int) else int(str(num_ranks))
        draft = self.server["speculative_draft_model_path"]
        if not draft or not self.server["model_path"]:
            raise LookupError("the server has no draft, or no target")
        self._lineage, state = checkpoint.load(Path(str(draft)))
        self._vocabulary = {name: state[name] for name in VOCABULARY}
        launched = Payload(checkpoint.state_digest(state), _encoded(state))
        self._label = str(self.server.get("weight_version", "default"))  # of the live version, in the server's words
        self._versions: Versions[Payload] = Versions(PROBE_STEPS, 0, live=Served(0, launched))

    def _look(self) -> None:
        """Ask which weights the server holds; others than it was given are what is live from now on."""
        try:
            answer = self._http.get("/model_info", timeout=LOOK_SECONDS)
            answer.raise_for_status()
            label = str(_object(answer.json(), "/model_info")["weight_version"])
            if label != self._label:
                self._take_over(label)
        except (httpx.HTTPError, OSError, LookupError, ValueError) as error:
            self._away = f"the SGLang server at {self._http.base_url} does not say what it serves: {error}"
            return
        if self._pause:
            self._go_on(LOOK_SECONDS)
        self._away = self._pause

    def _take_over(self, label: str) -> None:
        """The weights are not those that this process wrote: of the launch, or of whoever wrote them."""
        log.warning("the server holds weights called %r where %r were expected", label, self._label)
        self._meet(LOOK_SECONDS)
        if label != self._label:
            number = int(label) if label.isdecimal() and len(label) < 10 else 0
            self._label, self._versions.live = label, Served(number, None)  # a number of Aurora's, its weights unseen
        self._collapse = ""

    def _swap(self, version: int, draft: LoadedDraft | None, min_accept_length: float) -> SwapOutcome:
        if not isinstance(draft, Payload):
            raise SwapError("the sidecar cannot switch speculation off: install the plugin, or start without a draft")
        self._look()
        if self._away:
            raise EngineAwayError(self._away)
        self._read_counts()  # up to here they are those of the version before
        previous, started = self._versions.live, time.perf_counter()
        self._send(draft, version)
        self._label, self._collapse = str(version), ""
        self._versions.swap(version, draft, min_accept_length)
        if previous.draft is None:
            self._versions.previous = None  # weights that were never seen cannot be sent again
        milliseconds = (time.perf_counter() - started) * 1e3
        return SwapOutcome(version, draft.sha256, previous.version if previous.draft else None, milliseconds)

    def _revert(self, detail: str) -> SwapOutcome:
        previous, started = self._versions.previous, time.perf_counter()
        if previous is None or previous.draft is None:
            raise LookupError(f"version {self._versions.live.version} has no previous version")
        self._send(previous.draft, previous.version)
        self._label, self._collapse = str(previous.version), ""
        self._versions.revert(detail)
        return SwapOutcome(previous.version, previous.sha256, None, (time.perf_counter() - started) * 1e3)

    def _read_counts(self) -> None:
        """Book the steps since the last time on the live version. Metrics that cannot be had change nothing."""
        try:
            found = parse(self._http.get("/metrics", timeout=5.0).text)
        except httpx.HTTPError:
            return
        if found is None:
            return
        before, self.counts = self.counts, found
        steps = found.num_verify_steps - before.num_verify_steps
        tokens = found.num_accept_tokens - before.num_accept_tokens
        if steps > 0:
            # Every step has drafts, since the launch fixes the lookahead; the server's counts know no domains.
            collapse = self._versions.observe(self._versions.live, "", steps, tokens, num_steps=steps)
            self._collapse = collapse or self._collapse

    def _send(self, draft: Payload, version: int) -> None:
        """Pause in place, write the draft, continue; the target's checksum must be the same before and after."""
        before = self._target_checksum()
        self._pause = f"the server stands still for version {version}"
        try:
            self._post("/pause_generation", {"mode": "in_place"})  # an answer that is lost may have been a yes
            self._write(draft, version)
        finally:
            self._go_on()
        self.target_sha256 = self._target_checksum()
        if before != self.target_sha256:
            raise SwapError(f"the target's weights changed: {before} before, {self.target_sha256} after")

    def _write(self, draft: Payload, version: int) -> None:
        self._post("/begin_weight_update", {"selector": "draft"})
        try:
            self._post(
                "/update_weights_from_tensor",
                {
                    "serialized_named_tensors": [draft.encoded] * self._num_ranks,
                    "selector": "draft",
                    "flush_cache": False,
                    "weight_version": str(version),
                },
            )
        finally:
            self._post("/end_weight_update", {})

    def _go_on(self, seconds: float = SEND_SECONDS) -> None:
        """Have the server decode again. While that is not known to have worked, each look at it tries once more."""
        try:
            self._post("/continue_generation", {}, seconds)
        except (httpx.HTTPError, SwapError) as error:
            self._pause = f"the server may stand still since the last swap, and is asked again: {error}"
            log.error("%s", self._pause)
            return
        self._pause = ""

    def _target_checksum(self) -> str:
        """By the server's own checker; "" where it has none (a build without CUDA)."""
        answer = self._http.post("/weights_checker", json={"action": "checksum", "selector": "target"})
        return str(answer.json().get("per_engine_checksum") or "") if answer.is_success else ""

    def _post(self, path: str, body: dict[str, Any], seconds: float = SEND_SECONDS) -> None:
        answer = self._http.post(path, json=body, timeout=seconds)
        said = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else {}
        if answer.is_error or (isinstance(said, dict) and said.get("success") is False):
            raise SwapError(f"{path}: HTTP {answer.status_code}: {answer.text[:300]}")

    def _done(self, work: Callable[[], SwapOutcome]) -> Future[SwapOutcome]:
        """The work is done on the caller's thread; the future says how it went."""
        future: Future[SwapOutcome] = Future()
        try:
            with self._conversation:
                future.set_result(work())
        except httpx.HTTPError as error:
            future.set_exception(SwapError(f"{type(error).__name__}: {error}"))
        except Exception as error:  # noqa: BLE001  belongs to whoever waits for the future
            future.set_exception(error)
        return future


def _object(found: Any, where: str) -> dict[str, Any]:
    """Raises ValueError."""
    if not isinstance(found, dict):
        raise ValueError(f"{where} is no JSON object: {found!r:.80}")
    return found


def _encoded(state: dict[str, Tensor]) -> str:
    """What ``update_weights_from_tensor`` takes: a pickled list of (name, tensor), base64."""
    payload = [(name, tensor) for name, tensor in state.items() if name not in VOCABULARY]
    return base64.b64encode(pickle.dumps(payload)).decode("ascii")
