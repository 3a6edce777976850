"""A rollback does what its confirmation said, or asks again with what is so by now."""

import re

import pytest

from aurora_web.registry.models import SpeculatorVersion, Target
from aurora_web.rollouts import canaries, intent, services
from aurora_web.rollouts.models import Replica
from tests.unit.aurora_web.rollouts.conftest import canary, judged, report_in  # noqa: F401  # fixtures

pytestmark = pytest.mark.django_db
PAGE = "/targets/demo/rollback/"


def text(answer):
    return " ".join(answer.content.decode().split())


def form(page, to=None):
    """What the page's form of the target sends, by its first button or that with the value ``to``."""
    [body] = re.findall(r'<form method="post" action="/targets/demo/rollback/">(.*?)</form>', page)
    hidden = dict(re.findall(r'<input type="hidden" name="(expected_\w+)" value="(\d+)">', body))
    buttons = re.findall(r'<button class="danger" name="to" value="(\d+)">', body)
    assert to is None or to in buttons
    return hidden | {"to": to or buttons[0]}


def wanted():
    return intent.desired_state(Target.objects.get()).version


def statuses():
    return dict(SpeculatorVersion.objects.order_by("number").values_list("number", "status"))


@pytest.fixture
def improve(judged, report):  # noqa: F811
    """The policy puts the next version live."""
    lengths = iter(range(2, 20))
    return lambda: judged(report({"sql": (float(n := next(lengths)), n - 1.0)}))


@pytest.fixture
def second(judged, improve):  # noqa: F811
    """v2 is live in place of v1."""
    judged()
    return improve()


@pytest.mark.parametrize("page", [PAGE, "/rollback/"])
def test_one_click_does_what_was_shown(clients, second, page):
    shown = text(clients["operator"].get(page))
    assert "The canary of" not in shown
    done = clients["operator"].post(PAGE, form(shown) | {"reason": "slow"}, follow=True)
    assert "Rolled back." in text(done)
    assert statuses() == {1: "live", 2: "rolled_back"}


@pytest.mark.parametrize("page", [PAGE, "/rollback/"])
@pytest.mark.parametrize(("chosen", "ends"), [("1", 1), ("2", 2)], ids=["what was shown", "the one before"])
def test_what_went_live_meanwhile_is_asked_about_first(clients, second, improve, page, chosen, ends):
    sent = form(text(clients["operator"].get(page))) | {"reason": 'slow since "noon"'}
    improve()
    assert statuses() == {1: "retired", 2: "retired", 3: "live"}
    answer = clients["operator"].post(PAGE, sent)
    again = text(answer)
    assert (answer.status_code, wanted()) == (409, 3)
    assert "demo v3 is live now, not v2 any more: this would take out v3 and bring back v1" in again
    assert "v3 goes out of service and <strong>v1</strong> comes back" in again
    assert "v2, which was live last before v3, can come back in place of v1" in again
    assert 'value="slow since &quot;noon&quot;"' in again  # the reason is still there
    clients["operator"].post(PAGE, form(again, chosen))
    assert (wanted(), statuses()[3]) == (ends, "rolled_back")


def test_what_somebody_else_brought_back_is_not_gone_past(clients, second, improve):
    improve()
    sent = form(text(clients["operator"].get(PAGE)))
    services.rollback(Target.objects.get(), "ada")
    answer = clients["operator"].post(PAGE, sent, follow=True)
    assert "Nothing was changed: demo v2 cannot come back: it is live." in text(answer)
    assert answer.redirect_chain == [("/targets/demo/", 302)]
    assert wanted() == 2


