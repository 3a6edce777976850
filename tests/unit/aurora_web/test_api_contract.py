"""What holds for every address of the API: its document, the shape of errors, and POSTs that are sent twice."""

import io
import json
import threading
from collections import defaultdict
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from ninja import Schema

from aurora_web import idempotency
from aurora_web.accounts.models import ApiToken, AuditEvent, IdempotentAnswer
from aurora_web.accounts.services import create_token
from aurora_web.api import api
from aurora_web.openapi import document_text
from aurora_web.registry.models import Target
from aurora_web.registry.services import StaleVersion
from tests.unit.aurora_web.documented import answers, any_objects

JSON = {"content_type": "application/json"}
KEY = "HTTP_IDEMPOTENCY_KEY"


def test_the_stored_document_is_what_the_code_gives():
    stored = (settings.BASE_DIR / "docs" / "openapi.json").read_text()
    assert stored == document_text(api), "run make openapi"


def test_a_stale_document_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "BASE_DIR", tmp_path)
    (tmp_path / "docs").mkdir()
    with pytest.raises(CommandError, match="is not what the code gives"):
        call_command("write_openapi", "--check")
    call_command("write_openapi", stdout=io.StringIO())
    call_command("write_openapi", "--check")


def test_every_operation_names_its_errors_and_what_changes_something_its_headers():
    document = json.loads(document_text(api))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "application/problem+json" in operation["responses"]["default"]["content"], (method, path)
            keys = [p["name"] for p in operation.get("parameters", []) if p["in"] == "header"]
            reason = ["X-Aurora-Reason"] if method != "get" and "/ingest/" not in path else []
            assert keys == (["Idempotency-Key"] if method == "post" else []) + reason, (method, path)


def test_only_what_is_free_by_nature_is_any_object():
    assert any_objects(json.loads(document_text(api))) == {
        "GET /engines", "GET /system", "GET /traffic", "GET /targets/{slug}/charts", "POST /ingest/observed",
        "AuditOut.after", "AuditOut.before", "AuditOut.detail", "BulkIn.targets", "DeliveryOut.payload",
        "GateDetailOut.policy", "TargetIn.config", "TargetIn.policy", "TargetOut.traffic_schedule",
        "VersionOut.provenance", "VersionOut.report",
    }  # fmt: skip


def test_every_answer_of_fields_has_a_name():
    assert [place for place, _, schema in answers(json.loads(document_text(api))) if "properties" in schema] == []


def schemas_below(base):
    for each in base.__subclasses__():
        yield from (each, *schemas_below(each))


def test_no_two_schemas_have_one_name():
    """Of two with one name the document would hold the last, at both places."""
    places = defaultdict(set)
    for schema in schemas_below(Schema):
        if schema.__module__.startswith("aurora_web."):
            places[schema.__name__].add(schema.__module__)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}
    assert len(places) > 80


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/api/v1/nothing", 404, "there is nothing at /api/v1/nothing"),
        ("GET", "/api/v1", 404, "there is nothing at /api/v1"),
        ("DELETE", "/api/v1/targets", 405, "DELETE is not for /api/v1/targets: expected"),
        ("GET", "/api/v1/targets/nobody", 404, "there is no target 'nobody'"),
        ("GET", "/api/v1/audit?limit=many", 422, "limit"),
        ("POST", "/api/v1/versions/1/approve", 404, "there is no version with the id 1"),
        ("POST", "/api/v1/targets", 400, "parse"),
    ],
)
def test_every_error_is_a_problem(client, bearer, method, path, status, words):
    answer = client.generic(method, path, "{broken" if path.endswith("targets") else "", **JSON, **bearer("admin"))
    body = answer.json()
    assert (answer.status_code, answer["content-type"]) == (status, "application/problem+json")
    assert body["status"] == status
    assert words in body["detail"]
    if status == 405:
        assert set(answer["allow"].split(", ")) == {"GET", "POST"}


PLACES = {"slug": "demo", "trace_id": "0" * 32}  # in addresses; all else is 1


