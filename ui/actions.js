// Runs in each panel: a click on [data-do], or a change in form[data-autosave], is sent as an event with its fields.
const send = (from) => {
  const fields = {};
  for (const field of from.closest("form")?.elements ?? [])
    if (field.name) fields[field.name] = field.type === "checkbox" ? field.checked : field.value;
  trigger(from.dataset.on ?? "click", { fields: { ...fields, ...from.dataset } });
};
element.addEventListener("click", (event) => {
  const from = event.target.closest("[data-do]");
  if (!from || from.tagName === "FORM" || !element.contains(from)) return;
  if (from.tagName !== "BUTTON" && String(getSelection())) return; // a passage is being selected
  if (from.dataset.ask && !confirm(from.dataset.ask)) return;
  send(from);
});
element.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-autosave]");
  if (form) send(form);
});
element.addEventListener("submit", (event) => {
  event.preventDefault();
  event.target.querySelector("button.first")?.click();
});
element.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) {
    event.preventDefault();
    event.target.form.querySelector("button.first")?.click();
  }
});
