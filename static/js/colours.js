// The theme's colours for charts, by the names that static/css/aurora.css gives them.

// Asked once a theme: each question makes the browser work out the page's styles again. This listener comes before those
// of the pages that import it, so that they draw with the new colours.
const known = new Map();
addEventListener("themechange", () => known.clear());

export function colour(name) {
  if (!known.has(name)) known.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return known.get(name);
}
