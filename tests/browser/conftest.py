"""A real Aurora and headless Chromium, with a person of each role."""

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.bench.bench_live import CHROMIUM
from tests.bench.ring import running_ring, wait_for
from tests.browser.mailbox import Mailbox
from tests.browser.steered import Steered
from tests.services import new_database

PASSWORD = "a long password"
expect.set_options(timeout=60_000)  # a shared machine stands still for seconds; what holds already is not waited for


@pytest.fixture(scope="session")
def mailbox():
    with Mailbox() as found:
        yield found


@pytest.fixture(scope="session")
def ring(tmp_path_factory, mailbox):
    folder = tmp_path_factory.mktemp("ring")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    with running_ring(folder, AURORA_EMAIL_URL=mailbox.url, DATABASE_URL=new_database()) as found:
        found.patch("/targets/pocket", {"traffic_enabled": False})  # the tests register a target of their own
        yield found


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield found
        found.close()


@pytest.fixture(scope="session")
def base(ring):
    return f"http://127.0.0.1:{ring.web_port}"


def accept(browser, link, name):
    """A new person: follow an invite in a browser of their own; the page that they see then."""
    page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
    page.goto(link)
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Create the account").click()
    page.get_by_role("heading", name="Overview").wait_for()
    return page


@pytest.fixture(scope="session")
def admin(browser, ring):
    return accept(browser, ring.invite_link(), "ada")


def invited(browser, admin, base, role, name):
    admin.goto(f"{base}/accounts/people/")
    admin.get_by_label("Invite somebody as").select_option(role)
    admin.get_by_role("button", name="Make a link").click()
    return accept(browser, admin.locator("code.secret").inner_text(), name)


@pytest.fixture(scope="session")
def operator(browser, admin, base):
    return invited(browser, admin, base, "operator", "olga")


@pytest.fixture(scope="session")
def viewer(browser, admin, base):
    return invited(browser, admin, base, "viewer", "vera")


@pytest.fixture(scope="module")
def busy_demo(ring):
    """The demo with traffic of its own."""
    ring.patch("/targets/pocket", {"traffic_enabled": True})
    wait_for("figures", lambda: ring.get("/targets/pocket/charts", range="30m")["windows"], 60)
    yield ring
    ring.patch("/targets/pocket", {"traffic_enabled": False})


@pytest.fixture
def tab(operator):
    """A further tab of the operator."""
    page = operator.context.new_page()
    yield page
    page.close()


def sign_in(browser, base, name, path="/"):
    """The page at ``path`` of somebody with an account, in a browser of their own, through the sign-in page."""
    page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
    page.goto(base + path)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(base + path)
    return page


def post(page, url, **form):
    """The answer to a form that this person's browser sends, whether or not the page shows it."""
    token = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "csrftoken")
    return page.request.post(url, form=form, headers={"X-CSRFToken": token}, max_redirects=0)


@pytest.fixture(scope="session")
def admin_token(ring):
    return ring.manage("create_token", "--role", "admin", "--name", "tests").split()[-1]


@pytest.fixture(scope="session")
def steered(ring, base):
    found = Steered(ring, base)
    yield found
    found.stop()


@pytest.fixture(scope="session")
def traced(ring):
    """A ring whose demo has kept more traces than the tests delete; its traffic rests again."""
    ring.patch("/targets/pocket", {"traffic_enabled": True})
    wait_for("traces", lambda: len(ring.get("/targets/pocket/traces")["items"]) >= 5, 120, 1)
    ring.patch("/targets/pocket", {"traffic_enabled": False})
    return ring
