// Times in the reader's zone, which the page names in <html data-zone>. Plotly draws a date as it is written, so charts
// get the wall clock of that zone as text. Where clocks are set back, an hour is drawn twice: the zone's name is on the axis.

export const zone = document.documentElement.dataset.zone || "UTC";

// At the right end of a time axis, beside the date that Plotly writes at the left.
export const zoneNote = {
  text: zone, xref: "paper", yref: "paper", x: 1, xanchor: "right", y: 0, yanchor: "top", yshift: -17, showarrow: false, font: { size: 10 },
};

const QUARTER = 900; // seconds; clocks change on a quarter of an hour, so an offset holds for one
const parts = new Intl.DateTimeFormat("en-GB", {
  timeZone: zone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric",
});
const offsets = new Map();

// Seconds that the zone's clock is ahead of UTC at a time in Unix seconds.
function offset(at) {
  const quarter = Math.floor(at / QUARTER);
  if (!offsets.has(quarter)) {
    const start = quarter * QUARTER;
    const found = Object.fromEntries(parts.formatToParts(start * 1000).map((part) => [part.type, Number(part.value)]));
    const there = Date.UTC(found.year, found.month - 1, found.day, found.hour, found.minute, found.second) / 1000;
    offsets.set(quarter, there - start);
  }
  return offsets.get(quarter);
}

// Unix seconds -> "2026-11-24T14:03:05.000", the wall clock of the zone.
export function wall(at) {
  return new Date((at + offset(at)) * 1000).toISOString().slice(0, 23);
}

// The other way round: what Plotly says of its axis ("2026-11-24 14:03:05.5") -> Unix seconds.
export function unwall(text) {
  const there = Date.parse(`${text.length > 10 ? text.trim().replace(" ", "T") : `${text}T00:00`}Z`) / 1000;
  return there - offset(there - offset(there));
}

// Unix seconds -> "14:03:05 Europe/Berlin".
export function clock(at) {
  return `${wall(at).slice(11, 19)} ${zone}`;
}
