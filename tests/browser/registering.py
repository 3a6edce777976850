"""The wizard's steps as a person takes them, for the tests that need a target."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect


def to_the_plan(page: Page, base: str, directory: str, *, on_sglang: bool = False) -> None:
    """Source and check, up to the form of the plan."""
    page.goto(f"{base}/targets/new/")
    if on_sglang:
        page.get_by_label("SGLang servers of yours").check()
    page.get_by_label("Checkpoint directory").fill(directory)
    expect(page.locator("#check")).to_contain_text("Compatibility check passed", timeout=60_000)
    page.get_by_role("button", name="Check it").click()
    page.get_by_role("link", name="Go on to the plan").click()
    expect(page.get_by_label("Slug")).to_be_visible()


def fill_plan(page: Page, *, checked: tuple[str, ...] = (), **typed: Any) -> None:
    """Labels to check, and fields by their names; then on to the review."""
    for name, value in typed.items():
        page.locator(f"[name={name}]").fill(value)
    for label in checked:
        page.get_by_label(label).check()
    page.get_by_role("button", name="Review").click()


def start(page: Page) -> None:
    """The last click."""
    page.get_by_role("button", name="Register and start").click()
