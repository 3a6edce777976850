"""Settings as people use them: theme and zone follow them, charts have their clock, numbers change by themselves."""

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

BERLIN = ZoneInfo("Europe/Berlin")
LAYOUT = "() => document.getElementById('chart-versions').layout"


def prefer(page, base, theme, zone):
    page.goto(f"{base}/settings/preferences/")
    page.get_by_role("radio", name=theme, exact=True).check()
    page.get_by_label("Time zone").select_option(zone)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: it holds wherever you sign in.")).to_be_visible()


@pytest.fixture(scope="module", autouse=True)
def _as_before(viewer, base):
    """The next module's viewer has a clock of UTC again."""
    yield
    prefer(viewer, base, "As the system says", "UTC")


def test_the_theme_follows_a_person_into_another_browser_and_never_flashes(viewer, browser, base):
    prefer(viewer, base, "Dark", "Europe/Berlin")
    signed_in = {"cookies": viewer.context.cookies(), "origins": []}  # what this browser itself remembers is left out
    other = browser.new_context(storage_state=signed_in, color_scheme="light", java_script_enabled=False).new_page()
    other.goto(base)
    assert other.locator("html").get_attribute("data-theme") == "dark"  # before, and without, any script
    other.context.close()
    with viewer.expect_response(lambda answer: answer.url.endswith("/settings/theme/")):
        viewer.get_by_role("button", name="Switch between light and dark").click()
    expect(viewer.locator("html")).to_have_attribute("data-theme", "light")
    viewer.goto(f"{base}/settings/preferences/")
    expect(viewer.get_by_role("radio", name="Light", exact=True)).to_be_checked()


def test_the_system_decides_until_somebody_does(browser, base):
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(f"{base}/accounts/login/")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.context.close()


def test_saving_one_form_of_a_page_keeps_what_is_typed_in_the_other(admin, base):
    page = admin.context.new_page()
    page.goto(f"{base}/targets/pocket/settings/")
    page.get_by_label("Domains", exact=True).fill("sql=2, arithmetic=3")
    is_on = page.get_by_label("Send demo traffic").is_checked()
    page.get_by_label("Send demo traffic").set_checked(not is_on)
    unsaved = page.get_by_text("Not saved yet: what you typed here is kept.")
    expect(unsaved.locator("visible=true")).to_have_count(0)
    page.get_by_role("button", name="Save policy").click()
    expect(page.get_by_text("Saved.", exact=True)).to_be_visible()
    expect(page.get_by_label("Domains", exact=True)).to_have_value("sql=2, arithmetic=3")
    expect(page.get_by_label("Send demo traffic")).to_be_checked(checked=not is_on)
    expect(unsaved.locator("visible=true")).to_have_count(1)
    page.reload()  # it is kept over the saving only
    expect(unsaved.locator("visible=true")).to_have_count(0)
    page.close()


def test_what_was_refused_is_kept_when_the_other_form_is_saved(admin, base):
    page = admin.context.new_page()
    page.goto(f"{base}/targets/pocket/settings/")
    mix, tokens = page.get_by_label("Domains", exact=True), page.get_by_label("Tokens per answer")
    before, typed = tokens.input_value(), str(int(tokens.input_value()) + 1)
    mix.fill("sql=much")
    tokens.fill(typed)
    page.get_by_label("Send demo traffic").set_checked(False)
    page.get_by_role("button", name="Save traffic").click()
    expect(page.get_by_text("expected domain=weight")).to_be_visible()
    mix.fill("sql=2")  # one is mended, the others are left as they came back
    page.get_by_role("button", name="Save policy").click()
    expect(page.get_by_text("Saved.", exact=True)).to_be_visible()
    expect(mix).to_have_value("sql=2")
    expect(tokens).to_have_value(typed)
    expect(page.get_by_label("Send demo traffic")).not_to_be_checked()
    expect(page.get_by_text("Not saved yet: what you typed here is kept.").locator("visible=true")).to_have_count(1)
    page.reload()
    expect(tokens).to_have_value(before)
    page.close()


