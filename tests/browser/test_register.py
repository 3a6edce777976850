"""The registration wizard in a real browser: all steps, a reload in the middle, a bad directory, both themes."""

import json

import pytest
from playwright.sync_api import expect

from tests.bench.ring import wait_for
from tests.browser.accessibility import violations
from tests.browser.keyboard import press, type_into
from tests.browser.registering import fill_plan, start, to_the_plan
from tests.browser.reporting_server import ReportingServer

MINUTES = 60_000


@pytest.fixture(scope="module")
def directory(ring):
    return str(ring.state_dir / "models" / "pocket")


def live_number(ring):
    """The demo's version that can be copied: old ones have no files, and a ring that has just started has none."""
    return next((v["number"] for v in ring.get("/targets/pocket/versions")["items"] if v["status"] == "live"), None)


def test_a_bad_directory_is_named_and_nothing_typed_is_lost(operator, base):
    page = operator
    page.goto(base)
    page.get_by_role("link", name="Register a target").click()
    page.wait_for_url("**/source/", wait_until="load")  # typed before the scripts run: kept by the button only
    page.get_by_label("Checkpoint directory").fill("/nowhere")
    expect(page.locator("#check")).to_contain_text("/nowhere does not exist", timeout=60_000)
    page.reload()  # before the first button has been pressed
    expect(page.get_by_label("Checkpoint directory")).to_have_value("/nowhere")
    page.get_by_role("button", name="Check it").click()
    expect(page.get_by_role("alert")).to_contain_text("/nowhere does not exist. Give the directory with config.json")
    expect(page.get_by_label("Checkpoint directory")).to_have_value("/nowhere")


def test_a_reload_in_the_middle_keeps_everything(operator, base, ring, directory):
    page = operator
    number = wait_for("a version to copy", lambda: live_number(ring), 120)
    to_the_plan(page, base, directory)
    page.get_by_label("Slug").fill("by-steps")
    page.get_by_label("Domains expected").fill("sql, legal")
    page.get_by_label("Days that traces are kept").fill("3")
    page.get_by_label("A copy of another target's version").check()
    expect(page.locator(f"#copies option[value='pocket:{number}']")).to_have_count(1)
    page.get_by_label("Version to copy").fill(f"pocket:{number}")
    expect(page.locator("#check")).to_contain_text(f"Version 1 is a copy of pocket v{number}", timeout=60_000)
    page.reload()
    tab = page.context.new_page()
    tab.goto(page.url)
    for each in (page, tab):
        expect(each.get_by_label("Slug")).to_have_value("by-steps")
        expect(each.get_by_label("Domains expected")).to_have_value("sql, legal")
        expect(each.get_by_label("Days that traces are kept")).to_have_value("3")
        expect(each.get_by_label("Version to copy")).to_have_value(f"pocket:{number}")
    tab.close()
    page.get_by_role("link", name="← Check").click()  # back and forward keep it too
    page.get_by_role("link", name="Go on to the plan").click()
    expect(page.get_by_label("Slug")).to_have_value("by-steps")
    fill_plan(page)
    expect(page.locator("main")).to_contain_text(f"as a copy of pocket v{number}; the two learn apart from then on")
    expect(page.locator("main")).to_contain_text("Traces are kept for 3 days, this target's own rule.")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_step_breaks_an_accessibility_rule(operator, base, theme):
    address = operator.url.rsplit("/", 2)[0]  # the draft of the test before
    for step in ("source", "check", "plan", "review", "bulk"):
        assert violations(operator, f"{address}/{step}/", theme) == [], step
    assert violations(operator, f"{base}/targets/new/bulk/", theme) == []
    operator.goto(f"{address}/review/")


