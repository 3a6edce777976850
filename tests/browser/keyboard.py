"""A person with a keyboard and nothing else."""

from __future__ import annotations

from playwright.sync_api import Locator, Page

MOST_TABS = 250  # a page has fewer stops
IS_FOCUSED = "(element) => element === document.activeElement"


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until ``wanted`` has the focus. Raises AssertionError where it is never reached."""
    wanted.wait_for()
    for _ in range(MOST_TABS):
        if wanted.evaluate(IS_FOCUSED):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} is not reached by the Tab key")


def press(page: Page, wanted: Locator, key: str = "Enter") -> None:
    """Reach ``wanted``, and press the key on it."""
    tab_to(page, wanted)
    page.keyboard.press(key)


def type_into(page: Page, wanted: Locator, text: str) -> None:
    """Reach the field, and type in place of what it holds."""
    tab_to(page, wanted)
    page.keyboard.press("Control+A")
    page.keyboard.type(text)
