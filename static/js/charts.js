// The charts of a target's page: counts from the API and the push, added up per bucket and divided only here.
// All charts have one x-axis: a zoom on one is a zoom on all. Events are marked on every chart, with their sentence.
import { colour } from "./colours.js";
import { dotted, line, runs, stacked, stepped } from "./lines.js";
import { Turns } from "./turns.js";
import { unwall, wall, zoneNote } from "./zone.js";

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const MAX_LINES = 7; // and the events
const MAX_NAME = 24; // characters of a domain in a legend
const NAMES = { "0": "control", "-1": "no draft yet" }; // of what is no version
const MAX_LAYERS = 6; // as many as there are colours; the others are grey
const MAX_POINTS = 1000;
const LATE_SECONDS = 5; // that counts take to come
const ANSWER_MS = 8000;
const MARKS = {
  swap: ["triangle-up", "--series-1"], canary: ["circle", "--series-4"], rollback: ["triangle-down", "--bad"], alert: ["x", "--bad"], shift: ["diamond", "--series-2"],
  pin: ["square", "--series-3"],
};
const CONFIG = { displayModeBar: false, responsive: true };
const SUMMED = [
  "num_requests", "steps", "drafted_tokens", "all_steps", "proposed_drafts", "tokens", "seconds", "control_tokens", "control_seconds",
];

// JSON; null when the console refuses, undefined when it could not be reached or cannot answer now. A request on a line
// that was cut would wait for minutes, and a browser has only six lines.
async function fetched(url) {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(ANSWER_MS) });
    if (answer.status >= 500) return undefined;
    return answer.ok ? await answer.json() : null;
  } catch {
    return undefined;
  }
}

export class Charts {
  constructor(panel, select) {
    this.panel = panel;
    this.select = select;
    this.isOpen = panel.dataset.open === "1"; // the range ends now, and goes on
    this.seconds = Number(panel.dataset.seconds);
    this.data = null;
    this.windows = new Map(); // "at|domain" -> point, since data.fresh_since
    this.capture = new Map();
    this.zoom = null;
    this.parts = { loss, accept, speedup, speed, lookahead, capture, versions };
    const shown = Object.fromEntries(Object.keys(this.parts).map((name) => [name, document.getElementById(`chart-${name}`)]));
    this.turns = new Turns(shown, (name) => this.drawOne(name), () => this.data && window.Plotly);
  }

  // False: the line was cut meanwhile, ask again.
  async load() {
    const url = new URL(this.panel.dataset.charts, location.href);
    if (this.domain) url.searchParams.set("domain", this.domain);
    const data = await fetched(url);
    if (!data) return data === null;
    for (const [key, point] of this.windows) if (point.at < data.fresh_since) this.windows.delete(key);
    for (const [at] of this.capture) if (at < data.fresh_since) this.capture.delete(at);
    this.data = data;
    document.getElementById("marks-cut").hidden = !data.is_cut;
    this.take({ points: data.windows, capture: data.capture_windows });
    this.offer();
    return true;
  }

  get domain() {
    return this.select.value || this.panel.dataset.domain;
  }

  // What was pushed; a window that is known with more requests is newer.
  take(pushed) {
    if (!this.data || !this.isOpen) return;
    for (const point of pushed.points) {
      const key = `${point.at}|${point.domain}`;
      const known = this.windows.get(key);
      if (point.at >= this.data.fresh_since && !(known && known.num_requests > point.num_requests)) this.windows.set(key, point);
    }
    for (const row of pushed.capture) if (row.at >= this.data.fresh_since) this.capture.set(row.at, row);
    const found = pushed.speedups?.[this.domain];
    if (found) {
      const bucket = (at) => Math.ceil(at / this.data.bucket_seconds);
      const last = this.data.speedup.at(-1);
      if (last && bucket(last.at) === bucket(found.at)) this.data.speedup.pop();
      this.data.speedup.push(found);
    }
    this.offer();
  }

  // Whether there is a point more.
  takeProgress(progress) {
    if (!this.data || !this.isOpen || progress.phase !== "train") return false;
    this.data.loss.push({ at: progress.reported_at, step: progress.step, loss: progress.loss });
    if (this.data.loss.length > MAX_POINTS) this.data.loss = this.data.loss.filter((_, i) => i % 2);
    return true;
  }

