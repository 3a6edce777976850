"""Traces, domains, economics, system and help of a real Aurora, by mouse and by keyboard."""

import re

from playwright.sync_api import expect

from tests.browser.accessibility import violations

MINUTES = 60_000
# Notes the letter of a link that a shortcut follows: it clicks it while the key is handled.
NOTE_FOLLOWED = """() => addEventListener("click", (event) => {
  const link = event.target.closest("a[data-go]");
  if (link) sessionStorage.setItem("followed", link.dataset.go);
})"""
FOLLOWED = "() => sessionStorage.getItem('followed')"
# As if eight seconds were over at once.
IMPATIENT = "AbortSignal.timeout = () => AbortSignal.abort(new DOMException('signal timed out', 'TimeoutError'));"


def test_a_trace_is_found_and_read_token_by_token(traced, operator, base):
    page = operator
    page.goto(f"{base}/targets/pocket/traces/")
    rows = page.get_by_role("region", name="Traces").get_by_role("row")
    domain = rows.nth(1).get_by_role("cell").first.inner_text()
    page.get_by_label("Domain").fill(domain)
    page.get_by_role("button", name="Search").click()
    page.wait_for_url(f"**/traces/?*domain={domain}*")
    assert {row.get_by_role("cell").first.inner_text() for row in rows.all()[1:]} == {domain}
    rows.get_by_role("link").first.click()
    tokens = page.get_by_role("region", name="Tokens of the trace")
    expect(tokens).to_contain_text(re.compile(r"[a-z]{3}"))
    expect(page.get_by_label("Legend")).to_contain_text("struck out")
    expect(page.get_by_text("Token ids instead of text")).to_have_count(0)


def test_a_viewer_sees_no_text(traced, viewer, base):
    viewer.goto(f"{base}/targets/pocket/traces/")
    viewer.get_by_role("region", name="Traces").get_by_role("link").first.click()
    expect(viewer.get_by_text("The text is hidden")).to_be_visible()
    assert set(viewer.get_by_role("region", name="Tokens of the trace").locator(".t").all_inner_texts()) == {"▪"}
    expect(viewer.get_by_text("Delete this trace")).to_have_count(0)


def test_a_trace_is_deleted_with_a_reason(traced, operator, base):
    page = operator
    page.goto(f"{base}/targets/pocket/traces/")
    page.get_by_role("region", name="Traces").get_by_role("link").last.click()
    address = page.url
    page.get_by_text("Delete this trace").click()
    page.get_by_label("Reason").fill("asked for by its author")
    page.get_by_role("button", name="Delete the trace").click()
    expect(page.get_by_text("The trace is deleted.")).to_be_visible()
    assert page.goto(address).status == 410


def test_domains_are_charted_and_a_bad_rule_is_explained(traced, operator, base):
    page = operator
    page.goto(f"{base}/targets/pocket/domains/?range=1h")
    expect(page.locator("#trend-state")).to_contain_text("As of", timeout=60_000)
    assert page.evaluate("() => document.getElementById('chart-share').data.length") > 0
    page.get_by_label("A domain that").select_option("regex")
    page.get_by_label("Name, prefix or regular expression").fill("sql(")
    page.get_by_label("is kept as").fill("database")
    page.get_by_role("button", name="Add the rule").click()
    expect(page.get_by_role("alert")).to_contain_text("at character 4")


def test_charts_of_domains_that_get_no_answer_say_so(traced, tab, base):
    tab.add_init_script(IMPATIENT)
    tab.route("**/api/v1/targets/pocket/domains?**", lambda route: None)  # never answered
    tab.goto(f"{base}/targets/pocket/domains/?range=1h")
    expect(tab.locator("#trend-state")).to_have_text(
        "The charts could not be fetched: signal timed out. Reload to try again."
    )


def test_a_domain_is_pinned_obeyed_by_the_engine_and_undone(traced, operator, base):
    page = operator
    page.goto(f"{base}/targets/pocket/domains/?range=1h")
    line = page.get_by_role("region", name="Accept length by domain and version").get_by_role("row").nth(1)
    domain = line.get_by_role("rowheader").inner_text()
    line.get_by_role("link", name=f"pin {domain}").click()
    form = page.locator("#pin-form")
    expect(form.get_by_label("Domain")).to_have_value(domain)
    form.get_by_label("Lookahead").select_option(label="fixed at 2")
    form.get_by_label("No training").check()
    form.get_by_label("Reason").fill("a look at its drafts")
    form.get_by_label("Reason").press("Enter")
    pins = page.get_by_role("region", name="Pins")
    expect(pins).to_contain_text("lookahead 2, no training")
    expect(pins).to_contain_text("obeyed by 1 of 1 replica", timeout=60_000)  # the real engine has said so
    for theme in ("dark", "light"):
        assert violations(page, f"{base}/targets/pocket/domains/?range=1h", theme) == []
    page.get_by_role("button", name=f"Undo revision 1, {domain}").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Revision 1 is undone.")).to_be_visible()
    expect(page.locator("#pins-part")).to_contain_text("Nothing is pinned")
    expect(page.locator("#pins-part")).to_contain_text("Revision 2 is run by 1 of 1 replica", timeout=60_000)
    page.goto(f"{base}/targets/pocket/")
    expect(page.get_by_role("region", name="Events")).to_contain_text(f"pinned the domain {domain}: lookahead 2")


def test_workers_and_beat_answer_on_the_system_page(operator, base):
    operator.goto(f"{base}/system/")
    expect(operator.locator("#processes")).to_contain_text("beat runs", timeout=1 * MINUTES)
    expect(operator.get_by_role("region", name="Workers")).to_contain_text("default")


def test_shortcuts_go_where_the_help_says_and_never_from_a_field(operator, base):
    page = operator
    page.goto(f"{base}/targets/pocket/traces/")
    page.keyboard.press("/")
    expect(page.locator("#since")).to_be_focused()
    page.get_by_label("Domain").focus()
    page.keyboard.type("go?")
    assert page.url == f"{base}/targets/pocket/traces/"
    expect(page.get_by_label("Domain")).to_have_value("go?")
    page.get_by_role("heading", name="Traces of").click()
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("g")
    page.keyboard.press("d")
    page.wait_for_url("**/targets/pocket/domains/")
    page.keyboard.press("?")
    page.wait_for_url("**/help/")
    page.get_by_label("Shortcuts are on").uncheck()
    page.evaluate("() => { document.activeElement.blur(); sessionStorage.removeItem('followed'); }")
    page.evaluate(NOTE_FOLLOWED)
    page.keyboard.press("g")
    page.keyboard.press("o")
    assert page.evaluate(FOLLOWED) is None
    page.get_by_label("Shortcuts are on").check()
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("g")
    page.keyboard.press("o")
    page.wait_for_url(f"{base}/")
    assert page.evaluate(FOLLOWED) == "o"
