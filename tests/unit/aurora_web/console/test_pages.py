"""What the pages say, with data and without; what the buttons do."""

import re

import pytest
from django.utils.html import escape

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.rollouts import intent, replicas, services, watching
from aurora_web.traces import domains
from aurora_web.traces.models import DomainRule
from speculators.records import NO_DRAFT
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def passed(target, make_version, report):
    """v1 live, v2 passed and waiting for a person."""
    Target.objects.update(approval="manual")
    services.judge(make_version())
    version = make_version(report({"sql": (2.0, 1.5), "prose": (1.4, 1.5)}))
    services.judge(version)
    return SpeculatorVersion.objects.get(pk=version.pk)


def test_an_empty_overview_says_what_to_do(clients):
    assert "Register a target" in text(clients["operator"].get("/"))
    assert "Ask an operator" in text(clients["viewer"].get("/"))


def test_the_overview_shows_measured_figures_and_what_waits(clients, passed, observed):
    replicas.observe(observed())
    windows = [count_window(seconds=0.5), count_window(version=0, seconds=1.0)]
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    page = text(clients["viewer"].get("/"))
    assert "2.00×" in page
    assert "1 to approve" in page
    assert "1 replica serving" in page


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/targets/demo/versions/compare/?v=1&v=2", "figures of"),
        ("/rollback/", "as of"),
        ("/targets/demo/rollback/", "as of"),
        ("/audit/", "as of"),
    ],
)
def test_a_page_that_does_not_follow_says_of_when_it_is(clients, users, passed, path, said):
    users["admin"].time_zone = "Asia/Tokyo"
    users["admin"].save()
    page = text(clients["admin"].get(path))
    assert re.search(rf'<p class="live">{said} \d\d:\d\d:\d\d JST</p>', page)
    assert 'id="live"' not in page


def test_a_target_without_data_says_so(clients, target):
    page = text(clients["viewer"].get("/targets/demo/"))
    assert "No engine has reported yet" in page
    assert "No request has finished in this time" in page
    assert "0 control blocks" not in page


def test_without_a_live_version_the_figures_have_what_is_decoded_meanwhile(clients, target):
    metrics.ingest_counts({"counts": [count_window(version=NO_DRAFT, lookahead=0).to_json()]})
    metrics.roll_up()
    page = text(clients["viewer"].get("/targets/demo/parts/?part=figures"))
    assert "no request has finished in this time" not in page
    assert "no version is live" in page and "(20 requests, 0 control blocks)" in page


def test_the_target_page_shows_versions_and_the_reasons(clients, passed):
    page = text(clients["viewer"].get("/targets/demo/"))
    assert "v2" in page
    assert "held-out traces" in page
    assert "Approve" not in page  # a viewer
    assert "Approve" in text(clients["operator"].get("/targets/demo/"))


def test_the_version_page_shows_the_replay_per_domain(clients, passed):
    page = text(clients["viewer"].get("/targets/demo/versions/2/"))
    for expected in ("+33.3 %", "−6.7 %", "Better", "Pass", passed.sha256):
        assert expected in page


def test_approve_and_roll_back_by_buttons(clients, passed):
    operator = clients["operator"]
    answer = operator.post(
        "/targets/demo/versions/2/approve/", {"expected_status": "passed", "reason": "fine"}, follow=True
    )
    assert "v2 goes live" in text(answer)
    assert "v2 goes out of service and <strong>v1</strong>" in text(operator.get("/targets/demo/rollback/"))
    answer = operator.post("/targets/demo/rollback/", {"to": "1", "reason": "odd"}, follow=True)
    assert "Held after a rollback" in text(answer)
    assert intent.desired_state(Target.objects.get()).version == 1
    assert "The policy decides again" in text(operator.post("/targets/demo/resume/", follow=True))


def test_a_decision_made_by_somebody_else_meanwhile_is_told(clients, passed):
    services.reject(passed, "bob")
    answer = clients["operator"].post("/targets/demo/versions/2/approve/", {"expected_status": "passed"}, follow=True)
    assert "Nothing was changed: demo v2 is rejected, not passed any more" in text(answer)