  get span() {
    if (this.zoom) return this.zoom;
    if (!this.isOpen) return [this.data.since, this.data.until];
    const now = Date.now() / 1000;
    const first = Math.min(now, ...[this.data.buckets[0], ...this.windows.values()].filter(Boolean).map((p) => p.at), ...this.data.loss.slice(0, 1).map((p) => p.at));
    return [Math.max(now - this.seconds, first - 5), now];
  }

  points() {
    return [...this.data.buckets, ...this.windows.values()];
  }

  // Sums per bucket, oldest first.
  sums(domain) {
    const size = this.data.bucket_seconds;
    const found = new Map();
    for (const point of this.points()) {
      if (domain && point.domain !== domain) continue;
      const at = Math.floor(point.at / size) * size;
      const sum = found.get(at) ?? { at, middle: at + size / 2, versions: {}, ...Object.fromEntries(SUMMED.map((name) => [name, 0])) };
      for (const name of SUMMED) sum[name] += point[name];
      for (const [version, tokens] of Object.entries(point.versions)) sum.versions[version] = (sum.versions[version] ?? 0) + tokens;
      found.set(at, sum);
    }
    return [...found.values()].sort((a, b) => a.at - b.at);
  }

  captured() {
    const size = this.data.bucket_seconds;
    const found = new Map();
    for (const row of [...this.data.capture, ...this.capture.values()]) {
      const at = Math.floor(row.at / size) * size;
      const sum = found.get(at) ?? { middle: at + size / 2, traces: 0, dropped: 0 };
      sum.traces += row.traces;
      sum.dropped += row.dropped;
      found.set(at, sum);
    }
    return [...found.values()].sort((a, b) => a.middle - b.middle);
  }

  domains() {
    return [...new Set(this.points().map((point) => point.domain))].sort();
  }

  offer() {
    const domains = this.domains();
    const wanted = this.domain;
    const offered = [...this.select.options].slice(1).map((option) => option.value);
    if (offered.length === domains.length && offered.every((name, i) => name === domains[i])) return;
    this.select.replaceChildren(new Option("all", ""), ...domains.map((name) => new Option(name, name)));
    this.select.value = domains.includes(wanted) ? wanted : "";
  }

  // Draw all, one after another, so that none waits for the rest; at once where a person asked for it.
  draw(isAsked = true) {
    this.turns.want(Object.keys(this.parts), { isAsked });
  }

  // News of the counts: every chart but the loss, which the trainer reports.
  drawCounts() {
    this.turns.want(Object.keys(this.parts).filter((name) => name !== "loss"), { isNews: true });
  }

  drawLoss() {
    this.turns.want(["loss"], { isNews: true });
  }

  drawOne(name) {
    const chart = document.getElementById(`chart-${name}`);
    this.show(chart, this.parts[name](this));
    chart.dataset.drawn = this.panel.dataset.drawn = String(Date.now());
  }

  // One chart; where there is nothing to draw, what will be there instead of an empty frame.
  show(chart, { traces, extra, empty }) {
    if (!traces.some((trace) => trace.x.length)) {
      if (chart.dataset.linked) window.Plotly.purge(chart);
      delete chart.dataset.linked;
      chart.classList.add("empty");
      chart.textContent = empty || chart.dataset.empty;
      return;
    }
    if (chart.classList.contains("empty")) chart.replaceChildren();
    chart.classList.remove("empty");
    window.Plotly.react(chart, [...traces, ...this.events()], this.layout(extra), CONFIG);
    this.link(chart);
  }

  // A sign at the top of the chart with the sentence, and a line down: one trace per colour, where as many shapes would take
  // longer to draw than all else.
  events() {
    const marked = this.data.events.filter((event) => MARKS[event.kind]);
    const above = { showlegend: false, yaxis: "y2" };
    const colours = [...new Set(marked.map((event) => MARKS[event.kind][1]))];
    const lines = colours.map((name) => {
      const ours = marked.filter((event) => MARKS[event.kind][1] === name).map((event) => wall(event.at));
      return {
        ...above, name: "events", mode: "lines", hoverinfo: "skip", line: { color: colour(name), width: 1, dash: "dot" },
        x: ours.flatMap((at) => [at, at, null]), y: ours.flatMap(() => [0, 1, null]),
      };
    });
    return [...lines, {
      ...above, name: "events", mode: "markers", cliponaxis: false, hovertemplate: "%{text}<extra></extra>",
      x: marked.map((event) => wall(event.at)), y: marked.map(() => 1),
      text: marked.map((event) => wrapped(event.text)),
      marker: { size: 9, symbol: marked.map((e) => MARKS[e.kind][0]), color: marked.map((e) => colour(MARKS[e.kind][1])) },
    }];
  }

