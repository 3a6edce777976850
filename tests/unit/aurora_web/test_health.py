"""/readyz names what is missing, and is no 200 then; /healthz says only that the process lives."""

import pytest
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder

pytestmark = pytest.mark.django_db


def ready(client):
    answer = client.get("/readyz")
    return answer.status_code, answer.json()["status"], answer.json()["checks"]


def test_with_everything_there_it_is_ready(client):
    assert ready(client) == (200, "ok", {"database": "ok", "broker": "ok"})


def test_without_the_broker_it_is_not(client, settings, tmp_path):
    settings.REDIS_URL = f"unix://{tmp_path}/nobody?db=0"
    code, status, checks = ready(client)
    assert (code, status, checks["database"]) == (503, "not ready", "ok")
    assert checks["broker"].startswith("not reachable: ")
    assert client.get("/healthz").status_code == 200


def test_with_a_migration_that_is_not_applied_it_is_not(client):
    MigrationRecorder(connection).migration_qs.latest("pk").delete()
    code, _, checks = ready(client)
    assert (code, checks["broker"]) == (503, "ok")
    assert checks["database"].endswith("migrations are not applied")


def test_without_the_database_it_is_not(client, monkeypatch):
    def refuse(*_, **__):
        raise OperationalError("couldn't get a connection after 10.00 sec")

    monkeypatch.setattr(connection, "cursor", refuse)
    code, _, checks = ready(client)
    assert (code, checks["broker"]) == (503, "ok")
    assert checks["database"] == "not reachable: couldn't get a connection after 10.00 sec"
