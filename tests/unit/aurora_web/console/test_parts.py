"""Parts of a target's page: several in one answer, rendered once for all who see the same."""

import re
import threading

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from aurora_web.console.shared import CSRF_FIELD, Shelf
from aurora_web.registry.models import Target
from aurora_web.rollouts import services
from tests.unit.serving.fakes import wait_until

PARTS = "/targets/demo/parts/?part=figures&part=replicas"


@pytest.fixture
def clock(settings):
    """A shelf whose time stands still: (shelf, seconds)."""
    settings.SHARED_SECONDS = 1.0
    seconds = [100.0]
    return Shelf(clock=lambda: seconds[0]), seconds


def test_a_body_is_made_once_a_second(clock):
    shelf, seconds = clock
    assert [shelf.get("a", lambda: b"1"), shelf.get("a", lambda: b"2"), shelf.get("b", lambda: b"3")] == [
        b"1",
        b"1",
        b"3",
    ]
    seconds[0] += 1.0
    assert shelf.get("a", lambda: b"4") == b"4"


def test_a_form_belongs_to_one_session(clock):
    shelf, _ = clock
    assert shelf.get("a", lambda: CSRF_FIELD + b"1") == CSRF_FIELD + b"1"
    assert shelf.get("a", lambda: CSRF_FIELD + b"2") == CSRF_FIELD + b"2"


def test_all_wait_for_the_one_who_makes_it(clock):
    shelf, _ = clock
    go, made, got = threading.Event(), [], []

    def make():
        made.append(threading.current_thread())
        assert go.wait(60)
        return b"body"

    threads = [threading.Thread(target=lambda: got.append(shelf.get("a", make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: made)
    go.set()
    for thread in threads:
        thread.join(60)
    assert (len(made), got) == (1, [b"body"] * 5)


def test_who_waits_for_one_that_fails_makes_it_alone(clock):
    shelf, _ = clock

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shelf.get("a", fail)
    assert shelf.get("a", lambda: b"mine") == b"mine"


@pytest.mark.django_db
def test_parts_come_together_each_for_its_element(clients, target):
    found = clients["viewer"].get(PARTS).content.decode()
    for name in ("figures", "replicas"):
        assert f'<div id="{name}" hx-swap-oob="innerHTML">' in found
    assert "Accept length" in found


@pytest.mark.django_db
@pytest.mark.parametrize("query", ["", "?part=nothing", "?part=figures&part=settings"])
def test_what_is_no_part_is_not_found(clients, target, query):
    assert clients["viewer"].get(f"/targets/demo/parts/{query}").status_code == 404


@pytest.mark.django_db
def test_they_are_rendered_once_for_all_of_a_role_until_something_is_decided(clients, target, settings):
    settings.SHARED_SECONDS = 600.0
    begun = clients["viewer"].get(PARTS).content
    Target.objects.update(max_lookahead=3)
    with CaptureQueriesContext(connection) as asked:
        assert clients["viewer"].get(PARTS).content == begun
    assert not any("registry_target" in query["sql"] for query in asked)
    assert b"up to 3" in clients["operator"].get(PARTS).content  # another role may see another thing
    assert b"up to 3" in clients["viewer"].get(f"{PARTS}&after=7").content
    assert b"up to 3" not in clients["viewer"].get("/targets/demo/parts/?part=figures").content


@pytest.mark.django_db
def test_actions_are_for_those_who_may_and_follow_what_there_is_to_go_back_to(clients, target, make_version, report):
    actions = "/targets/demo/parts/?part=actions-part"
    found = clients["operator"].get(actions).content.decode()
    assert "Send demo traffic" in found and "Roll back" not in found
    Target.objects.update(traffic_enabled=True)
    assert "Stop demo traffic" in clients["operator"].get(actions).content.decode()
    services.judge(make_version())
    services.judge(make_version(report({"sql": (2.0, 1.0)})))
    assert 'href="/targets/demo/rollback/"' in clients["operator"].get(actions).content.decode()
    assert "demo traffic" not in clients["viewer"].get(actions).content.decode()


def test_the_switch_of_the_demo_traffic_reaches_its_generator(clients, target, bearer):
    """In one click, by the form that the page shows at that moment."""
    operator, generator = clients["operator"], bearer("replica")

    def wanted():
        [told] = operator.get("/api/v1/traffic", **generator).json()["targets"]
        assert told["enabled"] == Target.objects.get().traffic_enabled
        return told["enabled"]

    def press():
        shown = operator.get("/targets/demo/parts/?part=actions-part").content.decode()
        [enabled] = re.findall(r'name="enabled" value="(.)"', shown)
        assert operator.post("/targets/demo/traffic/", {"enabled": enabled}).status_code == 302
        return enabled

    assert not wanted()
    assert (press(), wanted()) == ("1", True)
    assert (press(), wanted()) == ("0", False)
    assert clients["viewer"].post("/targets/demo/traffic/", {"enabled": "1"}).status_code == 403
    assert not wanted()
