// On every page. Parts of it are asked for only while it is seen and somebody is signed in; when the session has ended,
// the page says so and asks for nothing more.

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

document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden || isOver) event.preventDefault();
});
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === NOT_SIGNED_IN) sessionEnded();
});
