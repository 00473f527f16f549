// Interaction of a page: choosing a point shows its prompt or window beside the drawing.
function follow(root) {
  const marks = [...root.querySelectorAll("svg a[href^='#']")];
  const place = root.querySelector(".dl-picked");
  const suffix = Math.random().toString(36).slice(2);
  // A page may show the same view twice, so each view needs its own radio buttons.
  for (const input of root.querySelectorAll("input")) {
    const label = root.querySelector(`label[for="${input.id}"]`);
    if (input.name) input.name += suffix;
    input.id += suffix;
    if (label) label.htmlFor = input.id;
  }
  const target = (mark) => root.querySelector(`article[id="${mark.getAttribute("href").slice(1)}"]`);
  const side = (card) => (card.querySelector(".dl-mark-d") ? "d" : "w");
  const choose = (mark) => {
    const card = target(mark);
    if (!card || !place) return;
    const copy = card.cloneNode(true);
    copy.removeAttribute("id");
    const old = [...place.querySelectorAll("article")].find((article) => side(article) === side(card));
    if (old) old.replaceWith(copy);
    else place.append(copy);
    for (const other of marks) {
      const article = target(other);
      if (other !== mark && article && side(article) === side(card)) other.classList.remove("dl-on");
      other.setAttribute("tabindex", other === mark ? "0" : "-1");
    }
    mark.classList.add("dl-on");
  };
  marks.forEach((mark, i) => {
    mark.setAttribute("tabindex", i ? "-1" : "0");
    mark.setAttribute("role", "button");
    mark.addEventListener("click", (event) => { event.preventDefault(); choose(mark); });
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      const next = step ? marks[i + step] : event.key === "Enter" || event.key === " " ? mark : null;
      if (!next) return;
      event.preventDefault();
      event.stopPropagation();
      choose(next);
      next.focus();
    });
  });
}
