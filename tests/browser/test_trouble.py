"""The console under trouble: a cut network, a broker that dies, a killed engine, sessions that end, no data."""

import os
import re
import signal
import time

import pytest
from playwright.sync_api import expect

from tests import services
from tests.bench.ring import wait_for
from tests.browser.conftest import PASSWORD, accept, sign_in
from tests.browser.cuttable import Line
from tests.browser.empty_console import empty_console

DEMO = "/targets/pocket/"
SECONDS = 1000
# Headless Chromium never hides a page: the page is told that it is hidden, as the browser would tell it.
SET_HIDDEN = """isHidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
  const state = isHidden ? "hidden" : "visible";
  Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
COUNT = """
window.num = { frames: 0, requests: 0, pending: 0, draws: 0, sockets: 0 };
const Plain = window.WebSocket;
window.WebSocket = class extends Plain {
  constructor(...args) {
    super(...args);
    window.num.sockets += 1;
    this.addEventListener("message", (event) => { window.num.frames += JSON.parse(event.data).kind !== "beat"; });
  }
};
const send = XMLHttpRequest.prototype.send;
const begin = () => { window.num.requests += 1; window.num.pending += 1; };
const end = () => { window.num.pending -= 1; };
XMLHttpRequest.prototype.send = function (...args) {
  begin();
  this.addEventListener("loadend", end);
  return send.apply(this, args);
};
const ask = window.fetch;
window.fetch = (...args) => { begin(); return ask(...args).finally(end); };
addEventListener("DOMContentLoaded", () => {
  new MutationObserver(() => { window.num.draws += 1; })
    .observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
});
"""
# Of the chart that has a point wherever any request has finished.
TIMES = """async () => {
  const { unwall } = await import("/static/js/zone.js");
  return (document.getElementById("chart-versions").data ?? []).filter((trace) => trace.name !== "events")
    .flatMap((trace) => trace.x.map((at) => unwall(String(at))));
}"""
RANGES = """() => [...document.querySelectorAll(".chart")].filter((chart) => chart.layout)
  .map((chart) => chart.layout.xaxis.range.map((at) => new Date(at).getTime()))"""


def live(page):
    expect(page.locator("#live")).to_have_text("connected", timeout=60 * SECONDS)
    return page


def test_a_line_that_is_cut_silently_is_noticed_and_nothing_is_missing_after(busy_demo, browser, viewer, base):
    ring = busy_demo
    with Line(ring.web_port) as line:
        page = viewer.context.new_page()
        page.goto(f"http://127.0.0.1:{line.port}{DEMO}?range=30m")
        live(page)
        page.evaluate("() => { window.isTheSame = true; }")
        line.cut()
        cut_at = time.time()
        expect(page.locator("#live")).to_contain_text(re.compile(r"figures are \d+ s old"), timeout=60 * SECONDS)
        expect(page.locator("html")).to_have_attribute("data-stale", "")
        first = int(re.search(r"\d+", page.locator("#live").inner_text())[0])
        page.wait_for_function("n => Number(/\\d+/.exec(document.querySelector('#live').innerText)) > n", arg=first)
        line.mend()
        mended_at = time.time()
        live(page)
        assert page.locator("html[data-stale]").count() == 0

        def caught_up():
            data = ring.get("/targets/pocket/charts", range="30m")
            known = {point["at"] for point in data["windows"]}
            during = {at for at in known if cut_at - 10 < at < mended_at - 5}
            size = data["bucket_seconds"]
            shown = {at // size for at in page.evaluate(TIMES)}
            return len(during) > 0 and all(at // size in shown for at in during)

        wait_for("the windows of the cut on the chart", caught_up, 30)
        assert page.evaluate("() => window.isTheSame")  # without reloading
        page.close()


def test_a_browser_that_is_offline_says_so_at_once(busy_demo, browser, base, viewer):
    page = sign_in(browser, base, "vera", DEMO)
    live(page)
    page.context.set_offline(True)
    # before 12 s of silence would say it
    expect(page.locator("#live")).to_contain_text("not connected", timeout=60 * SECONDS)
    page.context.set_offline(False)
    live(page)
    page.context.close()


def test_a_broker_that_dies_drops_no_tab_for_good(busy_demo, operator, tab, base):
    operator.goto(base + DEMO)
    tab.goto(f"{base}/replicas/")
    live(operator)
    live(tab)
    os.kill(services.servers.valkey.process.pid, signal.SIGKILL)
    services.servers.valkey.process.wait(60)
    services.servers.valkey.start()
    busy_demo.post(f"/{DEMO.strip('/')}/training/pause", {"reason": "the broker was away"})
    expect(operator.locator("#switches")).to_contain_text("the broker was away", timeout=60 * SECONDS)  # no reload
    expect(operator.locator("#live")).to_have_text("connected")
    expect(tab.locator("#live")).to_have_text("connected")
    tab.goto(base + DEMO)  # a new tab is let in again
    live(tab)
    busy_demo.post(f"/{DEMO.strip('/')}/training/resume")
    for page in (operator, tab):
        expect(page.locator("#switches")).to_contain_text("training on")


def settled(page):
    """[draws, requests] once neither has changed for a second and no answer is awaited."""
    counts = "() => [window.num.draws, window.num.requests]"
    before = None
    while (now := page.evaluate(counts)) != before or page.evaluate("() => window.num.pending"):
        before = now
        page.wait_for_timeout(1 * SECONDS)
    return now


def test_a_hidden_tab_costs_nothing(busy_demo, tab, base):
    tab.add_init_script(COUNT)
    tab.goto(base + DEMO)
    live(tab)
    tab.wait_for_function("() => window.num.frames > 2", timeout=60 * SECONDS)
    tab.evaluate(SET_HIDDEN, True)
    at_once = settled(tab)
    tab.wait_for_timeout(6 * SECONDS)  # a short look elsewhere keeps the socket
    assert tab.evaluate("() => [window.num.draws, window.num.requests]") == at_once
    before = tab.evaluate("() => ({ ...window.num })")
    tab.wait_for_timeout(3 * SECONDS)
    assert tab.evaluate("() => ({ ...window.num })") == before
    tab.evaluate(SET_HIDDEN, False)
    live(tab)
    tab.wait_for_function("n => window.num.frames > n && window.num.draws > 0", arg=before["frames"])


def test_a_session_that_ends_closes_the_page_and_leads_back(ring, browser, base, viewer):
    page = sign_in(browser, base, "vera", DEMO)
    live(page)
    [key] = [cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "sessionid"]
    assert ring.rows(
        "UPDATE django_session SET expire_date = now() - interval '1 s' WHERE session_key = %s RETURNING 1", key
    )
    expect(page.get_by_role("alert")).to_contain_text("Your session has ended", timeout=60 * SECONDS)
    expect(page.locator("#live")).to_have_text("not live: your session has ended")
    expect(page.get_by_role("heading", name="Sign in")).to_have_count(0)  # no part of the page became the sign-in page
    page.get_by_role("link", name="Sign in again").click()
    page.get_by_label("Username").fill("vera")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(base + DEMO)
    live(page)
    page.context.close()


def test_a_zoom_on_one_chart_is_a_zoom_on_all(busy_demo, tab, base):
    tab.set_viewport_size({"width": 1360, "height": 1400})
    tab.goto(f"{base}{DEMO}?range=30m")
    tab.locator("#chart-speed .nsewdrag").wait_for(timeout=120 * SECONDS)  # drawn as soon as there is something to draw
    tab.goto(f"{base}{DEMO}?range=30m&live=0")  # and not drawn anew while it is pulled at
    tab.locator("#chart-speed .nsewdrag").wait_for(timeout=60 * SECONDS)
    box = tab.locator("#chart-speed .nsewdrag").bounding_box()
    y = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + box["width"] * 0.3, y)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
    tab.mouse.up()
    expect(tab.locator("#zoomed")).to_be_visible()
    # charts are drawn one after another
    wait_for("one span on all charts", lambda: len({tuple(span) for span in tab.evaluate(RANGES)}) == 1, 60)
    spans = tab.evaluate(RANGES)
    assert len(spans) > 2
    zoomed = spans[0]
    tab.get_by_role("link", name="Open the span as a page of its own").click()
    expect(tab.get_by_label("From")).to_have_value(re.compile(r"\d{4}-\d\d-\d\dT"))
    tab.go_back()
    tab.locator("#chart-speed .nsewdrag").dblclick(timeout=60 * SECONDS)
    expect(tab.locator("#zoomed")).to_be_hidden()
    assert tab.evaluate(RANGES)[0] != zoomed


def test_live_is_switched_off_and_on_in_the_address(busy_demo, tab, base):
    tab.add_init_script(COUNT)
    tab.goto(base + DEMO)
    live(tab)
    tab.locator("#live-toggle").click()
    tab.wait_for_url("**/*live=0*")
    expect(tab.locator("#live")).to_contain_text("not live: figures of")
    # a page that is live opens its socket before it asks for its charts
    expect(tab.locator("#charts")).to_have_attribute("data-drawn", re.compile(r"\d"))
    assert tab.evaluate("() => window.num.sockets") == 0
    tab.get_by_role("link", name="Go live").click()
    live(tab)
    assert tab.evaluate("() => window.num.sockets") >= 1
    assert "live=0" not in tab.url


@pytest.fixture
def killed(busy_demo, admin_token):
    """kill() ends the demo's engine for good, revive() lets the supervisor start it again."""
    ring = busy_demo
    headers = {"Authorization": f"Bearer {admin_token}"}
    measured = ("speedup_below_one", "accept_length_fell")  # fire by themselves where a machine is slow enough

    def set_rule(rule, threshold, is_enabled=True):
        wanted = {"threshold": threshold, "is_enabled": is_enabled}
        ring.console.put(f"/alerts/rules/pocket/{rule}", json=wanted, headers=headers).raise_for_status()

    set_rule("target_silent", 10)
    for rule in measured:
        set_rule(rule, None, False)

    def kill():
        os.kill(ring.process.pid, signal.SIGSTOP)  # else the supervisor starts another within a second
        ring.kill("--slug pocket")

    def revive():
        os.kill(ring.process.pid, signal.SIGCONT)

    yield kill, revive
    revive()
    for rule in ("target_silent", *measured):
        set_rule(rule, None)


