"""A page that is drawn anew takes nothing away from somebody who is at it, and does not stand still for them either."""

import re

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


def test_a_part_that_asks_for_itself_says_that_the_console_does_not_answer(tab, base):
    tab.goto(f"{base}/system/")
    expect(tab.locator("#processes")).to_contain_text("Broker", timeout=MINUTE)
    tab.route("**/system/processes/", lambda route: route.abort())
    said = tab.locator("#processes .unanswered")
    expect(said).to_contain_text(re.compile(r"has not answered since \d"), timeout=MINUTE)
    expect(tab.locator("#processes")).to_contain_text("Broker")  # what was shown stays
    tab.unroute("**/system/processes/")
    expect(said).to_have_count(0, timeout=MINUTE)
