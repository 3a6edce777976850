"""The audit log: nobody can change it, every row names its request, and people find and export what they look for."""

import csv
import io
import json
import logging

import pytest
from django.db import IntegrityError, transaction

from aurora_web.accounts.models import AuditEvent
from aurora_web.accounts.services import record
from aurora_web.registry.models import Transition
from aurora_web.request_id import RequestIdFilter
from aurora_web.rollouts import services
from aurora_web.rollouts.models import Approval

pytestmark = pytest.mark.django_db


@pytest.fixture
def decided(target, judged_versions):
    """v1 live by policy, v2 approved by ada."""
    services.approve(judged_versions[1], "ada", "looks good")


@pytest.fixture
def judged_versions(target, make_version, report):
    target.approval = "manual"
    target.save()
    first, second = make_version(), make_version(report({"sql": (2.0, 1.0)}))
    services.judge(first)
    services.judge(second)
    second.refresh_from_db()
    return first, second


@pytest.mark.parametrize("model", [AuditEvent, Transition, Approval])
@pytest.mark.parametrize("change", ["update", "delete", "save"])
def test_the_database_refuses_to_change_what_happened(decided, model, change):
    row = model.objects.first()
    before = list(model.objects.values())
    changes = {
        "update": lambda: model.objects.filter(pk=row.pk).update(actor="mallory"),
        "delete": lambda: model.objects.filter(pk=row.pk).delete(),
        "save": lambda: (setattr(row, "actor", "mallory"), row.save()),
    }
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        changes[change]()
    assert list(model.objects.values()) == before


def test_a_request_has_one_id_in_answer_rows_and_log(clients, judged_versions, caplog):
    caplog.handler.addFilter(RequestIdFilter())
    answer = clients["operator"].post(
        "/targets/demo/versions/2/approve/", {"reason": "why not"}, HTTP_X_REQUEST_ID="proxy-0123456789"
    )
    assert answer["X-Request-ID"] == "proxy-0123456789"
    rows = AuditEvent.objects.filter(request_id="proxy-0123456789")
    assert {row.action for row in rows} == {"version.approve", "version.promote"}
    with caplog.at_level(logging.WARNING):
        refused = clients["operator"].get("/targets/nothing/", HTTP_X_REQUEST_ID="proxy-0000000000")
    assert refused.status_code == 404
    assert {r.request_id for r in caplog.records if r.name == "django.request"} == {"proxy-0000000000"}


@pytest.mark.parametrize("given", ["", "short", "has spaces in it", "x" * 65, "line\nbreak-in-it", "<script>alert(1)"])
def test_an_odd_id_is_replaced(client, given):
    answer = client.get("/healthz", HTTP_X_REQUEST_ID=given)
    assert answer["X-Request-ID"] != given
    assert len(answer["X-Request-ID"]) == 32


def test_what_no_request_did_has_no_id(decided):
    assert set(AuditEvent.objects.values_list("request_id", flat=True)) == {""}


def test_decisions_tell_before_and_after(decided):
    promoted = AuditEvent.objects.get(action="version.promote", actor="ada")
    assert promoted.changes == [("live", 1, 2)]
    assert promoted.version_number == 2
    assert AuditEvent.objects.get(action="version.approve").changes == [("approval", "waiting", "approved")]


@pytest.fixture
def many(db):
    """120 events; every third by bob, on demo."""
    for i in range(120):
        record(
            "bob" if i % 3 == 0 else "ada", f"thing.do{i % 2}", f"thing {i}", target_slug="demo" if i % 3 == 0 else ""
        )


def test_pages_by_cursor_hold_every_event_once_even_when_some_are_added(client, bearer, many):
    headers, seen, cursor = bearer("viewer"), [], ""
    while cursor is not None:
        body = client.get(f"/api/v1/audit?actor=ada&limit=30&cursor={cursor}", **headers).json()
        seen += [item["subject"] for item in body["items"]]
        cursor = body["next"]
        record("ada", "thing.new", "added meanwhile")
    assert seen == [f"thing {i}" for i in range(119, -1, -1) if i % 3]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("actor=bob", 40),
        ("action=thing.do1", 60),
        ("action=thing.", 120),
        ("target=demo", 40),
        ("q=THING 11", 11),  # 11 and 110..119
        ("actor=bob&action=thing.do0", 20),
        ("until=2020-01-01", 0),
        ("since=2020-01-01T10:00", 120),
        ("since=2999-01-01T00:00:00Z", 0),
        ("request_id=nothing", 0),
    ],
)
def test_filters(client, bearer, many, query, count):
    headers = bearer("viewer")
    items = client.get(f"/api/v1/audit?limit=500&{query}", **headers).json()["items"]
    assert len([item for item in items if item["action"] != "token.create"]) == count