def test_a_dead_engine_is_said_on_every_page_until_it_is_back(killed, operator, tab, base):
    kill, revive = killed
    operator.goto(base + DEMO)
    live(operator)
    kill()
    said = operator.locator("#standing")
    expect(said).to_contain_text("No replica reports.", timeout=40 * SECONDS)  # without reloading
    expect(said.locator("time")).to_contain_text("ago")
    expect(operator.locator("#figures .tiles")).to_have_class(re.compile("stale"))
    expect(operator.locator("#replicas")).to_contain_text("down")
    expect(operator.locator("#alerts")).to_contain_text("No replica reports", timeout=60 * SECONDS)
    tab.goto(base)
    card = tab.get_by_role("article").filter(has=tab.locator('a[href="/targets/pocket/"]'))
    expect(card).to_contain_text("no replica reports")
    expect(card).to_contain_text("last seen")
    expect(card).to_contain_text("stale")
    expect(card).to_contain_text("1 alert")
    tab.goto(f"{base}{DEMO}replicas/")
    expect(tab.get_by_role("row", name=re.compile("pocket-"))).to_contain_text(re.compile("down.*stale", re.S))
    for page in ("domains/", "versions/", "economics/", "traces/", "settings/"):
        tab.goto(f"{base}{DEMO}{page}")
        expect(tab.locator("#standing")).to_contain_text("every figure here is of the time before")
    revive()
    expect(said).to_be_empty(timeout=60 * SECONDS)
    expect(operator.locator("#alerts")).not_to_contain_text("since", timeout=60 * SECONDS)
    expect(tab.locator("#standing")).to_be_empty()


