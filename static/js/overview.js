import { LiveFeed, refresher } from "./live.js";

const MEASURED = ["windows", "replica", "progress"];
const refresh = refresher("overview", 3);
let after = 0; // the number of the delta that must be in what is drawn next

document.getElementById("overview").addEventListener("htmx:configRequest", (event) => {
  if (after) event.detail.parameters.after = after;
  after = 0;
});

function changed(data, seq) {
  after = seq;
  refresh();
}

new LiveFeed(document.getElementById("live"), changed, (kind, data, seq) => {
  if (!MEASURED.includes(kind)) changed(data, seq);
  else if (kind !== "progress") refresh();
});
