"""The target's page: ranges, tiles, phases, events in sentences, switches, table and CSV."""

import csv
import io
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db.models import F
from django.http import QueryDict
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.console import charts
from aurora_web.console.ranges import time_range
from aurora_web.console.timeline import MARKERS, MAX_EVENTS, markers, timeline
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import CaptureWindow
from aurora_web.registry.models import SpeculatorVersion, Target, Transition
from aurora_web.rollouts import freeze as freezes
from aurora_web.rollouts import replicas, services
from aurora_web.rollouts.models import Alert
from aurora_web.training import control
from aurora_web.training import services as training
from aurora_web.training.models import SliceState, TrainingSlice
from tests.unit.aurora_web.conftest import count_window, segment_payload

pytestmark = pytest.mark.django_db
NOW = 1_800_000_000.0


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def judged(make_version, report):
    def make(*domains):
        version = make_version(report(*domains) if domains else None)
        services.judge(version)
        return SpeculatorVersion.objects.get(pk=version.pk)

    return make


@pytest.fixture
def fresh_traces(target, monkeypatch):
    from aurora_web.traces import codec
    from aurora_web.traces import services as traces

    monkeypatch.setattr(training, "_enqueue", lambda slice_id: None)
    monkeypatch.setattr(codec, "is_held_out", lambda *args: False, raising=False)
    traces.ingest_segment(segment_payload(40))


@pytest.fixture
def captured(observed):
    def report():
        """Twenty traces between two reports of a replica; Unix seconds at which their window starts."""
        for num_traces in (10, 30):
            replicas.observe(observed(num_traces=num_traces))
        return CaptureWindow.objects.get().started_at.timestamp()

    return report


@pytest.mark.parametrize(
    ("query", "since", "until", "is_open"),
    [
        ("", NOW - 1800, NOW, True),
        ("range=24h", NOW - 86400, NOW, True),
        ("from=2027-01-15T07:00", NOW - 3600, NOW, True),
        ("from=2027-01-15T06:00:00&to=2027-01-15T07:00:00Z", NOW - 7200, NOW - 3600, False),
    ],
)
def test_ranges(query, since, until, is_open):
    found = time_range(QueryDict(query), NOW)
    assert (found.since, found.until, found.is_open, found.problem) == (since, until, is_open, "")
    again = time_range(QueryDict(found.query), NOW)
    assert (again.since, again.until) == (since, until)


@pytest.mark.parametrize(
    "query", ["from=yesterday", "from=2027-01-15T07:00&to=2027-01-15T06:00", "from=2020-01-01", "range=9m"]
)
def test_a_range_that_cannot_be_is_said_and_the_default_is_shown(clients, target, query):
    found = time_range(QueryDict(query), NOW)
    assert (found.name, bool(found.problem)) == ("30m", True)
    assert "The last 30 minutes are shown" in text(clients["viewer"].get(f"/targets/demo/?{query}"))
    answer = clients["viewer"].get(f"/api/v1/targets/demo/charts?{query}")
    assert (answer.status_code, answer["content-type"]) == (422, "application/problem+json")


def test_a_wrong_range_is_said_with_the_times_and_the_zone_that_were_typed(clients, target):
    asked = "from=2026-11-30T09:00&to=2026-11-30T08:00&zone=Asia/Kathmandu"
    shown = text(clients["viewer"].get(f"/targets/demo/?{asked}"))
    assert "2026-11-30T09:00 to 2026-11-30T08:00 (Asia/Kathmandu) is no range: its end" in shown
    assert "02:15" not in time_range(QueryDict(asked), NOW).problem
    assert time_range(QueryDict("from=early"), NOW).problem.startswith("early to now (UTC) is no range")
    assert time_range(QueryDict("to=late&zone=Nowhere"), NOW).problem.startswith("nothing to late (UTC)")


@pytest.mark.parametrize(("page", "expected"), [("economics", "1h, 24h, 7d, 28d"), ("domains", "1h, 24h, 7d")])
def test_an_unknown_range_is_said_where_there_are_only_named_ones(clients, target, page, expected):
    answer = text(clients["viewer"].get(f"/targets/demo/{page}/?range=9m"))
    assert f"&#x27;9m&#x27; is no range: expected one of {expected}. 24h is shown." in answer
    assert "is no range" not in text(clients["viewer"].get(f"/targets/demo/{page}/"))


