// One decision: drawn again when it is made elsewhere, when the canary has measured more, and while replicas follow.
import { CHANGE_SECONDS, LiveFeed, refresher } from "./live.js";

const refresh = refresher("approval", 2);
new LiveFeed(document.getElementById("live"), () => refresh(CHANGE_SECONDS), (kind) => {
  if (["version", "gate", "deployment", "swap", "target"].includes(kind)) refresh(CHANGE_SECONDS);
  else if (kind === "windows") refresh();
});
