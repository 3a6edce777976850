"""What is saved and spent, from counts whose answer is known; the advice; the page, the API and the CSV."""

import csv
import dataclasses
import io
import json
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import MetricWindow
from aurora_web.metrics.ratios import Interval, Moments
from aurora_web.registry.models import SpeculatorVersion, Status
from aurora_web.rollouts import economics, replicas
from aurora_web.rollouts.advice import Past, Prediction, Spent, advise, advise_idle, advise_off
from aurora_web.rollouts.models import GateDecision
from aurora_web.rollouts.savings import Stratum, busy_seconds, read_strata, saving
from aurora_web.traces import services as traces
from aurora_web.training.models import SliceState, TrainingRun, TrainingSlice
from tests.unit.aurora_web.conftest import count_window, segment_payload


def control(n=30, tokens=100.0, seconds=1.0, spread=0.1):
    xs = [tokens] * n
    ys = [seconds * (1 + spread * (i % 3 - 1)) for i in range(n)]
    pairs = list(zip(xs, ys, strict=True))
    return Moments(n, sum(xs), sum(ys), sum(x * x for x in xs), sum(y * y for y in ys), sum(x * y for x, y in pairs))


def stratum(seconds=50.0, bucket=1, tokens=10_000, **kwargs):
    """10,000 tokens in so many request seconds; the control needs 0.01 s for each."""
    return Stratum("sql", bucket, 100, tokens, seconds, 1, control(**kwargs))


def test_saved_is_what_the_control_would_have_taken_less_what_was_taken():
    found = saving("", [stratum(seconds=60.0)])
    assert found.without_seconds == pytest.approx(100.0)
    assert found.saved.value == pytest.approx(40.0)
    assert found.saved.low < 40.0 < found.saved.high
    assert found.covered == 1.0


def test_request_seconds_of_a_batch_are_engine_seconds_once():
    found = saving("", [stratum(seconds=60.0, bucket=4)])
    assert (found.spent_seconds, found.without_seconds) == (pytest.approx(15.0), pytest.approx(25.0))


def test_strata_without_control_count_neither_way_and_it_is_said():
    found = saving("", [stratum(seconds=60.0), stratum(seconds=1e6, n=3)])
    assert found.saved.value == pytest.approx(40.0)
    assert found.covered == 0.5
    alone = saving("", [stratum(n=3)])
    assert (alone.saved.value, alone.without_seconds) == (None, None)
    assert "3 control blocks, at least 5" in alone.saved.reason


def test_more_control_requests_make_a_narrower_interval():
    few, many = (saving("", [stratum(n=n)]).saved for n in (10, 1000))
    assert many.high - many.low < (few.high - few.low) / 5


def advice(low, value, high, training=0.0, capture=0.0):
    cost = Interval(value / 3600, low / 3600, high / 3600)
    return advise(Interval(value, low, high), cost, Spent(training, capture, "USD"))


def test_advice():
    assert advice(3600, 7200, 9000).action == "keep"
    assert advice(3600, 7200, 9000, training=1.5).action == "keep"  # within the interval
    assert advice(3600, 7200, 9000, training=3.0).action == "pause training"
    assert advice(-10, 20, 50).action == "wait"
    assert advice(-50, -20, -10).action == "turn off"
    nothing = saving("", []).saved
    assert advise(nothing, nothing, Spent(0.0, 0.0, "USD")).action == "wait"


def test_advice_weighs_what_capture_cost_too():
    found = advice(3600, 7200, 9000, training=0.5, capture=2.25)  # neither alone is more than the 2.5 at best
    assert found.action == "pause training"
    assert found.reasons[1] == ("Training cost 0.50 and capture 2.25 USD, 2.75 together; the savings are worth 2.00.")
    assert "Capture alone" not in found.reasons[2]
    assert "within the interval" in advice(3600, 7200, 9000, capture=1.5).reasons[2]
    alone = advice(3600, 7200, 9000, capture=3.0)
    assert alone.action == "pause training"
    assert "Capture alone costs more than is saved" in alone.reasons[2]


AT = timezone.now()


