// Keys of the studio. The page lists them (ui/write.py, _KEYS).
const press = (selector) => {
  const button = document.querySelector(selector);
  if (button && !button.disabled && button.offsetParent !== null) button.click();
  return Boolean(button);
};
const isField = (target) => target.closest("input, textarea, select, [contenteditable]") && target.type !== "range";

document.addEventListener("keydown", (event) => {
  const withCtrl = event.ctrlKey || event.metaKey;
  if (event.key === "Enter" && withCtrl && event.target.closest("#own-text")) {
    event.preventDefault();
    press("#add-turn");
  } else if (event.key === "Escape" && isField(event.target)) {
    event.target.blur();
  } else if (!isField(event.target) && !event.altKey) {
    const key = event.key.toLowerCase();
    const number = /^Digit([1-8])$/.exec(event.code)?.[1];
    let taken = true;
    if (withCtrl && key === "z") press(event.shiftKey ? "#redo" : "#undo");
    else if (withCtrl) taken = false;
    else if (number) taken = press(`#${event.shiftKey ? "edit" : "pick"}-${number - 1}`);
    else if (key === "s") press("#suggest");
    else if (key === "x") press("#stop");
    else if (key === "n") document.querySelector("#own-text textarea")?.focus();
    else taken = false;
    if (taken) event.preventDefault();
  }
});

// "Edit" on a suggestion leads to the writer's own turn, where its words are.
document.addEventListener("click", (event) => {
  if (event.target.closest('[data-do="take"]')) document.querySelector("#own-text textarea")?.focus();
});
