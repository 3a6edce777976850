// On every page. Parts of it are asked for only while it is seen and somebody is signed in; when the session has ended,
// the page says so and asks for nothing more. A part that is drawn anew and gets no answer is asked for again, and says so:
// where the page has a socket, through its line ("unanswered" and "answered", with the names of the parts), else itself.
import { isFollowing, isInUse, isPolled } from "./keep.js";

const NOT_SIGNED_IN = 401;
const RETRY_MS = 10_000;
const retried = new WeakSet();
let isOver = false;

export function sessionEnded() {
  if (isOver) return;
  isOver = true;
  document.documentElement.toggleAttribute("data-stale", true);
  const link = document.createElement("a");
  link.href = `/accounts/login/?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in again";
  const said = document.createElement("p");
  said.className = "notice error";
  said.setAttribute("role", "alert");
  said.append("Your session has ended: what is shown here stays as it is now. ", link, " to come back to this page.");
  document.getElementById("main").prepend(said);
  dispatchEvent(new Event("sessionended"));
}

// Of a request: the part that asks for itself, or those that parts.js has named in the address.
function partsOf({ elt, target, pathInfo }) {
  if (isFollowing(elt)) return [target.id];
  return new URL(pathInfo.requestPath, location.href).searchParams.getAll("part");
}

export const tell = (kind, names) => names.length && dispatchEvent(new CustomEvent(kind, { detail: names }));

function unanswered(request) {
  const { elt, target } = request;
  if (document.querySelector("#live[data-socket]")) tell("unanswered", partsOf(request));
  else if (isPolled(elt)) saySo(target);
  if (isFollowing(elt) && !isPolled(elt)) askAgain(elt);
}

function saySo(part) {
  if (part.querySelector(":scope > .unanswered")) return;
  const said = document.createElement("p");
  said.className = "unanswered";
  said.setAttribute("role", "status");
  said.textContent = `The console has not answered since ${new Date().toLocaleTimeString()}: what is below stays as it was, and is asked for again.`;
  part.prepend(said); // the next answer takes its place
}

function askAgain(part) {
  if (retried.has(part)) return;
  retried.add(part);
  setTimeout(() => {
    retried.delete(part);
    window.htmx.trigger(part, "refresh");
  }, RETRY_MS);
}

document.addEventListener("htmx:beforeRequest", (event) => {
  const { elt, target } = event.detail;
  if (document.hidden || isOver || (isPolled(elt) && isInUse(target))) event.preventDefault();
});
for (const kind of ["htmx:sendError", "htmx:timeout"]) document.addEventListener(kind, (event) => unanswered(event.detail));
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === NOT_SIGNED_IN) sessionEnded();
  else unanswered(event.detail);
});
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (detail.successful) tell("answered", partsOf(detail));
});
