"""A model on SGLang: register it, start servers, watch the page notice them, let a canary decide.

The servers are played by the test through the public protocol; console, trainer and browser are real.
"""

import re

import pytest
from playwright.sync_api import expect

from tests.bench.ring import wait_for
from tests.browser.registering import fill_plan, start, to_the_plan
from tests.browser.reporting_server import ReportingServer
from tests.browser.steered import seed_version

MINUTES = 60_000


@pytest.fixture(scope="module")
def servers(base):
    """start(token, name) -> a server that reports; all are stopped at the end."""
    started = {}

    def start(token, name):
        started[name] = ReportingServer(base, token, "served", name)
        return started[name]

    start.running = started
    yield start
    for server in started.values():
        server.stop()


def statuses(ring):
    return {v["number"]: v["status"] for v in ring.get("/targets/served/versions")["items"]}


def passed(ring):
    """The newest version that waits for approval; traces are sent until there is one."""
    return next((number for number, status in statuses(ring).items() if status == "passed"), None)


def test_registering_for_sglang(operator, base, ring):
    page = operator
    page.goto(f"{base}/targets/new/")
    expect(page.get_by_label("Or its model id")).to_be_hidden()
    page.get_by_label("SGLang servers of yours").check()
    page.get_by_label("Or its model id").fill("acme/tiny")
    expect(page.locator("#check")).to_contain_text("paste the model's config.json", timeout=60_000)
    to_the_plan(page, base, str(ring.state_dir / "models" / "pocket"), on_sglang=True)
    fill_plan(page, checked=("A person approves every version",), slug="served")
    expect(page.locator("main")).to_contain_text("SGLang has to be 0.5.21")
    start(page)
    expect(page.locator("#connection")).to_contain_text("Waiting for a server.")


def test_the_launch_command_comes_with_version_one(operator, ring):
    page = operator
    command = page.locator("#launch-command")
    expect(command).to_contain_text("--speculative-algorithm EAGLE3", timeout=2 * MINUTES)  # without reloading
    [version] = ring.get("/targets/served/versions")["items"]
    expect(command).to_contain_text(f"--speculative-draft-model-path {version['uri']}")
    page.get_by_role("button", name="Copy the launch command").click()
    expect(page.get_by_text("Copied", exact=True)).to_be_visible()
    page.get_by_role("link", name="CPU, for development").click()
    expect(command).to_contain_text("--device cpu")


def test_the_page_notices_the_first_server_by_itself(operator, viewer, base, servers):
    page = operator
    page.get_by_role("button", name="Make a replica token").click()
    token = re.search(r"AURORA_REPLICA_TOKEN=(\S+)", page.locator("#token-line").inner_text())[1]
    viewer.goto(f"{base}/targets/served/")
    expect(viewer.locator("#connection")).to_contain_text("Waiting for a server.")
    servers(token, "served-30000")
    for each in (page, viewer):
        expect(each.locator("#connection")).to_contain_text(
            "Connected: served-30000 (sglang 0.5.21) reports", timeout=60_000
        )
        expect(each.locator("#replicas")).to_contain_text("proved on all 2 ranks", timeout=60_000)
        expect(each.locator("#replicas")).to_contain_text("target weights untouched")
    expect(page.locator("#token-line")).to_be_visible()  # still there while the rest is drawn again
    servers(token, "served-30001")
    expect(page.locator("#replicas")).to_contain_text("served-30001", timeout=60_000)


def test_capture_that_breaks_is_an_alert_until_it_works(operator, base, servers):
    page, server = operator, servers.running["served-30001"]
    server.say(capture_state="broken", capture_detail="the hook on eagle_sample never fired")
    said = "served-30001 serves, but keeps no traces: the hook on eagle_sample never fired."
    expect(page.locator("#alerts")).to_contain_text(said, timeout=60_000)
    page.goto(base)
    expect(page.locator("#overview")).to_contain_text("1 alert")
    page.goto(f"{base}/targets/served/")
    server.say()
    expect(page.locator("#alerts").get_by_text("Alerts that have ended")).to_be_visible(timeout=60_000)
    expect(page.locator("#alerts")).not_to_contain_text("since")


def test_approving_begins_a_canary_on_one_of_two(operator, base, ring, servers):
    page = operator
    admin_token = ring.manage("create_token", "--role", "admin", "--name", "policy").split()[-1]
    policy = {"canary_share": 0.5, "canary_minutes": 60}
    ring.console.patch(
        "/targets/served", json=policy, headers={"authorization": f"Bearer {admin_token}"}
    ).raise_for_status()
    first, second = servers.running.values()
    first.send_traces(60)
    wait_for("a version that passes", lambda: passed(ring), 180)
    number = passed(ring)
    page.get_by_role("button", name=f"Approve v{number}").click(timeout=MINUTES)
    expect(page.get_by_text(f"v{number} goes into canary on")).to_be_visible()
    wait_for("one server on each", lambda: {first.desired.version, second.desired.version} == {1, number}, 30)
    wait_for("one generation on both", lambda: first.desired.generation == second.desired.generation, 30)
    expect(page.locator("#canary")).to_contain_text("the policy asks for 50 on either side")
    for server in (first, second):
        server.send_counts(0.5 if server.desired.version == number else 0.6)
    row = page.get_by_role("region", name="Canary against the others").get_by_role("row", name=re.compile("sql"))
    expect(row).to_contain_text("+20.0 %", timeout=60_000)


def test_promoting_puts_it_on_every_server(operator, ring, servers):
    page = operator
    number = next(n for n, status in statuses(ring).items() if status == "canary")
    page.locator("#canary").get_by_label("Reason", exact=True).fill("fast enough")
    page.get_by_role("button", name=f"Promote v{number}").click()
    expect(page.get_by_text(f"v{number} goes live on every replica.")).to_be_visible()
    wait_for("both servers", lambda: {s.desired.version for s in servers.running.values()} == {number}, 30)
    expect(page.locator("#replicas").get_by_text(f"v{number} → v{number}")).to_have_count(2, timeout=60_000)
    expect(page.locator("#canary")).to_be_empty()


def test_aborting_brings_the_live_version_back(operator, viewer, base, ring, servers):
    page, live = operator, next(n for n, status in statuses(ring).items() if status == "live")
    number = seed_version(ring, "served")
    page.goto(f"{base}/targets/served/")
    page.get_by_role("button", name=f"Approve v{number}").click()
    expect(page.locator("#canary")).to_contain_text(f"v{number} against v{live}")
    viewer.goto(f"{base}/targets/served/")
    expect(viewer.locator("#canary")).to_contain_text(f"v{number} against v{live}")
    expect(viewer.get_by_text("Abort")).to_have_count(0)
    abort = page.get_by_role("button", name=f"Abort the canary v{number}")
    expect(abort).to_be_hidden()
    page.get_by_text("Abort…", exact=True).click()
    abort.click()
    expect(page.get_by_text(f"v{number} is rolled back")).to_be_visible()
    wait_for("both servers", lambda: {s.desired.version for s in servers.running.values()} == {live}, 30)


def test_a_server_that_is_gone_is_shown_as_down(operator, base, servers):
    page = operator
    page.goto(f"{base}/targets/served/")
    for server in servers.running.values():
        server.stop()
    expect(page.locator("#connection")).to_contain_text("Not connected: served-30000 was seen", timeout=40_000)
    expect(page.locator("#replicas").get_by_text("catches up when it reports")).to_have_count(2, timeout=60_000)
