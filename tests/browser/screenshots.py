"""``python -m tests.browser.screenshots``: every page in both themes, for the README and docs/console.md.

Starts a real Aurora in a fresh directory, lets the demo learn for ``--seconds``, then has a person decide (so that the
inbox has something), and writes WebP files to docs/images.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
import uuid
from typing import Any

from playwright.sync_api import Page, Playwright, sync_playwright

from tests.bench.bench_live import CHROMIUM
from tests.bench.ring import REPO, Ring, temporary_ring, wait_for
from tests.browser.accessibility import SET_THEME
from tests.browser.registering import fill_plan, to_the_plan

IMAGES = REPO / "docs" / "images"
DEMO = "/targets/pocket/"
SEVERAL = [
    {"slug": "chat", "policy": {"approval": "manual"}},
    {"slug": "code", "policy": {"expected_domains": ["sql"]}},
]
# name -> address; {...} is what the ring has by then
PAGES = {
    "approvals": "/approvals/",  # first: newer versions soon take the place of the one that waits
    "approval": "/approvals/{waiting_id}/",
    "overview": "/",
    "live": f"{DEMO}?range=30m",
    "live-table": f"{DEMO}?range=5m&view=table",
    "versions": f"{DEMO}versions/",
    "version": f"{DEMO}versions/{{live}}/",
    "compare": f"{DEMO}versions/compare/?v={{first}}&v={{live}}",
    "domains": f"{DEMO}domains/?range=1h",
    "playground": f"{DEMO}playground/?domain=sql&max_tokens=64",
    "traces": f"{DEMO}traces/",
    "trace": f"{DEMO}traces/{{trace}}/",
    "replicas": f"{DEMO}replicas/",
    "fleet": "/replicas/",
    "economics": f"{DEMO}economics/?range=1h",
    "settings": f"{DEMO}settings/",
    "swap": f"{DEMO}swaps/{{generation}}/",
    "rollback": "/rollback/",
    "rollback-target": f"{DEMO}rollback/",
    "alerts": "/alerts/",
    "silence": "/alerts/silences/new/?target=pocket",
    "rules": "/alerts/rules/?target=pocket",
    "register": "{draft}/source/",
    "register-check": "{draft}/check/",
    "register-plan": "{draft}/plan/",
    "register-review": "{draft}/review/",
    "register-several": "{several}/bulk/",
    "audit": "/audit/",
    "event": "/audit/{event}/",
    "system": "/system/",
    "preferences": "/settings/preferences/",
    "policies": "/settings/policies/",
    "retention": "/settings/retention/",
    "people": "/accounts/people/",
    "tokens": "/accounts/tokens/",
    "channels": "/alerts/channels/",
    "api": "/api/docs?q=rollback",
    "help": "/help/",
}
SIGNED_OUT = ("invite", "sign-in")
PROMPT = """Tables:
stores(id INTEGER, name TEXT, level TEXT, quantity INTEGER, stock INTEGER, price REAL)
Show the stock and quantity and level of stores whose level is silver."""
WIDTH, HEIGHT = 1280, 860
# Pixels; longer pages are cut there.
HEIGHTS = {"live": 1500, "live-table": 1700, "domains": 1100, "approval": 1000, "playground": 1150}
QUALITY = 50
MOST_BYTES = 3_600_000  # all pictures together


def sign_up(page: Page, link: str) -> None:
    """Follow the one-time link of the first admin."""
    page.goto(link)
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password", exact=True).fill("a long password")
    page.get_by_label("Password again").fill("a long password")
    page.get_by_role("button", name="Create the account").click()
    page.get_by_role("heading", name="Overview").wait_for()


def facts(ring: Ring, seconds: float) -> dict[str, Any]:
    """What the addresses need. From here on a person approves the demo's versions, so that one waits."""
    ring.patch(DEMO.rstrip("/"), {"approval": "manual"}, token=admin_token(ring))
    try:
        wait_for("a version that waits", lambda: ring.get("/approvals", target="pocket", state="waiting"), seconds, 1)
    except TimeoutError as error:  # a draft that has learnt all does not get better: its page says what was decided
        print(error, flush=True)
    versions = ring.get("/targets/pocket/versions", limit=500)["items"]
    live = next(version for version in versions if version["status"] == "live")
    waiting = next((version for version in versions if version["status"] == "passed"), live)
    return {
        "live": live["number"],
        "first": min(version["number"] for version in versions),
        "waiting_id": waiting["id"],
        "generation": ring.get("/targets/pocket/swaps")[0]["generation"],
        "trace": uuid.UUID(next(t["trace_id"] for t in ring.get("/targets/pocket/traces")["items"] if t["version"])),
        "event": ring.one("SELECT max(id) FROM accounts_auditevent WHERE action = 'target.settings'"),
    }


