// The target's page: charts from the API and the feed, and the parts of the page that the server draws.
import { Charts } from "./charts.js";
import { CHANGE_SECONDS, LiveFeed, atMostEvery } from "./live.js";
import { Parts } from "./parts.js";
import { tell } from "./session.js";
import { Standings } from "./standings.js";

const RELOAD_SECONDS = 600; // the newest windows become buckets

const panel = document.getElementById("charts");
const select = document.getElementById("domain");
const charts = document.getElementById("chart-accept") ? new Charts(panel, select) : null;
let isAwaited = false; // somebody has chosen another domain
const reload = atMostEvery(2, async () => {
  if (!charts) return;
  const isAnswered = await charts.load();
  tell(isAnswered ? "answered" : "unanswered", ["charted"]);
  if (!isAnswered && !document.hidden) return reload();
  charts.draw(isAwaited);
  isAwaited = false;
});

const parts = new Parts(panel.dataset.parts, panel.dataset.shared.split(" "));
const standings = new Standings();
const LARGE = ["figures", "canary"]; // every two seconds, under any traffic
const MEASURED = ["tables", "charts-table"]; // every five
const REPORTED = ["replicas", "connection", "standing"];
const DECIDED = ["versions-part", "events-part", "figures", "actions-part", "switches", "replicas", "connection", "canary", "alerts", "launch-part"];

function onSnapshot(data, seq) {
  reload();
  parts.want([...LARGE, ...MEASURED, ...DECIDED, "standing"], CHANGE_SECONDS, seq);
}

function onDelta(kind, data, seq, target) {
  if (kind === "windows") {
    charts?.take(data);
    charts?.drawCounts();
    parts.want(LARGE, 2, seq);
    parts.want(MEASURED, 5);
  } else if (kind === "progress") {
    if (charts?.takeProgress(data)) charts.drawLoss();
    parts.want(["figures"], 2);
  } else if (kind === "replica") {
    if (standings.isChanged(target, data)) parts.want([...REPORTED, "figures"], CHANGE_SECONDS, seq);
    else parts.want(REPORTED, 5);
  } else if (kind === "alert") {
    reload(); // its marker
    parts.want(["alerts", "replicas", "events-part"], CHANGE_SECONDS, seq);
  } else {
    if (["version", "deployment", "pin"].includes(kind)) reload(); // markers
    parts.want(DECIDED, kind === "slice" ? 1 : CHANGE_SECONDS, seq);
  }
}

function withDomain(address) {
  const url = new URL(address);
  select.value ? url.searchParams.set("domain", select.value) : url.searchParams.delete("domain");
  return url;
}

select?.addEventListener("change", () => {
  panel.dataset.domain = select.value;
  history.replaceState(null, "", withDomain(location));
  for (const link of document.querySelectorAll("a[data-keeps]")) link.href = withDomain(link.href);
  const form = document.getElementById("custom");
  form.querySelector("[name=domain]")?.remove();
  if (select.value) form.append(Object.assign(document.createElement("input"), { type: "hidden", name: "domain", value: select.value }));
  isAwaited = true;
  reload();
});
addEventListener("themechange", () => charts?.draw());
addEventListener("DOMContentLoaded", () => charts?.draw());

const line = document.getElementById("live");
if (line.dataset.socket) {
  parts.feed = new LiveFeed(line, onSnapshot, onDelta, (answer) => parts.take(answer));
  setInterval(() => document.hidden || reload(), RELOAD_SECONDS * 1000);
} else {
  reload();
}
