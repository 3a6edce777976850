"""Every page, from the URL configuration: no broken accessibility rule in either theme, nothing wider than a phone.

The target ``steered`` is busy meanwhile: a canary runs, a version waits behind it, an alert fires, a server is down.
"""

import re
import uuid
from contextlib import suppress
from itertools import pairwise

import pytest
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import AnonymousUser
from django.template.loader import render_to_string
from django.test import RequestFactory
from django.urls import get_resolver
from playwright.sync_api import expect

from tests.bench.ring import wait_for
from tests.browser.accessibility import settle, small_targets, violations
from tests.browser.steered import SLUG, seed_version

PHONE = {"width": 400, "height": 800}
DESK = {"width": 1360, "height": 900}
WIDER = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 200)).slice(0, 6)"""
TWICE = """() => { const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  return ids.filter((id, i) => ids.indexOf(id) !== i); }"""
T = f"/targets/{SLUG}/"
NO_TRACE = f"/targets/pocket/traces/{uuid.UUID(int=0)}/"
DELETED_TRACE = "/targets/pocket/traces/{deleted}/"
CANNOT_COME_BACK = f"{T}rollback/?to={{canary}}"
GONE = ("/targets/nothing/", NO_TRACE, DELETED_TRACE, CANNOT_COME_BACK)  # their status is an error to a browser
# name of the address -> the pages to look at; {...} is filled in by the fixture ``busy``
PAGES = {
    "console:overview": ["/", "/?q=nothing+like+this"],
    "console:audit": ["/audit/", "/audit/?actor=nobody"],
    "console:audit_event": ["/audit/{event}/"],
    "console:alerts": ["/alerts/", "/alerts/?state=resolved"],
    "console:alert_rules": ["/alerts/rules/", f"/alerts/rules/?target={SLUG}"],
    "console:new_silence": ["/alerts/silences/new/"],
    "console:alert_channels": ["/alerts/channels/"],
    "console:register": ["/targets/new/"],
    "console:register_bulk": ["/targets/new/bulk/"],
    "console:target": [T, f"{T}?view=table", "/targets/pocket/?range=3h", "/targets/nothing/"],
    "console:settings": [f"{T}settings/"],
    "console:rollback": [f"{T}rollback/", CANNOT_COME_BACK],
    "console:rollbacks": ["/rollback/"],
    "console:versions_page": [f"{T}versions/"],
    "console:compare": [
        f"{T}versions/compare/",
        f"{T}versions/compare/?v=1&v={{canary}}",
        f"{T}versions/compare/?v=1&v={{canary}}&view=table",
    ],
    "console:version": [f"{T}versions/1/", f"{T}versions/{{canary}}/"],
    "console:traces": ["/targets/pocket/traces/", f"{T}traces/?domain=nothing"],
    "console:trace": ["/targets/pocket/traces/{trace}/", NO_TRACE, DELETED_TRACE],
    "console:playground": ["/targets/pocket/playground/", f"{T}playground/"],
    "console:domains": ["/targets/pocket/domains/?range=1h", f"{T}domains/"],
    "console:economics": ["/targets/pocket/economics/?range=1h", f"{T}economics/"],
    "console:system": ["/system/"],
    "console:help": ["/help/"],
    "api_docs": ["/api/docs", "/api/docs?q=nothing of that name"],
    "console:preferences": ["/settings/preferences/"],
    "console:policies": ["/settings/policies/"],
    "console:retention": ["/settings/retention/"],
    "console:swap": [f"{T}swaps/1/"],
    "console:replicas_page": [f"{T}replicas/"],
    "console:fleet": ["/replicas/", "/replicas/?q=nothing"],
    "console:approvals": ["/approvals/", "/approvals/?target=nothing"],
    "console:approval": ["/approvals/{canary_id}/", "/approvals/{waiting_id}/"],
    "accounts:people": ["/accounts/people/"],
    "accounts:tokens": ["/accounts/tokens/"],
}
SIGNED_OUT = {
    "accounts:login": ["/accounts/login/", "/accounts/login/?next=/approvals/"],
    "accounts:invite": ["/accounts/invite/no-such-invite/"],
}
# test_register.py looks at these, each filled in
STEPS = {f"console:register_{step}" for step in ("source", "check", "plan", "review", "file")}
# parts of pages, files and redirects: no page of their own
PARTS = {
    *(
        "console:" + name
        for name in (
            "activity parts connection standing launch pins inbox processes export_traces economics_csv version_file "
            "register_servers settings_index targets"
        ).split()
    ),
    "accounts:oidc_login",
    "accounts:oidc_callback",
}


def addresses(resolver, space=""):
    """(name, methods) of every address with a page of ours behind it."""
    for pattern in resolver.url_patterns:
        if hasattr(pattern, "url_patterns"):
            if pattern.namespace in (None, "console", "accounts"):  # the API's own are JSON
                yield from addresses(pattern, f"{pattern.namespace}:" if pattern.namespace else space)
        elif pattern.name:
            view = pattern.callback
            of_class = view.view_class.http_method_names if hasattr(view, "view_class") else ("GET",)
            yield space + pattern.name, getattr(view, "allowed_methods", of_class)


def test_every_page_is_on_the_list():
    shown = {name for name, methods in addresses(get_resolver()) if {"GET", "get"} & set(methods)}
    listed = PAGES.keys() | SIGNED_OUT.keys()
    assert shown == listed | PARTS | STEPS
    assert not listed & PARTS


@pytest.fixture(scope="module")
def busy(ring, traced, steered, admin_token):
    """Fills in {canary}, {canary_id}, {waiting_id}, {trace} and {event}."""
    trace, deleted = (uuid.UUID(each["trace_id"]) for each in traced.get("/targets/pocket/traces")["items"][:2])
    traced.delete(f"/targets/pocket/traces/{deleted}", {"reason": "asked for by its author"})
    steered.replaced()
    number = steered.waiting()
    ring.patch(f"/targets/{SLUG}", {"canary_share": 0.5, "canary_minutes": 60}, token=admin_token)
    versions = steered.versions()
    ring.post(f"/versions/{versions[number]['id']}/approve")
    wait_for("a canary", lambda: steered.numbers("canary") == [number], 60)
    later = seed_version(ring, SLUG)
    steered.servers[0].say(capture_state="broken", capture_detail="the hook on eagle_sample never fired")
    wait_for("an alert", lambda: ring.get(f"/targets/{SLUG}/alerts"), 60)
    yield {
        "canary": number,
        "canary_id": versions[number]["id"],
        "waiting_id": steered.versions()[later]["id"],
        "trace": trace,
        "deleted": deleted,
        "event": ring.get("/audit")["items"][0]["id"],
    }
    steered.servers[0].say()
    ring.post(f"/versions/{versions[number]['id']}/canary/abort")
    ring.patch(f"/targets/{SLUG}", {"canary_share": 0}, token=admin_token)


@pytest.fixture(scope="module")
def heard(admin):
    """What scripts complained about on the admin's page since the last look."""
    found = []
    admin.on("pageerror", lambda error: found.append(str(error)))
    admin.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    return found


