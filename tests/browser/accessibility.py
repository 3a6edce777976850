"""axe in the page, as a person with this theme would have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
SET_THEME = """theme => {
  localStorage.setItem("theme", theme);
  document.documentElement.dataset.theme = theme;
  dispatchEvent(new Event("themechange"));
}"""
ASK = """async (options) => {
  const found = await axe.run({ ...options, resultTypes: ["violations"] });  // what passes is counted, not listed
  return found.violations.map((each) => [each.id, each.help, each.nodes.map((node) => node.html).slice(0, 3)]);
}"""
# The only rule of axe that came with WCAG 2.2: it is off unless it is asked for.
TARGET_SIZE = "target-size"
ALL = {"rules": {TARGET_SIZE: {"enabled": True}}}
SETTLE_MS = 300  # parts and charts arrive after the page


def violations(page: Any, address: str, theme: str) -> list[Any]:
    """Rules that the page at ``address`` breaks: (id, help, some elements). A page that is open stays as it is."""
    if page.url != address:
        page.goto(address)
        page.wait_for_timeout(SETTLE_MS)
    page.evaluate(SET_THEME, theme)
    page.wait_for_timeout(SETTLE_MS)
    return _broken(page, ALL)


def small_targets(page: Any) -> list[Any]:
    """What a finger would miss on the page as it is, at the width that it has: as ``violations``."""
    return _broken(page, {"runOnly": [TARGET_SIZE]})


def _broken(page: Any, options: dict[str, Any]) -> list[Any]:
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE)
    found: list[Any] = page.evaluate(ASK, options)
    if found:  # a part may have been replaced under axe's hands: what is wrong is wrong twice
        page.wait_for_timeout(SETTLE_MS)
        found = page.evaluate(ASK, options)
    return found
