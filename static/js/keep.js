// A part of a page that is drawn anew keeps what somebody is at in it: where the focus is, what was typed or chosen, what
// is unfolded. Each is found again by what tells it from the others: its row, where it leads, its form, its name.
const FIELDS = "input:not([type=hidden]), select, textarea";
const HELD = `a[href], button, summary, [tabindex], ${FIELDS}`;
const KEYBOARD_MS = 15_000; // a screen reader says again what gets the focus again: not at every report
const POINTER_MS = 5_000;
const drawnAt = new WeakMap();
const kept = new WeakMap();
let actedAt = 0;

for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => { actedAt = Date.now(); }, { capture: true });

// Somebody is pressing something in this part, or was at it a moment ago: drawing it anew has to wait, but not for ever.
export function isInUse(part) {
  if (part.querySelector(":active")) return true;
  const focused = document.activeElement;
  if (focused === part || !part.contains(focused)) return false;
  const patience = focused.matches(":focus-visible") ? KEYBOARD_MS : POINTER_MS;
  return Date.now() - Math.max(actedAt, drawnAt.get(part) ?? 0) < patience;
}

function sign(element) {
  const row = element.closest("tr")?.querySelector("th")?.textContent.trim();
  const said = element.matches(`button, summary, [type=radio], [type=checkbox]`) ? element.value || element.textContent.trim() : "";
  return [element.tagName, element.id, row, element.getAttribute("href"), element.form?.action, element.name, said, element.ariaLabel].join("\n");
}

// [[name, element]]; of those that look alike each has its number.
function held(part) {
  const seen = new Map();
  return [...part.querySelectorAll(HELD)].map((element) => {
    const looks = sign(element), number = seen.get(looks) ?? 0;
    seen.set(looks, number + 1);
    return [`${looks}\n${number}`, element];
  });
}

const isTicked = (field) => field.type === "checkbox" || field.type === "radio";

function isChanged(field) {
  if (isTicked(field)) return field.checked !== field.defaultChecked;
  if (field.matches("select")) return [...field.options].some((option) => option.selected !== option.defaultSelected);
  return field.value !== field.defaultValue;
}

function remember(part) {
  if (part === document.body) return; // an answer of parts, each of which is remembered for itself
  const all = held(part);
  const focused = document.activeElement;
  const of = (selector, about) => all.filter(([, element]) => element.matches(selector)).map(([name, element]) => [name, about(element)]);
  kept.set(part, {
    focus: all.find(([, element]) => element === focused)?.[0],
    caret: focused?.matches("input, textarea") ? [focused.selectionStart, focused.selectionEnd] : [null],
    typed: of(FIELDS, (field) => isChanged(field) && { value: isTicked(field) ? field.checked : field.value }),
    scrolled: of("[tabindex]", (region) => region.scrollLeft),
    folds: of("details > summary", (summary) => summary.parentElement.open),
  });
}

function restore(part) {
  const before = kept.get(part);
  if (!before) return;
  kept.delete(part);
  drawnAt.set(part, Date.now());
  const now = new Map(held(part));
  for (const [name, typed] of before.typed) {
    const field = now.get(name);
    if (typed && field) field[isTicked(field) ? "checked" : "value"] = typed.value;
  }
  for (const [name, left] of before.scrolled) if (left && now.has(name)) now.get(name).scrollLeft = left;
  for (const [name, isOpen] of before.folds) if (now.has(name)) now.get(name).parentElement.open = isOpen;
  const focused = now.get(before.focus);
  if (!focused) return;
  focused.focus({ preventScroll: true });
  if (before.caret[0] !== null) focused.setSelectionRange(...before.caret);
}

document.addEventListener("htmx:beforeSwap", (event) => remember(event.detail.target));
document.addEventListener("htmx:oobBeforeSwap", (event) => remember(event.detail.target));
document.addEventListener("htmx:afterSwap", (event) => restore(event.detail.target));
document.addEventListener("htmx:oobAfterSwap", (event) => restore(event.detail.target));
