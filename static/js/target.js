// The target's page: charts from the API and the feed, and the parts of the page that the server draws.
import { Charts } from "./charts.js";
import { LiveFeed, atMostEvery, refresher } from "./live.js";

const RELOAD_SECONDS = 600; // the newest windows become buckets

const panel = document.getElementById("charts");
const select = document.getElementById("domain");
const charts = document.getElementById("chart-accept") ? new Charts(panel, select) : null;
const redraw = (...names) => charts?.draw(...names);
const reload = charts ? atMostEvery(2, () => charts.load().then((isHere) => (isHere || document.hidden ? redraw() : reload()))) : () => {};

const part = (id, seconds) => (document.getElementById(id) ? refresher(id, seconds) : () => {});
const refresh = {
  figures: part("figures", 5), tables: part("tables", 5), table: part("charts-table", 5), versions: part("versions-part", 2),
  events: part("events-part", 2), replicas: part("replicas", 2), canary: part("canary", 5), alerts: part("alerts", 1),
  standing: part("standing", 2),
  switches: part("switches", 1), connection: part("connection", 2), launch: part("launch-part", 2),
};
const counted = () => ["figures", "tables", "table", "canary"].forEach((name) => refresh[name]());
const decided = () => ["versions", "events", "figures", "switches", "replicas", "connection", "canary", "alerts", "launch"].forEach((name) => refresh[name]());

function onSnapshot() {
  reload();
  counted();
  decided();
}

function onDelta(kind, data) {
  if (kind === "windows") {
    charts?.take(data);
    charts?.drawCounts();
    counted();
  } else if (kind === "progress") {
    charts?.takeProgress(data);
    redraw("loss");
    refresh.figures();
  } else if (kind === "replica") {
    refresh.replicas();
    refresh.connection();
    refresh.standing();
    refresh.figures();
  } else if (kind === "alert") {
    reload(); // its marker
    refresh.alerts();
    refresh.replicas();
    refresh.events();
  } else {
    if (["version", "deployment", "pin"].includes(kind)) reload(); // markers
    decided();
  }
}

// A part that is drawn again takes what the address says now.
document.body.addEventListener("htmx:configRequest", (event) => {
  if (event.target.dataset.ranged === undefined) return;
  for (const [name, value] of new URLSearchParams(location.search)) event.detail.parameters[name] ??= value;
});

select?.addEventListener("change", () => {
  const url = new URL(location);
  select.value ? url.searchParams.set("domain", select.value) : url.searchParams.delete("domain");
  panel.dataset.domain = select.value;
  history.replaceState(null, "", url);
  reload();
  refresh.table();
});
addEventListener("themechange", () => redraw());
addEventListener("DOMContentLoaded", () => redraw());

const line = document.getElementById("live");
if (line.dataset.socket) {
  new LiveFeed(line, onSnapshot, onDelta);
  setInterval(() => document.hidden || reload(), RELOAD_SECONDS * 1000);
} else {
  reload();
}
