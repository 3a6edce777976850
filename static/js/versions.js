// The list of versions: drawn again when one changes; what was chosen for a comparison stays chosen.
import { LiveFeed, refresher } from "./live.js";

const MOST = 4;
const list = document.getElementById("versions-list");
const chosen = new Set();

function show() {
  for (const box of list.querySelectorAll("input[name=v]")) {
    box.checked = chosen.has(box.value);
    box.disabled = !box.checked && chosen.size >= MOST;
  }
  const said = document.getElementById("num-chosen");
  if (said && chosen.size) said.textContent = `${[...chosen].map((number) => `v${number}`).join(", ")} chosen.`;
}

list.addEventListener("change", (event) => {
  if (!event.target.matches("input[name=v]")) return;
  event.target.checked ? chosen.add(event.target.value) : chosen.delete(event.target.value);
  show();
});
list.addEventListener("htmx:afterSwap", show);
for (const box of list.querySelectorAll("input[name=v]:checked")) chosen.add(box.value);
show();

const refresh = refresher("versions-list");
new LiveFeed(document.getElementById("live"), () => refresh(), (kind) => {
  if (kind === "version" || kind === "gate" || kind === "deployment") refresh();
});
