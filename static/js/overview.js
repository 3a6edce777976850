import { LiveFeed, refresher } from "./live.js";

const refresh = refresher("overview", 3);
new LiveFeed(document.getElementById("live"), refresh, (kind) => {
  if (kind !== "progress") refresh();
});
