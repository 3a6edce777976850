// Two forms on one page, each saved by itself: saving one keeps what is typed in the other until the page is there again.
import { fieldsOf, isChanged, isTicked } from "./keep.js";

const KEY = `unsaved ${location.pathname}`;
const forms = [...document.querySelectorAll("form[data-unsaved]")];
const valueOf = (field) => (isTicked(field) ? field.checked : field.value);
const nameOf = (field) => (field.type === "radio" ? `${field.name}=${field.value}` : field.name);

// What came back refused has what was typed as its defaults: all of it counts as changed.
function changed(form) {
  const isTyped = (field) => "refused" in form.dataset || isChanged(field);
  return fieldsOf(form).filter((field) => field.name && !field.disabled && isTyped(field)).map((field) => [nameOf(field), valueOf(field)]);
}

for (const form of forms) {
  form.addEventListener("submit", () => {
    const others = forms.filter((other) => other !== form).map((other) => [other.dataset.unsaved, changed(other)]);
    sessionStorage.setItem(KEY, JSON.stringify(Object.fromEntries(others.filter(([, fields]) => fields.length))));
  });
}

const before = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
sessionStorage.removeItem(KEY);
for (const form of forms) {
  const typed = new Map(before[form.dataset.unsaved] ?? []);
  for (const field of fieldsOf(form)) {
    if (typed.has(nameOf(field))) field[isTicked(field) ? "checked" : "value"] = typed.get(nameOf(field));
  }
  if (typed.size) form.querySelector(".unsaved").hidden = false;
}
