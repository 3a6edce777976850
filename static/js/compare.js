// Accept length of several versions over time, and what their replay gave; counts are divided only here.
import { colour } from "./colours.js";
import { wall, zoneNote } from "./zone.js";

const CONFIG = { displayModeBar: false, responsive: true };
const DASHED = "dash";
const section = document.getElementById("curves");
const align = document.getElementById("align");
const asTable = document.getElementById("as-table");
const state = document.getElementById("curves-state");
const ANSWER_MS = 20_000;
const RELOAD = "Reload to try again.";
let versions = null; // until they are fetched

function place(version, at) {
  return align.value === "clock" ? wall(at) : (at - version.points[0].at) / 60;
}

function traces(version, i) {
  const line = { color: colour(`--series-${(i % 6) + 1}`), width: 2 };
  const x = version.points.map((point) => place(version, point.at));
  const y = version.points.map((point) => point.tokens / point.steps);
  const drawn = [];
  if (x.length) drawn.push({ name: `v${version.number} measured`, x, y, mode: "lines+markers", marker: { size: 4 }, line });
  if (version.replayed !== null && x.length) {
    const ends = [x[0], x.length > 1 ? x.at(-1) : place(version, version.points[0].at + 60)];
    drawn.push({ name: `v${version.number} replayed`, x: ends, y: [version.replayed, version.replayed], mode: "lines", line: { ...line, dash: DASHED } });
  }
  return drawn;
}

// In place of the chart; "" for the chart itself.
function say(text) {
  state.textContent = text;
  state.hidden = !text;
  document.getElementById("chart-curves").hidden = Boolean(text);
}

function draw() {
  if (!versions) return;
  const data = versions.flatMap(traces);
  say(data.length ? "" : "None of these versions has served a request that is still kept.");
  if (!data.length) return;
  const isClock = align.value === "clock";
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line") };
  window.Plotly.react("chart-curves", data, {
    margin: { l: 42, r: 12, t: 8, b: 32 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--text"), size: 12 },
    legend: { orientation: "h", y: -0.16 },
    showlegend: true,
    xaxis: { ...axis, type: isClock ? "date" : "linear", ticksuffix: isClock ? "" : " min", tickangle: 0, nticks: 8 },
    annotations: isClock ? [zoneNote] : [],
    yaxis: axis,
  }, CONFIG);
  section.dataset.drawn = String(data.length);
}

function aligned(address) {
  const url = new URL(address);
  align.value === "start" ? url.searchParams.delete("align") : url.searchParams.set("align", align.value);
  return url;
}

function follow() {
  history.replaceState(null, "", aligned(location));
  asTable.href = aligned(asTable.href);
  draw();
}

async function begin() {
  if (new URL(location).searchParams.get("align") === "clock") align.value = "clock";
  asTable.href = aligned(asTable.href);
  try {
    const answer = await fetch(section.dataset.source, { signal: AbortSignal.timeout(ANSWER_MS) });
    if (!answer.ok) return say(`The curves could not be fetched: the console answered ${answer.status}. ${RELOAD}`);
    versions = await answer.json();
  } catch {
    return say(`The curves could not be fetched: the console could not be reached. ${RELOAD}`);
  }
  draw();
}

align.addEventListener("change", follow);
addEventListener("themechange", draw);
begin();
