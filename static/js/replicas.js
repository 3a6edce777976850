// The replicas: drawn again at once when what one says of itself changes, else every five seconds.
import { CHANGE_SECONDS, LiveFeed, refresher } from "./live.js";
import { Standings } from "./standings.js";

const refresh = refresher("replicas-list", 5);
const standings = new Standings();
const changed = () => refresh(CHANGE_SECONDS);
new LiveFeed(document.getElementById("live"), changed, (kind, data, seq, target) => {
  if (kind === "swap" || kind === "deployment") changed();
  else if (kind === "replica") standings.isChanged(target, data) ? changed() : refresh();
});