def test_traffic_settings_are_read_and_refused_in_words(clients, target):
    operator = clients["operator"]
    form = {
        "form": "traffic", "traffic_enabled": "on", "traffic_concurrency": "3", "traffic_requests_per_second": "0",
        "traffic_mix": "sql=2, chat", "traffic_max_tokens": "64", "traffic_sampled_share": "0.5",
        "traffic_schedule": '[{"seconds": 60, "mix": {"sql": 1}}]',
    }  # fmt: skip
    assert operator.post("/targets/demo/settings/", form).status_code == 302
    found = Target.objects.get()
    assert (found.traffic_mix, found.traffic_schedule[0]["seconds"]) == ({"sql": 2.0, "chat": 1.0}, 60)
    answer = operator.post("/targets/demo/settings/", form | {"traffic_mix": "sql=much"})
    assert answer.status_code == 422
    assert "expected domain=weight" in text(answer)
    phase = '[{"seconds": 60, "mix": {"poetry": 1}}]'
    for wrong in ({"traffic_mix": "poetry=1"}, {"traffic_schedule": phase}):
        answer = operator.post("/targets/demo/settings/", form | wrong)
        assert answer.status_code == 422
        assert "there are no prompts of it; known are explain_code" in text(answer)
    assert Target.objects.get().traffic_mix == {"sql": 2.0, "chat": 1.0}
    assert operator.post("/targets/demo/settings/", {"form": "policy"}).status_code == 403