@pytest.mark.parametrize(
    ("query", "named"),
    [("since=soon", "since is 'soon'"), ("cursor=-1", "cursor is '-1'"), ("limit=0", "limit is 0"),
     ("until=2026-13-01T00:00", "until is '2026-13-01T00:00'")],
)  # fmt: skip
def test_a_wrong_filter_is_named(client, bearer, query, named):
    answer = client.get(f"/api/v1/audit?{query}", **bearer("viewer"))
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    if "limit" not in query:
        page = client.get(f"/audit/?{query}")
        assert page.status_code == 302  # nobody is signed in


def test_exports_cannot_become_formulas(client, bearer):
    record("ada", "thing.do", "=HYPERLINK(1)", reason="@SUM(1)", detail={"new": {"x": "+1"}})
    record("-eve", "thing.do", "plain, with a comma", reason='"quoted"')
    headers = bearer("viewer")
    answer = client.get("/api/v1/audit/export?action=thing.do", **headers)
    assert answer["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [(r["actor"], r["subject"], r["reason"]) for r in rows] == [
        ("'-eve", "plain, with a comma", '"quoted"'),
        ("ada", "'=HYPERLINK(1)", "'@SUM(1)"),
    ]
    lines = client.get("/api/v1/audit/export?format=jsonl&action=thing.do", **headers).content.decode().splitlines()
    assert json.loads(lines[1])["after"] == {"x": "+1"}
    assert client.get("/api/v1/audit/export?format=xls", **headers).status_code == 422


def test_the_page_filters_by_its_address_and_shows_what_changed(clients, decided):
    page = clients["viewer"].get("/audit/?action=version.promote&actor=ada").content.decode()
    assert "looks good" in page
    assert "<code>live</code>: 1 → 2" in page
    assert 'href="/targets/demo/versions/2/"' in page
    assert "target.register" not in page.split("<tbody>")[1]
    pk = AuditEvent.objects.get(action="version.promote", actor="ada").pk
    detail = clients["viewer"].get(f"/audit/{pk}/").content.decode()
    assert '<td class="before"><span class="hidden">was </span>1</td>' in detail
    assert clients["viewer"].get("/audit/?since=soon").status_code == 422
    assert "Nothing matches" in clients["viewer"].get("/audit/?actor=nobody").content.decode()
    assert clients["viewer"].get("/activity/?actor=ada")["location"] == "/audit/?actor=ada"


def test_an_empty_log_says_what_will_be_here(clients):
    assert "Register a target to see the first one" in clients["viewer"].get("/audit/").content.decode()


def test_the_page_asks_few_questions_whatever_its_length(clients, many, django_assert_max_num_queries):
    with django_assert_max_num_queries(9):
        answer = clients["viewer"].get("/audit/")
    assert answer.content.decode().count("<tr>") == 51
    assert "cursor=" in answer.content.decode()


def test_one_event_by_the_api(client, bearer):
    event = record("ada", "thing.do", "thing", detail={"old": {"x": 1}, "new": {"x": 2}, "note": "n"})
    body = client.get(f"/api/v1/audit/{event.pk}", **bearer("viewer")).json()
    assert (body["before"], body["after"], body["detail"]["note"]) == ({"x": 1}, {"x": 2}, "n")
    assert body["at"].startswith(f"{event.at:%Y-%m-%dT%H:%M:%S}")
    assert client.get("/api/v1/audit/999999", **bearer("viewer")).status_code == 404


def test_the_page_of_an_event_says_in_a_sentence_what_was_done(clients, target):
    detail = {"old": {"max_lookahead": 4}, "new": {"max_lookahead": 6}}
    made = AuditEvent.objects.create(
        actor="ada", action="target.settings", subject=target.slug, reason="it pays", detail=detail
    )
    page = clients["viewer"].get(f"/audit/{made.pk}/").content.decode()
    assert f"<h1>ada changed settings of {target.slug} (max lookahead)</h1>" in page
    assert '<a href="/audit/?action=target.settings"><code>target.settings</code></a>' in page
    assert "<dd>it pays</dd>" in page
