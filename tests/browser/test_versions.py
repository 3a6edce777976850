"""Steering versions: compare two, approve from the inbox, roll back and see how long it took, in two tabs.

Two servers are played by the test through the public protocol; console, trainer and browser are real.
"""

import re

from playwright.sync_api import expect

from tests.bench.ring import wait_for
from tests.browser.steered import SLUG


def test_the_inbox_is_for_operators_and_a_second_tab_follows(operator, viewer, base, steered):
    number = steered.waiting()
    row = re.compile(rf"{SLUG} v{number}\b")
    viewer.goto(f"{base}/approvals/?target={SLUG}")
    expect(viewer.locator("#live")).to_have_text("connected", timeout=60_000)
    expect(viewer.get_by_role("row", name=row)).to_contain_text("Operators decide.")
    expect(viewer.get_by_role("button", name=re.compile("Approve|Decline|Judge again"))).to_have_count(0)
    refused = viewer.request.post(f"{base}/targets/{SLUG}/versions/{number}/approve/")
    assert refused.status == 403
    operator.goto(base)
    operator.get_by_role("link", name="Approvals").click()
    operator.get_by_role("button", name=f"Approve v{number} of {SLUG}").click()
    expect(operator.get_by_text(f"v{number} goes live")).to_be_visible()
    expect(viewer.get_by_role("row", name=row)).to_have_count(0, timeout=60_000)  # without reloading
    wait_for("both servers", lambda: steered.running() == {number}, 30)


def test_the_direct_link_leads_to_what_was_decided(viewer, base, steered):
    [number] = steered.numbers("live")
    version = steered.versions()[number]
    viewer.goto(f"{base}/approvals/{version['id']}/")
    expect(viewer.get_by_role("heading", name="It is live")).to_be_visible()
    expect(viewer.get_by_role("region", name="Gate report")).to_contain_text(re.compile("Better|Pass"))
    expect(viewer.locator("#approval")).to_contain_text("all 2 replicas after", timeout=60_000)


def test_two_versions_are_compared(viewer, base, steered):
    [number] = steered.numbers("live")
    for server in steered.servers:
        server.send_counts(0.5)
        server.send_traces(12)
    viewer.goto(f"{base}/targets/{SLUG}/versions/")
    viewer.get_by_label("Compare v1", exact=True).check()
    viewer.get_by_label(f"Compare v{number}", exact=True).check()
    expect(viewer.locator("#num-chosen")).to_contain_text(f"v{number} chosen")
    viewer.get_by_role("button", name="Compare", exact=True).click()
    expect(viewer.get_by_role("heading", level=1)).to_contain_text("against v1")
    wait_for("the counts", lambda: _reloaded(viewer).locator("#curves[data-drawn]").count(), 30, 2)
    expect(viewer.get_by_role("region", name="Measured accept length per domain")).to_contain_text("sql")
    expect(viewer.get_by_role("region", name="Acceptance by draft position")).to_contain_text("replayed traces")
    expect(viewer.get_by_role("region", name="What differs in data and origin")).to_contain_text("Optimiser steps")


def test_their_curves_begin_together_or_by_the_clock_and_the_address_says_which(viewer, base, steered):
    """Builds on the counts of the comparison before."""
    [number] = steered.numbers("live")
    viewer.goto(f"{base}/targets/{SLUG}/versions/compare/?v=1&v={number}")
    first = "document.getElementById('chart-curves').data.filter(d => d.name.endsWith('measured')).map(d => d.x[0])"
    expect(viewer.locator("#curves[data-drawn]")).to_have_count(1, timeout=60_000)
    assert set(viewer.evaluate(first)) == {0}
    viewer.get_by_label("Time", exact=True).select_option("clock")
    expect(viewer).to_have_url(re.compile(r"align=clock"))
    for _ in range(2):  # as chosen, and as the address says
        begins = viewer.evaluate(first)
        assert begins and all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d", begin) for begin in begins)
        viewer.reload()
        expect(viewer.locator("#curves[data-drawn]")).to_have_count(1, timeout=60_000)
    viewer.get_by_label("Time", exact=True).select_option("start")
    expect(viewer).not_to_have_url(re.compile("align"))
    assert set(viewer.evaluate(first)) == {0}