  layout(extra) {
    const grid = { gridcolor: colour("--line"), zerolinecolor: colour("--line") };
    return {
      margin: { l: 46, r: 12, t: 12, b: 30 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), size: 12 }, legend: { orientation: "h", y: -0.16 }, showlegend: true, dragmode: "zoom",
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--line"), font: { color: colour("--text") }, align: "left" },
      xaxis: { type: "date", range: this.span.map(wall), tickangle: 0, nticks: 5, ...grid },
      annotations: [zoneNote],
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      ...extra,
      yaxis: { rangemode: "tozero", fixedrange: true, ...grid, ...extra?.yaxis },
    };
  }

  // One x-axis for all: what is chosen on one chart is shown on every one, and can be opened as a range of its own.
  link(chart) {
    if (chart.dataset.linked) return;
    chart.dataset.linked = "1";
    chart.on("plotly_relayout", (change) => {
      if (change["xaxis.autorange"]) this.zoomTo(null);
      else if (change["xaxis.range[0]"]) this.zoomTo([0, 1].map((i) => unwall(String(change[`xaxis.range[${i}]`]))));
    });
    chart.on("plotly_doubleclick", () => this.zoomTo(null));
  }

  zoomTo(span) {
    this.zoom = span;
    const link = document.getElementById("zoomed");
    link.hidden = !span;
    if (span) {
      const url = new URL(location);
      for (const name of ["range", "zone"]) url.searchParams.delete(name); // what follows is UTC
      const [from, to] = span.map((at) => new Date(at * 1000).toISOString().slice(0, 19));
      url.searchParams.set("from", from);
      url.searchParams.set("to", to);
      link.querySelector("a").href = url;
    }
    this.draw();
  }
}

function wrapped(text) {
  const plain = text.replace(/[<>&]/g, " ");
  return plain.replace(/(.{50,70}?)\s/g, "$1<br>");
}

const series = (i) => ({ color: colour(`--series-${(i % 6) + 1}`), dash: DASHES[i % 6], width: 2 });

function accept(charts) {
  const domains = charts.domains();
  const shown = charts.domain ? [charts.domain] : busiest(charts, domains);
  const traces = shown.map((name) =>
    stepped(charts.data.bucket_seconds, short(name), charts.sums(name), (row) => row.drafted_tokens / row.steps, { line: series(Math.max(0, domains.indexOf(name))) }));
  const some = `the ${MAX_LINES} busiest of ${domains.length} domains; choose another one above`;
  const annotations = shown.length < domains.length && !charts.domain ? [zoneNote, { ...zoneNote, text: some, x: 0, xanchor: "left", y: 1, yanchor: "bottom", yshift: 0 }] : [zoneNote];
  return { traces, extra: { yaxis: { rangemode: "normal" }, annotations } };
}

// A legend has little room; the whole name is in the choice above and in the table.
const short = (name) => name.length > MAX_NAME ? `${name.slice(0, MAX_NAME - 1)}…` : name;

function busiest(charts, domains) {
  if (domains.length <= MAX_LINES) return domains;
  const requests = new Map(domains.map((name) => [name, 0]));
  for (const point of charts.points()) requests.set(point.domain, requests.get(point.domain) + point.num_requests);
  return [...domains].sort((a, b) => requests.get(b) - requests.get(a)).slice(0, MAX_LINES).sort();
}

