// Ctrl+Enter (or Cmd+Enter) in the own-turn box adds the turn.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.closest("#own-text")) {
    event.preventDefault();
    document.querySelector("#add-turn").click();
  }
});
