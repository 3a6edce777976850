// The push from the console: a snapshot on connect, then frames of numbered deltas, at most ten a second; a gap or a new
// connection means a snapshot.
// The line with id "live" says whether what is on the page is fresh; while it is not, the page is marked as stale: no line,
// a line without news since the console misses something itself, or parts of the page that get no answer.
import { isInUse } from "./keep.js";
import { sessionEnded } from "./session.js";
import { clock } from "./zone.js";

const SILENT_SECONDS = 12; // the console is heard of every five: the line is cut, whatever the socket says
const HIDDEN_SECONDS = 5; // a short look at another tab costs no new connection
const MAX_WAIT_SECONDS = 15;
const BUSY_MS = 1500;
const COUNT_SECONDS = 1; // between two looks at the numbers in the navigation
export const CHANGE_SECONDS = 0.5; // between two drawings of a part after changes of state, which are rare
const NOT_SIGNED_IN = 4401;
const NO_TARGET = 4404;
const AWAY = { broker: "the message broker does not answer", database: "the database does not answer" };
const INBOX = new Set(["alert", "deployment", "gate", "version"]); // may change the numbers in the navigation

export class LiveFeed {
  // onSnapshot(data, seq) and onDelta(kind, data, seq, target); both are called in order. onParts(answer): to what was sent.
  constructor(line, onSnapshot, onDelta, onParts) {
    this.line = line;
    this.onParts = onParts;
    this.onSnapshot = onSnapshot;
    this.onDelta = onDelta;
    this.seq = null;
    this.heardAt = null;
    this.freshAt = null; // heard of while the console missed nothing
    this.away = ""; // what the console misses
    this.unanswered = new Map(); // parts of the page -> since when they are asked for in vain
    this.failures = 0;
    this.ended = false;
    this.count = atMostEvery(COUNT_SECONDS, () => window.htmx.trigger("#inbox-numbers", "refresh"));
    setInterval(() => document.hidden || this.look(), 1000);
    document.addEventListener("visibilitychange", () => this.followVisibility());
    addEventListener("online", () => this.open());
    addEventListener("offline", () => this.drop());
    addEventListener("sessionended", () => this.end("not live: your session has ended"));
    addEventListener("unanswered", (event) => this.noteParts(event.detail, false));
    addEventListener("answered", (event) => this.noteParts(event.detail, true));
    this.open();
  }

  // A hidden tab costs nothing: it draws nothing, soon disconnects, and asks for a snapshot when it is seen again.
  followVisibility() {
    clearTimeout(this.hideTimer);
    if (document.hidden) {
      this.seq = null;
      this.hideTimer = setTimeout(() => this.drop(), HIDDEN_SECONDS * 1000);
    } else if (this.socket?.readyState === WebSocket.OPEN) {
      this.ask();
    } else {
      this.open();
    }
  }

  ask() {
    this.seq = null; // deltas are dropped until the snapshot comes
    this.send({ kind: "snapshot" });
  }

