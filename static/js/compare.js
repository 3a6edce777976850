// Accept length of several versions over time, and what their replay gave; counts are divided only here.
import { colour } from "./colours.js";
import { wall, zoneNote } from "./zone.js";

const CONFIG = { displayModeBar: false, responsive: true };
const DASHED = "dash";
const section = document.getElementById("curves");
const align = document.getElementById("align");
let versions = [];

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

function draw() {
  const data = versions.flatMap(traces);
  document.getElementById("curves-empty").hidden = data.length > 0;
  document.getElementById("chart-curves").hidden = data.length === 0;
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

function follow() {
  const url = new URL(location);
  align.value === "start" ? url.searchParams.delete("align") : url.searchParams.set("align", align.value);
  history.replaceState(null, "", url);
  draw();
}

async function begin() {
  if (new URL(location).searchParams.get("align") === "clock") align.value = "clock";
  const answer = await fetch(section.dataset.source);
  if (answer.ok) versions = await answer.json();
  draw();
}

align.addEventListener("change", follow);
addEventListener("themechange", draw);
begin();
