"""The inbox, one decision, who may make it, what has gone stale, and how long a swap takes."""

import json
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent, User
from aurora_web.registry import services as registry
from aurora_web.registry.models import SpeculatorVersion, Status, Target
from aurora_web.registry.services import find_version
from aurora_web.rollouts import intent, replicas, services
from aurora_web.rollouts.approvals import StaleJudgement
from aurora_web.rollouts.models import GateDecision, Swap
from aurora_web.training.models import SliceState, TrainingRun, TrainingSlice
from tests.unit.aurora_web.rollouts.conftest import canary, judged, measured, report_in  # noqa: F401  # fixtures

pytestmark = pytest.mark.django_db
BODY = {"data": "{}", "content_type": "application/json"}


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def waiting(target, judged, report):  # noqa: F811
    """v1 live, v2 and v3 wait for a person."""
    Target.objects.update(approval="manual")
    target.refresh_from_db()
    judged()
    judged(report({"sql": (2.0, 1.5), "prose": (1.4, 1.5)}))
    judged(report({"sql": (3.0, 1.5)}))
    return [SpeculatorVersion.objects.get(number=n) for n in (2, 3)]


def approve_path(version):
    return f"/targets/demo/versions/{version.number}/approve/"


def test_an_empty_inbox_says_what_will_be_here(clients, target):
    assert "Nothing waits" in text(clients["viewer"].get("/approvals/"))


def test_the_inbox_shows_gain_and_worst_domain_and_who_may(clients, waiting):
    page = text(clients["operator"].get("/approvals/"))
    assert "2 wait, longest first" in page
    assert "prose −6.7 %" in page
    assert page.index("demo v2") < page.index("demo v3")
    assert 'Approve<span class="hidden"> v2 of demo' in page
    seen = text(clients["viewer"].get("/approvals/"))
    assert "Operators decide." in seen
    assert "Approve<span" not in seen
    assert "Nothing matches" in text(clients["viewer"].get("/approvals/?target=other"))


@pytest.mark.parametrize(
    ("page", "label"),
    [("/approvals/", "approve v3 of demo"), ("/targets/demo/", "approve v3"), ("/approvals/{}/", "")],
    ids=["inbox", "live page", "decision"],
)
def test_whoever_approves_may_say_why(clients, waiting, page, label):
    shown = text(clients["operator"].get(page.format(waiting[1].pk)))
    [form] = re.findall(rf'<form method="post" action="{approve_path(waiting[1])}".*?</form>', shown)
    assert 'name="reason"' in form and (not label or f'aria-label="Reason: {label}"' in form)
    clients["operator"].post(approve_path(waiting[1]), {"expected_status": "passed", "reason": "to be faster by noon"})
    assert AuditEvent.objects.get(action="version.approve").reason == "to be faster by noon"


def test_a_canary_is_promoted_with_a_reason_from_the_inbox(clients, canary):  # noqa: F811
    assert 'aria-label="Reason: promote v3 of demo"' in text(clients["operator"].get("/approvals/"))


def test_declining_asks_why_and_says_what_it_means(clients, waiting):
    second, _ = waiting
    inbox = text(clients["operator"].get("/approvals/"))
    assert f'href="/approvals/{second.pk}/#decline">Decline…' in inbox
    assert "/reject/" not in inbox  # not by one click
    live = text(clients["operator"].get("/targets/demo/"))
    assert "/reject/" not in live and f'/approvals/{waiting[0].pk}/#decline"' in live
    page = text(clients["operator"].get(f"/approvals/{second.pk}/"))
    assert "v2 then serves nowhere and cannot be taken up again" in page
    said = {"reason": "prose got worse", "expected_status": "passed", "back": "approval"}
    clients["operator"].post("/targets/demo/versions/2/reject/", said)
    later = text(clients["operator"].get(f"/approvals/{second.pk}/"))
    assert "v2 is rejected, by operator" in later
    assert "prose got worse" in later


def test_the_link_of_a_version_that_was_set_aside_leads_to_what_waits(clients, waiting):
    second, third = waiting
    registry.transition(second, Status.PASSED, Status.REJECTED, "5 newer versions wait for approval", "policy")
    page = text(clients["operator"].get(f"/approvals/{second.pk}/"))
    assert "v2 is rejected, by policy" in page
    assert "5 newer versions wait for approval" in page
    assert f'<a href="/approvals/{third.pk}/">v3</a>: +100.0 % accept length against v1' in page


