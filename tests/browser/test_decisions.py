"""Who may decide, and how many clicks it takes: from the mail's link, and from any page back to the version before."""

import re
from uuid import UUID

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD, post
from tests.browser.keyboard import press
from tests.browser.mailbox import link_in
from tests.browser.steered import SLUG

T = f"/targets/{SLUG}/"
DECIDING = re.compile(
    "Approve|Decline|Reject|Judge again|Promote|Abort|Roll back|Pause training|Resume training|Train now|Freeze"
    "|Unfreeze|Let the policy|demo traffic|Silence|Register|Make a replica token|Add the rule|Save"
)
SHOWN_TO_OPERATORS = {
    T: ["Approve", "Roll back…", "Pause training", "Train now", "Freeze", "Send demo traffic"],
    f"{T}settings/": ["Save"],
    f"{T}domains/": ["Add the rule"],
    "/approvals/?target=" + SLUG: ["Approve", "Decline"],
    "/alerts/": ["Silence…"],
}
# Pages from which somebody may want to go back: every kind of address in the navigation, and the pages of a target.
FROM_ANYWHERE = [
    "/", "/approvals/", "/alerts/", "/replicas/", "/audit/", "/system/", "/help/", T, f"{T}versions/", f"{T}domains/",
    f"{T}traces/", f"{T}replicas/", f"{T}economics/", f"{T}settings/",
]  # fmt: skip


class Clicks:
    """Counts what a person clicks."""

    def __init__(self, page):
        self.page, self.count = page, 0

    def click(self, role, name):
        found = self.page.get_by_role(role, name=name)
        expect(found.first).to_be_visible()
        found.first.click()
        self.count += 1


@pytest.fixture(scope="module")
def waiting(steered):
    """The number of a version that waits, on a target that can go back."""
    steered.replaced()
    return steered.waiting()


@pytest.mark.parametrize("path", SHOWN_TO_OPERATORS)
def test_controls_are_shown_to_those_who_may(operator, viewer, base, steered, waiting, path):
    operator.goto(base + path)
    for words in SHOWN_TO_OPERATORS[path]:
        control = operator.locator("main").locator("button, a.button").filter(has_text=words)
        expect(control.first).to_be_visible()
        expect(control.first).to_be_enabled()
    viewer.goto(base + path)
    for control in viewer.locator("main").locator("button, a.button").filter(has_text=DECIDING).all():
        expect(control).to_be_disabled()  # or not there at all
        expect(viewer.locator("main")).to_contain_text(re.compile("Operators|Admins|admin"))


def test_what_a_viewer_does_not_see_is_refused_too(viewer, base, steered, waiting):
    viewer.goto(f"{base}{T}")
    before = steered.versions()
    for path in (
        f"{T}versions/{waiting}/approve/", f"{T}versions/{waiting}/reject/", f"{T}versions/{waiting}/promote/",
        f"{T}versions/{waiting}/abort/", f"{T}rollback/", f"{T}resume/", f"{T}training/pause/", f"{T}training/resume/",
        f"{T}training/now/", f"{T}freeze/", f"{T}unfreeze/", f"{T}traffic/", f"{T}replica-token/", f"{T}settings/",
        f"{T}domains/", "/alerts/silences/new/", f"/targets/new/{UUID(int=0)}/source/",
        f"/approvals/{before[waiting]['id']}/judge/",
    ):  # fmt: skip
        answer = post(viewer, base + path, form="traffic", reason="let me")
        assert answer.status == 403, path
        assert "Your role is viewer, and this is for" in answer.text(), path  # the role refuses, not a missing token
    assert steered.versions() == before
    assert viewer.goto(f"{base}{T}rollback/").status == 403
    expect(viewer.get_by_role("heading", name="Not allowed")).to_be_visible()


NO_PAGE = ("/accounts/people/", "/accounts/tokens/", "/alerts/channels/")  # for admins alone
READ_ONLY = {  # what the page says of itself to an operator
    "/settings/policies/": "Admins change them.",
    "/settings/retention/": "Admins change these.",
    f"/alerts/rules/?target={SLUG}": "Admins change thresholds.",
}
REFUSED = [  # forms of these pages: address, fields
    ("/accounts/people/invite/", {"role": "admin"}),
    ("/accounts/tokens/", {"name": "mine", "role": "admin"}),
    ("/alerts/channels/", {"name": "mine", "kind": "email", "address": "olga@example.org"}),
    ("/settings/retention/", {"trace_days": "1"}),
    (f"/alerts/rules/?target={SLUG}", {"rule": "capture_broken", "is_enabled": ""}),
    (f"{T}settings/", {"form": "policy", "approval": "automatic"}),
]


@pytest.mark.parametrize("path", NO_PAGE)
def test_an_operator_has_no_page_of_what_only_admins_do(operator, base, path):
    assert operator.goto(base + path).status == 403
    expect(operator.get_by_role("heading", name="Not allowed")).to_be_visible()
    expect(operator.locator("main")).to_contain_text("Your role is operator, and this is for admins")
    expect(operator.locator("main form")).to_have_count(0)


@pytest.mark.parametrize("path", READ_ONLY)
def test_an_operator_reads_what_admins_set_and_cannot_change_it(operator, base, steered, path):
    operator.goto(base + path)
    expect(operator.locator("main")).to_contain_text(READ_ONLY[path])
    for field in operator.locator("main form[method=post]").locator("input:not([type=hidden]), select, button").all():
        expect(field).to_be_disabled()


