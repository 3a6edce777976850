// The replicas: drawn again when one reports, at most every five seconds; what was unfolded stays unfolded.
import { LiveFeed, refresher } from "./live.js";

const list = document.getElementById("replicas-list");
let open = [];
const rows = () => [...list.querySelectorAll("details")];
list.addEventListener("htmx:beforeSwap", () => {
  open = rows().map((row) => row.open && row.closest("tr").querySelector("th").textContent).filter(Boolean);
});
list.addEventListener("htmx:afterSwap", () => {
  for (const row of rows()) row.open = open.includes(row.closest("tr").querySelector("th").textContent);
});

const refresh = refresher("replicas-list", 5);
const now = refresher("replicas-list", 1);
new LiveFeed(document.getElementById("live"), refresh, (kind) => {
  if (kind === "swap" || kind === "deployment") now();
  else if (kind === "replica") refresh();
});