@pytest.mark.parametrize(
    ("past", "action", "said"),
    [
        (Past(28, AT, Interval(100.0, 50.0, 150.0)), "turn back on", "when it drafted last, it saved 100.0 s"),
        (Past(28, AT, Interval(10.0, -50.0, 70.0)), "stay off", "when it drafted last, it saved 10.0 s"),
        (Past(28, AT, Interval(-10.0, -20.0, -5.0)), "stay off", "it saved -10.0 s"),
        (Past(28, AT, Interval(None, None, None, "3 blocks")), "wait", "tell what it saved: 3 blocks"),
        (Past(28, None, Interval(None, None, None, "")), "wait", "Nothing was drafted in the last 28 days"),
        (Past(28, AT, Interval(-10.0, -20.0, -5.0), Prediction(7, 1.2, False)), "turn back on", "1.20 times as fast"),
        (Past(28, None, Interval(None, None, None, ""), Prediction(7, 1.2, True)), "turn back on", "a prediction from"),
        (Past(28, AT, Interval(-10.0, -20.0, -5.0), Prediction(7, 1.0, True)), "stay off", "1.00 times as fast"),
    ],
)
def test_advice_when_speculation_is_off(past, action, said):
    found = advise_off(past)
    assert found.action == action
    assert found.reasons[0] == "Speculation is off: the largest lookahead is 0."
    assert said in " ".join(found.reasons)


@pytest.mark.parametrize(
    ("strata", "said"),
    [
        ([], "no request has finished in this time"),
        ([Stratum("sql", 1, 9, 90, 1.0, 0, control())], "The engine chooses not to draft at present"),
        ([Stratum("sql", 1, 0, 0, 0.0, 0, control(), 5)], "each request was pinned to no drafts"),
        ([Stratum("sql", 1, 0, 0, 0.0, 0, control())], "only the control has finished"),
    ],
)
def test_advice_when_nothing_is_drafted_is_to_wait(strata, said):
    found = advise_idle(strata)
    assert found.action == "wait"
    assert said in found.reasons[0]


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def measured(target):
    """Twice as fast as the control, in one domain; a slice of 36 seconds; one segment."""
    windows = [count_window(n=100, seconds=0.5, domain="=sql"), count_window(n=30, version=0, domain="=sql")]
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    run = TrainingRun.objects.create(target=target)
    now = timezone.now()
    times = {"started_at": now - timedelta(seconds=60), "finished_at": now - timedelta(seconds=24)}
    TrainingSlice.objects.create(run=run, state=SliceState.DONE, **times)
    traces.ingest_segment(segment_payload(3))
    return target


@pytest.mark.django_db
def test_figures_of_a_target(measured):
    found = economics.economics(measured, "1h")
    assert found.total.saved.value == pytest.approx(50.0, rel=0.05)
    assert found.training.seconds == pytest.approx(36.0)
    assert (found.capture.num_traces, found.capture.num_bytes) == (3, 100)
    assert found.training_cost == pytest.approx(0.02)
    busy = busy_seconds(read_strata(measured, found.since, found.until))
    assert busy == pytest.approx(80.0, rel=0.05)  # 100 requests of 0.5 s, and 30 blocks of the control of 1 s
    assert found.capture.engine_seconds == pytest.approx(0.02 * busy)
    assert found.capture_cost == pytest.approx(2.0 * 0.02 * busy / 3600)
    assert found.break_even_seconds == pytest.approx(36.0 + 0.02 * busy)
    assert found.net_cost.value == pytest.approx(found.saved_cost.value - 0.02 - found.capture_cost)
    assert found.advice.action == "keep"


@pytest.mark.django_db
def test_a_slice_counts_only_within_the_range(target):
    run = TrainingRun.objects.create(target=target)
    now = timezone.now()

    def add(state, started, finished):
        at = [None if s is None else now - timedelta(seconds=s) for s in (started, finished)]
        TrainingSlice.objects.create(id=uuid.uuid4(), run=run, state=state, started_at=at[0], finished_at=at[1])

    add(SliceState.DONE, 3700, 3590)  # 10 s inside the hour
    add(SliceState.FAILED, 100, 80)
    add(SliceState.DONE, 9000, 8000)
    add(SliceState.RUNNING, 5, None)
    found = economics.read_training(target, now - timedelta(hours=1), now)
    assert (found.seconds, found.num_slices, found.num_failed) == (pytest.approx(35.0), 3, 1)


