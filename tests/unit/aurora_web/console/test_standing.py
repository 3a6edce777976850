"""What pages say when replicas are down, and the page from which every target can be rolled back."""

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web import outage
from aurora_web.registry.models import SpeculatorVersion, Status, Target, TrafficReport, Transition
from aurora_web.registry.traffic_reports import keep
from aurora_web.rollouts import replicas, services
from aurora_web.rollouts.models import Alert, Replica

pytestmark = pytest.mark.django_db
PAGES = ("", "versions/", "domains/", "traces/", "replicas/", "economics/", "settings/")


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def two(target, observed):
    for name in ("r1", "r2"):
        replicas.observe(observed(replica=name))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_a_target_says_that_nothing_reports(two, clients, page):
    Replica.objects.update(is_alive=False)
    found = text(clients["viewer"].get(f"/targets/demo/{page}"))
    assert "<strong>No replica reports.</strong> r2 was seen last" in found
    assert "every figure here is of the time before" in found


def test_figures_are_marked_as_stale_and_fresh_again(two, clients):
    Replica.objects.update(is_alive=False)
    assert 'class="figures tiles stale"' in text(clients["viewer"].get("/targets/demo/parts/?part=figures"))
    card = text(clients["viewer"].get("/"))
    assert 'class="figures stale"' in card
    assert "last seen <time" in card
    Replica.objects.update(is_alive=True)
    assert "stale" not in text(clients["viewer"].get("/targets/demo/parts/?part=figures"))
    assert "last seen" not in text(clients["viewer"].get("/"))
    assert text(clients["viewer"].get("/targets/demo/standing/")) == ""


def test_one_of_two_that_is_down_is_named(two, clients):
    Replica.objects.filter(name="r2").update(is_alive=False)
    found = text(clients["viewer"].get("/targets/demo/standing/"))
    assert "1 of 2 replicas is down:</strong> r2 was seen" in found
    assert "stale" not in text(clients["viewer"].get("/targets/demo/parts/?part=figures"))


COUNTS = {"seconds": 15.0, "num_requests": 20, "num_failures": 0}
REPORT = {"slug": "demo", "last_failure": "", "problem": ""} | COUNTS


@pytest.fixture
def say(client, bearer):
    """The generator's report about the target."""

    def post(**changes):
        body = {"targets": [REPORT | changes, REPORT | {"slug": "nobody"}]}
        answer = client.post("/api/v1/ingest/traffic", body, content_type="application/json", **bearer("replica"))
        assert (answer.status_code, answer.json()) == (200, {"kept": 1})

    return post


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_a_target_says_that_its_demo_traffic_fails(two, clients, say, page):
    Target.objects.update(traffic_enabled=True)
    say(num_requests=0, num_failures=114, last_failure="ValueError Total of weights must be finite")
    found = text(clients["viewer"].get(f"/targets/demo/{page}"))
    assert "<strong>No demo traffic arrives:</strong> 114 of 114 requests failed within 15 s; the last one:" in found
    assert "ValueError Total of weights must be finite. <a" in found


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({}, ""),
        ({"num_failures": 2, "last_failure": "HTTP 500"}, "is in trouble:</strong> 2 of 22 requests failed within"),
        ({"problem": "no plan"}, "is in trouble:</strong> its settings cannot be followed (no plan)"),
    ],
)
def test_the_newest_report_of_demo_traffic_counts(two, clients, say, report, said):
    Target.objects.update(traffic_enabled=True)
    say(num_failures=7)
    say(**report)
    found = text(clients["viewer"].get("/targets/demo/standing/"))
    assert said in found if said else found == ""
    Target.objects.update(traffic_enabled=False)
    assert text(clients["viewer"].get("/targets/demo/standing/")) == ""


@pytest.fixture
def long_ago(monkeypatch):
    """Console and target have been there for an hour."""
    monkeypatch.setattr(outage, "_in_order_since", time.monotonic() - 3600)
    Target.objects.update(traffic_enabled=True, created_at=timezone.now() - timedelta(hours=1))


def test_a_generator_that_does_not_report_is_told(two, clients, say, long_ago):
    assert "its generator has not reported to this console" in text(clients["viewer"].get("/targets/demo/standing/"))
    say()
    TrafficReport.objects.update(at=timezone.now() - timedelta(minutes=2))
    found = text(clients["viewer"].get("/targets/demo/standing/"))
    assert "No demo traffic arrives:</strong> its generator has not reported since 20" in found
    Replica.objects.update(is_alive=False)
    assert "demo traffic" not in text(clients["viewer"].get("/targets/demo/standing/"))


