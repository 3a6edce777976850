// One decision: drawn again when it is made elsewhere, when the canary has measured more, and while replicas follow.
import { LiveFeed, refresher } from "./live.js";

const refresh = refresher("approval", 2);
new LiveFeed(document.getElementById("live"), refresh, (kind) => {
  if (["version", "gate", "deployment", "swap", "windows", "target"].includes(kind)) refresh();
});
