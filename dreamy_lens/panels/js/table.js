// Table of a frontier: click a column to sort, pick a prompt by click or by keys.

import { arrows, h, mismatch, num, perplexity, places, promptText, visible, zScore } from "./common.js";

const KINDS = {
  value: [(e) => e.y, (e, digits) => [num(e.y, digits)]],
  "cross-entropy": [(e) => e.x, (e) => [num(e.x)]],
  perplexity: [(e) => e.x, (e) => [perplexity(e.x)]],
  iteration: [(e) => e.it ?? -1, (e) => [e.it ?? "–"]],
  run: [(e) => e.run ?? "", (e) => [visible(e.run ?? "")]],
  z: [(e) => e.z, (e) => [num(e.z, 1)]],
  text: [(e) => e.text, (e, digits, more) => [promptText(e.text), mismatch(e.trips), more]],
};

const parts = (e) => e.ids ?? (e.text === "text not kept" ? [] : e.text.split(/(?=\s)/));

function near(a, b) {
  let other = 0;
  for (let i = 0; i < a.length && other < 2; i++) other += a[i] !== b[i];
  return a.length > 0 && a.length === b.length && other < 2;
}

/** Return groups of entries: each begins with the strongest of them, and the others differ from it in one token at most. */
function alike(entries) {
  const groups = [];
  for (const e of [...entries].sort((a, b) => b.y - a.y)) {
    const own = parts(e), home = groups.find((group) => near(group.parts, own));
    if (home) home.push(e);
    else groups.push(Object.assign([e], { parts: own }));
  }
  return groups;
}

/**
 * Make a table. scale() returns the scale of the values as in strip.js, for a column "z".
 * `draw(entries, picked, nothing)` shows the text `nothing` without entries. Starred prompts have a star, and may be
 * shown alone.
 */