@pytest.mark.parametrize(("path", "form"), REFUSED, ids=[path for path, _ in REFUSED])
def test_the_forms_of_admins_are_refused_to_an_operator(operator, base, steered, path, form):
    operator.goto(base)
    answer = post(operator, base + path, reason="let me", **form)
    assert answer.status == 403
    assert "Your role is operator, and this is for admins" in answer.text()  # not a missing token


def test_an_operator_pauses_and_resumes(operator, base, steered, waiting):
    operator.goto(f"{base}{T}")
    operator.get_by_label("Reason", exact=True).first.fill("a look at the data")
    operator.get_by_role("button", name="Pause training").click()
    expect(operator.locator("#switches")).to_contain_text("training paused by olga")
    operator.get_by_role("button", name="Resume training").click()
    expect(operator.locator("#switches")).to_contain_text("training on")


def test_from_the_mail_to_a_decision_is_one_click(browser, admin, operator, base, mailbox, steered, waiting):
    people = "olga@example.org, on-call@example.org"
    post(admin, f"{base}/alerts/channels/", name="on call", kind="email", address=people)
    steered.ring.post(f"/versions/{steered.versions()[waiting]['id']}/reject", {"reason": "too early for this test"})
    number = steered.waiting()
    mail = mailbox.wait(f"[Aurora {SLUG}] {SLUG} v{number} passed the gate")
    assert mail["X-Envelope-To"] == people
    link = link_in(mail)
    assert link.startswith(base)
    page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
    page.goto(link)  # signed out: the link survives signing in
    page.get_by_label("Username").fill("olga")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(link)
    clicks = Clicks(page)
    clicks.click("button", f"Approve v{number}")
    expect(page.get_by_text(f"v{number} goes live")).to_be_visible()
    expect(page.get_by_role("heading", name="It is live")).to_be_visible()
    assert clicks.count == 1  # the mission allows 2
    page.context.close()


def test_a_rollback_is_two_clicks_away_from_any_page(operator, base, steered, waiting):
    live = steered.replaced()
    for path in FROM_ANYWHERE:
        operator.goto(base + path)
        clicks = Clicks(operator)
        clicks.click("link", "Roll back…")
        button = operator.get_by_role("button", name=re.compile(rf"^Roll back( {SLUG})? to v\d+"))
        expect(button).to_be_enabled()  # the second click, here of the last page only
    clicks.click("button", re.compile(rf"^Roll back( {SLUG})? to v\d+"))
    expect(operator.get_by_role("heading", name=f"Rollback: v{live} → v")).to_be_visible()
    assert clicks.count == 2  # the mission allows 3


def test_what_went_live_while_the_reason_was_typed_is_asked_about(operator, base, steered, waiting):
    seen = steered.replaced()
    operator.goto(f"{base}{T}rollback/")
    operator.get_by_label("Reason").fill("slow since noon")
    number = steered.waiting()
    steered.ring.post(f"/versions/{steered.versions()[number]['id']}/approve")
    operator.get_by_role("button", name="Roll back to v").click()
    expect(operator.get_by_role("alert")).to_contain_text(f"v{number} is live now, not v{seen} any more")
    expect(operator.get_by_label("Reason")).to_have_value("slow since noon")
    assert steered.numbers("live") == [number]
    operator.get_by_role("button", name=f"Roll back to v{seen}", exact=True).click()  # the second of both ways
    expect(operator.get_by_role("heading", name=f"Rollback: v{number} → v{seen}")).to_be_visible()
    assert steered.numbers("live") == [seen]


def test_from_signing_in_to_a_rollback_by_keyboard_alone(browser, base, steered, waiting):
    live = steered.replaced()
    page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
    page.goto(base)

    def tab_to(what):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("words => document.activeElement?.innerText?.trim().startsWith(words)", what):
                return
        raise AssertionError(f"{what!r} is not reached by the Tab key")

    expect(page.get_by_label("Username")).to_be_focused()
    page.keyboard.type("olga")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    tab_to("Roll back…")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Roll back", exact=True)).to_be_visible()
    tab_to(f"Roll back {SLUG} to v")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Rollback: v{live} → v")).to_be_visible()
    expect(page.locator("#swap .measured")).to_contain_text(re.compile("all 2 replicas after"), timeout=60_000)
    assert live not in steered.running()
    page.context.close()


def test_two_versions_are_compared_and_one_is_approved_by_keyboard_alone(tab, base, steered, waiting):
    steered.replaced()
    number = steered.waiting()
    tab.goto(f"{base}{T}versions/")
    expect(tab.locator("#live")).to_have_text("connected")
    for each in (number, 1):
        box = tab.get_by_label(f"Compare v{each}", exact=True)
        press(tab, box, "Space")
        expect(box).to_be_checked()
    press(tab, tab.get_by_role("button", name="Compare", exact=True))
    expect(tab.get_by_role("heading", level=1)).to_contain_text(re.compile(rf"v1\b.*v{number}\b|v{number}\b.*v1\b"))
    press(tab, tab.get_by_role("link", name="Approvals").first)
    expect(tab.get_by_role("heading", name="Approvals")).to_be_visible()
    press(tab, tab.get_by_role("button", name=f"Approve v{number} of {SLUG}"))
    expect(tab.get_by_text(f"v{number} goes live")).to_be_visible()
    assert steered.numbers("live") == [number]
