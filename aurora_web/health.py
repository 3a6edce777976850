"""/healthz (the process is up), /readyz (its neighbours are too), /metrics (Prometheus)."""

from __future__ import annotations

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, JsonResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg_pool import PoolTimeout

from aurora_web.metrics import services as counts
from aurora_web.metrics.models import CountRow
from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.rollouts.models import Alert, AlertState, Delivery, Deployment, Replica
from aurora_web.training.models import TrainingRun, TrainingSlice


def healthz(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "ok"})


def readyz(request: HttpRequest) -> HttpResponse:
    """200 when the database, its migrations and the broker are ready; 503 naming what is not."""
    checks = {"database": _database(), "broker": _broker()}
    is_ready = all(problem == "" for problem in checks.values())
    body = {"status": "ok" if is_ready else "not ready", "checks": {k: v or "ok" for k, v in checks.items()}}
    return JsonResponse(body, status=200 if is_ready else 503)


def _database() -> str:
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except (DatabaseError, PoolTimeout) as error:
        return f"not reachable: {error}"
    return f"{len(missing)} migrations are not applied" if missing else ""


def _broker() -> str:
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        return f"not reachable: {error}"
    return ""


class DatabaseCollector(Collector):
    """Read from Postgres at scrape time: right in every process, and nothing to keep in memory."""

    def collect(self) -> list[Metric]:
        versions = GaugeMetricFamily("aurora_versions", "Speculator versions by status", labels=["target", "status"])
        for row in SpeculatorVersion.objects.values("target__slug", "status").annotate(n=Count("pk")).order_by():
            versions.add_metric([row["target__slug"], row["status"]], row["n"])
        live = GaugeMetricFamily("aurora_desired_version", "Version wanted in service", labels=["target"])
        generation = GaugeMetricFamily("aurora_generation", "Counter of intent", labels=["target"])
        for deployment in Deployment.objects.select_related("target", "desired"):
            live.add_metric([deployment.target.slug], deployment.desired.number if deployment.desired else 0)
            generation.add_metric([deployment.target.slug], deployment.generation)
        alive = GaugeMetricFamily("aurora_replica_alive", "1 when seen lately", labels=["target", "replica"])
        for replica in Replica.objects.select_related("target"):
            alive.add_metric([replica.target.slug, replica.name], int(replica.is_alive))
        step = GaugeMetricFamily("aurora_training_step", "Optimiser steps", labels=["target"])
        for run in TrainingRun.objects.filter(is_active=True).select_related("target"):
            step.add_metric([run.target.slug], run.step)
        slices = GaugeMetricFamily("aurora_slices", "Training slices by state", labels=["state"])
        for state, n in TrainingSlice.objects.order_by().values_list("state").annotate(n=Count("pk")):
            slices.add_metric([state], n)
        targets = GaugeMetricFamily("aurora_targets", "Registered targets", value=Target.objects.count())
        waiting = CountRow.objects.filter(rolled_up_at=None).count()
        backlog = GaugeMetricFamily("aurora_counts_waiting", "Count rows not yet rolled up", value=waiting)
        tokens = CounterMetricFamily("aurora_accept_tokens", "Tokens committed", labels=["target", "domain"])
        for slug, domain, n in counts.tokens_by_domain():
            tokens.add_metric([slug, domain], n)
        alerts = GaugeMetricFamily("aurora_alerts_firing", "Alerts that are firing", labels=["target", "rule"])
        firing = Alert.objects.filter(state=AlertState.FIRING).values_list("target__slug", "rule")
        for slug, rule, n in firing.annotate(n=Count("pk")).order_by():
            alerts.add_metric([slug or "", rule], n)  # "" = the console itself
        return [versions, live, generation, alive, step, slices, targets, backlog, tokens, alerts, _deliveries()]


def _deliveries() -> GaugeMetricFamily:
    found = GaugeMetricFamily("aurora_deliveries", "Notifications of the last 30 days by state", labels=["state"])
    for state, n in Delivery.objects.order_by().values_list("state").annotate(n=Count("pk")):
        found.add_metric([state], n)
    return found


def metrics(request: HttpRequest) -> HttpResponse:
    registry = CollectorRegistry()
    registry.register(DatabaseCollector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