FORMS = {
    "traffic": {
        "form": "traffic", "traffic_concurrency": "3", "traffic_requests_per_second": "0", "traffic_mix": "sql=2",
        "traffic_max_tokens": "64", "traffic_sampled_share": "0.5", "traffic_schedule": "[]",
    },
    "policy": {
        "form": "policy", "name": "Demo", "approval": "automatic", "approvers": "operator", "expected_domains": "",
        "trace_days": "", "min_gain": "0.01", "domain_tolerance": "0.1", "min_held_out_traces": "4",
        "slice_seconds": "8", "control_share": "0.02", "max_lookahead": "4", "min_accept_length": "0",
        "canary_share": "0", "canary_minutes": "5", "canary_min_requests": "50", "is_active": "on",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("which", "change", "said"),
    [
        ("traffic", {"traffic_mix": "sql=1e308, chat=1e308"}, "sql is 1e+308: expected 0 to 1,000,000"),
        ("traffic", {"traffic_mix": "chat=1, sql=nan"}, "the weight of sql is NaN: expected 0 to 1,000,000"),
        ("traffic", {"traffic_schedule": '"chat"'}, "&quot;chat&quot; is no phase: expected {&quot;seconds&quot;: 120"),
        ("traffic", {"traffic_schedule": "5"}, "5 is no phase: expected"),
        ("traffic", {"traffic_schedule": r'"\ud800"'}, "Enter a valid JSON."),
        ("traffic", {"traffic_schedule": "[" * 100_000}, "Enter a valid JSON."),
        ("policy", {"min_gain": "-5"}, "greater than or equal to -0.5"),
        ("policy", {"min_gain": "1e9"}, "less than or equal to 10.0"),
        ("policy", {"min_accept_length": "18"}, "less than or equal to 17.0"),
        ("policy", {"expected_domains": "sql, prosé, 日本語"}, "&#x27;日本語&#x27;: no request can have such a name."),
        ("policy", {"expected_domains": "sql, sql"}, "&quot;sql&quot; is there more than once"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused_in_the_forms_own_words(clients, target, which, change, said):
    admin = clients["admin"]
    answer = admin.post("/targets/demo/settings/", FORMS[which] | change)
    assert answer.status_code == 422
    assert said in text(answer)
    assert admin.post("/targets/demo/settings/", FORMS[which]).status_code == 302


def test_what_was_kept_before_there_were_bounds_stands_in_nobodys_way(clients, target):
    Target.objects.update(min_gain=-5, min_accept_length=20, expected_domains=["prosé", "a, b"])
    operator, admin = clients["operator"], clients["admin"]
    assert operator.post("/targets/demo/settings/", FORMS["traffic"]).status_code == 302
    assert Target.objects.get().traffic_concurrency == 3
    form = FORMS["policy"] | {"min_gain": "-5.0", "min_accept_length": "20.0", "expected_domains": "prosé, a, b"}
    assert admin.post("/targets/demo/settings/", form | {"approval": "manual"}).status_code == 302
    found = Target.objects.get()
    assert (found.approval, found.min_gain, found.min_accept_length) == ("manual", -5, 20)
    assert found.expected_domains == ["prosé", "a, b"]
    answer = admin.post("/targets/demo/settings/", form | {"min_gain": "-6"})
    assert answer.status_code == 422 and text(answer).count('class="problem"') == 1


def test_demo_traffic_from_before_its_bounds_stands_in_nobodys_way(clients, target):
    mix, schedule = {"poetry": 1234567.0, "sql": 5e6}, [{"seconds": 60, "mix": {"poetry": 1}}]
    Target.objects.update(traffic_mix=mix, traffic_schedule=schedule, traffic_requests_per_second=1e6)
    shown = {"traffic_mix": "poetry=1.23457e+06, sql=5e+06", "traffic_requests_per_second": "1000000.0"}
    kept = '[{"seconds": 60, "mix": {"poetry": 1}}]'  # beside it the page has what it was
    form = FORMS["traffic"] | shown | {"traffic_schedule": kept, "initial-traffic_schedule": kept}
    assert clients["operator"].post("/targets/demo/settings/", form).status_code == 302
    found = Target.objects.get()
    assert (found.traffic_concurrency, found.traffic_mix, found.traffic_schedule) == (3, mix, schedule)


def test_only_new_names_of_expected_domains_are_judged(clients, bearer, target):
    Target.objects.update(expected_domains=["prosé"])
    form = FORMS["policy"] | {"expected_domains": "prosé, prose"}
    assert clients["admin"].post("/targets/demo/settings/", form).status_code == 302
    assert Target.objects.get().expected_domains == ["prosé", "prose"]
    answer = clients["admin"].post("/targets/demo/settings/", form | {"expected_domains": "prosé, café"})
    assert "&#x27;café&#x27;: no request can have such a name" in text(answer)

    def patch(names):
        body = {"expected_domains": names}
        return clients["admin"].patch("/api/v1/targets/demo", body, content_type="application/json", **bearer("admin"))

    assert patch(["prosé", "sql"]).json()["expected_domains"] == ["prosé", "sql"]
    refused = patch(["prosé", "café"])
    assert refused.status_code == 422 and "'café': no request" in refused.json()["detail"]


def test_expected_domains_may_be_what_a_rule_gives(clients, target):
    domains.add_rules(target, "exact", ["prose"], "Prosa", "ada")
    form = FORMS["policy"] | {"expected_domains": "sql, Prosa"}
    assert clients["admin"].post("/targets/demo/settings/", form).status_code == 302
    assert Target.objects.get().expected_domains == ["sql", "Prosa"]


@pytest.mark.parametrize("typed", ['"chat"', r'"\ud800"', "[[["])
def test_a_schedule_that_is_refused_is_kept_as_it_was_typed(clients, target, typed):
    answer = clients["operator"].post("/targets/demo/settings/", FORMS["traffic"] | {"traffic_schedule": typed})
    assert answer.status_code == 422
    assert f"> {escape(typed)}</textarea>" in text(answer)


def test_a_reason_is_kept_where_traffic_cannot_be_saved(clients, target):
    form = FORMS["traffic"] | {"traffic_mix": "sql=much", "reason": "the night shift"}
    assert 'value="the night shift"' in text(clients["operator"].post("/targets/demo/settings/", form))


def test_a_policy_that_asks_for_a_person_is_not_offered_the_decision_again(clients, passed):
    operator = clients["operator"]
    services.approve(passed, "ada")
    assert "as before, a version goes live only when a person approves it" in text(
        operator.get("/targets/demo/rollback/")
    )
    page = text(operator.post("/targets/demo/rollback/", {"to": "1"}, follow=True))
    assert "A person approves every version, as before" in page and "until somebody approves a version." in page
    live = text(operator.get("/targets/demo/"))
    assert "Held after a rollback" in live
    assert "Let the policy decide again" not in page + live
    Target.objects.update(approval="automatic")  # the hold goes on
    assert "Let the policy decide again" in text(operator.get("/targets/demo/"))


def test_activity_is_filtered_by_the_address(clients, passed):
    services.approve(passed, "ada", "because of the gain")
    page = text(clients["viewer"].get("/audit/?action=version.approve"))
    assert "because of the gain" in page
    assert "target.register" not in page.split("<tbody>")[1]
    assert "Nothing matches" in text(clients["viewer"].get("/audit/?actor=nobody"))


def test_pages_escape_what_came_from_outside(clients, make_version, report):
    services.judge(make_version())
    services.judge(make_version(report({"<script>alert(1)</script>": (2.0, 1.0)})))
    for path in ("/targets/demo/", "/targets/demo/versions/2/", "/audit/"):
        assert "<script>alert" not in text(clients["viewer"].get(path))


def test_headers_protect_the_pages(clients, target):
    answer = clients["viewer"].get("/targets/demo/")
    assert "default-src 'self'" in answer["content-security-policy"]
    assert answer["x-frame-options"] == "DENY"


def test_a_form_leads_back_to_its_page_as_it_was_filtered(clients, target):
    operator, switch = clients["operator"], "/targets/demo/training/pause/"
    came = {"HTTP_REFERER": "http://testserver/targets/demo/?range=3h&domain=sql"}
    assert operator.post(switch, **came)["location"] == "/targets/demo/?range=3h&domain=sql"
    assert operator.post(switch, HTTP_REFERER="http://testserver/?range=3h")["location"] == "/targets/demo/"
    pin = {"form": "pin", "domain": "sql", "lookahead": "2", "reason": "odd"}
    came = {"HTTP_REFERER": "http://testserver/targets/demo/domains/?range=7d&pin=sql"}
    assert operator.post("/targets/demo/domains/", pin, **came)["location"] == "/targets/demo/domains/?range=7d#pins"
    rule = {"kind": "exact", "pattern": "sql", "domain": "data"}
    came = {"HTTP_REFERER": "http://testserver/targets/demo/domains/?range=7d"}
    assert operator.post("/targets/demo/domains/", rule, **came)["location"] == "/targets/demo/domains/?range=7d#rules"
    end = f"/targets/demo/domains/rules/{DomainRule.objects.get().pk}/end/"
    assert operator.post(end, **came)["location"] == "/targets/demo/domains/?range=7d#rules"
    access = {"text_role": "admin", "reason": "private"}
    came = {"HTTP_REFERER": "http://testserver/targets/demo/traces/?domain=sql"}
    found = clients["admin"].post("/targets/demo/traces/access/", access, **came)["location"]
    assert found == "/targets/demo/traces/?domain=sql"
    silence = watching.silence("olga", 1, "known", target)
    came = {"HTTP_REFERER": "http://testserver/alerts/?target=demo"}
    assert operator.post(f"/alerts/silences/{silence.pk}/end/", **came)["location"] == "/alerts/?target=demo"
    came = {"HTTP_REFERER": "http://testserver/approvals/?target=demo"}
    refused = operator.post("/targets/demo/resume/", {"back": "inbox"}, **came)
    assert refused["location"] == "/approvals/?target=demo"


def test_a_change_of_policy_says_why(clients, bearer, target):
    body = {"min_gain": 0.05, "reason": "too many swaps"}
    answer = clients["admin"].patch("/api/v1/targets/demo", body, content_type="application/json", **bearer("admin"))
    assert (answer.status_code, answer.json()["min_gain"]) == (200, 0.05)
    told = AuditEvent.objects.get(action="target.settings")
    assert (told.reason, told.changes) == ("too many swaps", [("min_gain", target.min_gain, 0.05)])
    refused = clients["admin"].patch(
        "/api/v1/targets/demo", {"reason": 7}, content_type="application/json", **bearer("admin")
    )
    assert "reason is 7: expected text" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("role", "path", "said"),
    [
        ("viewer", "/rollback/", "Your role is viewer, and this is for operators and admins."),
        ("operator", "/accounts/people/", "Your role is operator, and this is for admins."),
    ],
)
def test_a_refused_page_says_whose_it_is_once_and_without_the_words_of_the_api(clients, target, role, path, said):
    answer = clients[role].get(path)
    assert answer.status_code == 403
    assert said in text(answer) and "scope" not in text(answer) and text(answer).count("Your role") == 1


def test_documents_of_the_api_lead_nobody_to_a_page_that_is_refused(clients, target):
    link = 'under <a href="/accounts/tokens/"'
    assert link in text(clients["admin"].get("/api/docs"))
    for role in ("viewer", "operator"):
        assert link not in text(clients[role].get("/api/docs"))


@pytest.mark.parametrize(
    "path", ["/targets/demo/settings/", "/alerts/channels/", "/accounts/tokens/", "/approvals/{}/"]
)
def test_why_something_is_done_is_asked_for_by_one_name(clients, passed, path):
    page = text(clients["admin"].get(path.format(passed.pk)))
    assert 'name="reason"' in page and ">Reason" in page
    assert not re.search("Why(</label>|: )|placeholder=.Why", page)


def test_alert_rules_stand_in_a_panel(clients, target):
    assert '<section class="panel" id="rules"' in text(clients["viewer"].get("/alerts/rules/?target=demo"))
