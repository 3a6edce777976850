// The parts of a target's page that the server draws: what is to be drawn again is collected and fetched in one request.
const BUSY_SECONDS = 1.5;

export class Parts {
  // address: of the answer with the parts; they are put where their ids say.
  constructor(address) {
    this.address = address;
    this.wanted = new Set();
    this.after = 0;
    this.ranAt = 0;
    this.dueAt = Infinity;
  }

  // Draw these again, at the earliest `seconds` after the last time. after: the number of a delta that must be in them.
  want(ids, seconds, after = 0) {
    for (const id of ids) if (document.getElementById(id)) this.wanted.add(id);
    this.after = Math.max(this.after, after);
    this.plan(Math.max(Date.now(), this.ranAt + seconds * 1000));
  }

  plan(at) {
    if (!this.wanted.size || at >= this.dueAt) return;
    clearTimeout(this.timer);
    this.dueAt = at;
    this.timer = setTimeout(() => this.fetch(), at - Date.now());
  }

  fetch() {
    this.dueAt = Infinity;
    const ready = [...this.wanted].filter((id) => !isUsed(document.getElementById(id)));
    if (ready.length && !document.hidden) {
      const query = new URLSearchParams(location.search);
      for (const id of ready) {
        query.append("part", id);
        this.wanted.delete(id);
      }
      if (this.after) query.set("after", this.after);
      this.after = 0;
      this.ranAt = Date.now();
      window.htmx.ajax("GET", `${this.address}?${query}`, { swap: "none" });
    }
    if (!document.hidden) this.plan(Date.now() + BUSY_SECONDS * 1000); // hidden: the snapshot when it is seen again asks for all
  }
}

// Somebody is typing in it or about to press something.
function isUsed(part) {
  return part.contains(document.activeElement) && document.activeElement.matches("button, input, select, a");
}