  // False where there is no line.
  send(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  // A socket whose line is cut may take minutes to close: it is not waited for.
  drop() {
    if (!this.socket || this.ended) return;
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.socket = null;
    this.closed();
  }

  look() {
    const since = Math.max(this.openedAt, this.heardAt ?? 0);
    if (this.socket?.readyState <= WebSocket.OPEN && Date.now() - since > SILENT_SECONDS * 1000) this.drop();
    this.tell();
  }

  get age() {
    return this.freshAt === null ? null : Math.round((Date.now() - this.freshAt) / 1000);
  }

  noteParts(names, isAnswered) {
    for (const name of names) {
      if (isAnswered) this.unanswered.delete(name);
      else if (!this.unanswered.has(name)) this.unanswered.set(name, Date.now());
    }
    this.tell();
  }

  open() {
    if (this.ended || document.hidden || (this.socket && this.socket.readyState <= WebSocket.OPEN)) return;
    clearTimeout(this.retryTimer);
    this.openedAt = Date.now();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}${this.line.dataset.socket}`);
    this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.socket.onclose = (event) => this.closed(event.code);
  }

  receive(message) {
    if (document.hidden) return;
    this.heardAt = Date.now();
    this.failures = 0;
    if (message.kind === "beat") this.away = message.away ?? "";
    if (message.kind === "snapshot") this.away = "";
    if (!this.away) this.freshAt = this.heardAt;
    if (message.kind === "parts") {
      this.onParts(message);
    } else if (message.kind === "snapshot") {
      this.seq = message.seq;
      this.onSnapshot(message.data, message.seq);
      this.count();
      for (const name of this.unanswered.keys()) document.getElementById(name)?.dispatchEvent(new Event("refresh"));
    } else if (message.kind === "deltas" && this.seq !== null && message.seq > this.seq) {
      if (message.from > this.seq + 1) {
        this.ask();
      } else {
        for (const delta of message.deltas) if (delta.seq > this.seq) this.onDelta(delta.kind, delta.data, delta.seq, delta.target);
        if (message.deltas.some((delta) => INBOX.has(delta.kind))) this.count();
        this.seq = message.seq;
      }
    }
    this.tell();
  }

  closed(code) {
    this.seq = null;
    if (code === NOT_SIGNED_IN) sessionEnded();
    if (code === NO_TARGET) this.end("this target is gone");
    if (this.ended) return;
    this.failures += 1;
    const wait = Math.min(MAX_WAIT_SECONDS, 0.5 * 2 ** this.failures) * (0.7 + 0.6 * Math.random());
    this.retryTimer = setTimeout(() => this.open(), wait * 1000);
    this.tell();
  }

  end(words) {
    this.ended = true;
    this.socket?.close();
    this.show("off", words);
  }

  tell() {
    if (this.ended || document.hidden) return;
    const isOpen = this.socket?.readyState === WebSocket.OPEN;
    if (isOpen && this.seq !== null) {
      const why = this.staleness;
      this.show(why ? "off" : "on", why || "connected");
    } else if (isOpen || !this.failures) {
      this.show("", "connecting");
    } else if (this.age === null) {
      this.show("off", "not connected, trying again");
    } else {
      this.show("off", `not connected: figures are ${this.age} s old, trying again`);
    }
  }

  // Why what is shown is stale although the line works; "" when it is fresh.
  get staleness() {
    const since = (at) => `stale since ${clock(at / 1000)}`;
    if (this.away) return `${since(this.freshAt ?? this.openedAt)}: ${AWAY[this.away]}`;
    if (!this.unanswered.size) return "";
    return `${since(Math.min(...this.unanswered.values()))}: the console does not answer, trying again`;
  }

  show(state, text) {
    if (this.line.textContent !== text) this.line.textContent = text;
    this.line.className = `live ${state}`;
    document.documentElement.toggleAttribute("data-stale", state === "off");
  }
}

// Calls `work` at most once per `seconds`, the last wish never lost; a wish may name fewer seconds for itself.
export function atMostEvery(seconds, work) {
  let timer = null;
  let dueAt = Infinity;
  let ranAt = 0;
  return (own = seconds) => {
    const due = Math.max(Date.now(), ranAt + own * 1000);
    if (due >= dueAt) return;
    clearTimeout(timer);
    dueAt = due;
    timer = setTimeout(() => {
      dueAt = Infinity;
      ranAt = Date.now();
      work();
    }, due - Date.now());
  };
}

// Fetches a part of the page again, as soon as nobody uses it.
export function refresher(id, seconds = CHANGE_SECONDS) {
  const part = document.getElementById(id);
  const again = atMostEvery(seconds, () => {
    if (isInUse(part)) {
      setTimeout(again, BUSY_MS);
    } else {
      window.htmx.trigger(part, "refresh");
    }
  });
  part.addEventListener("putoff", () => again());
  for (const other of drawnWith(part)) other.addEventListener("putoff", () => setTimeout(again, BUSY_MS));
  return again;
}

// What the answer with this part has for other places of the page.
function drawnWith(part) {
  const names = (part.getAttribute("hx-select-oob") ?? "").split(",").filter(Boolean);
  return names.map((name) => document.querySelector(name.split(":")[0])).filter(Boolean);
}