def test_two_clicks_from_a_mail_to_a_decision(clients, waiting):
    first, _ = waiting
    page = text(clients["operator"].get(f"/approvals/{first.pk}/"))
    assert "Approving puts v2 into service in place of v1" in page
    for word in ("Better", "Pass", "Accept rate", "Not judged"):
        assert word in page
    given = {"expected_status": "passed", "back": "approval", "reason": "by mail"}
    answer = clients["operator"].post(approve_path(first), given, follow=True)
    assert answer.redirect_chain[-1][0] == f"/approvals/{first.pk}/"
    assert "It is live" in text(answer)
    assert "Roll back to v1" in text(answer)


def test_approving_says_which_older_versions_it_sets_aside(clients, waiting):
    older, newer = waiting
    said = "v2, which waits too and is older, is set aside with it and cannot come back."
    assert said in text(clients["operator"].get(f"/approvals/{newer.pk}/"))
    assert "set aside with it" not in text(clients["operator"].get(f"/approvals/{older.pk}/"))


def test_a_decision_in_the_inbox_comes_back_to_the_inbox(clients, waiting):
    path = "/targets/demo/versions/3/reject/"
    answer = clients["operator"].post(path, {"expected_status": "passed", "back": "inbox"}, follow=True)
    assert answer.redirect_chain[-1][0] == "/approvals/"
    assert "v3 is rejected." in text(answer)


def test_the_inbox_costs_the_same_queries_for_many(clients, waiting, target):
    def ask():
        with CaptureQueriesContext(connection) as queries:
            assert clients["viewer"].get("/approvals/").status_code == 200
        return len(queries)

    few = ask()
    now = timezone.now()
    rows = SpeculatorVersion.objects.bulk_create(
        SpeculatorVersion(
            target=target, number=n, status=Status.PASSED, uri="/x", sha256=f"{n:064x}", size_bytes=1, created_at=now
        )
        for n in range(10, 50)
    )
    GateDecision.objects.bulk_create(
        GateDecision(version=row, passed=True, reasons=["Good."], domains=[], policy={}, gain=0.1) for row in rows
    )
    assert ask() == few <= 9


def test_only_admins_where_the_policy_says_so(clients, waiting, client, bearer):
    Target.objects.update(approvers="admin")
    first, second = waiting
    page = text(clients["operator"].get(f"/approvals/{first.pk}/"))
    assert "You may not approve: on demo only an admin may approve." in page
    assert "Approve<span" not in page
    refused = clients["operator"].post(approve_path(first), {"expected_status": "passed"})
    assert refused.status_code == 403
    assert "On demo only an admin may approve" in text(refused)
    answer = client.post(f"/api/v1/versions/{first.pk}/approve", **BODY, **bearer("operator"))
    assert (answer.status_code, answer.json()["detail"]) == (403, "on demo only an admin may approve")
    assert find_version(first.target, "@live").number == 1
    assert clients["admin"].post(approve_path(second), {"expected_status": "passed"}).status_code == 302
    assert find_version(first.target, "@live").number == 3


def test_own_requests_where_the_policy_says_no(clients, waiting):
    Target.objects.update(may_approve_own=False)
    first, _ = waiting
    clients["operator"].post(f"/approvals/{first.pk}/judge/", {"reason": "to be sure"})
    refused = clients["operator"].post(approve_path(first), {"expected_status": "passed"})
    assert refused.status_code == 403
    assert "somebody else has to approve it" in text(refused)
    clients["admin"].post(approve_path(first), {"expected_status": "passed"})
    assert find_version(first.target, "@live") == first


@pytest.fixture
def asked_for(target, waiting):
    """v2 is of the slice that ``operator`` asked for by "train now"."""
    run = TrainingRun.objects.create(target=target)
    TrainingSlice.objects.create(run=run, state=SliceState.DONE, version=waiting[0], requested_by="operator")
    return waiting[0]


def test_what_somebody_had_trained_now_is_that_persons_own(clients, client, bearer, asked_for):
    Target.objects.update(may_approve_own=False)
    refused = clients["operator"].post(approve_path(asked_for), {"expected_status": "passed"})
    assert refused.status_code == 403
    assert "Operator asked for demo v2: on demo somebody else has to approve it" in text(refused)
    services.judge_again(asked_for, "policy")  # is nobody's wish
    assert clients["operator"].post(approve_path(asked_for), {"expected_status": "passed"}).status_code == 403
    clients["admin"].post(approve_path(asked_for), {"expected_status": "passed"})
    assert find_version(asked_for.target, "@live") == asked_for