def test_starting_lands_on_the_live_page_with_its_plan(operator, base, ring):
    page = operator
    start(page)
    page.wait_for_url(f"{base}/targets/by-steps/")
    expect(page.locator("#tables")).to_contain_text("legal")  # a row before the first request
    wait_for("the copied version", lambda: ring.get("/targets/by-steps/versions")["items"], 120)
    [version] = [v for v in ring.get("/targets/by-steps/versions")["items"] if v["number"] == 1]
    assert version["provenance"]["imported_from"].startswith("pocket v")
    assert ring.get("/targets/by-steps")["trace_days"] == 3


def test_the_wizard_is_gone_through_by_keyboard_alone(tab, base, ring, directory, admin_token):
    tab.goto(base)
    press(tab, tab.get_by_role("link", name="Register a target"))
    tab.wait_for_url("**/source/")
    type_into(tab, tab.get_by_label("Checkpoint directory"), directory)
    expect(tab.locator("#check")).to_contain_text("Compatibility check passed")
    press(tab, tab.get_by_role("button", name="Check it"))
    press(tab, tab.get_by_role("link", name="Go on to the plan"))
    type_into(tab, tab.get_by_label("Slug"), "by-keys")
    press(tab, tab.get_by_role("button", name="Review"))
    press(tab, tab.get_by_role("button", name="Register and start"))
    tab.wait_for_url(f"{base}/targets/by-keys/")
    ring.patch("/targets/by-keys", {"is_active": False}, token=admin_token)


def test_a_server_that_reports_itself_is_registered_and_becomes_a_replica(operator, base, ring, directory):
    page = operator
    page.goto(f"{base}/targets/new/")
    page.get_by_label("A server that has reported itself").check()
    page.get_by_text("How a server reports itself").click()
    page.get_by_role("button", name="Make a token for servers").click()
    token = page.locator("#token-line").inner_text().split("=")[1]
    server = ReportingServer(base, token, "came-alone", "gpu-7", model_path=directory)
    try:
        page.get_by_label("gpu-7").check(timeout=60_000)  # without reloading
        expect(page.locator("#check")).to_contain_text("Compatibility check passed", timeout=60_000)
        page.get_by_role("button", name="Check it").click()
        expect(page.locator("main")).to_contain_text("The server reports sglang 0.5.21")
        page.get_by_role("link", name="Go on to the plan").click()
        expect(page.get_by_label("Slug")).to_have_value("came-alone")
        fill_plan(page)
        start(page)
        page.wait_for_url(f"{base}/targets/came-alone/#launch")
        expect(page.locator("#connection")).to_contain_text("gpu-7 (sglang 0.5.21) reports", timeout=MINUTES)
    finally:
        server.stop()


def test_several_from_yaml_are_previewed_before_anything_is_made(operator, base, ring, directory):
    page = operator
    page.goto(f"{base}/targets/new/bulk/")
    entries = [{"slug": "sheet-one", "path": directory}, {"slug": "sheet-two", "path": "/nowhere"}]
    page.get_by_label("Targets, as YAML").fill(json.dumps({"targets": entries}))
    page.get_by_role("button", name="Check the entries").click()
    expect(page.get_by_role("heading", name="Check: 1 of 2 can be registered")).to_be_visible()
    page.reload()
    expect(page.locator("main")).to_contain_text("/nowhere does not exist")
    assert "sheet-one" not in [target["slug"] for target in ring.get("/targets")]
    expect(page.get_by_text("Not all of them can be registered")).to_be_visible()
    expect(page.get_by_role("button", name="Register 1 target")).to_have_count(0)
    page.get_by_label("Those that can be registered").check()
    page.get_by_role("button", name="Check the entries").click()
    page.get_by_role("button", name="Register 1 target").click()
    expect(page.get_by_text("Registered: sheet-one. Left out: 1.")).to_be_visible()


def test_a_viewer_may_not(viewer, base):
    for path in ("/targets/new/", "/targets/new/bulk/"):
        assert viewer.goto(base + path).status == 403
    expect(viewer.get_by_role("link", name="Register a target")).to_have_count(0)