def texts_of_bodies():
    """(method, address, field) of every text that a body of the API may hold."""
    document = json.loads(document_text(api))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            name = (schema.get("anyOf") or [schema])[0].get("$ref", "").rpartition("/")[2]
            for field, kind in document["components"]["schemas"].get(name, {}).get("properties", {}).items():
                if "string" in {each.get("type") for each in (kind, *kind.get("anyOf", ()))}:
                    yield method, path.format_map(defaultdict(lambda: 1, PLACES)), field


@pytest.mark.django_db
def test_a_nul_is_refused_in_every_text(client, bearer, target):
    headers, found = bearer("admin"), list(texts_of_bodies())
    assert {field for _, path, field in found if path.endswith("/rollback")} == {"reason", "to"}
    for method, path, field in found:
        answer = client.generic(method.upper(), path, json.dumps({field: "a\0b"}), **JSON, **headers)
        assert answer.status_code == 422, (method, path, field)
        assert f"{field} holds a NUL character" in answer.json()["detail"], (method, path, field)
    answer = client.get("/api/v1/targets/demo/metrics?domain=a%00b", **headers)
    assert (answer.status_code, "'domain' holds a NUL character" in answer.json()["detail"]) == (422, True)


@pytest.mark.django_db
def test_what_was_given_is_not_said_back_whole(client, bearer, target):
    refused = client.post("/api/v1/invites", json.dumps({"role": "x" * 5000}), **JSON, **bearer("admin"))
    assert (refused.status_code, len(refused.json()["detail"])) == (422, 2000)
    frozen = client.post("/api/v1/targets/demo/freeze", json.dumps({"reason": "y" * 5000}), **JSON, **bearer("admin"))
    assert (frozen.status_code, AuditEvent.objects.get(action="target.freeze").reason) == (200, "y" * 500)


@pytest.mark.django_db
@pytest.mark.parametrize("at", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00%2B23:59", "1e300", "nan"])
@pytest.mark.parametrize("path", ["audit", "audit/export", "targets/demo/traces", "targets/demo/versions"])
def test_a_time_that_nobody_can_keep_is_refused(client, bearer, target, path, at):
    answer = client.get(f"/api/v1/{path}?since={at}", **bearer("admin"))
    assert answer.status_code == 422
    assert "expected a time like 2026-05-01T14:30" in answer.json()["detail"]


@pytest.mark.django_db
def test_files_are_of_the_types_that_the_document_names(client, bearer, target):
    paths, headers = json.loads(document_text(api))["paths"], bearer("admin")
    for path in ("audit/export", "audit/export?format=jsonl", "targets/{slug}/charts.csv", "targets/{slug}/domains.csv",
                 "targets/{slug}/traces/export"):  # fmt: skip
        answer = client.get(f"/api/v1/{path}".format(slug="demo"), **headers)
        named = paths[f"/api/v1/{path.partition('?')[0]}"]["get"]["responses"]["200"]["content"]
        assert answer.status_code == 200
        assert answer["content-type"].partition(";")[0] in named


@pytest.mark.django_db
def test_a_bug_is_a_problem_with_the_id_under_which_it_was_logged(bearer, monkeypatch):
    monkeypatch.setattr("aurora_web.registry.api.find_target", lambda slug: 1 / 0)
    answer = Client(raise_request_exception=False).get("/api/v1/targets/demo", **bearer("viewer"))
    assert (answer.status_code, answer["content-type"]) == (500, "application/problem+json")
    assert "X-Request-ID" in answer.json()["detail"]
    assert "ZeroDivision" not in answer.content.decode()


@pytest.fixture
def register(client, bearer, checkpoint_dir):
    """register(key, slug): POST /targets as one operator."""
    headers = bearer("operator")

    def make(key, slug="demo", caller=headers):
        body = json.dumps({"path": str(checkpoint_dir), "slug": slug})
        return client.post("/api/v1/targets", body, **JSON, **caller, **({KEY: key} if key else {}))

    return make


@pytest.mark.django_db
def test_the_same_post_twice_is_done_once(register):
    first, second = register("k1"), register("k1")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert (first.get("Idempotency-Replayed"), second["Idempotency-Replayed"]) == (None, "true")
    assert AuditEvent.objects.filter(action="target.register").count() == 1
    assert register(None).status_code == 422  # without the key it is a second registration


@pytest.mark.django_db
def test_another_body_under_the_same_key_is_refused(register):
    register("k1")
    answer = register("k1", slug="other")
    assert answer.status_code == 422
    assert "the Idempotency-Key 'k1' was used with another address or body" in answer.json()["detail"]
    assert Target.objects.count() == 1


@pytest.mark.django_db
def test_a_refusal_is_repeated_too_and_keys_belong_to_their_callers(register, bearer):
    assert register("k1", slug="Bad Slug").status_code == 422
    assert register("k1", slug="Bad Slug")["Idempotency-Replayed"] == "true"
    other = {"HTTP_AUTHORIZATION": f"Bearer {create_token('second', 'operator', 'test')[1]}"}
    assert register("k1", caller=other).status_code == 201


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["", "x" * 201, "tab\there", "ü"])
def test_an_odd_key_is_refused(client, bearer, checkpoint_dir, key):
    body = json.dumps({"path": str(checkpoint_dir), "slug": "demo"})
    answer = client.post("/api/v1/targets", body, **JSON, **bearer("operator"), **{KEY: key})
    assert (answer.status_code, Target.objects.count()) == (422, 0)
    assert "printable ASCII" in answer.json()["detail"]


