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
# What comes after the page has come: its socket, parts that ask for themselves, charts in sight or near it and colours.
SETTLED = """since => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const answered = performance.getEntriesByType("resource").filter((each) => each.responseEnd).map((each) => each.name);
  const isLoaded = (part) => answered.includes(new URL(part.getAttribute("hx-get"), location.href).href);
  const isDrawn = (chart) => chart.classList.contains("empty") ||
    (chart.classList.contains("js-plotly-plot") && !(Number(chart.dataset.drawn) < since));
  const isNear = (chart) => chart.offsetParent && chart.getBoundingClientRect().top < innerHeight;
  const isMoving = (each) => each.playState === "running" && each.effect.getTiming().iterations !== Infinity;
  return document.readyState === "complete" && document.getElementById("live")?.textContent !== "connecting" &&
    !all(".htmx-request, .htmx-swapping, .htmx-settling").length && all("[hx-trigger^=load]").every(isLoaded) &&
    all(".chart").filter(isNear).every(isDrawn) && !document.getAnimations().some(isMoving);
}"""
SETTLE_MS = 60_000  # at most


def settle(page: Any, since: float = 0.0) -> None:
    """Wait until the page has what comes after it, charts drawn ``since`` this time of its clock (milliseconds)."""
    page.wait_for_function(SETTLED, arg=since, timeout=SETTLE_MS)


def violations(page: Any, address: str, theme: str) -> list[Any]:
    """Rules that the page at ``address`` breaks: (id, help, some elements). A page that is open stays as it is."""
    if page.url != address:
        page.goto(address)
    settle(page)
    began = page.evaluate("() => Date.now()")
    page.evaluate(SET_THEME, theme)
    settle(page, began)
    return _broken(page, ALL)


def small_targets(page: Any) -> list[Any]:
    """What a finger would miss on the page as it is, at the width that it has: as ``violations``."""
    return _broken(page, {"runOnly": [TARGET_SIZE]})


def _broken(page: Any, options: dict[str, Any]) -> list[Any]:
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE)
    found: list[Any] = page.evaluate(ASK, options)
    if found:  # a part may have been replaced under axe's hands: what is wrong is wrong twice
        settle(page)
        found = page.evaluate(ASK, options)
    return found