def test_the_large_figures_are_those_of_the_live_version(clients, judged):
    judged()
    judged({"sql": (2.0, 1.0)})
    windows = [count_window(seconds=1.0), count_window(version=2, seconds=0.5), count_window(version=0, seconds=1.0)]
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    page = text(clients["viewer"].get("/targets/demo/"))
    assert "<dd>2.00×</dd>" in page  # v2
    assert "last 30 minutes, all versions: 1.33×" in page  # v1 and v2
    assert "Large: v2, the live version, over the last 5 minutes (20 requests, 20 control blocks)" in page


def test_the_links_of_the_page_keep_what_was_chosen(clients, target):
    page = text(clients["viewer"].get("/targets/demo/?range=3h&domain=sql&view=table&live=0"))
    assert 'href="?range=24h&amp;domain=sql&amp;view=table&amp;live=0"' in page
    assert "Go live" in page and "data-socket" not in page
    assert 'href="?range=3h&amp;domain=sql&amp;live=0"' in page  # view as charts


def test_events_are_sentences_with_numbers(target, judged):
    judged()
    judged({"sql": (2.0, 1.5), "prose": (1.53, 1.5)})
    judged({"sql": (1.0, 2.0)})
    services.rollback(target, "olga", "slow at noon")
    now = time.time()
    told = timeline(target, now - 60, now + 1)
    said = [event["text"] for event in told]
    passed = next(each for each in said if each.startswith("candidate v2 passed"))
    assert "+18\u00a0% accept length (95 %: " in passed
    assert passed.endswith(", 20 traces, worst domain prose +3\u00a0%")
    assert any(each.startswith("candidate v3 was rejected: ") for each in said)
    assert "v2 was rolled back by olga: slow at noon" in said
    assert {"swap", "rollback", "candidate"} <= {event["kind"] for event in told}
    assert [event["at"] for event in told] == sorted((event["at"] for event in told), reverse=True)
    assert timeline(target, now - 120, now - 60) == []


def test_marks_of_the_charts_are_not_crowded_out_by_what_people_did(target, judged):
    judged()
    judged({"sql": (2.0, 1.5), "prose": (1.53, 1.5)})
    services.rollback(target, "olga", "slow at noon")
    since = time.time() - 60
    told = timeline(target, since, time.time() + 1)
    marks = [event for event in told if event["kind"] in MARKERS]
    assert {event["kind"] for event in marks} == {"swap", "rollback"}
    AuditEvent.objects.bulk_create(
        AuditEvent(actor="olga", action="target.settings", subject=target.slug, target_slug=target.slug, detail={})
        for _ in range(MAX_EVENTS)
    )
    assert {event["kind"] for event in timeline(target, since, time.time() + 1)} == {"person"}
    assert markers(target, since, time.time() + 1) == marks


def test_pause_stops_slices_and_train_now_starts_one(clients, bearer, target, judged, fresh_traces):
    judged()
    operator = clients["operator"]
    page = text(operator.post("/targets/demo/training/pause/", {"reason": "night"}, follow=True))
    assert "training paused" in page and "night" in page
    assert training.schedule(target) is None
    assert "paused by operator: resume it first" in text(operator.post("/targets/demo/training/now/", follow=True))
    headers = bearer("operator")
    again = operator.post("/api/v1/targets/demo/training/pause", "{}", content_type="application/json", **headers)
    assert (again.status_code, again["content-type"]) == (409, "application/problem+json")
    operator.post("/targets/demo/training/resume/", {"reason": "morning"})
    started = operator.post("/api/v1/targets/demo/training/now", "{}", content_type="application/json", **headers)
    assert started.status_code == 202
    assert TrainingSlice.objects.get().state == SliceState.QUEUED
    refused = operator.post("/api/v1/targets/demo/training/now", "{}", content_type="application/json", **headers)
    assert "queued or running already" in refused.json()["detail"]
    rows = AuditEvent.objects.filter(action__startswith="training.").order_by("id")
    assert [(r.action, r.reason) for r in rows][:2] == [("training.pause", "night"), ("training.resume", "morning")]
    assert rows.last().action == "training.now"


def test_train_now_without_traces_says_what_is_missing(target):
    with pytest.raises(control.TrainingRefused, match="requests have to finish first"):
        control.train_now(target, "olga")


def test_while_paused_version_one_is_still_made(target, monkeypatch):
    monkeypatch.setattr(training, "_enqueue", lambda slice_id: None)
    control.pause(target, "olga")
    assert training.schedule(target).is_day_zero


