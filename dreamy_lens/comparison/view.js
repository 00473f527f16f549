// What a page does besides showing itself: a point that is chosen puts its prompt or window beside the drawing.
function follow(root) {
  const marks = [...root.querySelectorAll("svg a[href^='#']")];
  const place = root.querySelector(".dl-picked");
  const mine = Math.random().toString(36).slice(2);
  // The same view may stand in a page twice; its radio buttons must not know of each other.
  for (const input of root.querySelectorAll("input")) {
    const label = root.querySelector(`label[for="${input.id}"]`);
    if (input.name) input.name += mine;
    input.id += mine;
    if (label) label.htmlFor = input.id;
  }
  const target = (mark) => root.querySelector(`article[id="${mark.getAttribute("href").slice(1)}"]`);
  const side = (card) => (card.querySelector(".dl-mark-d") ? "d" : "w");
  const choose = (mark) => {
    const card = target(mark);
    if (!card || !place) return;
    const copy = card.cloneNode(true);
    copy.removeAttribute("id");
    const old = [...place.querySelectorAll("article")].find((one) => side(one) === side(card));
    if (old) old.replaceWith(copy);
    else place.append(copy);
    for (const other of marks) {
      const there = target(other);
      if (other !== mark && there && side(there) === side(card)) other.classList.remove("dl-on");
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
