// The alerts page: parts are drawn anew when an alert changes, and "Silence…" opens as a dialog.
import { LiveFeed, refresher } from "./live.js";

const refresh = refresher("open-alerts");
new LiveFeed(document.getElementById("live"), () => refresh(), (kind) => {
  if (kind === "alert") refresh();
});

const dialog = document.getElementById("dialog");
let opener = ""; // where the link leads that opened it

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-dialog]");
  if (link && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    opener = link.href;
    await window.htmx.ajax("GET", link.href, { target: "#dialog-part", swap: "innerHTML" });
    dialog.showModal();
    dialog.querySelector("[name=reason]")?.focus();
  } else if (dialog.open && event.target.closest("a[data-close]")) {
    event.preventDefault();
    dialog.close();
  }
});

// The list may have been drawn anew meanwhile.
dialog.addEventListener("close", () => [...document.querySelectorAll("a[data-dialog]")].find((link) => link.href === opener)?.focus());