def test_whose_request_a_version_is_stands_where_it_is_decided(clients, client, bearer, asked_for, waiting):
    inbox = text(clients["viewer"].get("/approvals/"))
    assert inbox.count("asked for by operator") == 1
    said = "Asked for by <strong>operator</strong>."
    assert said in text(clients["viewer"].get(f"/approvals/{asked_for.pk}/"))
    assert "Asked for by nobody: it came by itself." in text(clients["viewer"].get(f"/approvals/{waiting[1].pk}/"))
    assert "<dt>Asked for by</dt><dd>operator</dd>" in text(clients["viewer"].get("/targets/demo/versions/2/"))
    found = client.get("/api/v1/approvals?state=waiting", **bearer("viewer")).json()
    assert [line["requested_by"] for line in found] == ["operator", ""]


def test_a_registered_draft_is_its_registrar_s_own(waiting):
    from aurora_web.rollouts.approvals import requester

    first, _ = waiting
    assert requester(first, None) == ""
    first.provenance = {"imported_from": "/drafts/x"}
    assert requester(first, None) == "test"  # who registered the target


def test_a_stale_verdict_is_refused_and_judged_again(clients, waiting, client, bearer):
    first, second = waiting
    services.approve(first, "ada")  # v2 goes live; v3 was judged against v1
    with pytest.raises(StaleJudgement, match="judged against v1, but v2 is live now"):
        services.approve(second, "bob", "", "passed")
    answer = client.post(f"/api/v1/versions/{second.pk}/approve", **BODY, **bearer("operator"))
    assert answer.status_code == 409
    assert answer["content-type"] == "application/problem+json"
    page = clients["operator"].post(approve_path(second), {"expected_status": "passed"}, follow=True)
    assert page.redirect_chain[-1][0] == f"/approvals/{second.pk}/"
    for said in ("Look again", "judged against v1, but v2 is live now", "Judge again"):
        assert said in text(page)
    assert "look again" in text(clients["viewer"].get("/approvals/"))
    page = text(clients["operator"].post(f"/approvals/{second.pk}/judge/", follow=True))
    assert "v3 passed again." in page
    assert 'against <a href="/targets/demo/versions/2/">v2</a>, judged again for operator' in page
    decision = GateDecision.objects.get(version=second)
    assert (decision.live_number, round(decision.domains[0]["live_accept_length"], 3)) == (2, 2.0)  # v2's own replay
    event = AuditEvent.objects.get(action="version.judge")
    assert (event.detail["old"]["live"], event.detail["new"]["live"]) == (1, 2)
    services.approve(second, "bob", "", "passed")
    assert find_version(second.target, "@live") == second


def test_judged_again_and_not_good_enough_is_rejected(target, judged, report, client, bearer):  # noqa: F811
    Target.objects.update(approval="manual")
    target.refresh_from_db()
    judged()
    better, worse = judged(report({"sql": (3.0, 1.0)})), judged(report({"sql": (2.0, 1.0)}))
    services.approve(better, "ada")
    answer = client.post(f"/api/v1/versions/{worse.pk}/judge", **BODY, **bearer("operator"))
    assert answer.status_code == 200
    assert answer.json()["passed"] is False
    assert SpeculatorVersion.objects.get(pk=worse.pk).status == Status.REJECTED
    again = client.post(f"/api/v1/versions/{worse.pk}/judge", **BODY, **bearer("operator"))
    assert again.status_code == 409


def test_the_inbox_is_in_the_api(client, bearer, waiting):
    found = client.get("/api/v1/approvals?state=waiting", **bearer("viewer")).json()
    assert [line["number"] for line in found] == [2, 3]
    assert found[0]["worst_domain"]["domain"] == "prose"
    assert found[0]["path"] == f"/approvals/{waiting[0].pk}/"
    assert client.get("/api/v1/approvals?state=odd", **bearer("viewer")).status_code == 422


def test_the_policy_is_changed_by_admins(client, bearer, target):
    change = {"data": json.dumps({"approvers": "admin", "may_approve_own": False}), "content_type": "application/json"}
    assert client.patch("/api/v1/targets/demo", **change, **bearer("operator")).status_code == 403
    answer = client.patch("/api/v1/targets/demo", **change, **bearer("admin")).json()
    assert (answer["approvers"], answer["may_approve_own"]) == ("admin", False)
    change["data"] = json.dumps({"approvers": "everybody"})
    assert client.patch("/api/v1/targets/demo", **change, **bearer("admin")).status_code == 422


