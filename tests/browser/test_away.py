"""A live page while the console's broker or database is away for long: what it shows is called stale till then."""

import re
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import expect

from tests import services
from tests.browser.conftest import accept
from tests.browser.empty_console import empty_console

LONG = 180_000  # the pool of database connections tries again with growing waits


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    folder = tmp_path_factory.mktemp("away")
    folder.chmod(0o755)
    with empty_console(folder) as found:
        yield found


@pytest.fixture(scope="module")
def ada(console, browser):
    page = accept(browser, console.manage("invite_admin").strip(), "ada")
    yield page
    page.context.close()


@contextmanager
def without_broker(console):
    console.valkey.stop()
    try:
        yield
    finally:
        console.valkey.start()


@contextmanager
def without_database(console):
    name = urlsplit(console.environment["DATABASE_URL"]).path.lstrip("/")
    with psycopg.connect(services.servers.database_url, autocommit=True) as server:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize(("absence", "who"), [(without_broker, "broker"), (without_database, "database")])
def test_a_live_page_says_that_it_is_stale_and_goes_on_by_itself(console, ada, absence, who):
    page = ada.context.new_page()
    page.goto(f"{console.base}/alerts/")
    line = page.locator("#live")
    expect(line).to_have_text("connected")
    page.evaluate("() => { window.isTheSame = true; }")
    with absence(console):
        expect(line).to_have_text(re.compile(rf"^stale since \d\d:\d\d:\d\d .*: the .*{who} does not answer$"))
        expect(page.locator("html")).to_have_attribute("data-stale", "")
    expect(line).to_have_text("connected", timeout=LONG)
    expect(page.locator("html[data-stale]")).to_have_count(0)
    ada.goto(f"{console.base}/alerts/silences/new/")  # and news are heard again
    ada.get_by_label("Reason").fill(f"without the {who}")
    ada.get_by_role("button", name="Silence").click()
    expect(page.locator("#open-alerts")).to_contain_text(f"without the {who}")
    assert page.evaluate("() => window.isTheSame")
    page.close()
