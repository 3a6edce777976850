// One version: drawn again when something happens to it.
import { LiveFeed, refresher } from "./live.js";

const refresh = refresher("version-part");
new LiveFeed(document.getElementById("live"), () => refresh(), (kind) => {
  if (["version", "gate", "deployment", "swap"].includes(kind)) refresh();
});
