"""Two replicas that report, a canary on one of them, and count windows of either."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.metrics import services as metrics
from aurora_web.registry.models import ApprovalPolicy, SpeculatorVersion
from aurora_web.rollouts import intent, replicas, services
from aurora_web.rollouts.models import Deployment, Replica
from tests.unit.aurora_web.conftest import count_window


@pytest.fixture
def judged(make_version):
    """Register and judge: judged(report) -> version, as the ring does after the commit."""

    def make(report=None):
        version = make_version(report)
        services.judge(version)
        return SpeculatorVersion.objects.get(pk=version.pk)

    return make


@pytest.fixture
def report_in(target, observed):
    """report_in("r1", "r2", state="serving"): each replica reports once, with what is desired of it."""

    def make(*names, **changes):
        for name in names:
            row = Replica.objects.filter(target=target, name=name).first()
            desired = intent.desired_state(target, row)
            runs = {"generation": desired.generation, "version": desired.version, "sha256": desired.sha256}
            replicas.observe(observed(replica=name, **(runs | changes)))

    return make


@pytest.fixture
def canary(target, judged, report, report_in):
    """v1 and v2 have been live on r1 and r2; v3 is in canary on one of them."""
    judged()
    judged(report({"sql": (2.0, 1.0)}))
    report_in("r1", "r2")
    target.canary_share, target.canary_minutes, target.canary_min_requests = 0.5, 5.0, 40
    target.save()
    return judged(report({"sql": (3.0, 2.0)}))


@pytest.fixture
def measured(target):
    """measured(canary_seconds, other_seconds): what both sides have counted since the canary began.

    ``counts``: fields of the canary's windows; with ``both``, of everybody's.
    """

    def make(canary_seconds, other_seconds, n=60, domain="sql", both=False, **counts):
        now = timezone.now()
        Deployment.objects.update(canary_started_at=now - timedelta(seconds=100))
        deployment = Deployment.objects.select_related("canary", "desired").get(target=target)
        windows = []
        for replica in target.replicas.all():
            version = deployment.canary if replica.is_canary else deployment.desired
            seconds = canary_seconds if replica.is_canary else other_seconds
            for _ in range(6):
                window = count_window(version=version.number, domain=domain, n=n // 6, seconds=seconds)
                changes = counts if both or replica.is_canary else {}
                windows.append(replace(window, replica=replica.name, **changes))
        metrics.ingest_counts({"counts": [window.to_json() for window in windows]})

    return make


@pytest.fixture
def two_wait(target, judged, report, report_in):
    """v2 is live on r1 and r2; v3 and v4 wait for a person, and would begin as a canary."""
    judged()
    judged(report({"sql": (2.0, 1.0)}))
    report_in("r1", "r2")
    target.approval, target.canary_share = ApprovalPolicy.MANUAL, 0.5
    target.save()
    return judged(report({"sql": (3.0, 2.0)})), judged(report({"sql": (3.2, 2.0)}))
