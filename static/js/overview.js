// The overview: drawn again at once when a state changes, every three seconds for what is counted.
import { CHANGE_SECONDS, LiveFeed, refresher } from "./live.js";
import { Standings } from "./standings.js";

const MEASURED = ["windows", "replica", "progress"];
const refresh = refresher("overview", 3);
const standings = new Standings();
let after = 0; // the number of the delta that must be in what is drawn next

document.getElementById("overview").addEventListener("htmx:configRequest", (event) => {
  if (after) event.detail.parameters.after = after;
  after = 0;
});

function changed(data, seq) {
  after = seq;
  refresh(CHANGE_SECONDS);
}

new LiveFeed(document.getElementById("live"), changed, (kind, data, seq, target) => {
  if (!MEASURED.includes(kind) || (kind === "replica" && standings.isChanged(target, data))) changed(data, seq);
  else if (kind !== "progress") refresh();
});
