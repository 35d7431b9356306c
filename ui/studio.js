// Keys of the studio (the page lists them: ui/write.py, _KEYS), and the passage that the writer selects to rewrite.
const press = (selector) => {
  const button = document.querySelector(selector);
  if (button && !button.disabled && button.offsetParent !== null) button.click();
  return Boolean(button);
};
// Suggestions come in the tab "Next": S, the numbers and "Let it finish" lead there from the others.
const next = (then) => {
  const tab = document.querySelector("#side [role=tab]");
  if (!tab || tab.offsetParent === null || tab.getAttribute("aria-selected") === "true") return then();
  tab.click();
  setTimeout(then, 100);
};
const isField = (target) => target.closest("input, textarea, select, [contenteditable]") && target.type !== "range";

document.addEventListener("keydown", (event) => {
  const withCtrl = event.ctrlKey || event.metaKey;
  if (event.key === "Enter" && withCtrl && event.target.closest("#own-text")) {
    event.preventDefault();
    press("#add-turn");
  } else if (event.key === "Escape") {
    if (event.target.closest("#passage") || !isField(event.target)) bar.close();
    if (isField(event.target)) event.target.blur();
  } else if (!isField(event.target) && !event.altKey) {
    const key = event.key.toLowerCase();
    const number = /^Digit([1-8])$/.exec(event.code)?.[1];
    let taken = true;
    if (withCtrl && key === "z") press(event.shiftKey ? "#redo" : "#undo");
    else if (withCtrl) taken = false;
    else if (number && !event.shiftKey && document.querySelector(`#version-${number - 1}`)) press(`#version-${number - 1}`);
    else if (number && document.querySelector(`#pick-${number - 1}`)) next(() => press(`#${event.shiftKey ? "edit" : "pick"}-${number - 1}`));
    else if (key === "s") next(() => press("#suggest"));
    else if (key === "r") bar.ask();
    else if (key === "x") for (const stop of document.querySelectorAll("#stop, #stop-rewriting")) stop.click();
    else if (key === "n") document.querySelector("#own-text textarea")?.focus();
    else taken = false;
    if (taken) event.preventDefault();
  }
});

// "Edit" on a suggestion leads to the writer's own turn, where its words are.
document.addEventListener("click", (event) => {
  if (event.target.closest('[data-do="take"]')) document.querySelector("#own-text textarea")?.focus();
  if (event.target.closest("#finish")) next(() => document.querySelector("#side").scrollIntoView({ block: "nearest" }));
});

// Steps reach the server in the order in which they were made, even two within a moment: each waits until the one before
// has been taken into the queue there. (A browser may send them over two connections, and the later one arrive first.)
const fetchNow = window.fetch;
let joined = Promise.resolve();
window.fetch = (input, init) => {
  if (!String(input.url ?? input).includes("/queue/join")) return fetchNow(input, init);
  const answer = joined.then(() => fetchNow(input, init));
  joined = answer.catch(() => {});
  return answer;
};

// The bar (ui/rewriting.py) for a passage: {block, start, end} count characters of `seen`, the block as it is shown.
const length = (text) => [...text].length; // characters as Python counts them
const bar = {
  passage: null,
  range: null,
  get form() {
    return document.querySelector("#passage form");
  },
  show(passage, range, message) {
    const { form } = this;
    if (!form) return;
    Object.assign(this, { passage, range });
    const words = passage ? [...passage.seen].slice(passage.start, passage.end).join("").trim() : "";
    form.querySelector(".quote").textContent = message ?? (words.length > 90 ? `${words.slice(0, 60)} … ${words.slice(-25)}` : words);
    form.querySelector(".fields").hidden = !passage;
    for (const [name, value] of Object.entries(passage ?? {})) form.elements[name].value = value;
    form.hidden = false;
    window.CSS?.highlights?.set("passage", range && passage ? new Highlight(range) : new Highlight());
    this.place();
  },
  place() {
    const { form } = this;
    if (!form || form.hidden) return;
    const at = (this.range ?? document.querySelector("#manuscript .turn.open"))?.getBoundingClientRect();
    const room = innerHeight - form.offsetHeight - 8;
    form.style.top = `${Math.max(8, Math.min((at?.bottom ?? room) + 8, room))}px`;
    form.style.left = `${Math.max(8, Math.min(at?.left ?? 8, innerWidth - form.offsetWidth - 8))}px`;
  },
  close() {
    if (!this.form || this.form.hidden) return;
    this.form.hidden = true;
    window.CSS?.highlights?.delete("passage");
    Object.assign(this, { passage: null, range: null });
  },
  ask() {
    if (!this.passage) {
      const turn = document.activeElement?.closest("#manuscript .turn") ?? document.querySelector("#manuscript .turn.open");
      if (turn) return this.block(turn);
      return this.show(null, null, "Select some words of one block first, or open a block.");
    }
    this.form.elements.hint.focus();
  },
  block(turn) {
    const text = turn.querySelector("form textarea[name=text]");
    const [from, to] = text ? [text.selectionStart, text.selectionEnd] : [0, 0];
    const seen = text?.value ?? turn.querySelector(".block-text").textContent;
    const [start, end] = to > from ? [length(seen.slice(0, from)), length(seen.slice(0, to))] : [0, length(seen)];
    this.show({ block: turn.dataset.block, start, end, seen }, null);
    this.form.elements.hint.focus();
  },
  select() {
    const selection = getSelection();
    if (!selection.rangeCount || selection.isCollapsed) {
      if (this.range && !this.form.contains(document.activeElement)) this.close();
      return;
    }
    const range = selection.getRangeAt(0);
    const inside = [...document.querySelectorAll("#manuscript .block-text")].flatMap((prose) => {
      if (!range.intersectsNode(prose)) return [];
      const part = document.createRange();
      part.selectNodeContents(prose);
      const all = part.cloneRange();
      if (range.compareBoundaryPoints(Range.START_TO_START, part) > 0) part.setStart(range.startContainer, range.startOffset);
      if (range.compareBoundaryPoints(Range.END_TO_END, all) < 0) part.setEnd(range.endContainer, range.endOffset);
      return part.toString().trim() ? [[prose, part]] : [];
    });
    if (inside.length > 1) return this.show(null, range, "A passage to rewrite lies within one block. Select fewer words.");
    if (!inside.length) return this.range && this.close();
    const [[prose, part]] = inside;
    const before = document.createRange();
    before.selectNodeContents(prose);
    before.setEnd(part.startContainer, part.startOffset);
    const start = length(before.toString());
    const end = start + length(part.toString());
    this.show({ block: prose.closest(".turn").dataset.block, start, end, seen: prose.textContent }, part);
  },
};
let selecting;
document.addEventListener("selectionchange", () => {
  clearTimeout(selecting);
  selecting = setTimeout(() => bar.select(), 200);
});
for (const event of ["scroll", "resize"]) addEventListener(event, () => bar.place(), { passive: true, capture: true });
document.addEventListener("click", (event) => {
  const whole = event.target.closest("[data-passage]");
  if (whole) bar.block(whole.closest(".turn"));
  else if (event.target.closest('#passage .close, #passage [data-do="rewrite"]')) bar.close();
});