function speedup(charts) {
  const rows = charts.data.speedup.filter((row) => row.value !== null).map((row) => ({ ...row, middle: row.at }));
  const pieces = runs(rows, charts.data.bucket_seconds);
  const around = pieces.flatMap((piece) => [
    ...piece.map((row) => [row.at, row.low]), ...piece.map((row) => [row.at, row.high]).reverse(), [piece[0].at, null],
  ]);
  const points = pieces.flatMap((piece) => [...piece, { at: piece.at(-1).at, value: null }]);
  const says = (row) => row.value === null ? "" : `${row.value.toFixed(2)}× (95 %: ${row.low.toFixed(2)} to ${row.high.toFixed(2)})`;
  const traces = [
    {
      name: "95 %", mode: "lines", x: around.map(([at]) => wall(at)), y: around.map(([, value]) => value), line: { width: 0 },
      fill: "toself", fillcolor: `${colour("--series-1")}33`, hoverinfo: "skip",
    },
    {
      name: "speedup", ...dotted(rows), x: points.map((row) => wall(row.at)), y: points.map((row) => row.value),
      line: { color: colour("--series-1"), width: 2.5 }, text: points.map(says), hovertemplate: "%{text}<extra></extra>",
    },
  ];
  if (rows.length) {
    traces.unshift({ name: "no gain", mode: "lines", x: charts.span.map(wall), y: [1, 1], line: { color: colour("--muted"), dash: "dash", width: 1 }, hoverinfo: "skip" });
  }
  return { traces, extra: {}, empty: charts.data.speedup.at(-1)?.reason };
}

function speed(charts) {
  const rows = charts.sums(charts.domain);
  return {
    traces: [
      stepped(charts.data.bucket_seconds, "with speculation", rows, (row) => row.tokens / row.seconds, { line: { color: colour("--series-1"), width: 2.5 } }),
      stepped(charts.data.bucket_seconds, "without (control)", rows, (row) => row.control_tokens / row.control_seconds, { line: { color: colour("--series-2"), dash: "dash", width: 2 } }),
    ],
    extra: {},
  };
}

function loss(charts) {
  const look = { mode: "lines", line: { color: colour("--series-3"), width: 2 } };
  return { traces: [line("loss", charts.data.loss, (row) => row.at, (row) => row.loss, look)], extra: { showlegend: false } };
}

function lookahead(charts) {
  const look = { line: { color: colour("--series-5"), width: 2 } };
  return { traces: [stepped(charts.data.bucket_seconds, "lookahead", charts.sums(charts.domain), (row) => row.proposed_drafts / row.all_steps, look)], extra: { showlegend: false } };
}

// A bucket that is not over yet, or whose last counts are still on their way, has no rate.
function capture(charts) {
  const size = charts.data.bucket_seconds;
  const over = Date.now() / 1000 - LATE_SECONDS - size / 2;
  const rows = charts.captured().filter((row) => row.middle <= over);
  return {
    traces: [
      stepped(charts.data.bucket_seconds, "kept", rows, (row) => row.traces / size, { line: { color: colour("--series-3"), width: 2 } }),
      stepped(charts.data.bucket_seconds, "dropped", rows, (row) => row.dropped / size, { line: { color: colour("--bad"), dash: "dash", width: 2 } }),
    ],
    extra: {},
  };
}

// Shares of the tokens, stacked; what is beyond the busiest versions is one layer.
function versions(charts) {
  const size = charts.data.bucket_seconds;
  const rows = charts.sums(charts.domain);
  const totals = new Map();
  for (const row of rows) for (const [version, tokens] of Object.entries(row.versions)) totals.set(version, (totals.get(version) ?? 0) + tokens);
  const ranked = [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a));
  const shown = ranked.slice(0, MAX_LAYERS).sort((a, b) => a - b);
  const layers = shown.map((version, i) => [NAMES[version] ?? `v${version}`, `--series-${i + 1}`, (row) => row.versions[version] ?? 0]);
  const others = ranked.slice(MAX_LAYERS);
  if (others.length) layers.push(["others", "--muted", (row) => others.reduce((sum, version) => sum + (row.versions[version] ?? 0), 0)]);
  const traces = layers.map(([name, shade, tokens]) => ({
    name, mode: "lines", stackgroup: "tokens", groupnorm: "percent", ...stacked(rows, size, tokens),
    line: { width: 0.5, color: colour(shade) }, hovertemplate: `${name} %{y:.0f} %, %{text} tokens<extra></extra>`,
  }));
  return { traces, extra: { yaxis: { range: [0, 100], ticksuffix: "\u00a0%" } } };
}
