"""A page that is drawn anew takes nothing away from somebody who is at it, and does not stand still for them either."""

import re

import pytest
from playwright.sync_api import expect

DEMO = "/targets/pocket/"
MINUTE = 60_000


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
