// Buttons with data-copy="ID" copy the text of that element and say so; they may come and go with parts of the page.

async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Without https there is no clipboard API: select the text, so that the keyboard can copy it.
    getSelection().selectAllChildren(source);
    return document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
  }
  return "Copied";
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  let said = button.nextElementSibling;
  if (!said?.matches("[role=status]")) {
    said = document.createElement("span");
    said.setAttribute("role", "status");
    button.after(said);
  }
  said.textContent = await copy(source);
  setTimeout(() => said.remove(), 4000);
});
