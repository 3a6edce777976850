"""An operator's first morning: register a target, watch it learn, approve a version, roll it back.

The tests run in this order on one ring; the browser is real, and so is everything behind the pages.
"""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.registering import fill_plan, start, to_the_plan

MINUTES = 60_000
POINTS = "(document.getElementById('chart-accept').data || []).reduce((sum, trace) => sum + trace.x.length, 0)"


def points(page):
    """How many points the chart of accept lengths shows."""
    return page.evaluate(f"() => {POINTS}")


@pytest.fixture(scope="module", autouse=True)
def _at_rest_again(ring):
    """The traffic of the target made here is nothing to the next modules."""
    yield
    ring.patch("/targets/mine", {"traffic_enabled": False})


def test_registering_step_by_step(operator, base, ring):
    page = operator
    to_the_plan(page, base, str(ring.state_dir / "models" / "pocket"))
    checked = ("A person approves every version", "Send demo traffic")
    fill_plan(page, checked=checked, slug="mine", display_name="Morning model")
    start(page)
    expect(page.get_by_role("heading", name="Morning model")).to_be_visible()
    assert page.url == f"{base}/targets/mine/"
    ring.patch("/targets/mine", {"traffic_mix": {"sql": 1}})


def test_day_zero_is_watched_live_in_two_tabs(operator, base):
    first, second = operator, operator.context.new_page()
    first.goto(f"{base}/targets/mine/")
    second.goto(f"{base}/targets/mine/")
    for page in (first, second):
        expect(page.locator("#live")).to_have_text("connected", timeout=60_000)
        expect(page.locator("#figures")).to_contain_text("random weights", timeout=2 * MINUTES)  # v1, without reloading
    before = [points(page) for page in (first, second)]
    for page, count in zip((first, second), before, strict=True):
        page.wait_for_function(f"n => {POINTS} > n", arg=count, timeout=2 * MINUTES)
    expect(first.locator("#tables")).to_contain_text("sql")
    second.close()


def test_a_viewer_sees_everything_and_decides_nothing(viewer, base):
    viewer.goto(f"{base}/targets/mine/")
    expect(viewer.locator("#versions-part").get_by_role("link", name="v2")).to_be_visible(timeout=2 * MINUTES)
    expect(viewer.get_by_role("button", name=re.compile("Approve"))).to_have_count(0)
    expect(viewer.get_by_role("link", name="Register a target")).to_have_count(0)
    assert viewer.goto(f"{base}/targets/new/").status == 403
    expect(viewer.get_by_role("heading", name="Not allowed")).to_be_visible()


def test_approving_puts_a_version_into_service(operator, base, ring):
    page = operator
    page.goto(f"{base}/targets/mine/")
    approve = page.get_by_role("button", name=re.compile(r"Approve v\d+")).first
    approve.wait_for(timeout=3 * MINUTES)
    number = int(re.search(r"\d+", approve.inner_text())[0])
    page.get_by_role("button", name=f"Approve v{number}", exact=True).click()  # a newer one may be the first by now
    expect(page.get_by_text(f"v{number} goes live")).to_be_visible()
    expect(page.locator("#figures").get_by_role("link", name=f"v{number}")).to_be_visible(timeout=60_000)
    expect(page.locator("#replicas")).to_contain_text(f"v{number} → v{number}", timeout=60_000)
    expect(page.locator("#replicas")).to_contain_text("proved", timeout=60_000)
    assert [v["number"] for v in ring.get("/targets/mine/versions")["items"] if v["status"] == "live"] == [number]


def test_rolling_back_says_what_will_happen_and_does_it(operator, base, ring):
    page = operator
    page.goto(f"{base}/targets/mine/")
    page.locator("main").get_by_role("link", name="Roll back").click()
    said = page.get_by_text("comes back on 1 replica")
    expect(said).to_be_visible()
    live, previous = re.findall(r"v\d+", said.inner_text())[:2]
    page.get_by_label("Reason").fill("trying the way back")
    page.get_by_role("button", name=f"Roll back to {previous}").click()
    expect(page.get_by_text("Held after a rollback")).to_be_visible()
    expect(page.locator("#swap .measured")).to_contain_text(re.compile(r"the replica after \d+\.\d s"), timeout=60_000)
    page.get_by_role("link", name="← Morning model").click()
    expect(page.locator("#events-part")).to_contain_text("trying the way back")
    expect(page.locator("#figures").get_by_role("link", name=previous, exact=True)).to_be_visible(timeout=60_000)
    assert live != previous
    page.goto(f"{base}/audit/?target=mine&action=version.rollback")
    expect(page.get_by_role("row").nth(1)).to_contain_text("olga")


def test_figures_per_domain_and_a_permalink_to_one(operator, base):
    page = operator
    page.goto(f"{base}/targets/mine/?range=3h&domain=sql")
    expect(page.get_by_role("link", name="3h")).to_have_attribute("aria-current", "true")
    expect(page.locator("#domain")).to_have_value("sql", timeout=60_000)
    row = page.get_by_role("region", name="Figures per domain").get_by_role("row", name=re.compile("sql"))
    expect(row).to_contain_text(re.compile(r"\d\.\d\d"))
    page.goto(f"{base}/targets/mine/?range=3h")
    expect(page.locator("#domain option[value=sql]")).to_be_attached(timeout=60_000)
    page.locator("#domain").select_option("sql")  # from now on every way to the same charts keeps it
    expect(page.get_by_role("link", name="CSV")).to_have_attribute("href", re.compile("domain=sql"))
    page.get_by_role("link", name="24h").click()
    page.wait_for_url("**range=24h*domain=sql*")
    expect(page.locator("#domain")).to_have_value("sql", timeout=60_000)
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**domain=sql*")


def test_the_console_away_is_said_and_it_comes_back_by_itself(operator, base, ring):
    page = operator
    page.goto(f"{base}/targets/mine/")
    expect(page.locator("#live")).to_have_text("connected", timeout=60_000)
    ring.kill("aurora_web.asgi:application")
    expect(page.locator("#live")).to_contain_text("not connected", timeout=60_000)
    expect(page.locator("#live")).to_have_text("connected", timeout=60_000)


def test_a_silence_is_made_in_a_dialog_by_keyboard(operator, base):
    page = operator
    page.goto(f"{base}/alerts/")
    expect(page.locator("#live")).to_have_text("connected", timeout=60_000)
    page.get_by_role("link", name="Silence…").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#dialog [name=reason]")).to_be_focused(timeout=60_000)
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Silence…").first).to_be_focused()
    page.keyboard.press("Enter")
    page.locator("#dialog [name=rule]").select_option("disk_low")
    page.locator("#dialog [name=reason]").fill("a small disk in tests")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_contain_text("Silenced until")
    expect(page.locator("#open-alerts")).to_contain_text("a small disk in tests")
    page.get_by_role("button", name="End it").click()
    expect(page.locator(".notice")).to_contain_text("ended")


def test_pages_work_by_keyboard(admin, base):
    admin.goto(base)
    admin.keyboard.press("Tab")
    expect(admin.get_by_role("link", name="Skip to the content")).to_be_focused()
    admin.keyboard.press("Enter")
    assert admin.evaluate("() => location.hash") == "#main"
