"""Ready users and clients of each role, a registered target, and short ways to make versions and wire payloads."""

import time
import uuid
from dataclasses import replace

import pytest
from channels.layers import channel_layers
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from aurora_web import live
from aurora_web.accounts.models import User
from aurora_web.accounts.services import create_token
from aurora_web.console import inbox
from aurora_web.metrics.settled import settled
from aurora_web.registry.services import register_target, register_version
from aurora_web.supervisor.valkey import Valkey
from aurora_web.traces.codec import is_held_out
from aurora_web.traces.services import EARLY_HELD_OUT_EVERY
from speculators.records import (
    CountWindow,
    DomainScore,
    EvalReport,
    ObservedState,
    SegmentManifest,
    StepRecord,
    TraceRecord,
    VersionManifest,
)
from tests.unit.aurora_web.documented import Asker
from tests.unit.serving.tiny import make_checkpoint

ROLES = ("viewer", "operator", "admin")


@pytest.fixture(autouse=True)
def counted_before(settings):
    """Some numbers are remembered across requests: no test depends on what an earlier one left there."""
    settings.SHARED_SECONDS = 0
    settings.WHITENOISE_AUTOREFRESH = True  # no list of all static files for each of a thousand clients
    cache.clear()
    settled.clear()
    cache.set(inbox.KEY, {"num_to_approve": 0, "num_firing": 0}, None)


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory):
    """A small checkpoint directory that passes the compatibility check."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def target(db, checkpoint_dir):
    return register_target(path=str(checkpoint_dir), actor="test", slug="demo", name="Demo", control_share=0.1)


@pytest.fixture
def users(db):
    return {role: User.objects.create(username=role, role=role) for role in ROLES}


@pytest.fixture
def clients(users):
    """Signed-in browsers, and one that is not."""
    found = {"anonymous": Client()}
    for role, user in users.items():
        found[role] = Client()
        found[role].force_login(user)
    return found


@pytest.fixture
def bearer(db):
    """Headers of a token with a role: bearer("operator")."""

    def make(role):
        _, secret = create_token(f"{role}'s", role, "test")
        return {"HTTP_AUTHORIZATION": f"Bearer {secret}"}

    return make


@pytest.fixture
def ask(client, bearer):
    """What the API answers an admin, once it was compared with its document."""
    return Asker(client, bearer("admin"))


@pytest.fixture
def report():
    """An EvalReport from accept lengths: report({"sql": (2.0, 1.5)}) = candidate, live, on n traces each."""

    def score(domain, accept_length, n):
        steps = 20
        tokens = round(accept_length * steps)
        return DomainScore(
            domain=domain,
            num_traces=n,
            num_verify_steps=n * steps,
            num_correct_drafts=n * (tokens - steps),
            num_accept_tokens=n * tokens,
            num_proposed_drafts=n * steps * 4,
            sum_xx=float(n * tokens**2),
            sum_yy=float(n * steps**2),
            sum_xy=float(n * tokens * steps),
        )

    def make(domains, n=10):
        return EvalReport(
            candidate=tuple(score(d, c, n) for d, (c, _) in domains.items()),
            live=tuple(score(d, live, n) for d, (_, live) in domains.items() if live),
            lookahead=4,
            loss=1.5,
            seconds=0.1,
        )

    return make


@pytest.fixture
def make_version(target, tmp_path):
    """Register a candidate: make_version(report); nobody has judged it when the transaction is not committed."""

    def make(report=None):
        manifest = VersionManifest(
            target=target.slug,
            number=0,
            parent=None,
            uri=str(tmp_path / uuid.uuid4().hex),
            sha256=uuid.uuid4().hex * 2,
            size_bytes=10,
            config={},
            provenance={"seed": 0, "step": 10 if report else 0},
        )
        return register_version(target, manifest, report, "trainer")

    return make


def learnt_id():
    """A fresh trace id that no rule holds out."""
    while True:
        found = uuid.uuid4().hex
        if not (is_held_out(found) or is_held_out(found, EARLY_HELD_OUT_EVERY)):
            return found


def segment_payload(num_traces=3, *, target="demo", domain="sql", make_id=learnt_id, **changes):
    """What an engine announces; ids are fresh."""
    segment_id = uuid.uuid4().hex
    plain = TraceRecord(
        trace_id="",
        target=target,
        domain=domain,
        version=1,
        tokens=(1, 2, 3, 4, 5, 6),
        prompt_len=2,
        temperature=0.0,
        finish_reason="length",
        started_at=time.time(),
        decode_seconds=0.1,
        lookahead=4,
        steps=(StepRecord((4, 9), 1), StepRecord((6,), 0)),
        segment_id=segment_id,
    )
    traces = [replace(plain, trace_id=make_id(), started_at=time.time(), **changes) for _ in range(num_traces)]
    manifest = SegmentManifest(
        segment_id=segment_id,
        target=target,
        replica="r1",
        uri=f"/nowhere/{segment_id}.safetensors",
        sha256="0" * 64,
        size_bytes=100,
        num_traces=num_traces,
        num_tokens=6 * num_traces,
        aux_layer_ids=(1, 3, 4),
        hidden_size=32,
        dtype="float16",
        sealed_at=time.time(),
    )
    return {"segment": manifest.to_json(), "traces": [t.to_json() for t in traces]}


def count_window(
    *, version=1, domain="sql", n=20, tokens=100.0, seconds=1.0, bucket=1, lookahead=4, spread=0.1, plain=0
):
    """Counts of n requests with about these tokens and seconds each, and ``plain`` steps without drafts besides."""
    xs = [tokens * (1 + spread * (i % 3 - 1)) for i in range(n)]
    ys = [seconds * (1 + spread * ((i + 1) % 3 - 1)) for i in range(n)]
    steps = int(sum(xs) / 2)
    now = time.time()
    return CountWindow(
        window_id=uuid.uuid4().hex,
        target="demo",
        replica="r1",
        domain=domain,
        version=version,
        lookahead=lookahead if version else 0,
        batch_bucket=bucket,
        started_at=now - 1,
        ended_at=now,
        num_requests=n,
        num_verify_steps=plain + (steps if version else int(sum(xs))),
        num_proposed_drafts=steps * 4 if version else 0,
        num_correct_drafts=int(sum(xs)) - steps if version else 0,
        num_accept_tokens=plain + int(sum(xs)),
        decode_seconds=sum(ys),
        sum_xx=sum(x * x for x in xs),
        sum_yy=sum(y * y for y in ys),
        sum_xy=sum(x * y for x, y in zip(xs, ys, strict=True)),
        num_plain_steps=plain if version else int(sum(xs)),
    )


@pytest.fixture
def observed():
    """A replica's report; observed(state="reverted", generation=3, ...)."""
    plain = ObservedState(
        replica="r1",
        target="demo",
        engine="aurora-embedded 0.1",
        url="http://127.0.0.1:8100",
        generation=0,
        version=0,
        sha256="",
        state="serving",
        detail="",
        swap_ms=0.2,
        probe_accept_length=0.0,
        probe_num_steps=0,
        num_running=1,
        num_dropped_traces=0,
        spool_bytes=0,
        reported_at=timezone.now().timestamp(),
    )
    return lambda **changes: replace(plain, **changes)


@pytest.fixture
def own_valkey(tmp_path, settings, monkeypatch):
    """A Valkey that the test may stop."""
    tmp_path.chmod(0o755)
    valkey = Valkey(tmp_path / "valkey", tmp_path / "valkey.log")
    valkey.start()
    settings.REDIS_URL = valkey.url
    layer = settings.CHANNEL_LAYERS["default"]
    settings.CHANNEL_LAYERS = {"default": layer | {"CONFIG": {"hosts": [valkey.url], "capacity": 1000}}}
    channel_layers.backends.clear()
    monkeypatch.setattr(live, "_current", None)
    yield valkey
    live.close()
    valkey.stop()
    channel_layers.backends.clear()
