// On every page. Parts of it are asked for only while it is seen and somebody is signed in; when the session has ended,
// the page says so and asks for nothing more. A part that asks for itself says when the console did not answer it.
import { isInUse, isPolled } from "./keep.js";

const NOT_SIGNED_IN = 401;
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

function unanswered({ elt, target }) {
  if (!isPolled(elt) || document.querySelector("#live[data-socket]") || target.querySelector(":scope > .unanswered")) return;
  const said = document.createElement("p");
  said.className = "unanswered";
  said.setAttribute("role", "status");
  said.textContent = `The console has not answered since ${new Date().toLocaleTimeString()}: what is below stays as it was, and is asked for again.`;
  target.prepend(said); // the next answer takes its place
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
