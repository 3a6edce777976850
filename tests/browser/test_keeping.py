"""A page that is drawn anew takes nothing away from somebody who is at it, and does not stand still for them either."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.steered import SLUG, seed_version

DEMO = "/targets/pocket/"
MINUTE = 60_000
COME_BACK = """() => document.dispatchEvent(new Event("visibilitychange"))"""


def test_what_was_typed_stays_while_the_part_around_it_changes(busy_demo, tab, base):
    tab.goto(base + DEMO)
    expect(tab.locator("#live")).to_have_text("connected", timeout=MINUTE)
    reason = tab.locator("#switch-reason")
    reason.fill("the night shift is over")
    tab.locator("h1").click()  # and is elsewhere
    busy_demo.post("/targets/pocket/training/pause", {"reason": "by a script"})
    expect(tab.locator("#switches")).to_contain_text("by a script", timeout=MINUTE)
    expect(reason).to_have_value("the night shift is over")
    tab.get_by_role("button", name="Resume training").click()
    expect(tab.locator("#events-part")).to_contain_text("the night shift is over")


def test_a_part_with_the_focus_is_drawn_anew_and_keeps_it(busy_demo, tab, base):
    tab.goto(base)
    expect(tab.locator("#live")).to_have_text("connected", timeout=MINUTE)
    tab.evaluate("() => document.querySelector('#overview h2 a').setAttribute('data-old', '')")
    cards = tab.locator("#overview").get_by_role("article")
    link = cards.get_by_role("heading").locator(f'a[href="{DEMO}"]')
    link.focus()
    busy_demo.post("/targets/pocket/training/pause", {"reason": "by a script"})
    card = cards.filter(has=tab.locator(f'h2 a[href="{DEMO}"]'))
    expect(card).to_contain_text("training paused", timeout=MINUTE)
    expect(tab.locator("#overview [data-old]")).to_have_count(0)
    expect(link).to_be_focused()
    busy_demo.post("/targets/pocket/training/resume")


def test_alerts_come_and_go_while_somebody_is_at_one(steered, tab, base):
    """After a dialog the focus is back on the link that opened it, in the list that has to move."""
    first, second = steered.servers
    try:
        first.say(capture_state="broken", capture_detail="the first hook")
        tab.goto(f"{base}/alerts/")
        expect(tab.locator("#open-alerts")).to_contain_text("the first hook", timeout=MINUTE)
        expect(tab.locator("#live")).to_have_text("connected", timeout=MINUTE)
        link = tab.locator("#open-alerts li").filter(has_text="the first hook").get_by_role("link", name="Silence…")
        link.click()
        expect(tab.locator("#dialog [name=reason]")).to_be_focused(timeout=MINUTE)
        tab.keyboard.press("Escape")
        expect(link).to_be_focused()
        second.say(capture_state="broken", capture_detail="the second hook")
        expect(tab.locator("#open-alerts")).to_contain_text("the second hook", timeout=MINUTE)
        expect(link).to_be_focused()
    finally:
        first.say()
        second.say()
    expect(tab.locator("#open-alerts")).not_to_contain_text("the second hook", timeout=MINUTE)


@pytest.mark.parametrize(
    ("page", "part", "asked", "shown"),
    [
        ("/system/", "#processes", "**/system/processes/", "Broker"),
        ("/alerts/rules/?target=pocket", "#rules", "**/alerts/rules/**", "No replica reports"),
        (f"{DEMO}domains/", "#pins-part", "**/domains/pins/", "pinned"),
    ],
)
def test_a_part_that_asks_for_itself_says_that_the_console_does_not_answer(tab, base, page, part, asked, shown):
    tab.goto(base + page)
    expect(tab.locator(part)).to_contain_text(shown, timeout=MINUTE)
    tab.route(asked, lambda route: route.abort())
    said = tab.locator(f"{part} .unanswered")
    expect(said).to_contain_text(re.compile(r"has not answered since \d"), timeout=MINUTE)
    expect(tab.locator(part)).to_contain_text(shown)  # what was shown stays
    tab.unroute(asked)
    expect(said).to_have_count(0, timeout=MINUTE)


@pytest.mark.parametrize(
    ("page", "asked"),
    [
        (DEMO, "**/targets/pocket/parts/**"),
        (DEMO, "**/targets/pocket/charts?**"),
        ("/approvals/", "**/approvals/"),
        (f"{DEMO}versions/", "**/targets/pocket/standing/"),
    ],
)
def test_parts_without_an_answer_make_a_live_page_stale(busy_demo, tab, base, page, asked):
    """However well its socket works."""
    line, stale = tab.locator("#live"), tab.locator("html[data-stale]")
    tab.goto(base + page)
    expect(line).to_have_text("connected", timeout=MINUTE)
    tab.route(asked, lambda route: route.fulfill(status=503, body="the database is away"))
    tab.evaluate(COME_BACK)  # as after a look at another tab: everything is asked for
    expect(line).to_have_text(re.compile(r"^stale since \d\d:\d\d:\d\d .*: the console does"), timeout=MINUTE)
    expect(stale).to_have_count(1)
    tab.unroute(asked)
    expect(line).to_have_text("connected", timeout=MINUTE)
    expect(stale).to_have_count(0)


HELD_PUSHES = """
() => {
  const swap = window.htmx.swap;
  window.held = [];
  window.htmx.swap = (...answer) => window.held.push(answer);
  window.letGo = () => { for (const answer of window.held.splice(0)) swap(...answer); };
}
"""
AWAITED_ANSWER = """
(address) => document.addEventListener("htmx:afterRequest", (event) => {
  if (address.endsWith(event.detail.pathInfo.finalRequestPath)) window.isAnswered = true;
})
"""


@pytest.mark.parametrize(
    ("page", "asked", "name"),
    [
        (f"/targets/{SLUG}/", "part=versions-part", "Approve v{}"),
        (f"/approvals/?target={SLUG}", f"/approvals/?target={SLUG}", f"Approve v{{}} of {SLUG}"),
    ],
)
def test_a_button_pressed_while_the_answer_is_on_its_way_is_still_pressed(steered, tab, base, page, asked, name):
    """One that is drawn anew between press and release hears of no click: the decision would be lost unsaid."""
    number, held = steered.waiting(), []
    tab.goto(base + page)
    expect(tab.locator("#live")).to_have_text("connected", timeout=MINUTE)
    button = tab.get_by_role("button", name=name.format(number), exact=True)
    expect(button).to_be_visible()
    tab.route(re.compile(re.escape(asked)), lambda route: held.append(route), times=1)
    with tab.expect_request(lambda request: asked in request.url, timeout=MINUTE):
        seed_version(steered.ring, SLUG)
    button.hover()
    tab.mouse.down()
    tab.evaluate(AWAITED_ANSWER, held[0].request.url)
    held[0].continue_()
    tab.wait_for_function("() => window.isAnswered", timeout=MINUTE)
    tab.mouse.up()
    expect(tab.get_by_text(f"v{number} goes live")).to_be_visible()


def test_a_link_pressed_while_the_push_is_on_its_way_is_still_pressed(steered, tab, base):
    tab.goto(f"{base}/targets/{SLUG}/")
    expect(tab.locator("#live")).to_have_text("connected", timeout=MINUTE)
    link = tab.locator("#figures").get_by_role("link", name=re.compile(r"^v\d+$"))
    expect(link).to_be_visible()
    tab.evaluate(HELD_PUSHES)
    tab.wait_for_function("() => held.some(([, html]) => html.includes('id=\"figures\"'))", timeout=MINUTE)
    link.hover()
    tab.mouse.down()
    tab.evaluate("() => letGo()")
    tab.mouse.up()
    tab.wait_for_url(re.compile(r"/versions/\d+/$"))
