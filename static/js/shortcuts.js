// g and a letter follow the link of the page that has this letter as data-go; ? is the help, / the first filter.
// A browser may have them off: a single key must never surprise somebody who speaks or types with help.

const WAIT_MS = 1500;
let isGoing = false;
let timer = null;

function isTyping(element) {
  return element.isContentEditable || element.matches("input, select, textarea, [role=textbox]");
}

function isOn() {
  return localStorage.getItem("shortcuts") !== "off";
}

function follow(letter) {
  const link = document.querySelector(`a[data-go="${CSS.escape(letter)}"]`);
  link?.click();
  return Boolean(link);
}

function search() {
  const field = document.querySelector("form.filters input:not([type=hidden]), form.filters select");
  field?.focus();
  return Boolean(field);
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
  if (!isOn() || isTyping(event.target)) return;
  const wasGoing = isGoing;
  isGoing = false;
  clearTimeout(timer);
  let isDone = false;
  if (wasGoing) {
    isDone = follow(event.key);
  } else if (event.key === "g") {
    isGoing = true;
    timer = setTimeout(() => { isGoing = false; }, WAIT_MS);
  } else if (event.key === "?") {
    isDone = follow("h");
  } else if (event.key === "/") {
    isDone = search();
  }
  if (isDone) event.preventDefault();
});

document.addEventListener("DOMContentLoaded", () => {
  const box = document.getElementById("shortcuts");
  if (!box) return;
  box.checked = isOn();
  box.addEventListener("change", () => localStorage.setItem("shortcuts", box.checked ? "on" : "off"));
});
