// Buttons that copy a program; where the page may not use the clipboard, its text is selected.
function copies(root) {
  for (const button of root.querySelectorAll(".dl-python button")) {
    const code = button.parentElement.querySelector("pre");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected: copy it with your keyboard or menu";
      }
    });
  }
}
