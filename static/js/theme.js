// Runs before the first paint. Who has signed in has a choice, which the server wrote into <html>; everybody else has
// the theme that was chosen in this browser. "system", or no choice, follows the system, also when that changes.
"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => {
    root.dataset.theme = theme === "system" ? (system.matches ? "dark" : "light") : theme;
    dispatchEvent(new Event("themechange"));
  };
  let current = root.dataset.choice || localStorage.getItem("theme") || "system";
  const keep = (button, theme) => {
    localStorage.setItem("theme", theme); // for the sign-in page
    if (!button.dataset.keep) return;
    const headers = JSON.parse(document.body.getAttribute("hx-headers"));
    const body = new URLSearchParams({ theme });
    fetch(button.dataset.keep, { method: "POST", headers, body, keepalive: true }); // also where a link is next
  };
  show(current);
  system.addEventListener("change", () => current === "system" && show(current));
  // The browser's zone, for who has chosen none: the next page is written in it.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.split("; ").includes(`zone=${zone}`)) {
    document.cookie = `zone=${zone}; path=/; max-age=31536000; samesite=lax`;
  }
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button?.addEventListener("click", () => {
      current = root.dataset.theme === "dark" ? "light" : "dark";
      show(current);
      keep(button, current);
    });
  });
})();
