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
# [chart, milliseconds]: who is drawn when, by a clock of its own, while counts and losses come once a second. One
# drawing takes 40 ms; the charts named are in sight, the others near it.
TAKEN_TURNS = """async ([seen, seconds]) => {
  const { Turns } = await import("/static/js/turns.js");
  const names = ["loss", "accept", "speedup", "speed", "lookahead", "capture", "versions"];
  const charts = Object.fromEntries(names.map((name) => [name, document.createElement("div")]));
  const { setTimeout, clearTimeout, IntersectionObserver } = window, realNow = Date.now;
  const drawn = [], told = [];
  let now = 1e6, timer = null;
  try {
    Date.now = () => now;
    window.setTimeout = (work, wait) => { timer = { work, at: now + wait }; return 1; };
    window.clearTimeout = () => { timer = null; };
    window.IntersectionObserver = class {
      constructor(tell, { rootMargin }) { Object.assign(this, { tell, isNear: rootMargin !== "0px" }); }
      observe(chart) {
        const name = names.find((each) => charts[each] === chart);
        told.push(() => this.tell([{ target: chart, isIntersecting: this.isNear || seen.includes(name) }]));
      }
    };
    const turns = new Turns(charts, (name) => { drawn.push([name, now - 1e6]); now += 40; }, () => true);
    for (const tell of told) tell();
    for (let second = 0; second < seconds; second++) {
      const at = 1e6 + 1000 * second;
      while (timer && timer.at < at) {
        const { work } = timer;
        now = Math.max(now, timer.at);
        timer = null;
        work();
      }
      now = Math.max(now, at);
      turns.want(names, { isNews: true });
    }
  } finally {
    Date.now = realNow;
    Object.assign(window, { setTimeout, clearTimeout, IntersectionObserver });
  }
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


def turns(tab, base, seen, seconds=20):
    """{chart: when it was drawn in milliseconds}, the first seconds left out: everything is drawn then."""
    tab.goto(f"{base}{DEMO}?live=0")
    drawn = tab.evaluate(TAKEN_TURNS, [seen, seconds])
    again = [(name, at) for name, at in drawn if at >= 2000]
    assert all(sum(at <= other < at + 1000 for _, other in again) <= 4 for _, at in again), again
    return {chart: [at for name, at in again if name == chart] for chart, _ in drawn}


def test_charts_in_sight_are_drawn_as_soon_as_their_data_come(tab, base):
    seen = ["accept", "speedup", "speed"]
    drawn = turns(tab, base, seen)
    for chart in seen:
        assert len(drawn[chart]) >= 17 and max(at % 1000 for at in drawn[chart]) <= 400, (chart, drawn[chart])
    for chart in {"lookahead", "capture", "versions", "loss"}:
        assert 1 <= len(drawn[chart]) <= 4, (chart, drawn[chart])  # one in two seconds, where nobody sees it


def test_where_more_charts_are_in_sight_the_accept_length_and_the_loss_lead_and_the_others_take_turns(tab, base):
    drawn = turns(tab, base, ["loss", "accept", "speedup", "speed", "lookahead", "capture", "versions"])
    for chart in ("accept", "loss"):
        assert len(drawn[chart]) >= 17 and max(at % 1000 for at in drawn[chart]) <= 250, (chart, drawn[chart])
    counts = [len(drawn[chart]) for chart in ("speedup", "speed", "lookahead", "capture", "versions")]
    assert min(counts) >= 5 and max(counts) - min(counts) <= 2, counts


def test_a_domain_that_comes_as_another_goes_is_offered(tab, base):
    tab.goto(f"{base}{DEMO}?live=0")
    lists = [["prose", "sql"], ["prose", "sql"], ["code", "sql"], ["sql"]]
    assert tab.evaluate(OFFERED, lists) == [["", *names] for names in lists]
