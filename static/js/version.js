// One version: drawn again when something happens to it.
import { LiveFeed, refresher } from "./live.js";

const refresh = refresher("version-part", 3);
new LiveFeed(document.getElementById("live"), () => {}, (kind) => {
  if (["version", "gate", "deployment", "swap"].includes(kind)) refresh();
});
