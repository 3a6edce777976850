// Which chart is drawn next, and when. One drawing takes some hundredths of a second, so each is a task of its own.
// Of drawings that traffic asks for there are at most MOST a second on a page: charts in sight are drawn as soon as
// their data has come, in turns where they are more than that; of those near it one in a while, so that scrolling finds
// them drawn.
const MOST = 4;
const SECOND_MS = 1000;
const MIN_MS = 250; // between two drawings of one chart
const UNSEEN_MS = 2000; // between two drawings of charts that nobody sees
const LATE_MS = 150; // a lead that has waited for longer gets one of the others' places too, until it is in time again
const LEADS = ["accept", "loss"]; // each has one of the MOST for itself while it is in sight: what a page is opened for
const NEAR = "900px"; // from what is seen

export class Turns {
  // charts: {name: element}; draw(name); isReady(): whether there is something to draw
  constructor(charts, draw, isReady) {
    this.draw = draw;
    this.isReady = isReady;
    this.names = Object.keys(charts);
    this.due = new Map(); // charts whose data has changed since they were drawn -> since when
    this.asked = new Set(); // those of them that a person waits for
    this.news = new Set(); // those that have data that is not drawn
    this.drawnAt = {};
    this.late = new Set(); // leads that had to wait the last time
    this.pushed = []; // the last MOST drawings that nobody waited for: {at, isLead}
    this.unseenAt = 0; // when a chart was drawn that nobody sees
    this.timer = null;
    this.timerAt = 0;
    this.near = this.follow(charts, NEAR);
    this.seen = this.follow(charts, "0px");
  }

  // The names of those that are within this margin of what is seen, kept up to date.
  follow(charts, rootMargin) {
    const found = new Set();
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const name = this.names.find((each) => charts[each] === target);
        isIntersecting ? found.add(name) : found.delete(name);
      }
      this.schedule();
    }, { rootMargin });
    for (const name of this.names) observer.observe(charts[name]);
    return found;
  }

  // isAsked: a person waits for them, so they are drawn one after another without a pause. Else isNews: data have come
  // for them, which leads are drawn for first; without it, it is about a mark.
  want(names, { isAsked = false, isNews = false }) {
    for (const name of names) {
      if (!this.due.has(name)) this.due.set(name, Date.now());
      if (isAsked) this.asked.add(name);
      if (isNews) this.news.add(name);
    }
    this.schedule();
  }

  schedule() {
    if (!this.isReady() || document.hidden) return;
    const at = Math.min(...this.waiting().map((name) => this.dueAt(name)));
    if (at === Infinity || (this.timer !== null && this.timerAt <= at)) return;
    clearTimeout(this.timer);
    this.timerAt = at;
    this.timer = setTimeout(() => this.next(), Math.max(0, at - Date.now()));
  }

  next() {
    this.timer = null;
    if (document.hidden) return; // the snapshot that comes when the page is seen again draws everything
    const ready = this.waiting().filter((name) => Date.now() >= this.dueAt(name));
    const [name] = ready.sort((a, b) => this.rank(b) - this.rank(a) || this.drawn(a) - this.drawn(b));
    if (name) {
      const isAsked = this.asked.delete(name);
      this.isLead(name) && Date.now() - this.due.get(name) > LATE_MS ? this.late.add(name) : this.late.delete(name);
      this.due.delete(name);
      this.draw(name);
      this.note(name, isAsked, Date.now());
    }
    this.schedule();
  }

  note(name, isAsked, at) {
    this.drawnAt[name] = at;
    if (!this.seen.has(name)) this.unseenAt = at;
    if (!isAsked) this.pushed = [...this.pushed, { at, isLead: this.isLead(name) }].slice(-MOST);
    this.news.delete(name);
  }

  waiting() {
    return [...this.due.keys()].filter((name) => this.near.has(name));
  }

  drawn(name) {
    return this.drawnAt[name] ?? 0;
  }

  isLead(name) {
    return LEADS.includes(name) && this.seen.has(name) && this.news.has(name);
  }

  rank(name) {
    return 4 * this.asked.has(name) + 2 * this.isLead(name) + this.seen.has(name);
  }

  dueAt(name) {
    if (!this.drawn(name)) return 0;
    const due = this.drawn(name) + MIN_MS;
    return this.asked.has(name) ? due : Math.max(due, this.freeAt(name), this.seen.has(name) ? 0 : this.unseenAt + UNSEEN_MS);
  }

  // When a drawing more would still be one of the MOST of a second, of which others leave the leads theirs.
  freeAt(name) {
    const after = (drawings, most) => drawings.length < most ? 0 : drawings.at(-most).at + SECOND_MS;
    const all = after(this.pushed, MOST);
    if (this.isLead(name)) return all;
    const numLeads = LEADS.filter((each) => this.seen.has(each)).length;
    return Math.max(all, after(this.pushed.filter((each) => !each.isLead), MOST - numLeads - (this.late.size > 0)));
  }
}
