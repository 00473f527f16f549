// Table of a frontier: click a column to sort, pick a prompt by click or by keys.

import { arrows, h, num, perplexity, places, visible } from "./common.js";

const MISMATCH = "its text encodes to other tokens";
const text = (e) => {
  const mark = h("span", { class: "dlp-mark", title: MISMATCH, role: "img", "aria-label": MISMATCH }, " ≠");
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

/** Make a table. `draw(entries, picked, nothing)` shows the text `nothing` without entries; only keyed entries can be picked. */
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
    const digits = places(entries.map((e) => e.y)), value = COLUMNS[by][0];
    const rows = [...entries].sort((a, b) => (value(a) < value(b) ? -way : value(a) > value(b) ? way : 0));
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
    const table = h("table", { role: "grid", "aria-label": label }, h("thead", {}, h("tr", {}, ...columns.map(head))), body);
    const box = h("div", { class: "dlp-scroll" }, table);
    el.replaceChildren(box);
    box.scrollTop = scroll;
    if (picked !== seen) follow(box, body.querySelector(".dlp-on"));
    seen = picked;
    if (!focus) return;
    const again = focus.by ? `[data-by="${focus.by}"]` : `[data-key="${CSS.escape(picked || focus.key || "")}"]`;
    el.querySelector(again)?.focus({ preventScroll: true });
  }

  /** Scroll the table to a row that was picked elsewhere, without moving the page. */
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