@pytest.mark.parametrize("before", [{}, {"at": timedelta(hours=2)}])
def test_a_generator_that_could_not_report_yet_is_no_trouble(two, clients, say, long_ago, before):
    """After a start, after an outage, and of a target that is new."""
    if before:
        say()
        TrafficReport.objects.update(at=timezone.now() - before["at"])

    def found():
        return text(clients["viewer"].get("/targets/demo/standing/"))

    assert "No demo traffic arrives" in found()
    outage.note()
    assert found() == ""
    outage._in_order_since -= 61
    assert "No demo traffic arrives" in found()
    Target.objects.update(created_at=timezone.now())
    assert found() == ""


def test_a_target_that_the_generator_leaves_out_is_told(two, target, clients, say, long_ago):
    say()
    ago = timezone.now() - timedelta(hours=1)
    other = copied(target, slug="other", created_at=ago, traffic_enabled=True)
    Replica.objects.update(target=other)
    found = text(clients["viewer"].get("/targets/other/standing/"))
    assert "Demo traffic is in trouble:</strong> its generator reports, but not of this target: start python" in found
    TrafficReport.objects.create(target=other, at=ago, **COUNTS)
    assert "but since 20" in text(clients["viewer"].get("/targets/other/standing/"))
    Target.objects.update(created_at=timezone.now())
    assert text(clients["viewer"].get("/targets/other/standing/")) == ""


def test_a_report_about_many_targets_is_kept_at_once(target, django_assert_num_queries):
    for number in range(9):
        copied(target, slug=f"t{number}")
    slugs = [*(f"t{number}" for number in range(9)), "demo", "demo", "nobody"]
    for num_failures in (1, 2):
        with django_assert_num_queries(2):
            assert keep([REPORT | {"slug": slug, "num_failures": num_failures} for slug in slugs]) == 10
    found = TrafficReport.objects.all()
    assert {report.num_failures for report in found} == {2}
    assert len({report.at for report in found}) == 1


def test_the_live_page_of_servers_of_ones_own_says_it_too(two, clients, say):
    Target.objects.update(traffic_enabled=True, source="sglang")
    say(num_failures=3, last_failure="HTTP 500: no")
    found = text(clients["viewer"].get("/targets/demo/"))
    assert found.count("3 of 23 requests failed within 15 s; the last one: HTTP 500: no.") == 1


def test_rolling_back_is_offered_for_targets_that_can(two, clients, make_version, report):
    operator = clients["operator"]
    assert "Nothing to roll back to" in text(operator.get("/rollback/"))
    services.judge(make_version())
    assert "Nothing to roll back to" in text(operator.get("/rollback/"))  # v1 has no predecessor
    services.judge(make_version(report({"sql": (2.0, 1.0)})))
    found = text(operator.get("/rollback/"))
    assert "v2 goes out of service and <strong>v1</strong> comes back on 2 replicas" in found
    assert 'href="/rollback/"' in text(operator.get("/help/"))
    assert 'href="/rollback/"' not in text(clients["viewer"].get("/help/"))
    done = operator.post("/targets/demo/rollback/", {"to": "1", "reason": "slow"}, follow=True)
    assert "Rolled back." in text(done)
    assert SpeculatorVersion.objects.get(status=Status.LIVE).number == 1
    assert "Nothing to roll back to" in text(operator.get("/rollback/"))


def test_a_rollback_without_replicas_says_so(two, clients, make_version, report):
    services.judge(make_version())
    services.judge(make_version(report({"sql": (2.0, 1.0)})))
    Replica.objects.update(is_alive=False)
    assert "every replica that reports again; none does now" in text(clients["operator"].get("/targets/demo/rollback/"))


def copied(row, **changes):
    """Another row like this one."""
    return type(row).objects.create(
        **{f.attname: getattr(row, f.attname) for f in row._meta.concrete_fields if not f.primary_key} | changes
    )


def test_fifty_targets_that_can_go_back_are_found_by_few_questions(
    target, observed, clients, make_version, report, django_assert_max_num_queries
):
    replicas.observe(observed())
    services.judge(make_version())
    services.judge(make_version(report({"sql": (2.0, 1.0)})))
    [went] = Transition.objects.filter(old=Status.LIVE)
    alert = Alert(rule="capture_broken", state="firing", detail="why", since=timezone.now())
    for number in range(50):
        other = copied(target, slug=f"t{number}")
        old, _ = (copied(version, target_id=other.pk) for version in target.versions.order_by("number"))
        copied(went, version_id=old.pk)
        copied(alert, target_id=other.pk)
    copied(target, slug="alone")
    clients["operator"].get("/rollback/")
    with django_assert_max_num_queries(12):
        found = text(clients["operator"].get("/rollback/"))
    assert found.count("<strong>v1</strong> comes back on") == 51
    assert found.count("</strong> why</p>") == 50
    assert found.index('id="way-t49"') < found.index('id="way-demo"')  # those with alerts first
    assert "alone" not in found
