"""What is decided elsewhere is seen on every page that is open: headings and buttons too, without a reload."""

import re

import pytest
from playwright.sync_api import expect

from tests.bench.ring import wait_for
from tests.browser.steered import SLUG, seed_version

NEW = "day-zero"
STEADY = re.compile(r"(want\([^;]*?|refresher\([^;]*?), [235](?=[,)])")  # spacings of a steady stream, in seconds


@pytest.fixture(scope="module")
def new_target(ring):
    """Registered, with its first version in service: nothing to go back to."""
    model = str(ring.state_dir / "models" / "pocket")
    ring.post(
        "/targets", {"source": "sglang", "path": model, "slug": NEW, "name": NEW, "policy": {"approval": "manual"}}
    )
    wait_for("v1", lambda: [v["status"] for v in ring.get(f"/targets/{NEW}/versions")["items"]] == ["live"], 120)
    return NEW


@pytest.mark.parametrize("page", ["/approvals/{id}/", f"/targets/{SLUG}/versions/{{number}}/"])
def test_the_heading_of_a_version_follows_a_decision_that_is_made_elsewhere(steered, tab, base, page):
    steered.replaced()
    number = steered.waiting()
    version = steered.versions()[number]["id"]
    tab.goto(base + page.format(id=version, number=number))
    expect(tab.locator("#live")).to_have_text("connected")
    expect(tab.locator("h1 .badge")).to_have_text("passed")
    steered.ring.post(f"/versions/{version}/approve")
    expect(tab.locator("h1 .badge")).to_have_text("live")
    expect(tab.locator("h1 .badge")).to_have_class("badge live")
    expect(tab.locator("main").get_by_role("link", name="Roll back")).to_be_visible()
    expect(tab.locator("main").get_by_role("link", name="Decide")).to_have_count(0)


def test_the_history_of_alerts_follows_an_alert_that_ends(steered, tab, base):
    server, why = steered.servers[0], "the hook of the history"
    rows = tab.get_by_role("region", name="History of alerts").get_by_role("row").filter(has_text=why)
    tab.goto(f"{base}/alerts/")
    expect(tab.locator("#live")).to_have_text("connected")
    try:
        server.say(capture_state="broken", capture_detail=why)
        expect(rows.filter(has_text="Firing")).to_have_count(1)
    finally:
        server.say()
    expect(rows.filter(has_text="Firing")).to_have_count(0)
    expect(rows).to_have_count(1)


def test_a_way_back_is_offered_as_soon_as_there_is_one(ring, new_target, tab, base):
    tab.goto(f"{base}/targets/{NEW}/")
    expect(tab.locator("#live")).to_have_text("connected")
    back = tab.locator("main").get_by_role("link", name="Roll back…")
    expect(back).to_have_count(0)
    number = seed_version(ring, NEW)
    [version] = [v["id"] for v in ring.get(f"/targets/{NEW}/versions")["items"] if v["number"] == number]
    ring.post(f"/versions/{version}/approve")
    expect(back).to_be_visible()


def slow_stream(tab, script):
    """What comes all the time is drawn once an hour in this tab; on other occasions nothing is."""

    def changed(route):
        body, count = STEADY.subn(r"\1, 3600", route.fetch().text())
        assert count
        route.fulfill(body=body, content_type="text/javascript")

    tab.route(re.compile(rf"/js/{script}\b.*\.js"), changed)


def test_what_a_replica_says_of_itself_is_seen_at_once_though_counts_are_drawn_seldom(steered, tab, base):
    server, why = steered.servers[1], "the probe takes its time"
    slow_stream(tab, "target")
    tab.goto(f"{base}/targets/{SLUG}/")
    expect(tab.locator("#live")).to_have_text("connected")
    try:
        server.say(detail=why)
        expect(tab.locator("#replicas")).to_contain_text(why)
    finally:
        server.say()
    expect(tab.locator("#replicas")).not_to_contain_text(why)


def test_an_alert_is_seen_at_once_on_the_overview_though_counts_are_drawn_seldom(steered, tab, base):
    server, why = steered.servers[1], "the hook of the overview"
    slow_stream(tab, "overview")
    tab.goto(base)
    expect(tab.locator("#live")).to_have_text("connected")
    try:
        server.say(capture_state="broken", capture_detail=why)
        expect(tab.locator("#overview .cards")).to_contain_text(why)
    finally:
        server.say()
    expect(tab.locator("#overview .cards")).not_to_contain_text(why)
