// The table of a frontier: sorted by any column, picked from by click or by keys.

import { arrows, h, num, perplexity, places, visible } from "./common.js";

const unlike = "as text it encodes to other tokens";
const text = (e) => {
  const mark = h("span", { class: "dlp-mark", title: unlike, role: "img", "aria-label": unlike }, " ≠");
  return [h("bdi", { dir: "ltr" }, visible(e.text.replace(/^ /, ""))), e.trips === false ? mark : null];
};
const COLUMNS = {
  value: [(e) => e.y, (e, digits) => [num(e.y, digits)]],
  "cross-entropy": [(e) => e.x, (e) => [num(e.x)]],
  perplexity: [(e) => e.x, (e) => [perplexity(e.x)]],
  iteration: [(e) => e.it ?? -1, (e) => [e.it === null || e.it === undefined ? "–" : String(e.it)]],
  run: [(e) => e.run ?? "", (e) => [visible(e.run ?? "")]],
  text: [(e) => e.text, text],
};

/** `draw(entries, picked, nothing)`: nothing is said where there are no entries. Those without a key cannot be picked. */
export function frontierTable({ columns, pick, label }) {
  const el = h("div", { class: "dlp-table" });
  let by = "cross-entropy", way = 1, last = null, seen = "";

  function sort(column) {
    [by, way] = [column, by === column ? -way : 1];
    draw(...last);
    el.firstChild.scrollTop = 0;
  }

  function head(column) {
    const on = column === by, sign = on ? (way > 0 ? "\u00a0↑" : "\u00a0↓") : "";
    const given = { "data-by": column, title: `sort by ${column}`, onclick: () => sort(column) };
    const sorted = on ? (way > 0 ? "ascending" : "descending") : "none";
    return h("th", { scope: "col", class: `dlp-c-${column}`, "aria-sort": sorted },
      h("button", given, column, h("span", { "aria-hidden": "true" }, sign)));
  }

  function draw(entries, picked, nothing) {
    last = [entries, picked, nothing];
    if (!entries.length) return el.replaceChildren(h("p", { class: "dlp-quiet" }, nothing));
    const digits = places(entries.map((e) => e.y)), of = COLUMNS[by][0];
    const rows = [...entries].sort((a, b) => (of(a) < of(b) ? -way : of(a) > of(b) ? way : 0));
    const is = (e) => Boolean(e.key) && e.key === picked, stop = (rows.find(is) ?? rows.find((e) => e.key))?.key;
    const row = (e) => {
      const given = {
        class: is(e) ? "dlp-on" : null, "aria-selected": String(is(e)), tabindex: e.key && e.key === stop ? 0 : -1,
        "data-key": e.key ?? "", onclick: () => pick(e.key),
      };
      return h("tr", given, ...columns.map((c) => h("td", { class: `dlp-c-${c}` }, ...COLUMNS[c][1](e, digits))));
    };
    const focus = el.contains(document.activeElement) ? document.activeElement.dataset : null;
    const scroll = el.querySelector(".dlp-scroll")?.scrollTop ?? 0;
    const body = h("tbody", { onkeydown: keys }, ...rows.map(row));
    const whole = h("table", { role: "grid", "aria-label": label }, h("thead", {}, h("tr", {}, ...columns.map(head))), body);
    const box = h("div", { class: "dlp-scroll" }, whole);
    el.replaceChildren(box);
    box.scrollTop = scroll;
    if (picked !== seen) follow(box, body.querySelector(".dlp-on"));
    seen = picked;
    if (!focus) return;
    const again = focus.by ? `[data-by="${focus.by}"]` : `[data-key="${CSS.escape(picked || focus.key || "")}"]`;
    el.querySelector(again)?.focus({ preventScroll: true });
  }

  /** What was picked elsewhere is brought into sight, without moving the page. */
  function follow(box, row) {
    if (!row) return;
    const above = box.querySelector("thead").offsetHeight, { offsetTop: top, offsetHeight: high } = row;
    if (top - above >= box.scrollTop && top + high <= box.scrollTop + box.clientHeight) return;
    box.scrollTop = top - above - (box.clientHeight - above - high) / 2;
  }

  function keys(event) {
    const rows = [...event.currentTarget.children].filter((row) => row.dataset.key);
    const next = arrows(event, rows) ?? (event.key === "Enter" || event.key === " " ? event.target.closest("tr") : null);
    if (!next) return;
    event.preventDefault();
    pick(next.dataset.key);
  }

  return { el, draw };
}
