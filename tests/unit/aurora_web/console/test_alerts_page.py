"""What the page of open alerts offers to whom."""

from datetime import UTC, datetime

import pytest
from django.utils import timezone

from aurora_web.rollouts import board, watching
from aurora_web.rollouts.models import Alert, RuleReport

pytestmark = pytest.mark.django_db


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.mark.parametrize(("role", "may_roll_back"), [("viewer", False), ("operator", True), ("admin", True)])
def test_a_roll_back_is_offered_to_those_who_may(clients, target, role, may_roll_back):
    since = timezone.now()
    Alert.objects.create(target=target, rule="speedup_below_one", state="firing", detail="slow", since=since)
    Alert.objects.create(target=target, rule="replica_behind", state="firing", detail="late", since=since)
    page = clients[role].get("/alerts/").content.decode()
    main = page.split("<main")[1]
    assert "slow" in main
    assert ('href="/targets/demo/rollback/"' in main) is may_roll_back
    assert 'href="/targets/demo/#replicas"' in main


def test_a_silence_of_a_week_says_its_day(clients, target):
    Alert.objects.create(target=target, rule="swap_failed", state="firing", detail="late", since=timezone.now())
    silence = watching.silence("olga", 168, "known", target)
    silence.expires_at = datetime(2099, 12, 7, 3, 57, tzinfo=UTC)
    silence.save()
    assert "silenced until 2099-12-07 03:57 UTC" in text(clients["viewer"].get("/alerts/"))


def test_rules_without_an_answer_are_listed_with_their_reason(clients, target):
    now = timezone.now()
    rules = {
        "speedup_below_one": {"state": "no_data", "detail": "no request has finished"},
        "swap_failed": {"state": "error", "detail": "its rows cannot be read"},
        "replica_behind": {"state": "normal", "detail": "all run v1"},
    }
    RuleReport.objects.create(target=target, at=now, rules=rules)
    RuleReport.objects.create(target=None, at=now - 2 * board.STALE, rules={})
    found = text(clients["viewer"].get("/alerts/"))
    listed = found.split('aria-label="Rules without an answer"')[1].split("</table>")[0]
    assert "no request has finished" in listed and "its rows cannot be read" in listed and "all run v1" not in listed
    assert "every rule" in listed and ">console</a>" in listed  # nobody has asked the console's for long
    page = text(clients["viewer"].get("/alerts/rules/?target=demo"))
    assert '<span class="badge bad">Error</span>' in page and '<span class="badge">No data</span>' in page
    assert "Stale: the rules were last asked" in text(clients["viewer"].get("/alerts/rules/"))


def test_nothing_typed_is_lost_where_a_threshold_cannot_be(clients, target):
    form = {"rule": "disk_low", "threshold": "1000", "reason": "the new disk"}
    answer = clients["admin"].post("/alerts/rules/", form)
    assert answer.status_code == 422
    page = text(answer)
    assert "Nothing was changed: threshold is 1000, expected" in page
    assert 'value="1000" aria-invalid="true"' in page
    assert page.count('value="the new disk"') == 1
    row = page[page.index('value="1000"') :]
    assert "checked" not in row[: row.index("Save")]  # it was unticked
    assert "hx-get" not in page[page.index('id="rules"') : page.index("<table")]  # what was typed is not drawn over
    answer = clients["admin"].post("/alerts/rules/?target=demo", form | {"rule": "no_replica", "threshold": "x"})
    assert "What you typed is in its row" in text(answer)


def test_the_reason_for_a_channel_is_kept_where_its_address_is_none(clients):
    form = {"name": "hook", "kind": "webhook", "address": "nowhere", "reason": "on-call"}
    page = text(clients["admin"].post("/alerts/channels/", form))
    for typed in ("hook", "nowhere", "on-call"):
        assert f'value="{typed}"' in page
