"""Theme and time zone: kept with the person, on every page; links and exports mean the same to everybody."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.conf import settings
from django.http import QueryDict
from django.utils import timezone

from aurora_web import moments
from aurora_web.accounts.models import AuditEvent
from aurora_web.accounts.services import create_token
from aurora_web.console.ranges import time_range

WINTER = datetime(2026, 1, 31, 13, 3, 5, tzinfo=UTC)
SUMMER = datetime(2026, 7, 31, 13, 3, 5, tzinfo=UTC)


@pytest.fixture
def event(db):
    """One audit event in winter and one in summer."""
    return [AuditEvent.objects.create(at=at, actor="ada", action="a.b", subject="s") for at in (WINTER, SUMMER)]


def choose(client, **chosen):
    return client.post("/settings/preferences/", {"theme": "system", "time_zone": "", **chosen})


def test_times_are_of_the_zone_that_was_chosen_also_where_clocks_change(clients, event):
    viewer = clients["viewer"]
    page = viewer.get("/audit/").content.decode()
    assert "2026-01-31 13:03:05 UTC" in page
    assert choose(viewer, time_zone="Europe/Berlin").status_code == 302
    page = viewer.get("/audit/").content.decode()
    assert "2026-01-31 14:03:05 CET" in page
    assert "2026-07-31 15:03:05 CEST" in page
    assert 'data-zone="Europe/Berlin"' in page


def test_times_within_an_audit_event_are_of_the_zone_too(clients, db):
    detail = {"new": {"expires_at": SUMMER.isoformat(), "reason": "2026-99-99T00:00:00+00:00"}}  # one is no time
    made = AuditEvent.objects.create(actor="ada", action="token.create", subject="token x", detail=detail)
    choose(clients["viewer"], time_zone="Europe/Berlin")
    assert "2026-07-31 15:03:05 CEST" in clients["viewer"].get(f"/audit/{made.pk}/").content.decode()
    assert "2026-07-31T13:03:05+00:00" in clients["viewer"].get(f"/api/v1/audit/{made.pk}").content.decode()


def test_exports_and_the_api_stay_utc(clients, event):
    viewer = clients["viewer"]
    choose(viewer, time_zone="America/New_York")
    assert "2026-07-31T13:03:05+00:00" in viewer.get("/api/v1/audit/export").content.decode()
    assert viewer.get("/api/v1/audit").json()["items"][-2]["at"].startswith("2026-07-31T13:03:05")


def test_who_has_chosen_nothing_gets_the_browsers_zone(clients, event):
    viewer = clients["viewer"]
    viewer.cookies["zone"] = "Asia/Kolkata"
    assert "2026-07-31 18:33:05 IST" in viewer.get("/audit/").content.decode()
    viewer.cookies["zone"] = "../../etc/passwd"
    assert "2026-07-31 13:03:05 UTC" in viewer.get("/audit/").content.decode()
    assert timezone.get_current_timezone_name() == "UTC"  # nothing is left behind for the next request


def test_a_filter_is_of_the_zone_that_its_address_names(clients, event):
    viewer = clients["viewer"]
    choose(viewer, time_zone="Europe/Berlin")
    asked = "since=2026-07-31T15:03&until=2026-07-31T15:04&zone=Europe/Berlin"
    page = viewer.get(f"/audit/?{asked}").content.decode()
    assert "2026-07-31 15:03:05 CEST" in page
    assert "2026-01-31" not in page
    assert 'value="2026-07-31T15:03"' in page  # what was typed comes back
    assert "since=2026-07-31T13%3A03" in page  # in links it is UTC, for whoever opens them
    assert "since=2026-07-31T13%3A03" in clients["admin"].get(f"/audit/?{asked}").content.decode()
    wrong = viewer.get("/audit/?since=yesterday&zone=Europe/Berlin")
    assert (wrong.status_code, "&#x27;yesterday&#x27;" in wrong.content.decode()) == (422, True)


def test_a_range_over_the_night_when_clocks_change():
    """On 25 October 2026 at 3:00 Berlin's clocks went back: the night had 25 hours."""
    given = QueryDict("from=2026-10-24T12:00&to=2026-10-25T12:00&zone=Europe/Berlin")
    found = time_range(given, datetime(2026, 11, 1, tzinfo=UTC).timestamp())
    assert found.seconds == 25 * 3600
    with timezone.override("Europe/Berlin"):
        assert found.words == "2026-10-24 12:00 CEST to 2026-10-25 12:00 CET"
    assert found.query == "from=2026-10-24T10%3A00%3A00&to=2026-10-25T11%3A00%3A00"
    as_before = time_range(QueryDict("from=2026-10-24T12:00&to=2026-10-25T12:00"), found.until + 1e6)
    assert as_before.seconds == 24 * 3600  # without a zone: UTC


