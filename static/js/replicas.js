// The replicas: drawn again when one reports, at most every five seconds.
import { LiveFeed, refresher } from "./live.js";

const refresh = refresher("replicas-list", 5);
const now = refresher("replicas-list", 1);
new LiveFeed(document.getElementById("live"), refresh, (kind) => {
  if (kind === "swap" || kind === "deployment") now();
  else if (kind === "replica") refresh();
});