def moved(hours):
    """What was counted so far is so many hours old."""
    MetricWindow.objects.update(started_at=timezone.now() - timedelta(hours=hours))


def of(target, name="24h", *, lookahead=None):
    if lookahead is not None:
        target.max_lookahead = lookahead
        target.save()
    return economics.economics(target, name).advice


def count(*windows):
    metrics.ingest_counts({"counts": [window.to_json() for window in windows]})
    metrics.roll_up()


def undrafted(**given):
    return dataclasses.replace(count_window(n=50, **given), num_proposed_drafts=0, num_correct_drafts=0)


@pytest.mark.django_db
def test_speculation_that_was_switched_off_is_judged_by_the_week_up_to_its_last_drafts(measured, clients):
    moved(30)
    count(count_window(n=50, version=0))
    found = of(measured, lookahead=0)
    assert found.action == "turn back on"
    assert "Speculation is off" in found.reasons[0]
    page = text(clients["viewer"].get("/targets/demo/economics/?range=24h"))
    assert "Turn back on" in page and "set the largest lookahead above 0 in" in page


@pytest.mark.django_db
@pytest.mark.parametrize(("days", "action"), [(0.01, "turn back on"), (20, "turn back on"), (29, "wait")])
def test_speculation_that_is_off_for_long_is_still_judged(measured, days, action):
    moved(24 * days)
    assert of(measured, lookahead=0).action == action


@pytest.mark.django_db
def test_an_idle_time_is_not_taken_for_speculation_that_is_off(measured, clients):
    moved(30)
    found = of(measured)
    assert found.action == "wait"
    assert "no request has finished in this time" in found.reasons[0]
    page = text(clients["viewer"].get("/targets/demo/economics/?range=24h"))
    assert "Wait" in page and "set the largest lookahead" not in page


@pytest.mark.django_db
def test_an_engine_that_chooses_not_to_draft_has_not_been_switched_off(measured):
    moved(30)
    count(
        undrafted(plain=3000),
        count_window(n=50, version=0),
    )
    found = of(measured)
    assert (found.action, "engine chooses not to draft" in found.reasons[0]) == ("wait", True)


@pytest.mark.django_db
def test_requests_that_pins_keep_from_drafts_are_said(measured):
    moved(30)
    count(
        undrafted(lookahead=0),
        count_window(n=50, version=0),
    )
    assert "pinned to no drafts" in of(measured).reasons[0]


@pytest.mark.django_db
def test_an_engine_that_drafts_against_the_policy_is_judged_as_on_and_named(measured, observed):
    refused = (
        "largest lookahead 0 (the server drafts 4 tokens, as it was launched): SGLang's routes change weights only."
    )
    replicas.observe(observed(policy_detail=refused))
    found = of(measured, "1h", lookahead=0)
    assert found.action == "keep"
    assert found.reasons[-1] == f"r1 drafts, though the largest lookahead is 0: {refused}"


@pytest.mark.django_db
def test_a_newer_version_that_is_predicted_to_be_faster_speaks_for_turning_back_on(target, make_version):
    count(count_window(n=200, seconds=2.0), count_window(n=200, version=0, seconds=1.0))
    assert of(target, lookahead=0).action == "stay off"
    for speedup, status in ((3.0, None), (1.1, Status.PASSED), (1.3, Status.PASSED), (2.0, Status.REJECTED)):
        version = make_version()  # the first is v1, which was measured
        GateDecision.objects.create(
            version=version, passed=True, reasons=[], domains=[], policy={}, predicted_speedup=speedup
        )
        SpeculatorVersion.objects.filter(pk=version.pk).update(status=status or version.status)
    found = of(target)
    assert found.action == "turn back on"
    assert "v3, which is not live yet, is predicted to be 1.30 times as fast" in found.reasons[-1]
    GateDecision.objects.update(predicted_speedup=0.9)
    assert of(target).action == "stay off"