def test_a_rollback_is_timed_until_every_replica_runs_it(clients, target, judged, report, report_in):  # noqa: F811
    judged()
    judged(report({"sql": (2.0, 1.0)}))
    report_in("r1", "r2")
    answer = clients["operator"].post("/targets/demo/rollback/", {"to": "1", "reason": "odd"}, follow=True)
    assert answer.redirect_chain[-1][0] == "/targets/demo/swaps/3/"
    page = text(answer)
    assert "0 of 2 replicas so far, waiting for r1, r2" in page
    assert "Held after a rollback" in page
    Swap.objects.filter(generation=3).update(at=timezone.now() - timedelta(seconds=2))
    report_in("r1", state="swapping")  # is not there yet
    assert "0 of 2 replicas so far" in text(clients["viewer"].get("/targets/demo/swaps/3/"))
    report_in("r1")
    assert "1 of 2 replicas so far, waiting for r2" in text(clients["viewer"].get("/targets/demo/swaps/3/"))
    report_in("r2")
    report_in("r2")
    page = text(clients["viewer"].get("/targets/demo/swaps/3/"))
    assert "all 2 replicas after 2." in page
    swap = Swap.objects.get(generation=3)
    assert (swap.kind, swap.old_number, swap.number, swap.actor) == ("rollback", 2, 1, "operator")
    assert swap.arrivals.count() == 2


def test_swaps_are_in_the_api(client, bearer, target, judged, report_in):  # noqa: F811
    judged()
    report_in("r1")
    [found] = client.get("/api/v1/targets/demo/swaps", **bearer("viewer")).json()
    assert (found["kind"], found["from"], found["to"], found["expected"]) == ("promote", 0, 1, [])
    assert client.get("/api/v1/targets/demo/swaps/9", **bearer("viewer")).status_code == 404
    assert client.get("/api/v1/targets/demo/swaps?limit=0", **bearer("viewer")).status_code == 422


def test_replicas_of_every_target_at_a_constant_cost(clients, target, judged, report_in, checkpoint_dir):  # noqa: F811
    from aurora_web.registry.services import register_target

    def ask():
        with CaptureQueriesContext(connection) as queries:
            page = text(clients["viewer"].get("/replicas/"))
        return len(queries), page

    assert "No replica has reported yet" in ask()[1]
    judged()
    report_in("r1")
    few, page = ask()
    assert "1 of 1" in page
    register_target(path=str(checkpoint_dir), actor="test", slug="other")
    report_in(*(f"r{i}" for i in range(2, 12)))
    lots, page = ask()
    assert lots == few <= 8
    assert "11 of 11" in page
    assert intent.desired_state(target).version == 1


def test_replicas_show_every_rank_and_can_be_narrowed(clients, target, judged, report_in, client, bearer):  # noqa: F811
    version = judged()
    report_in("r1", ranks=(version.sha256, "b" * 64))
    report_in("r2", ranks=(version.sha256, version.sha256), target_sha256="c" * 64)
    page = text(clients["viewer"].get("/targets/demo/replicas/"))
    for said in ("rank 1 holds something else", '<span class="badge bad">differs</span>', "proved on all 2 ranks"):
        assert said in page
    narrowed = text(clients["viewer"].get("/targets/demo/replicas/?state=unproved"))
    assert "rank 1 holds something else" in narrowed
    assert "proved on all 2 ranks" not in narrowed
    assert "No replica matches" in text(clients["viewer"].get("/replicas/?q=nothing"))
    found = client.get("/api/v1/replicas", **bearer("viewer")).json()
    assert [(each["target"], each["name"], each["is_proven"]) for each in found] == [
        ("demo", "r1", False), ("demo", "r2", True),
    ]  # fmt: skip


def test_an_old_report_is_marked_as_stale(clients, target, judged, report_in):  # noqa: F811
    judged()
    report_in("r1")
    assert '<span class="badge warn">stale</span>' not in text(clients["viewer"].get("/targets/demo/replicas/"))
    target.replicas.update(seen_at=timezone.now() - timedelta(minutes=2))
    page = text(clients["viewer"].get("/targets/demo/replicas/"))
    assert '<tr class="stale">' in page
    assert "2 min ago" in page or "120 s ago" in page
    replicas.reconcile(timezone.now())
    assert "catches up when it reports" in text(clients["viewer"].get("/replicas/?state=down"))


