"""The forms of settings that people use seldom: each is filled in, holds, and is undone."""

import re

from playwright.sync_api import expect

from tests.browser.steered import SLUG

DEMO = "/targets/pocket/"


def test_what_an_hour_costs_is_assumed_by_an_operator(operator, base, ring):
    operator.goto(f"{base}{DEMO}economics/")
    engine = operator.get_by_label("An engine hour costs")
    before = engine.input_value()
    for price in ("3.75", before):
        engine.fill(price)
        operator.get_by_label("Reason").fill("the new contract")
        operator.get_by_role("button", name="Save").click()
        expect(operator.get_by_role("alert")).to_have_count(0)
        operator.goto(f"{base}{DEMO}economics/")
        expect(engine).to_have_value(price)
    engine.fill("much")
    operator.get_by_role("button", name="Save").click()
    expect(operator.get_by_role("alert")).to_be_visible()
    expect(engine).to_have_value("much")


def test_a_channel_is_made_told_its_secret_once_and_removed(admin, base, ring):
    admin.goto(f"{base}/alerts/channels/")
    admin.locator("[name=name]").fill("pager")
    admin.locator("[name=kind]").select_option("webhook")
    admin.locator("[name=address]").fill("https://pager.example.org/hook")
    admin.get_by_role("button", name="Make a channel").click()
    row = admin.get_by_role("region", name="Channels").get_by_role("row").filter(has_text="pager")
    expect(row).to_have_count(1)
    expect(admin.locator(".notice.success .secret")).to_have_text(re.compile(r"\S{20,}"))
    admin.reload()
    expect(admin.locator(".notice.success .secret")).to_have_count(0)
    row.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)


def test_how_long_traces_are_kept_is_set_by_an_admin_and_given_back(admin, base, ring):
    admin.goto(f"{base}/settings/retention/")
    days = admin.locator("[name=trace_days]")
    default = float(days.get_attribute("placeholder"))
    line = admin.locator("dl.facts div").filter(has_text=re.compile("AURORA_TRACE_DAYS|set by an admin"))
    expect(line.filter(has_text="set by an admin")).to_have_count(0)
    days.fill(f"{default + 1:g}")
    admin.get_by_role("button", name="Save retention").click()
    expect(admin.get_by_text("Saved. What is older is deleted within minutes.")).to_be_visible()
    expect(line.filter(has_text="set by an admin")).not_to_have_count(0)  # and what follows it
    expect(days).to_have_value(f"{default + 1:g}")
    days.fill("")
    admin.locator("[name=is_confirmed]").check()  # it is shorter than before
    admin.get_by_role("button", name="Save retention").click()
    expect(line.filter(has_text="set by an admin")).to_have_count(0)


def test_a_threshold_is_set_by_an_admin_and_given_back(admin, base, steered):
    admin.goto(f"{base}/alerts/rules/?target={SLUG}")
    field = admin.get_by_role("region", name="Rules").get_by_role("spinbutton").first
    label = field.get_attribute("aria-label").removeprefix("Threshold of ").partition(" in ")[0]
    for typed in (field.get_attribute("placeholder") + "1", ""):
        number = f"{float(typed) / 10:g}" if typed and "." not in typed else typed
        field.fill(number)
        admin.get_by_role("button", name=f"Save {label}").click()
        expect(admin.get_by_text(f"{label}: saved.")).to_be_visible()
        expect(field).to_have_value(number)


def test_a_rule_for_names_is_added_and_ended_with_its_reason(operator, base, ring):
    operator.goto(f"{base}{DEMO}domains/")
    operator.get_by_label("A domain that").select_option("prefix")
    operator.get_by_label("Name, prefix or regular expression").fill("team-a-")
    operator.get_by_label("is kept as").fill("team a")
    operator.locator("#rule-reason").fill("they asked for figures of their own")
    operator.get_by_role("button", name="Add the rule").click()
    row = operator.get_by_role("region", name="Rules").get_by_role("row").filter(has_text="team-a-")
    expect(row).to_contain_text("team a")
    expect(row).to_contain_text("olga: they asked for figures of their own")
    row.get_by_role("button", name="End the rule team-a-").click()
    expect(operator.get_by_text("holds no more")).to_be_visible()
    expect(row).to_have_count(0)
    operator.get_by_text("Rules that have ended").click()
    expect(operator.locator("#rules details")).to_contain_text("ended by olga")