def test_any_version_that_served_can_be_chosen_and_has_an_address(clients, second, improve, judged, report):  # noqa: F811
    improve()
    judged(report({"sql": (1.0, 3.0)}))  # v4 is rejected: it never served
    shown = text(clients["operator"].get(PAGE))
    assert re.findall(r'<option value="(\d+)"( selected)?>', shown) == [("2", " selected"), ("1", "")]
    asked = text(clients["operator"].get(f"{PAGE}?to=1"))
    assert "v3 goes out of service and <strong>v1</strong> comes back" in asked
    assert "v2, which was live last before v3, can come back in place of v1" in asked
    assert clients["operator"].post(PAGE, form(asked)).status_code == 302
    assert statuses() == {1: "live", 2: "retired", 3: "rolled_back", 4: "rejected"}
    later = text(clients["operator"].get(f"{PAGE}?to=3"))
    assert "<strong>v3 was rolled back itself</strong>, by operator" in later
    assert form(later)["to"] == "3"


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("1", "v1 cannot come back: its files were deleted."),
        ("3", "v3 cannot come back: it is live."),
        ("9", "demo has no version 9."),
        ("x", "demo has no version x."),
        ("9" * 5000, "demo has no version 9999"),
    ],
)
def test_an_address_of_a_version_that_cannot_come_back_says_why(clients, second, improve, to, why):
    improve()
    SpeculatorVersion.objects.filter(number=1).update(pruned_at=second.created_at)
    answer = clients["operator"].get(f"{PAGE}?to={to}")
    page = text(answer)
    assert answer.status_code == 422
    assert why in page and "Choose another one." in page
    assert '<button class="danger"' not in page  # another version is not brought back by a click that meant this one
    assert re.findall(r'<option value="(\d+)"', page) == ["2"]


def test_pages_of_versions_that_served_lead_to_bringing_them_back(clients, second, improve):
    improve()
    SpeculatorVersion.objects.filter(number=1).update(pruned_at=second.created_at)
    pages = {n: text(clients["operator"].get(f"/targets/demo/versions/{n}/")) for n in (1, 2, 3)}
    link = f'href="{PAGE}?to=2">Bring back…'
    assert link in pages[2] and "Bring back…" not in pages[1] + pages[3]
    assert link in text(clients["operator"].get(f"/approvals/{SpeculatorVersion.objects.get(number=2).pk}/"))
    assert "Bring back…" not in text(clients["viewer"].get("/targets/demo/versions/2/"))


def test_a_version_whose_files_went_meanwhile_is_not_offered_again(clients, second, improve):
    improve()
    sent = form(text(clients["operator"].get(PAGE)))
    SpeculatorVersion.objects.filter(number=2).update(pruned_at=second.created_at)
    again = text(clients["operator"].post(PAGE, sent | {"reason": "slow"}))
    assert "demo v2 cannot come back: its files were deleted" in again
    assert form(again)["to"] == "1" and 'value="slow"' in again


@pytest.mark.parametrize("page", [PAGE, "/rollback/"])
def test_one_replica_is_no_plural(clients, second, report_in, page):  # noqa: F811
    report_in("r1")
    shown = text(clients["operator"].get(page))
    assert "on 1 replica. It switches between two steps, at once if it still holds v1 in memory" in shown
    report_in("r2")
    shown = text(clients["operator"].get(page))
    assert "on 2 replicas. They switch between two steps, at once where they still hold v1 in memory" in shown


@pytest.mark.parametrize("page", [PAGE, "/rollback/"])
def test_the_confirmation_says_that_a_canary_ends(clients, canary, page):  # noqa: F811
    shown = text(clients["operator"].get(page))
    assert "The canary of v3</strong>, on 1 of 2 replicas, ends for good" in shown
    assert clients["operator"].post(PAGE, form(shown)).status_code == 302
    assert statuses() == {1: "live", 2: "rolled_back", 3: "rolled_back"}


def test_a_canary_whose_replicas_are_gone_ends_too(clients, canary):  # noqa: F811
    Replica.objects.filter(is_canary=True).update(is_alive=False)
    assert "The canary of v3</strong> ends for good" in text(clients["operator"].get(PAGE))


def test_a_canary_that_began_meanwhile_is_asked_about_and_one_that_ended_is_not(clients, canary, judged, report):  # noqa: F811
    sent = form(text(clients["operator"].get(PAGE)))
    canaries.abort(canary, "ada")
    without = form(text(clients["operator"].get(PAGE)))
    later = judged(report({"sql": (4.0, 2.0)}))
    assert later.status == "canary"
    for old in (sent, without):
        answer = clients["operator"].post(PAGE, old)
        assert answer.status_code == 409
        assert "demo v4 is in canary now: this would end its canary for good" in text(answer)
    canaries.abort(later, "ada")
    assert clients["operator"].post(PAGE, sent).status_code == 302
    assert wanted() == 1


def test_a_form_that_says_nothing_of_it_is_as_a_script(clients, second, improve):
    improve()
    assert clients["operator"].post(PAGE, {"expected_live": "x", "to": "1"}).status_code == 302
    assert wanted() == 1