EMPTY = {
    "Overview": "No target yet",
    "Approvals": "Nothing waits",
    "Alerts": "Nothing fires",
    "Replicas": "No replica has reported yet",
    "Roll back…": "Nothing to roll back to",
    "Audit": "invite.accept",
    "Settings": "Time zone",
    "System": "No engine has reported",
    "Help": "Keyboard shortcuts",
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory, browser):
    folder = tmp_path_factory.mktemp("empty")
    folder.chmod(0o755)
    with empty_console(folder) as found:
        yield accept(browser, found.manage("invite_admin").strip(), "ada"), found


def test_without_any_data_every_page_says_what_will_be_there(empty):
    page, console = empty
    answers = []
    page.on("response", lambda answer: answers.append((answer.status, answer.url)))
    for name, words in EMPTY.items():
        page.get_by_role("navigation", name="Main").get_by_role("link", name=name, exact=True).click()
        expect(page.locator("main")).to_contain_text(words)
        page.wait_for_load_state("networkidle")
    page.goto(f"{console.base}/accounts/people/")
    expect(page.locator("main")).to_contain_text("ada")
    page.goto(f"{console.base}/accounts/tokens/")
    expect(page.locator("main")).to_contain_text("There is no token yet")
    assert [answer for answer in answers if answer[0] >= 400] == []


def test_a_target_without_data_has_no_blank_charts(empty, ring):
    page, console = empty
    path = str(ring.state_dir / "models" / "pocket")
    console.manage("register", path, "--slug", "fresh")
    page.goto(f"{console.base}/targets/fresh/")
    live(page)
    expect(page.locator(".chart")).to_have_count(7)
    for chart in page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        expect(chart).to_contain_text(re.compile(r"\w+ \w+"))
    expect(page.locator(".chart .plot-container")).to_have_count(0)
    areas = page.get_by_role("navigation", name="Pages of").get_by_role("link")
    for link in [page.url, *(console.base + each.get_attribute("href") for each in areas.all())]:
        answer = page.goto(link)
        assert answer.status == 200
        if not link.endswith("/settings/"):
            expect(page.locator("main")).to_contain_text(re.compile("will be|as soon as|yet"))