export function frontierTable({ columns, pick, kept, label, stars, scale }) {
  const inner = h("div", { class: "dlp-inner" }), el = h("div", { class: "dlp-table" }, inner);
  let [by, way] = kept.get("sort") ?? ["cross-entropy", 1], fold = kept.get("fold") ?? true, last = null, seen = "";
  const opened = new Set(); // keys of the prompts whose near-duplicates are shown

  function sort(column) {
    [by, way] = [column, by === column ? -way : 1];
    kept.set({ sort: [by, way] });
    draw(...last);
    inner.firstChild.scrollTop = 0;
  }

  function turn() {
    fold = !fold;
    opened.clear();
    kept.set({ fold });
    draw(...last);
  }

  /** Make the button that shows the near-duplicates of a row. */
  function unfolder(e, count, tabindex) {
    const press = (event) => {
      event.stopPropagation(); // it does not pick the row
      if (!opened.delete(e.key)) opened.add(e.key);
      draw(...last);
    };
    const name = `${count} near-duplicate${count > 1 ? "s" : ""} of this prompt`, on = opened.has(e.key);
    const given = { class: "dlp-more", "data-more": e.key, title: name, "aria-label": name, "aria-expanded": String(on) };
    return h("button", { ...given, tabindex, onclick: press }, `${on ? "−" : "+"}${count}`);
  }

  function folding(entries, groups) {
    const hidden = entries.length - groups.length, box = h("input", { type: "checkbox", checked: fold, onchange: turn });
    if (!hidden) return null;
    return h("label", { class: "dlp-fold" }, box, `Fold near-duplicates (${hidden} of ${entries.length} rows differ from a `
      + "stronger row in one token)");
  }

  function head(column) {
    const on = column === by, sign = on ? (way > 0 ? "\u00a0↑" : "\u00a0↓") : "";
    const given = { "data-by": column, title: `sort by ${column}`, onclick: () => sort(column) };
    const sorted = on ? (way > 0 ? "ascending" : "descending") : "none";
    return h("th", { scope: "col", class: `dlp-c-${column}`, "aria-sort": sorted },
      h("button", given, column, h("span", { "aria-hidden": "true" }, sign)));
  }

  function choosing() {
    const count = stars?.all().length ?? 0;
    if (!count) return null;
    const press = () => {
      kept.set({ starred: box.checked });
      draw(...last);
    };
    const box = h("input", { type: "checkbox", checked: only(), onchange: press });
    return h("label", { class: "dlp-fold dlp-starred" }, box, `Only starred prompts (${count})`);
  }

  const only = () => Boolean(kept.get("starred") && stars?.all().length);

  function draw(given, picked, nothing) {
    last = [given, picked, nothing];
    const base = scale?.().scales?.at(-1), shown = columns.filter((c) => c !== "z" || base);
    const entries = (only() ? stars.all() : given).map((e) => ({ ...e, z: base && zScore(e.y, base) }));
    if (!entries.length) return inner.replaceChildren(h("p", { class: "dlp-quiet" }, nothing));
    const digits = places(entries.map((e) => e.y)), value = KINDS[shown.includes(by) ? by : "cross-entropy"][0], is = (e) => e.key === picked;
    const order = (a, b) => (value(a) < value(b) ? -way : value(a) > value(b) ? way : 0);
    const groups = alike(entries), heads = fold ? groups.sort((a, b) => order(a[0], b[0])) : [...entries].sort(order).map((e) => [e]);
    // A folded row that is picked is shown below the row that it is folded under.
    const rows = heads.flatMap(([first, ...others]) => [
      { e: first, count: others.length },
      ...others.sort(order).filter((e) => opened.has(first.key) || is(e)).map((e) => ({ e, under: true })),
    ]);
    const stop = (rows.find(({ e }) => is(e)) ?? rows[0]).e.key;
    const row = ({ e, count, under }) => {
      const tabindex = e.key === stop ? 0 : -1; // the Tab key reaches one row, and the button in it
      const given = {
        class: [is(e) && "dlp-on", under && "dlp-under"].filter(Boolean).join(" ") || null, "aria-selected": String(is(e)),
        tabindex, "data-key": e.key, onclick: () => pick(e.key),
      };
      const star = stars?.has(e.key) ? h("span", { class: "dlp-star", role: "img", "aria-label": "starred" }, " ★") : null;
      const more = count || star ? h("span", {}, star, count ? unfolder(e, count, tabindex) : null) : null;
      return h("tr", given, ...shown.map((c) => h("td", { class: `dlp-c-${c}` }, ...KINDS[c][1](e, digits, more))));
    };
    const focus = el.contains(document.activeElement) ? document.activeElement.dataset : null;
    const scroll = el.querySelector(".dlp-scroll")?.scrollTop ?? 0;
    const body = h("tbody", { onkeydown: keys }, ...rows.map(row));
    const table = h("table", { role: "grid", "aria-label": label }, h("thead", {}, h("tr", {}, ...shown.map(head))), body);
    const box = h("div", { class: "dlp-scroll" }, table);
    inner.replaceChildren(...[box, folding(entries, groups), choosing()].filter(Boolean));
    box.scrollTop = scroll;
    if (picked !== seen) follow(box, body.querySelector(".dlp-on"));
    seen = picked;
    if (!focus) return;
    const again = focus.by ? `[data-by="${focus.by}"]` : focus.more ? `[data-more="${CSS.escape(focus.more)}"]`
      : focus.key === undefined ? "[type=checkbox]" : `[data-key="${CSS.escape(picked || focus.key || "")}"]`;
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
    if (event.target.tagName === "BUTTON" && /^(Enter| )$/.test(event.key)) return;
    const rows = [...event.currentTarget.children];
    const next = arrows(event, rows) ?? (event.key === "Enter" || event.key === " " ? event.target.closest("tr") : null);
    if (!next) return;
    event.preventDefault();
    pick(next.dataset.key);
  }

  return { el, draw };
}