def test_their_curves_are_a_table_too(viewer, base, steered):
    """Builds on the counts of the comparison before."""
    [number] = steered.numbers("live")
    viewer.goto(f"{base}/targets/{SLUG}/versions/compare/?v=1&v={number}&align=clock")
    viewer.get_by_role("link", name="View as table").click()
    table = viewer.get_by_role("region", name="Accept length over time as a table")
    moment = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
    expect(table.get_by_role("row", name=f"v{number}").first).to_contain_text(moment)
    viewer.get_by_role("link", name="View as chart").click()
    expect(viewer.get_by_label("Time", exact=True)).to_have_value("clock")


def test_curves_that_cannot_be_fetched_are_not_taken_for_none(tab, base, steered):
    """Builds on the counts of the comparison before."""
    state = tab.locator("#curves-state")
    for answer, said in (
        (lambda route: route.fulfill(status=503, body="busy"), "the console answered 503. Reload to try again."),
        (lambda route: route.abort(), "the console could not be reached. Reload to try again."),
    ):
        tab.route("**/versions/curves?*", answer)
        tab.goto(f"{base}/targets/{SLUG}/versions/compare/?v=1&v={steered.numbers('live')[0]}")
        expect(state).to_have_text(f"The curves could not be fetched: {said}")
        tab.get_by_label("Time", exact=True).select_option("clock")  # draws again what there is
        expect(state).to_contain_text("could not be fetched")
        tab.unroute("**/versions/curves?*")
    tab.reload()
    expect(tab.locator("#curves[data-drawn]")).to_have_count(1)
    expect(state).to_be_hidden()


def _reloaded(page):
    page.reload()
    page.wait_for_timeout(1500)
    return page


def test_files_are_downloaded_by_operators(operator, viewer, base, steered):
    [number] = steered.numbers("live")
    path = f"{base}/targets/{SLUG}/versions/{number}/"
    operator.goto(path)
    with operator.expect_download() as caught:
        operator.get_by_role("link", name="Download config.json").click()
    assert caught.value.suggested_filename == f"{SLUG}-v{number}-config.json"
    viewer.goto(path)
    expect(viewer.get_by_text("Operators may download them.")).to_be_visible()
    assert viewer.request.get(f"{path}files/config.json").status == 403


def test_a_rollback_shows_its_measured_time_in_two_tabs(operator, viewer, base, steered):
    number = steered.replaced()
    viewer.goto(f"{base}/targets/{SLUG}/replicas/")
    servers = viewer.get_by_role("row", name=re.compile(rf"{SLUG}-3000[01]\b"))
    expect(servers.filter(has_text=f"v{number} → v{number}")).to_have_count(2, timeout=60_000)
    operator.goto(f"{base}/targets/{SLUG}/")
    operator.locator("main").get_by_role("link", name="Roll back").click()
    operator.get_by_label("Reason").fill("trying the way back")
    back = operator.get_by_role("button", name="Roll back to v")
    previous = int(re.search(r"\d+", back.inner_text())[0])
    back.click()
    expect(operator.get_by_role("heading", name=f"Rollback: v{number} → v{previous}")).to_be_visible()
    measured = re.compile(r"all 2 replicas after \d+\.\d s")
    expect(operator.locator("#swap .measured")).to_contain_text(measured, timeout=60_000)
    assert steered.running() == {previous}
    there = servers.filter(has_text=f"v{previous} → v{previous}")
    expect(there).to_have_count(2, timeout=60_000)  # without reloading
    expect(viewer.locator("#replicas-list")).to_contain_text("Rollback, generation", timeout=60_000)
