// The parts of a target's page that the server draws: what is to be drawn again is collected and asked for at once: over
// the page's socket what says the same to many, by a request the rest, and all while there is no socket.
import { isInUse } from "./keep.js";
import { tell } from "./session.js";

const BUSY_SECONDS = 1.5;
const RETRY_SECONDS = 10;
const TOGETHER_MS = 250; // what is due so soon is asked for with the rest

export class Parts {
  // address: of the answer with the parts; they are put where their ids say. shared: ids of those for the socket.
  constructor(address, shared) {
    this.address = address;
    this.shared = new Set(shared);
    this.feed = null; // a LiveFeed
    this.wanted = new Map(); // id -> when it is to be asked for, at the earliest
    this.askedAt = new Map();
    this.asked = new Set(); // ever: what else goes unanswered on the page is asked for elsewhere
    this.after = 0;
    this.dueAt = Infinity;
    document.addEventListener("putoff", (event) => this.want([event.target.id], BUSY_SECONDS));
    addEventListener("unanswered", (event) => this.want(event.detail.filter((id) => this.asked.has(id)), RETRY_SECONDS));
  }

  // Draw these again, each at the earliest `seconds` after its last time. after: the number of a delta that must be in them.
  want(ids, seconds, after = 0) {
    for (const id of ids.filter((each) => document.getElementById(each))) {
      const due = Math.max(Date.now(), (this.askedAt.get(id) ?? 0) + seconds * 1000);
      this.wanted.set(id, Math.min(due, this.wanted.get(id) ?? Infinity));
    }
    this.after = Math.max(this.after, after);
    this.plan();
  }

  plan() {
    const at = Math.min(...this.wanted.values());
    if (at >= this.dueAt) return;
    clearTimeout(this.timer);
    this.dueAt = at;
    this.timer = setTimeout(() => this.fetch(), at - Date.now());
  }

  fetch() {
    this.dueAt = Infinity;
    if (document.hidden) return; // the snapshot when it is seen again asks for all
    const due = [...this.wanted].filter(([, at]) => at <= Date.now() + TOGETHER_MS).map(([id]) => id);
    const ready = due.filter((id) => !isInUse(document.getElementById(id)));
    if (ready.length) this.ask(ready);
    for (const id of due) if (this.wanted.has(id)) this.wanted.set(id, Date.now() + BUSY_SECONDS * 1000);
    this.plan();
  }

  ask(ids) {
    for (const id of ids) {
      this.wanted.delete(id);
      this.askedAt.set(id, Date.now());
    }
    let shared = ids.filter((id) => this.shared.has(id));
    if (shared.length && !this.feed?.send({ kind: "parts", query: this.query(shared) })) shared = [];
    const alone = ids.filter((id) => !shared.includes(id));
    if (alone.length) this.request(this.query(alone));
    this.after = 0;
  }

  query(ids) {
    const query = new URLSearchParams(location.search);
    for (const id of ids) query.append("part", id);
    if (this.after) query.set("after", this.after);
    return query.toString();
  }

  request(query) {
    window.htmx.ajax("GET", `${this.address}?${query}`, { swap: "none" });
  }

  // The socket's answer.
  take(answer) {
    if (answer.status === 200) {
      window.htmx.swap(document.body, answer.body, { swapStyle: "none" });
      tell("answered", new URLSearchParams(answer.query).getAll("part"));
    } else this.request(answer.query); // says why not, or that the session has ended
  }
}