@pytest.mark.django_db
def test_a_speculation_that_is_off_costs_three_more_queries_at_most(measured, django_assert_max_num_queries):
    with django_assert_max_num_queries(12):
        assert of(measured).action == "keep"
    measured.max_lookahead = 0
    with django_assert_max_num_queries(15):
        assert economics.economics(measured, "28d").advice.action == "turn back on"


@pytest.mark.django_db
def test_speculation_that_costs_more_than_it_saves_is_to_be_turned_off(target, clients):
    windows = [count_window(n=200, seconds=2.0), count_window(n=200, version=0, seconds=1.0)]
    count(*windows)
    page = text(clients["viewer"].get("/targets/demo/economics/?range=1h"))
    assert "Turn off" in page and "set the largest lookahead to 0 in" in page


@pytest.mark.django_db
def test_the_page_shows_figures_and_assumptions(measured, clients):
    page = text(clients["viewer"].get("/targets/demo/economics/?range=1h"))
    assert "Keep" in page
    assert "an estimate: 2 % of the engine's time" in page.replace("&#x27;", "'")
    assert "36.0 s" in page
    assert "readonly" in page
    assert 'name="reason"' not in page


@pytest.mark.django_db
def test_nothing_measured_says_so(target, clients):
    page = text(clients["viewer"].get("/targets/demo/economics/"))
    assert "No request has finished in this time" in page
    assert "Speculation is on, but no request has finished in this time." in page


@pytest.mark.django_db
def test_assumptions_are_kept_and_logged(measured, clients):
    form = {"engine_hour": "3.5", "trainer_hour": "1", "currency": "EUR", "reason": "new contract"}
    page = text(clients["operator"].post("/targets/demo/economics/?range=1h", form, follow=True))
    assert "The assumptions are saved." in page
    assert 'value="3.5"' in page
    event = AuditEvent.objects.get(action="target.costs")
    assert (event.reason, event.detail["old"]["engine_hour"], event.detail["new"]["engine_hour"]) == (
        "new contract",
        2,
        3.5,
    )
    answer = clients["operator"].post("/targets/demo/economics/", form | {"engine_hour": "nan"})
    assert answer.status_code == 422
    assert "expected a number from 0" in text(answer)
    assert clients["viewer"].post("/targets/demo/economics/", form).status_code == 403


@pytest.mark.django_db
def test_the_api_has_the_same_figures(measured, client, bearer):
    found = client.get("/api/v1/targets/demo/economics?range=1h", **bearer("viewer")).json()
    assert found["total"]["saved"]["value"] == pytest.approx(50.0, rel=0.05)
    assert found["capture"]["engine_seconds"] == pytest.approx(1.6, rel=0.05)
    assert client.get("/api/v1/targets/demo/economics?range=1y", **bearer("viewer")).status_code == 422
    patch = {"content_type": "application/json", **bearer("operator")}
    address = "/api/v1/targets/demo/costs"
    assert client.patch(address, json.dumps({"engine_hour": 9}), **patch).json()["engine_hour"] == 9
    assert client.patch(address, json.dumps({"capture_percent": 0}), **patch).json()["capture_percent"] == 0
    for wrong in (
        {"engine_hour": -1},
        {"capture_percent": 101},
        {"engine_hour": True},
        {"currency": ""},
        {"rent": 1},
        {"trainer_hour": "x"},
    ):
        answer = client.patch(address, json.dumps(wrong), **patch)
        assert (answer.status_code, answer.json()["field"]) == (422, next(iter(wrong)))


@pytest.mark.django_db
def test_the_csv_runs_no_formula(measured, clients):
    answer = clients["viewer"].get("/targets/demo/economics/csv/?range=1h")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["domain"] for row in rows] == ["'=sql", "(all)"]
    assert float(rows[0]["saved_seconds"]) == pytest.approx(50.0, rel=0.05)
