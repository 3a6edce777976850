// A part of a page that is drawn anew keeps what somebody is at in it: where the focus is, what was typed or chosen, what
// is unfolded. Each is found again by what tells it from the others: its row, where it leads, its form, its name.
const FIELDS = "input:not([type=hidden]), select, textarea";
const CONTROLS = `a[href], button, summary, ${FIELDS}`;
const HELD = `[tabindex], ${CONTROLS}`;
const KEYBOARD_MS = 15_000; // a screen reader says again what gets the focus again: not at every report
const POINTER_MS = 5_000;
const drawnAt = new WeakMap();
const kept = new WeakMap();
let actedAt = 0;
let movedAt = 0;

for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => { actedAt = Date.now(); }, { capture: true });
addEventListener("pointermove", () => { movedAt = Date.now(); }, { capture: true, passive: true });

// Somebody is pressing something in this part, points at it to press it, or was at it a moment ago: drawing it anew has to
// wait, but not for ever. What moves away from under the pointer is not what gets the click.
export function isInUse(part) {
  if (part.querySelector(":active")) return true;
  const within = (at, patience) => Date.now() - Math.max(at, drawnAt.get(part) ?? 0) < patience;
  if (part.querySelector(`:is(${CONTROLS}):hover`) && within(movedAt, POINTER_MS)) return true;
  const focused = document.activeElement;
  if (focused === part || !part.contains(focused)) return false;
  return within(actedAt, focused.matches(":focus-visible") ? KEYBOARD_MS : POINTER_MS);
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

export const isTicked = (field) => field.type === "checkbox" || field.type === "radio";

export const fieldsOf = (form) => [...form.querySelectorAll(FIELDS)];

export function isChanged(field) {
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

export const isPolled = (element) => element.getAttribute("hx-trigger")?.includes("every ");
export const isFollowing = (element) => isPolled(element) || element.getAttribute("hx-trigger")?.includes("refresh");

// What was asked for while nobody used the part may come when somebody does. "putoff" on the part: it is to be asked again.
function beforeSwap(event, isUnasked) {
  const { detail } = event;
  if (detail.shouldSwap && isUnasked && isInUse(detail.target)) {
    detail.shouldSwap = false;
    detail.target.dispatchEvent(new Event("putoff", { bubbles: true }));
  } else {
    remember(detail.target);
  }
}

document.addEventListener("htmx:beforeSwap", (event) => beforeSwap(event, isFollowing(event.detail.requestConfig.elt)));
document.addEventListener("htmx:oobBeforeSwap", (event) => beforeSwap(event, true));
document.addEventListener("htmx:afterSwap", (event) => restore(event.detail.target));
document.addEventListener("htmx:oobAfterSwap", (event) => restore(event.detail.target));
