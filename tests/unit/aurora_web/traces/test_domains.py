"""Rules for names: which one wins, what they change, and that they are kept."""

import json

import pytest

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import MetricWindow
from aurora_web.traces import domains, services
from aurora_web.traces.models import DomainRule, Trace
from tests.unit.aurora_web.conftest import count_window, segment_payload

pytestmark = pytest.mark.django_db
JSON = {"content_type": "application/json"}


def test_without_rules_names_stay(target):
    assert domains.mapping(target)("sql") == "sql"


def test_exact_before_longest_prefix_before_the_oldest_expression(target):
    domains.add_rules(target, "regex", [r".*"], "rest", "ada")
    domains.add_rules(target, "regex", [r"sql\d"], "never", "ada")
    domains.add_rules(target, "prefix", ["sq"], "short", "ada")
    domains.add_rules(target, "prefix", ["sql-"], "long", "ada")
    domains.add_rules(target, "exact", ["sql-1"], "one", "ada")
    domain_of = domains.mapping(target)
    assert [domain_of(n) for n in ("sql-1", "sql-2", "sqx", "other", "sql7")] == [
        "one",
        "long",
        "short",
        "rest",
        "short",
    ]
    assert domain_of("one") == "rest"  # a single pass: what came out of one rule is no input of another


def test_rules_hold_for_traces_and_counts_from_then_on(target):
    services.ingest_segment(segment_payload(1, domain="sql"))
    domains.add_rules(target, "exact", ["sql", "mysql"], "database", "ada")
    services.ingest_segment(segment_payload(1, domain="sql"))
    windows = [count_window(domain="sql"), count_window(domain="mysql")]
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    assert sorted(Trace.objects.values_list("domain", flat=True)) == ["database", "sql"]
    assert MetricWindow.objects.get().domain == "database"
    assert MetricWindow.objects.get().num_requests == 40


@pytest.mark.parametrize(
    ("kind", "pattern"), [("exact", "ärger"), ("exact", "SQL"), ("prefix", "日本"), ("exact", "a" * 65)]
)
def test_a_rule_that_can_fit_no_name_is_refused(target, kind, pattern):
    with pytest.raises(domains.RuleError, match="fits no name that a client can send: expected 1 to 64 of a-z"):
        domains.add_rules(target, kind, [pattern], "x", "ada")


def test_a_rule_for_the_same_pattern_ends_the_one_before(target):
    [first] = domains.add_rules(target, "exact", ["sql"], "a", "ada")
    domains.add_rules(target, "exact", ["sql"], "b", "bob", "better")
    first.refresh_from_db()
    assert first.ended_by == "bob"
    assert domains.mapping(target)("sql") == "b"
    told = AuditEvent.objects.filter(action="domain.rule").first()
    assert (told.reason, told.changes) == ("better", [("domain", "a", "b")])


def test_an_ended_rule_holds_no_more_and_ends_once(target):
    [rule] = domains.add_rules(target, "exact", ["sql"], "a", "ada")
    domains.end_rule(rule, "bob")
    assert domains.mapping(target)("sql") == "sql"
    assert AuditEvent.objects.get(action="domain.rule_end").changes == [("domain", "a", None)]
    with pytest.raises(domains.RuleEnded):
        domains.end_rule(rule, "eve")
    assert DomainRule.objects.get().ended_by == "bob"


def test_the_api_refuses_with_field_and_position(target, client, bearer):
    address, operator = "/api/v1/targets/demo/domain-rules", bearer("operator")
    body = {"kind": "regex", "patterns": ["sql(a"], "domain": "x"}
    answer = client.post(address, json.dumps(body), **JSON, **operator)
    assert (answer.status_code, answer.json()["field"], answer.json()["position"]) == (422, "pattern", 4)
    for wrong in ({"kind": "odd"}, {"domain": ""}, {"patterns": []}, {"patterns": ["x" * 300]}):
        assert client.post(address, json.dumps(body | wrong), **JSON, **operator).status_code == 422
    assert not DomainRule.objects.exists()


def test_the_api_adds_lists_and_ends(target, client, bearer):
    address, operator = "/api/v1/targets/demo/domain-rules", bearer("operator")
    body = {"kind": "prefix", "patterns": ["sql"], "domain": "database", "reason": "one team"}
    [rule] = client.post(address, json.dumps(body), **JSON, **operator).json()
    assert client.get(address, **operator).json() == [rule]
    assert client.delete(f"{address}/{rule['id']}?reason=a%00b", **operator).status_code == 422
    assert client.delete(f"{address}/{rule['id']}", **operator).status_code == 204
    assert client.delete(f"{address}/{rule['id']}", **operator).status_code == 409
    assert client.get(address, **operator).json() == []
    assert client.get(f"{address}?ended=1", **operator).json()[0]["ended_by"] == "token:operator's"