def test_what_a_field_shows_is_what_the_address_means():
    with timezone.override("Europe/Berlin"):
        assert moments.for_input("2026-07-31T13:03:05") == "2026-07-31T15:03:05"
        assert moments.for_input("2026-01-31T13:03:00+00:00") == "2026-01-31T14:03"
        assert moments.for_input("nonsense") == "nonsense"
        assert moments.said(WINTER) == "2026-01-31 14:03:05 CET"
    late = QueryDict("from=9999-12-31T23:59&zone=America/New_York")
    assert moments.in_utc(late, ["from"])["from"] == "9999-12-31T23:59"
    first = QueryDict("from=0001-01-02T00:00&zone=Europe/Berlin")  # years of four digits are read again
    assert moments.in_utc(first, ["from"])["from"].startswith("0001-01-01T23:")
    with timezone.override("UTC"):
        assert moments.for_input("0001-01-02T10:00") == "0001-01-02T10:00"


def test_a_zone_that_does_not_exist_is_named_and_nothing_is_lost(clients, users):
    page = choose(clients["viewer"], theme="dark", time_zone="Mars/Olympus")
    assert page.status_code == 422
    said = page.content.decode()
    assert "“Mars/Olympus” is no time zone that is known here" in said
    assert re.search(r'value="dark"[^>]*checked', said)
    users["viewer"].refresh_from_db()
    assert users["viewer"].theme == "system"


def test_the_theme_is_in_the_page_before_any_script_runs(client, clients, users):
    viewer = clients["viewer"]
    head = viewer.get("/").content.decode()[:200]
    assert 'data-choice="system"' in head
    assert "data-theme" not in head  # the system decides
    assert viewer.post("/settings/theme/", {"theme": "dark"}).status_code == 204
    client.force_login(users["viewer"])  # another browser
    assert 'data-choice="dark" data-theme="dark"' in client.get("/").content.decode()[:200]
    [event] = AuditEvent.objects.filter(action="user.preferences")
    assert (event.actor, event.before, event.after) == ("viewer", {"theme": "system"}, {"theme": "dark"})
    viewer.post("/settings/theme/", {"theme": "dark"})
    assert AuditEvent.objects.filter(action="user.preferences").count() == 1  # nothing changed
    refused = viewer.post("/settings/theme/", {"theme": "pink"})
    assert (refused.status_code, "'pink'" in refused.content.decode()) == (422, True)


def test_no_template_writes_a_time_without_its_zone():
    """``date`` and ``now`` write the reader's zone, so the word UTC beside one would be wrong."""
    wrong = []
    for path in (settings.BASE_DIR / "templates").rglob("*.html"):
        text = path.read_text()
        name = str(Path(path).relative_to(settings.BASE_DIR))
        for form in re.findall(r"""(?:\|date:|\{% now )['"]([^'"]+)['"]""", text):
            if re.search(r"[HGhgi]", form) and not form.endswith(" T"):
                wrong.append(f"{name}: {form!r}, expected a T for the zone at its end")
        if re.search(r"\}\}(</\w+>)? UTC|\(UTC\)|%\} UTC", text):
            wrong.append(f"{name}: times are of the reader's zone, not UTC")
    assert wrong == []


def test_the_api_says_who_calls_and_changes_the_persons_own_settings(clients, users, client):
    """As a person in a browser, and by a token of that person."""
    _, secret = create_token("mine", "", "viewer", scopes=["read"], owner=users["viewer"])
    token = {"HTTP_AUTHORIZATION": f"Bearer {secret}"}
    expected = {"username": "viewer", "theme": "system", "time_zone": "", "scopes": ["read"]}
    assert clients["viewer"].get("/api/v1/me").json() == expected | {"name": "viewer", "role": "viewer"}
    assert client.get("/api/v1/me", **token).json() == expected | {"name": "token:mine", "role": ""}

    def change(body, **more):
        return client.patch("/api/v1/me", json.dumps(body), content_type="application/json", **token, **more)

    changed = change({"theme": "dark", "time_zone": "Europe/Berlin"}).json()
    assert (changed["theme"], changed["time_zone"]) == ("dark", "Europe/Berlin")
    assert 'data-zone="Europe/Berlin"' in clients["viewer"].get("/audit/").content.decode()
    assert change({"time_zone": ""}).json()["theme"] == "dark"
    assert clients["viewer"].get("/api/v1/me").json()["time_zone"] == ""
    changes = AuditEvent.objects.filter(action="user.preferences").order_by("pk")
    assert [(row.actor, row.subject, row.detail["new"]) for row in changes] == [
        ("token:mine", "user viewer", {"theme": "dark", "time_zone": "Europe/Berlin"}),
        ("token:mine", "user viewer", {"time_zone": ""}),
    ]
    for body, said in (({"theme": "pink"}, "expected one of system"), ({"time_zone": "Mars"}, "Mars")):
        refused = change(body)
        assert (refused.status_code, said in refused.json()["detail"]) == (422, True)


def test_a_token_of_nobody_has_no_settings(client, bearer):
    told = client.get("/api/v1/me", **bearer("operator")).json()
    assert (told["name"], told["role"], told["username"], told["theme"]) == ("token:operator's", "operator", None, None)
    answer = client.patch("/api/v1/me", '{"theme": "dark"}', content_type="application/json", **bearer("operator"))
    assert (answer.status_code, "belongs to no person" in answer.json()["detail"]) == (409, True)
