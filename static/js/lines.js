// What is drawn as lines: rows with a moment and a number, in pieces where nothing was measured for a while.
import { wall } from "./zone.js";

const MAX_DOTTED = 40; // a line of fewer points shows each; every point is an element of its own
const GAP_BUCKETS = 3; // without anything measured, and at least so many seconds, are a gap
const GAP_SECONDS = 60;

export function line(name, rows, x, y, look) {
  const known = rows.filter((row) => Number.isFinite(y(row)));
  return { name, x: known.map((row) => wall(x(row))), y: known.map(y), ...dotted(known), ...look };
}

// A line over buckets of ``size`` seconds, with a gap where nothing was measured for a while. A bucket that stands alone is as
// wide as it is.
export function stepped(size, name, rows, y, look) {
  const points = [];
  for (const run of runs(rows.filter((row) => Number.isFinite(y(row))), size)) {
    if (points.length) points.push([run[0].middle - size / 2, null]);
    if (run.length > 1) points.push(...run.map((row) => [row.middle, y(row)]));
    else points.push(...[-0.5, 0.5].map((side) => [run[0].middle + side * size, y(run[0])]));
  }
  return { name, x: points.map(([at]) => wall(at)), y: points.map(([, value]) => value), ...dotted(points), ...look };
}

// Rows, oldest first, in pieces without a gap.
export function runs(rows, size) {
  const found = [];
  const gap = Math.max(GAP_BUCKETS * size, GAP_SECONDS);
  for (const row of rows) {
    const last = found.at(-1);
    if (last && row.middle - last.at(-1).middle <= gap) last.push(row);
    else found.push([row]);
  }
  return found;
}

export function dotted(rows) {
  return rows.length > MAX_DOTTED ? { mode: "lines" } : { mode: "lines+markers", marker: { size: 4 } };
}

// A layer that ends where nothing was measured for a while; ``text`` has the tokens as they are written.
export function stacked(rows, size, tokens) {
  const points = runs(rows, size).flatMap((run) => {
    const [first, last] = [run[0].middle - size / 2, run.at(-1).middle + size / 2];
    return [[first, 0], ...run.map((row) => [row.middle, tokens(row)]), [last, 0]];
  });
  return { x: points.map(([at]) => wall(at)), y: points.map(([, value]) => value), text: points.map(([, value]) => value.toLocaleString("en")) };
}