def registrations(page: Page, base: str, directory: str) -> dict[str, str]:
    """Paths of two registrations that wait for their last click: one target by steps, several from YAML."""
    to_the_plan(page, base, directory)
    fill_plan(page, slug="support-chat")
    page.wait_for_url("**/review/")
    draft = page.url
    page.goto(f"{base}/targets/new/bulk/")
    entries = [{**entry, "path": directory} for entry in SEVERAL]
    page.get_by_label("Targets, as YAML").fill(json.dumps({"targets": entries}, indent=2))
    page.get_by_role("button", name="Check the entries").click()
    page.get_by_role("heading", name="Check: 2 of 2 can be registered").wait_for()
    return {name: url.removeprefix(base).rsplit("/", 2)[0] for name, url in (("draft", draft), ("several", page.url))}


def admin_token(ring: Ring) -> str:
    return ring.manage("create_token", "--role", "admin", "--name", "screenshots").split()[-1]


def take(page: Page, address: str, name: str) -> int:
    """The page in both themes; returns the bytes of the two files."""
    page.set_viewport_size({"width": WIDTH, "height": HEIGHTS.get(name, HEIGHT)})
    page.goto(address)
    page.wait_for_timeout(3000)
    if name == "playground":
        page.get_by_label("Prompt").fill(PROMPT)
        page.keyboard.press("Control+Enter")
        page.get_by_text("Done.").wait_for()
    devtools = page.context.new_cdp_session(page)
    size = 0
    for theme in ("light", "dark"):
        page.evaluate(SET_THEME, theme)
        page.wait_for_timeout(800)
        found = devtools.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
        size += (IMAGES / f"{name}-{theme}.webp").write_bytes(base64.b64decode(found["data"]))
    devtools.detach()
    return size


def picture(ring: Ring, playwright: Playwright, seconds: float, wait: float) -> int:
    """All pages, after the demo has learnt; returns the bytes of all pictures."""
    link = ring.invite_link()
    time.sleep(seconds)
    found = facts(ring, wait)
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
    page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}).new_page()
    base = f"http://127.0.0.1:{ring.web_port}"
    size = sum(take(page, *each) for each in zip((link, f"{base}/accounts/login/"), SIGNED_OUT, strict=True))
    sign_up(page, link)
    found |= registrations(page, base, str(ring.state_dir / "models" / "pocket"))
    for name, path in PAGES.items():
        size += take(page, base + path.format(**found), name)
        print(f"docs/images/{name}-light.webp, -dark.webp", flush=True)
    browser.close()
    return size


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420.0, help="how long the demo learns before")
    parser.add_argument("--wait", type=float, default=180.0, help="at most so long for a version that waits")
    given = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with temporary_ring() as ring, sync_playwright() as playwright:
        size = picture(ring, playwright, given.seconds, given.wait)
    for stale in IMAGES.iterdir():
        if stale.stem.rpartition("-")[0] not in (*PAGES, *SIGNED_OUT):
            stale.unlink()
    print(f"{size / 1e6:.1f} MB in {2 * len(PAGES) + 2 * len(SIGNED_OUT)} pictures", flush=True)
    if size > MOST_BYTES:
        raise SystemExit(f"that is more than {MOST_BYTES / 1e6:.0f} MB: lower QUALITY or HEIGHTS")


if __name__ == "__main__":
    main()
