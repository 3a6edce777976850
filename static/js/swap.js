// One swap: drawn again each time a replica says that it runs what was wanted.
import { LiveFeed, refresher } from "./live.js";

const refresh = refresher("swap");
new LiveFeed(document.getElementById("live"), () => refresh(), (kind) => {
  if (["swap", "deployment", "target"].includes(kind)) refresh();
});
