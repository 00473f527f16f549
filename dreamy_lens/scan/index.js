// Index of a scan: sorts and searches the rows of the table, and keeps only those near the screen in the page.
(() => {
  const table = document.querySelector("table.dl-index");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const box = document.querySelector(".dl-find input");
  const status = document.querySelector(".dl-find [role=status]");
  const last = heads.length - 1;
  const numeric = heads.map((head) => head.classList.contains("dl-number"));
  const number = (text) => parseFloat(text.replaceAll("−", "-").replace("∞", "Infinity"));
  const keys = numeric.map((yes, i) => yes && Float64Array.from(rows, (row) => number(row.cells[i].textContent)));
  const texts = rows.map((row) => `${row.cells[0].textContent} ${row.cells[last].textContent}`.toLowerCase());
  const name = (i) => heads[i].dataset.name;
  let sorted = 0;
  let down = false;
  let order = rows.map((_, i) => i);
  let shown = order;
  let drawn = "";
  let all = false;
  let height = 0;

  function sort() {
    const key = keys[sorted];
    order = rows.map((_, i) => i);
    if (!key) return down && order.reverse();
    const sign = down ? -1 : 1;
    // Rows without a number come last in both directions.
    order.sort((a, b) => isNaN(key[a]) - isNaN(key[b]) || sign * (key[a] - key[b]) || a - b);
  }
  function filter() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = words.length ? order.filter((i) => words.every((word) => texts[i].includes(word))) : order;
    status.textContent = words.length ? `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
  }
  function gap(count) {
    const row = document.createElement("tr");
    const cell = document.createElement("td");
    row.className = "dl-gap";
    row.setAttribute("aria-hidden", "true");
    cell.colSpan = heads.length;
    cell.style.height = `${count * height}px`;
    row.append(cell);
    return row;
  }
  function draw(force) {
    const top = body.getBoundingClientRect().top;
    // Steps of 16 rows, so that scrolling seldom changes the page.
    let first = Math.max(0, Math.floor(-top / height / 16 - 1) * 16);
    let end = Math.min(shown.length, first + Math.ceil(innerHeight / height / 16 + 3) * 16);
    if (all) [first, end] = [0, shown.length];
    first = Math.min(first, end);
    if (!force && drawn === `${first} ${end}`) return;
    drawn = `${first} ${end}`;
    const part = shown.slice(first, end).map((i) => rows[i]);
    const gaps = [first, shown.length - end].map((count) => (count > 0 ? [gap(count)] : []));
    body.replaceChildren(...gaps[0], ...part, ...gaps[1]);
  }
  function show() {
    sort();
    filter();
    heads.forEach((head, i) => {
      if (i === sorted) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    draw(true);
  }
  // The address keeps the order and the search, so that the way back from a card leads to them.
  function keep() {
    const state = new URLSearchParams();
    if (sorted || down) state.set("sort", (down ? "-" : "") + name(sorted));
    if (box.value) state.set("find", box.value);
    try {
      history.replaceState(history.state, "", `#${state}`);
    } catch {}
  }
  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    const wanted = state.get("sort") ?? "";
    const found = heads.findIndex((_, i) => name(i) === wanted.replace(/^-/, ""));
    [sorted, down] = found < 0 ? [0, false] : [found, wanted.startsWith("-")];
    box.value = state.get("find") ?? "";
    show();
  }
  heads.forEach((head, i) => {
    head.dataset.name = head.textContent.trim().replaceAll(" ", "-");
    if (i && !numeric[i]) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      [sorted, down] = sorted === i ? [i, !down] : [i, numeric[i]];
      show();
      keep();
    });
  });
  box.addEventListener("input", () => {
    filter();
    draw(true);
    keep();
  });
  function measure() {
    const sample = [...body.rows].find((row) => row.className !== "dl-gap");
    height = sample?.getBoundingClientRect().height || height || 30;
  }
  addEventListener("scroll", () => draw(false), { passive: true });
  addEventListener("resize", () => {
    measure();
    draw(true);
  });
  addEventListener("hashchange", restore);
  addEventListener("beforeprint", () => draw((all = true)));
  addEventListener("afterprint", () => ((all = false), draw(true)));
  box.parentNode.hidden = false;
  table.setAttribute("aria-rowcount", rows.length + 1);
  rows.forEach((row, i) => row.setAttribute("aria-rowindex", i + 2));
  measure();
  document.documentElement.className = "";
  restore();
})();
