"""Settings in one place, and the numbers in the navigation."""

import pytest
from django.core.cache import cache
from django.utils import timezone

from aurora_web.console import inbox
from aurora_web.registry.models import Target
from aurora_web.registry.services import transition
from aurora_web.rollouts.models import Alert
from aurora_web.traces.codec import HELD_OUT_EVERY
from aurora_web.traces.services import EARLY_HELD_OUT, EARLY_HELD_OUT_EVERY

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("role", "sections"), [("viewer", 3), ("operator", 3), ("admin", 6)])
def test_every_section_has_an_address_and_names_itself(clients, target, role, sections):
    browser = clients[role]
    assert browser.get("/settings/")["location"] == "/settings/preferences/"
    page = browser.get("/settings/preferences/").content.decode()
    nav = page.split('aria-label="Settings">')[1].split("</nav>")[0]
    links = [part.split('"')[0] for part in nav.split('href="')[1:]]
    assert len(links) == sections
    for link in links:
        answer = browser.get(link)
        assert answer.status_code == 200
        assert f'href="{link}" aria-current="page"' in answer.content.decode()


def test_policies_of_every_target_are_side_by_side(clients, target):
    target.approval, target.may_approve_own, target.canary_share = "manual", False, 0.25
    target.save()
    page = clients["viewer"].get("/settings/policies/").content.decode()
    for words in ("a person", "Operators and admins", "need somebody else", "25.0\u00a0% of the replicas", "All of it"):
        assert words in page
    assert '<a href="/targets/demo/settings/">Edit' in clients["admin"].get("/settings/policies/").content.decode()


def test_policies_say_what_will_be_there(clients):
    assert "There is no target yet" in clients["viewer"].get("/settings/policies/").content.decode()


def test_the_glossary_says_how_many_traces_are_held_out(clients):
    assert (EARLY_HELD_OUT, EARLY_HELD_OUT_EVERY, HELD_OUT_EVERY) == (3, 4, 10)
    said = "One trace in ten (one in four until three of a domain are), chosen by a hash"
    assert said in clients["viewer"].get("/help/").content.decode()


def numbers(browser):
    cache.delete(inbox.KEY)
    page = browser.get("/help/").content.decode()
    return page.count(" waiting</span>"), page.count(" firing</span>")


def test_what_waits_is_in_the_navigation_of_every_page(clients, make_version, target):
    assert numbers(clients["viewer"]) == (0, 0)
    transition(make_version(), "candidate", "passed", "", "gate")
    assert numbers(clients["viewer"]) == (0, 0)  # the policy lets it in
    Target.objects.update(approval="manual")
    Alert.objects.create(target=target, rule="replica_behind", state="firing", detail="d", since=timezone.now())
    Alert.objects.create(target=target, rule="no_replica", state="pending", detail="d", since=timezone.now())
    assert numbers(clients["viewer"]) == (1, 1)
    part = clients["viewer"].get("/inbox/").content.decode()
    assert part.count('hx-swap-oob="true"') == 2
    assert '1<span class="hidden"> firing' in part


def test_counting_costs_two_queries_and_then_none(django_assert_num_queries):
    cache.delete(inbox.KEY)
    with django_assert_num_queries(2):
        assert inbox.waiting() == {"num_to_approve": 0, "num_firing": 0}
        inbox.waiting()
