// The inbox: drawn again when a version of any target changes.
import { LiveFeed, refresher } from "./live.js";

const refresh = refresher("inbox");
new LiveFeed(document.getElementById("live"), () => refresh(), (kind) => {
  if (["version", "gate", "deployment", "target"].includes(kind)) refresh();
});
