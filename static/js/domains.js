// The trends on the page about domains: one fetch, drawn again when the theme changes.
import { colour } from "./colours.js";
import { clock, wall, zoneNote } from "./zone.js";

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const MARKS = ["circle", "square", "diamond", "cross", "x", "triangle-up"];
const MAX_LINES = 8;
const ANSWER_MS = 8000;
const trend = document.getElementById("trend");
const state = document.getElementById("trend-state");
let points = [];
let range = [];

function lines(domains, value) {
  return domains.map((name, i) => {
    const mine = points.filter((point) => point.domain === name && value(point) !== null);
    return {
      name,
      x: mine.map((point) => wall(point.at)),
      y: mine.map(value),
      mode: "lines+markers",
      marker: { size: 6, symbol: MARKS[i % MARKS.length] },
      line: { color: colour(`--series-${(i % 6) + 1}`), dash: DASHES[i % 6], width: 2 },
    };
  });
}

function layout(yaxis) {
  return {
    margin: { l: 46, r: 12, t: 8, b: 32 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--text"), size: 12 },
    legend: { orientation: "h", y: -0.16 },
    showlegend: true,
    xaxis: { type: "date", range, tickangle: 0, nticks: 8, gridcolor: colour("--line") },
    annotations: [zoneNote],
    yaxis: { gridcolor: colour("--line"), zerolinecolor: colour("--line"), ...yaxis },
  };
}

function draw(domains) {
  const config = { displayModeBar: false, responsive: true };
  window.Plotly.react("chart-accept", lines(domains, (point) => point.accept_length), layout({}), config);
  const share = (point) => (point.share === null ? null : 100 * point.share);
  window.Plotly.react("chart-share", lines(domains, share), layout({ ticksuffix: "\u00a0%", rangemode: "tozero" }), config);
}

async function load() {
  const answer = await fetch(trend.dataset.source, { signal: AbortSignal.timeout(ANSWER_MS) });
  if (!answer.ok) throw new Error(`the console answered ${answer.status}`);
  const found = await answer.json();
  points = found.trend;
  range = [wall(found.since), wall(found.until)];
  const domains = found.domains.map((line) => line.domain).slice(0, MAX_LINES); // the ones with most requests
  draw(domains);
  addEventListener("themechange", () => draw(domains));
  const until = clock(found.until);
  const rest = found.domains.length - domains.length;
  state.textContent = `As of ${until}. ${rest > 0 ? `The ${MAX_LINES} domains with most requests of ${found.domains.length}.` : ""}`;
}

addEventListener("DOMContentLoaded", () => {
  if (trend) load().catch((error) => { state.textContent = `The charts could not be fetched: ${error.message}. Reload to try again.`; });
});