@pytest.mark.django_db
def test_a_revoked_token_gets_no_old_answer(register):
    register("k1")
    ApiToken.objects.update(revoked_at=timezone.now())
    assert register("k1").status_code == 401


@pytest.mark.django_db
def test_secrets_are_not_kept(client, bearer):
    body = json.dumps({"name": "ci", "role": "viewer", "days": 30})
    headers = bearer("admin") | {KEY: "k1"}
    first = client.post("/api/v1/tokens", body, **JSON, **headers)
    assert first.json()["token"].startswith("aur_")
    second = client.post("/api/v1/tokens", body, **JSON, **headers)
    assert (second.status_code, ApiToken.objects.filter(name="ci").count()) == (409, 1)
    assert bytes(IdempotentAnswer.objects.get().body) == b""


@pytest.mark.django_db
def test_a_bug_leaves_no_answer_behind(register, bearer, monkeypatch):
    monkeypatch.setattr("aurora_web.registry.api.bulk.check_one", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        register("k1")
    monkeypatch.undo()
    assert IdempotentAnswer.objects.count() == 0
    assert register("k1").status_code == 201


@pytest.mark.django_db
def test_after_a_day_the_key_is_free_again(register):
    register("k1")
    IdempotentAnswer.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert register("k1", slug="other").status_code == 201
    IdempotentAnswer.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert idempotency.forget(timezone.now()) == 1


@pytest.mark.django_db(transaction=True)
def test_a_request_that_runs_for_long_is_told_to_the_second(checkpoint_dir, monkeypatch):
    _, secret = create_token("ci", "operator", "test")
    headers = {"HTTP_AUTHORIZATION": f"Bearer {secret}", KEY: "k1"}
    monkeypatch.setattr(idempotency, "WAIT_MS", 100)
    entered, leave, answers = threading.Event(), threading.Event(), []

    def slow(*given):
        entered.set()
        leave.wait(60)
        raise StaleVersion("changed meanwhile")

    monkeypatch.setattr("aurora_web.registry.api.bulk.check_one", slow)

    def send():
        answers.append(Client().post("/api/v1/targets", "{}", **JSON, **headers))
        connection.close()

    first = threading.Thread(target=send)
    first.start()
    entered.wait(60)
    send()
    leave.set()
    first.join()
    assert [a.status_code for a in answers] == [409, 409]
    assert "is still running" in answers[0].json()["detail"]
    assert answers[0]["Retry-After"] == "2"
    assert answers[1].json()["detail"] == "changed meanwhile"
    assert IdempotentAnswer.objects.count() == 0  # a conflict may be gone the next time


@pytest.mark.django_db(transaction=True)
def test_six_at_once_are_done_once(checkpoint_dir, monkeypatch):
    monkeypatch.setattr(idempotency, "WAIT_MS", 60_000)
    _, secret = create_token("ci", "operator", "test")
    headers = {"HTTP_AUTHORIZATION": f"Bearer {secret}", KEY: "k1"}
    body = json.dumps({"path": str(checkpoint_dir), "slug": "demo"})
    answers, start = [], threading.Barrier(6)

    def send():
        start.wait()
        answers.append(Client().post("/api/v1/targets", body, **JSON, **headers))
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert {a.status_code for a in answers} == {201}
    assert len({a.content for a in answers}) == 1
    assert [a.get("Idempotency-Replayed") for a in answers].count("true") == 5
    assert AuditEvent.objects.filter(action="target.register").count() == 1


@pytest.mark.django_db
def test_tokens_on_their_page(clients):
    admin = clients["admin"]
    assert "There is no token yet" in admin.get("/accounts/tokens/").content.decode()
    admin.post("/accounts/tokens/", {"name": "ci", "scopes": ["read", "operate"], "days": "30"})
    page = admin.get("/accounts/tokens/").content.decode()
    assert "aur_" in page.split("shown once")[1][:120]
    assert "operate, read" in page
    assert "aur_" not in admin.get("/accounts/tokens/").content.decode().split("<tbody>")[0]  # only once
    token = ApiToken.objects.get()
    assert timedelta(days=29) < token.expires_at - timezone.now() < timedelta(days=31)
    admin.post(f"/accounts/tokens/{token.pk}/revoke/")
    assert "revoked" in admin.get("/accounts/tokens/").content.decode()
    wrong = admin.post("/accounts/tokens/", {"name": "typed", "scopes": ["king", "read"]})
    assert (wrong.status_code, "king is not one of" in wrong.content.decode()) == (422, True)
    assert 'value="typed"' in wrong.content.decode()
    assert "Choose one scope at least" in admin.post("/accounts/tokens/", {"name": "typed"}).content.decode()


@pytest.mark.django_db
def test_people_and_tokens_by_the_api(client, bearer, users):
    headers = bearer("admin")
    assert (
        client.patch(f"/api/v1/users/{users['viewer'].pk}", '{"role": "operator"}', **JSON, **headers).json()["role"]
        == "operator"
    )
    refused = client.patch(f"/api/v1/users/{users['admin'].pk}", '{"role": "viewer"}', **JSON, **headers)
    assert (refused.status_code, "last admin" in refused.json()["detail"]) == (422, True)
    assert "/accounts/invite/" in client.post("/api/v1/invites", '{"role": "viewer"}', **JSON, **headers).json()["url"]
    [token] = client.get("/api/v1/tokens", **headers).json()
    assert token["scopes"] == ["administer", "operate", "read", "register"]
    assert client.delete(f"/api/v1/tokens/{token['id']}", **headers).json()["is_usable"] is False
    assert client.get("/api/v1/tokens", **headers).status_code == 401


@pytest.mark.django_db
def test_invites_by_the_api(client, bearer):
    headers = bearer("admin")
    url = client.post("/api/v1/invites", '{"role": "operator"}', **JSON, **headers).json()["url"]
    answer = client.get("/api/v1/invites", **headers)
    [invite] = answer.json()
    assert (invite["role"], invite["created_by"]) == ("operator", "token:admin's")
    assert url.rstrip("/").rpartition("/")[2] not in answer.content.decode()
    address = f"/api/v1/invites/{invite['id']}"
    assert client.delete(address, **headers).json()["id"] == invite["id"]
    assert client.get("/api/v1/invites", **headers).json() == []
    assert client.get(urlsplit(url).path).status_code == 410
    again = client.delete(address, **headers)
    assert (again.status_code, "had ended, before" in again.json()["detail"]) == (409, True)
    assert AuditEvent.objects.filter(action="invite.revoke").count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "targets"), ("POST", "targets/bulk"), ("POST", "tokens"), ("POST", "alerts/silences"),
     ("POST", "targets/demo/rollback")],
)  # fmt: skip
def test_a_field_that_nobody_knows_is_refused_by_name(client, bearer, target, method, path):
    answer = client.generic(method, f"/api/v1/{path}", '{"package": "smollm2"}', **JSON, **bearer("admin"))
    assert answer.status_code == 422, answer.content
    assert "package: no such field here" in answer.json()["detail"]
