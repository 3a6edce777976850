"""What the charts of a target's page draw, and how often."""

import pytest
from playwright.sync_api import expect

from tests.bench.ring import wait_for

DEMO = "/targets/pocket/"
SECONDS = 1000
PUSHED_SECONDS = 4
# {chart: {trace: points that have a value}}, of the charts that are drawn
DRAWN = """() => {
  const num = (trace) => trace.y.filter((y) => y !== null && y !== undefined).length;
  const points = (chart) => Object.fromEntries(chart.data.map((trace) => [trace.name, num(trace)]));
  const drawn = [...document.querySelectorAll(".chart")].filter((chart) => chart.data);
  return Object.fromEntries(drawn.map((chart) => [chart.id.slice("chart-".length), points(chart)]));
}"""
MARKS = """() => [...document.querySelectorAll(".chart")].filter((chart) => chart.data).map((chart) =>
  chart.data.find((trace) => trace.name === "events" && trace.mode === "markers").marker.symbol)"""
LAYERS = """() => document.getElementById("chart-versions").data.filter((trace) => trace.stackgroup)
  .map((trace) => [trace.y, trace.text, trace.hovertemplate])"""
# As a target does that reports all the time: charts of their own on a page that is not live.
PUSHED = """async (seconds) => {
  const { Charts } = await import("/static/js/charts.js");
  const panel = document.getElementById("charts"), drawn = [];
  panel.dataset.open = "1";
  const charts = new Charts(panel, document.getElementById("domain"));
  await charts.load();
  const react = window.Plotly.react;
  window.Plotly.react = (chart, ...rest) => {
    drawn.push([chart.id, performance.now()]);
    return react(chart, ...rest);
  };
  const until = performance.now() + 1000 * seconds;
  while (performance.now() < until) {
    charts.drawCounts();
    charts.drawLoss();
    await new Promise((resume) => setTimeout(resume, 10));
  }
  window.Plotly.react = react;
  return drawn;
}"""

# What the choice of a domain offers after each of these lists of domains.
OFFERED = """async (lists) => {
  const { Charts } = await import("/static/js/charts.js");
  const select = document.createElement("select");
  return lists.map((names) => {
    Charts.prototype.offer.call({ select, domain: select.value, domains: () => names });
    return [...select.options].map((option) => option.value);
  });
}"""


@pytest.fixture
def shown(busy_demo, tab, base):
    """The demo's page once every chart has something to draw, not live."""
    tab.set_viewport_size({"width": 1360, "height": 2600})

    def drawn():
        tab.goto(f"{base}{DEMO}?range=30m&live=0")
        tab.wait_for_timeout(2 * SECONDS)
        return len(tab.evaluate(DRAWN)) == 7

    wait_for("seven drawn charts", drawn, 180)
    return tab


def test_every_chart_draws_what_it_is_about(shown):
    drawn = shown.evaluate(DRAWN)
    assert {"speedup", "95 %", "no gain"} <= drawn["speedup"].keys() and drawn["speedup"]["95 %"] >= 2
    assert {"with speculation", "without (control)"} <= drawn["speed"].keys()
    assert {"kept", "dropped"} <= drawn["capture"].keys()
    assert any(name.startswith("v") for name in drawn["versions"])
    for chart, trace in (("loss", "loss"), ("lookahead", "lookahead"), ("capture", "kept"), ("speedup", "speedup")):
        assert drawn[chart][trace] > 0, chart


def test_the_shares_of_the_versions_say_how_many_tokens_they_are(shown):
    layers = shown.evaluate(LAYERS)
    assert layers
    for tokens, said, template in layers:
        assert [int(words.replace(",", "")) for words in said] == tokens
        assert "%{text} tokens" in template


def test_swaps_are_marked_on_every_chart(shown):
    marks = shown.evaluate(MARKS)
    assert len(marks) == 7
    assert all("triangle-up" in symbols for symbols in marks)


def test_that_older_marks_are_left_out_is_said(shown):
    said = shown.locator("#marks-cut")
    expect(said).to_be_hidden()
    shown.route("**/charts?**", lambda route: route.fulfill(json=route.fetch().json() | {"is_cut": True}))
    shown.reload()
    expect(said).to_be_visible(timeout=60 * SECONDS)
    expect(said).to_have_text("; of more than 300 the newest are drawn")


def test_however_much_is_pushed_charts_are_drawn_four_times_a_second_at_most(shown):
    drawn = shown.evaluate(PUSHED, PUSHED_SECONDS)
    times = [at for _, at in drawn]
    assert len({chart for chart, _ in drawn}) == 7
    first = {}  # the first drawing of each waits for nobody
    again = [at for chart, at in drawn if first.setdefault(chart, at) != at]
    assert again
    assert all(sum(at <= other < at + 1000 for other in again) <= 4 for at in again), times


def test_a_domain_that_comes_as_another_goes_is_offered(tab, base):
    tab.goto(f"{base}{DEMO}?live=0")
    lists = [["prose", "sql"], ["prose", "sql"], ["code", "sql"], ["sql"]]
    assert tab.evaluate(OFFERED, lists) == [["", *names] for names in lists]