def check(page, address):
    page.set_viewport_size(DESK)
    for theme in ("light", "dark"):
        assert violations(page, address, theme) == [], theme
    assert page.evaluate(TWICE) == []  # a script would take the first of them
    page.set_viewport_size(PHONE)
    settle(page)
    with suppress(TimeoutError):  # charts follow one by one; what is wider in the end is named
        wait_for("a page that fits", lambda: page.evaluate(WIDER) == [], 10)
    assert page.evaluate(WIDER) == []
    assert small_targets(page) == []
    page.set_viewport_size(DESK)  # the next test's page is no phone


@pytest.mark.parametrize("path", [path for paths in PAGES.values() for path in paths])
def test_a_page_is_accessible_and_fits(admin, base, busy, heard, path):
    heard.clear()
    check(admin, base + path.format(**busy))
    assert [line for line in heard if path not in GONE or not re.search("status of 4(04|10|22)", line)] == []


@pytest.mark.parametrize("path", [path for paths in SIGNED_OUT.values() for path in paths])
def test_a_page_for_those_who_are_not_signed_in_is_accessible(browser, base, ring, path):
    page = browser.new_context(viewport=DESK).new_page()
    check(page, base + path)
    page.context.close()


@pytest.mark.parametrize(
    ("template", "given"),
    [
        ("500.html", {}),
        ("accounts/login.html", {"oidc": {"name": "the directory"}, "form": AuthenticationForm()}),
        ("503.html", {"retry_seconds": 600}),
        ("accounts/oidc_failed.html", {"oidc": {"name": "the directory"}}),
        ("accounts/oidc_failed.html", {"oidc": {"name": "the directory"}, "refused": "you are in no group"}),
    ],
)
def test_a_page_that_this_console_does_not_show_now_is_accessible(browser, base, template, given):
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    body = render_to_string(template, given, request)
    page = browser.new_context(viewport=DESK).new_page()
    page.route(f"{base}/failed/", lambda route: route.fulfill(body=body, content_type="text/html; charset=utf-8"))
    check(page, f"{base}/failed/")
    page.context.close()


