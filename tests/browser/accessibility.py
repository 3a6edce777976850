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
ASK = """async () => {
  const found = await axe.run({ resultTypes: ["violations"] });  // what passes is counted, not listed
  return found.violations.map((each) => [each.id, each.help, each.nodes.map((node) => node.html).slice(0, 3)]);
}"""
SETTLE_MS = 300  # parts and charts arrive after the page


def violations(page: Any, address: str, theme: str) -> list[Any]:
    """Rules that the page at ``address`` breaks: (id, help, some elements). A page that is open stays as it is."""
    if page.url != address:
        page.goto(address)
        page.wait_for_timeout(SETTLE_MS)
    page.evaluate(SET_THEME, theme)
    page.wait_for_timeout(SETTLE_MS)
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE)
    found: list[Any] = page.evaluate(ASK)
    if found:  # a part may have been replaced under axe's hands: what is wrong is wrong twice
        page.wait_for_timeout(SETTLE_MS)
        found = page.evaluate(ASK)
    return found