def test_a_canary_is_promoted_or_aborted_from_its_page(clients, canary):  # noqa: F811
    page = text(clients["operator"].get(f"/approvals/{canary.pk}/"))
    for said in ("Canary against v2", "the policy asks for 40 on either side", "Promote<span", "Abort the canary v3<"):
        assert said in page
    assert "Promote<span" not in text(clients["viewer"].get(f"/approvals/{canary.pk}/"))
    inbox = text(clients["operator"].get("/approvals/?state=canary"))
    assert f'href="/approvals/{canary.pk}/#abort">Abort…' in inbox
    assert "/abort/" not in inbox  # not by one click
    assert re.search(r"since \d+ s ago", text(clients["viewer"].get("/approvals/?state=canary")))
    Target.objects.update(approvers="admin")
    given = {"expected_status": "canary", "back": "approval"}
    assert clients["operator"].post("/targets/demo/versions/3/promote/", given).status_code == 403
    answer = clients["operator"].post("/targets/demo/versions/3/abort/", given, follow=True)
    assert answer.redirect_chain[-1][0] == f"/approvals/{canary.pk}/"
    assert "v3 is rolled back, by operator" in text(answer)
    assert Swap.objects.order_by("-generation")[0].kind == "end_canary"


def panel(browser):
    """The canary's part of the live page."""
    return text(browser.get("/targets/demo/parts/?part=canary"))


@pytest.mark.parametrize("path", ["/targets/demo/parts/?part=canary", "/approvals/{}/"])
def test_how_far_a_canary_has_come_is_drawn_with_names(clients, canary, measured, path):  # noqa: F811
    Target.objects.update(canary_min_requests=100)
    measured(0.01, 0.01)
    page = text(clients["viewer"].get(path.format(canary.pk)))
    bars = re.findall(
        r'<label for="(canary-\w+)">([\w ]+)</label> <progress id="(\S+)" value="(\S+)" max="(\S+)"></progress> '
        r"(\S+ of \S+)</span>",
        page,
    )
    minutes, *requests = bars
    assert (minutes[:3], minutes[4]) == (("canary-minutes", "Minutes", "canary-minutes"), "5")
    assert 1.6 < float(minutes[3]) < 5 and minutes[5] == f"{minutes[3]} of 5"
    assert requests == [
        ("canary-requests", "Requests on the canary", "canary-requests", "60", "100", "60 of 100"),
        ("canary-others", "Requests on the others", "canary-others", "60", "100", "60 of 100"),
    ]
    Target.objects.update(canary_min_requests=40)
    assert 'value="40" max="40"></progress> 60 of 40' in text(clients["viewer"].get(path.format(canary.pk)))


@pytest.mark.parametrize("seen", [panel, lambda browser: text(browser.get("/targets/demo/"))], ids=["part", "page"])
def test_the_live_page_ends_no_canary_by_one_click_and_offers_what_the_policy_lets(clients, canary, seen):  # noqa: F811
    Target.objects.update(approvers="admin")
    pages = {role: seen(clients[role]) for role in ("viewer", "operator", "admin")}
    assert [role for role, page in pages.items() if "versions/3/promote/" in page] == ["admin"]
    assert [role for role, page in pages.items() if "only an admin may approve" in page] == ["operator"]
    for role, page in pages.items():
        ends = re.findall(r'(<details>(?:(?!</details>).)*)?action="/targets/demo/versions/3/abort/"', page)
        assert len(ends) == (role != "viewer")
        assert all("<summary>Abort…" in fold for fold in ends)  # a second click, behind what it means


def test_what_one_operator_may_do_about_a_canary_is_shown_to_no_other(clients, canary, users, settings):  # noqa: F811
    settings.SHARED_SECONDS = 600.0
    Target.objects.update(may_approve_own=False)
    GateDecision.objects.update(requested_by="olga")
    olga = Client()
    olga.force_login(User.objects.create(username="olga", role="operator"))
    refused = "olga asked for demo v3"
    assert [refused in panel(each) for each in (olga, clients["operator"], olga)] == [True, False, True]
    assert ["/promote/" in panel(each) for each in (olga, clients["operator"])] == [False, True]


def test_the_live_page_offers_no_approval_that_the_policy_refuses(clients, waiting):
    Target.objects.update(approvers="admin")
    pages = {role: text(clients[role].get("/targets/demo/")) for role in ("viewer", "operator", "admin")}
    assert [role for role, page in pages.items() if "versions/3/approve/" in page] == ["admin"]
    assert [role for role, page in pages.items() if f'/approvals/{waiting[1].pk}/">Look again' in page] == ["operator"]