def test_charts_and_pages_have_the_clock_of_the_readers_zone(traced, viewer, base):
    prefer(viewer, base, "Light", "Europe/Berlin")
    expect(viewer.get_by_text(re.compile(r"written like this now: .* CES?T\."))).to_be_visible()
    viewer.goto(f"{base}/targets/pocket/?range=3h")  # there is something to draw
    viewer.wait_for_function(LAYOUT, timeout=60_000)
    layout = viewer.evaluate(LAYOUT)
    assert [note["text"] for note in layout["annotations"]] == ["Europe/Berlin"]
    shown = datetime.fromisoformat(layout["xaxis"]["range"][1].replace(" ", "T")).replace(tzinfo=None)
    assert abs((datetime.now(BERLIN).replace(tzinfo=None) - shown).total_seconds()) < 60


def test_the_charts_clock_goes_both_ways_over_the_nights_when_clocks_change(viewer, base):
    prefer(viewer, base, "Light", "Europe/Berlin")
    moments = [1774745999, 1774746000.5, 1774749600, 1792886399, 1792893600, 1795000000]
    walls, back = viewer.evaluate(
        """async moments => {
            const { wall, unwall } = await import("/static/js/zone.js");
            return [moments.map(wall), moments.map((at) => unwall(wall(at).replace("T", " ")))];
        }""",
        moments,
    )
    expected = [datetime.fromtimestamp(at, BERLIN).replace(tzinfo=None) for at in moments]
    assert [datetime.fromisoformat(wall) for wall in walls] == expected
    assert back == moments


def test_a_line_has_a_gap_where_nothing_was_measured(viewer, base):
    """Buckets of 10 s: three, nothing for five minutes, one alone, nothing, two with one missing between."""
    viewer.goto(base)
    starts = [0, 10, 20, 320, 600, 620]
    line, layer = viewer.evaluate(
        """async starts => {
            const { stepped, stacked } = await import("/static/js/lines.js");
            const rows = starts.map((at) => ({ middle: 1.8e9 + at + 5, value: at }));
            return [stepped(10, "a", rows, (row) => row.value, {}), stacked(rows, 10, (row) => row.value + 1)];
        }""",
        starts,
    )
    assert line["y"] == [0, 10, 20, None, 320, 320, None, 600, 620]
    moments = [datetime.fromisoformat(at) for at in line["x"]]
    assert moments[5] - moments[4] == timedelta(seconds=10), "a bucket alone is as wide as it is"
    assert layer["y"] == [0, 1, 11, 21, 0, 0, 321, 0, 0, 601, 621, 0]


def test_a_firing_alert_is_counted_in_the_navigation_without_reloading(viewer, base, steered):
    viewer.goto(base)
    expect(viewer.locator("#live")).to_have_text("connected", timeout=60_000)
    before = viewer.locator("#num-firing").inner_text()
    steered.servers[0].say(capture_state="broken", capture_detail="the hook on eagle_sample never fired")
    expect(viewer.locator("#num-firing")).not_to_have_text(before, timeout=60_000)
    expect(viewer.locator("#num-firing")).to_contain_text(re.compile(r"\d firing"))
    steered.servers[0].say()


def test_a_token_with_scopes_is_made_and_shown_once(admin, base):
    admin.goto(f"{base}/accounts/tokens/")
    admin.get_by_label("Name").fill("dashboards")
    admin.get_by_role("button", name="Make a token").click()
    expect(admin.get_by_text("Choose one scope at least")).to_be_visible()
    expect(admin.get_by_label("Name")).to_have_value("dashboards")
    admin.get_by_label("read: see and export").check()
    admin.get_by_role("button", name="Make a token").click()
    secret = admin.locator("code.secret").inner_text()
    answer = admin.request.get(f"{base}/api/v1/targets", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status == 200
    answer = admin.request.get(f"{base}/api/v1/users", headers={"Authorization": f"Bearer {secret}"})
    assert (answer.status, answer.json()["missing_scope"]) == (403, "administer")