def test_an_invite_and_refusals_are_accessible(browser, admin, viewer, base):
    admin.goto(f"{base}/accounts/people/")
    admin.get_by_role("button", name="Make a link").click()
    invite = admin.locator("code.secret").inner_text()
    check(admin, admin.url)  # with the secret shown
    page = browser.new_context(viewport=DESK).new_page()
    check(page, invite)
    page.get_by_label("User name").fill("short")
    page.get_by_label("Password", exact=True).fill("short")
    page.get_by_label("Password again").fill("shorter")
    page.get_by_role("button", name="Create the account").click()
    expect(page.locator(".problem").first).to_be_visible()
    check(page, page.url)
    page.context.close()
    viewer.goto(f"{base}/targets/new/")
    expect(viewer.get_by_role("heading", name="Not allowed")).to_be_visible()
    check(viewer, viewer.url)


SPARE = "(box) => box.clientWidth - box.scrollWidth"  # below zero: a part is out of sight until it is swiped to

EDGES = """(box) => [...box.querySelectorAll("tbody tr:first-child > *")].map((cell) => cell.getBoundingClientRect())
  .map((box) => [box.top, box.bottom])"""


@pytest.mark.parametrize(("path", "name"), [("/approvals/", "Approvals"), ("/accounts/people/", "Users and roles")])
def test_on_a_phone_a_row_that_is_decided_on_is_seen_whole(admin, base, busy, path, name):
    admin.set_viewport_size(PHONE)
    admin.goto(base + path)
    rows = admin.get_by_role("region", name=name)
    expect(rows.get_by_role("button").first).to_be_visible()
    assert rows.evaluate(SPARE) >= 0
    edges = rows.evaluate(EDGES)  # at once: the rows are drawn anew as versions come
    assert len(edges) > 3
    assert all(bottom <= top + 1 for (_, bottom), (top, _) in pairwise(edges)), edges
    admin.set_viewport_size(DESK)


def test_a_long_name_leaves_the_figures_in_sight(admin, base, busy):
    admin.set_viewport_size(DESK)
    admin.goto(f"{base}/targets/pocket/?range=24h")
    figures = admin.get_by_role("region", name="Figures per domain")
    figures.locator("tbody th").first.evaluate("(cell) => { cell.textContent = 'W'.repeat(100); }")
    assert figures.evaluate(SPARE) >= 0


def test_an_open_dialog_and_open_details_are_accessible(admin, base, busy):
    admin.goto(f"{base}/alerts/")
    admin.get_by_role("link", name=re.compile("Silence…")).first.click()
    expect(admin.locator("#dialog [name=reason]")).to_be_focused(timeout=60_000)
    check(admin, admin.url)
    admin.keyboard.press("Escape")
    for path in (f"{T}replicas/", T, "/api/docs"):
        admin.goto(base + path)
        admin.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        check(admin, admin.url)