def test_a_frozen_target_gets_no_version_by_itself_and_an_approval_does_not_unfreeze(clients, target, judged):
    judged()
    freezes.freeze(target, "olga", "launch day")
    version = judged({"sql": (2.0, 1.0)})
    assert version.status == "passed"
    page = text(clients["viewer"].get("/targets/demo/"))
    assert "frozen</span> by olga" in page and "launch day" in page
    services.approve(version, "olga")
    version.refresh_from_db()
    assert version.status == "live"
    assert freezes.frozen(target) is not None
    assert judged({"sql": (3.0, 2.0)}).status == "passed"
    freezes.unfreeze(target, "olga")
    assert judged({"sql": (3.5, 2.0)}).status == "live"
    actions = list(AuditEvent.objects.values_list("action", flat=True))
    assert {"target.freeze", "target.unfreeze"} <= set(actions)


def test_a_viewer_sees_the_switches_but_no_button(clients, target):
    page = text(clients["viewer"].get("/targets/demo/"))
    assert "training on" in page and "Pause training" not in page


def test_the_table_and_the_csv_hold_what_the_charts_show(clients, target, captured):
    windows = [count_window(seconds=0.5), count_window(version=0, seconds=1.0), count_window(domain="=cmd()")]
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    captured()
    CaptureWindow.objects.update(started_at=F("started_at") - timedelta(seconds=30))
    answer = clients["viewer"].get("/api/v1/targets/demo/charts.csv?range=5m&domain=sql")
    assert answer["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert sum(int(row["num_requests"]) for row in rows) == 20
    assert [float(row["speedup"]) for row in rows if row["speedup"]][-1] == pytest.approx(2.0)
    assert sum(float(row["traces_per_second"] or 0) for row in rows) == pytest.approx(2.0)
    page = text(clients["viewer"].get("/targets/demo/?range=5m&view=table"))
    assert "v1 67 % (3,980), control 33 % (1,990)" in page
    assert {name for name in rows[0] if ":" in name} == {
        "num_requests:sql", "accept_length:sql", "tokens:control", "tokens:v1",
    }  # fmt: skip
    everything = clients["viewer"].get("/api/v1/targets/demo/charts.csv?range=5m").content.decode()
    [row] = [row for row in csv.DictReader(io.StringIO(everything)) if row["num_requests"] != "0"]
    assert (row["tokens:v1"], row["tokens:control"]) == ("3980", "1990")  # to calculate with
    for domain in ("sql", "=cmd()"):  # the first chart has a line for each
        assert row[f"num_requests:{domain}"] == "20"
        assert float(row[f"accept_length:{domain}"]) == pytest.approx(float(row["accept_length"]))
    assert "versions" not in row


def test_the_table_of_one_domain_is_chosen_there_and_has_an_address(clients, target):
    windows = [count_window(), replace(count_window(domain="prose"), num_accept_tokens=3000)]
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    page = text(clients["viewer"].get("/targets/demo/?range=5m&view=table&live=0"))
    form = page[page.index('id="of-domain"') : page.index("Choose</button>")]
    for name, value in (("range", "5m"), ("view", "table"), ("live", "0")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in form
    assert "<option>prose</option><option>sql</option>" in form
    chosen = text(clients["viewer"].get("/targets/demo/?range=5m&view=table&live=0&domain=prose"))
    assert "<option selected>prose</option>" in chosen
    table = chosen[chosen.index('id="charts-table"') : chosen.index('id="tables"')]
    assert "v1 100 % (3,000)" in table and "1,990" not in table
    unknown = text(clients["viewer"].get("/targets/demo/?range=5m&view=table&domain=foo"))
    assert "<option selected>foo</option>" in unknown


def test_a_bucket_that_is_not_over_has_no_rate(target, captured, monkeypatch):
    """Else the newest one looks as if traffic had stopped."""
    start = captured()
    monkeypatch.setattr(charts.time, "time", lambda: start + 1000)
    for seconds, rate in ((3, None), (10, 2.0), (60, 2.0)):
        [row] = charts.table(target, start - 60, start + seconds, [], 10)
        assert (row["traces_per_second"], row["num_dropped_traces"]) == (rate, 0)


def test_nor_has_one_whose_last_counts_may_be_on_their_way(target, captured, monkeypatch):
    start = captured()
    monkeypatch.setattr(charts.time, "time", lambda: start + 12)
    [row] = charts.table(target, start - 60, start + 12, [], 10)
    assert row["traces_per_second"] is None


def test_a_formula_in_a_cell_is_made_harmless():
    row = dict.fromkeys(charts.HEADINGS) | {"loss": "=HYPERLINK(1)"}
    assert "'=HYPERLINK(1)" in charts.as_csv([row], [])


def test_charts_come_as_buckets_and_fresh_windows_that_do_not_overlap(client, bearer, target):
    metrics.ingest_counts({"counts": [count_window().to_json()]})
    metrics.roll_up()
    found = client.get("/api/v1/targets/demo/charts?range=3h", **bearer("viewer")).json()
    assert found["bucket_seconds"] == 60
    assert found["buckets"] == []
    assert [p["num_requests"] for p in found["windows"]] == [20]
    assert all(p["at"] >= found["fresh_since"] for p in found["windows"])
    past = "from=2026-01-01T00:00&to=2026-01-02T00:00"
    assert client.get(f"/api/v1/targets/demo/charts?{past}", **bearer("viewer")).json()["windows"] == []


def test_the_page_asks_the_same_number_of_questions_whatever_there_is(
    clients, target, judged, django_assert_max_num_queries
):
    judged()
    for i in range(12):
        judged({"sql": (1.1 + i / 10, 1.0 + i / 10)})
    assert Target.objects.get().versions.count() == 13
    with django_assert_max_num_queries(60):
        assert clients["viewer"].get("/targets/demo/").status_code == 200


def test_a_filter_on_a_domain_without_requests_is_named_and_can_be_cleared(clients, target):
    page = text(clients["viewer"].get("/targets/demo/?domain=foo&view=table"))
    assert "asks for the domain <strong>foo</strong> alone" in page and "Show all domains" in page
    assert "Show all domains" not in text(clients["viewer"].get("/targets/demo/"))
    metrics.ingest_counts({"counts": [count_window(domain="foo").to_json()]})
    metrics.roll_up()
    assert "Show all domains" not in text(clients["viewer"].get("/targets/demo/?domain=foo"))


def test_an_embedded_engines_accept_length_waits_for_no_comparison(clients, target, observed):
    replicas.observe(observed())
    page = text(clients["viewer"].get("/targets/demo/"))
    assert "not compared yet" not in page and "127.0.0.1:8100" in page


def test_alerts_and_the_begin_of_a_canary_are_marked(target, judged):
    version = judged()
    now = timezone.now()
    alert = {"target": target, "rule": "swap_failed", "since": now}
    Alert.objects.create(**alert, state="firing", detail="r1 could not swap.", fired_at=now)
    Alert.objects.create(**alert, replica="r2", state="normal", detail="It could.", fired_at=None)
    Transition.objects.create(version=version, old="passed", new="canary", reason="on r1", actor="olga")
    marks = {event["kind"]: event["text"] for event in markers(target, time.time() - 60, time.time() + 1)}
    assert set(marks) == {"swap", "alert", "canary"}
    assert marks["alert"].endswith("r1 could not swap.") and marks["canary"] == "v1 went into canary: on r1"


def test_the_end_of_an_alert_is_nobodys_deed(clients, target):
    now = timezone.now()
    moments = {"since": now, "fired_at": now, "ended_at": now}
    Alert.objects.create(target=target, rule="swap_failed", state="resolved", detail="r1 could not swap.", **moments)
    events = timeline(target, time.time() - 60, time.time() + 1)
    assert {event["kind"]: event["text"] for event in events if "Swap failed" in event["text"]} == {
        "alert": "alert: Swap failed. r1 could not swap.",
        "ended": "the alert Swap failed ended. r1 could not swap.",
    }
    assert '<span class="badge ended">ended</span>' in text(clients["viewer"].get("/targets/demo/"))


def test_that_older_marks_are_left_out_is_said(client, bearer, target, judged, monkeypatch):
    for i in range(3):
        judged({"sql": (2.0 + i, 1.0)}) if i else judged()
    for most, is_cut in ((2, True), (3, False)):
        monkeypatch.setattr(charts, "MAX_MARKERS", most)
        found = client.get("/api/v1/targets/demo/charts", **bearer("viewer")).json()
        assert (len(found["events"]), found["is_cut"]) == (most, is_cut)
