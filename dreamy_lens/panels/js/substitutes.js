// Substitutes in a prompt: a table for one position, and a heat map for all positions.

import { arrows, h, num, places, visibleToken } from "./common.js";

const BEST = 8, WORST = 4; // rows of a folded table

const swapped = (ids, position, id) => [...ids.slice(0, position), id, ...ids.slice(position + 1)];

/**
 * Make the table of the substitutes for one token, best first.
 *
 * swap(ids): tries a changed prompt, null in a view that cannot; all: whether to show all rows instead of the best and the
 * worst; unfold(): shows all rows; yet: text of an empty table.
 */
export function ledger(now, position, { swap, all, unfold, yet }) {
  const subs = now.subs?.[position] ?? [], digits = places([now.value, ...subs.map((s) => s[2])]);
  if (!subs.length) return h("p", { class: "dlp-quiet" }, yet);

  function row([token, id, value, ce]) {
    const press = () => swap(swapped(now.ids, position, id));
    const given = { class: "dlp-sub", "data-focus": `sub-${id}`, title: "Try this substitute", onclick: press };
    const name = visibleToken(token), change = num(value - now.value, digits, true);
    return h("tr", {},
      h("td", {}, swap ? h("button", given, name) : h("code", { class: "dlp-sub" }, name)),
      h("td", {}, num(value, digits)), h("td", { class: value > now.value ? "dlp-up" : "dlp-down" }, change),
      h("td", {}, num(ce)), h("td", {}, num(ce - now.ce, 2, true)));
  }

  function more() {
    const given = { class: "dlp-link", "data-focus": "all", onclick: unfold };
    return h("tr", {}, h("td", { colspan: 5 }, h("button", given, `${subs.length - BEST - WORST} more`)));
  }

  const folded = !all && subs.length > BEST + WORST + 2;
  const rows = folded ? [...subs.slice(0, BEST).map(row), more(), ...subs.slice(-WORST).map(row)] : subs.map(row);
  const names = ["substitute", "value", "change", "cross-entropy", "change"];
  const head = h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name))));
  return h("div", { class: "dlp-scroll" }, h("table", {}, head, h("tbody", {}, ...rows)));
}

/**
 * Make the heat map: positions across, substitutes down, best first. Colour and edge show the change of the value.
 *
 * swap(ids): tries a changed prompt, null in a view that cannot; then say(text) describes a clicked cell.
 */
export function heatMap(now, { swap, say }) {
  const deep = Math.max(...now.subs.map((s) => s.length)), digits = places([now.value, ...(now.drop ?? [])], 3);
  const most = Math.max(1e-9, ...now.subs.flat().map((s) => Math.abs(s[2] - now.value)));

  function cell(row, i) {
    const given = { role: "gridcell", tabindex: -1, "data-focus": `heat-${row}-${i}` };
    const s = now.subs[i][row];
    if (!s) return h("button", { ...given, disabled: true });
    const [token, id, value, ce] = s, change = value - now.value;
    const name = `${i + 1}: ${visibleToken(now.tokens[i])} becomes ${visibleToken(token)}: `
      + `value ${num(value, digits)} (${num(change, digits, true)}), cross-entropy ${num(ce)}`;
    const press = () => (swap ? swap(swapped(now.ids, i, id)) : say(name, 20));
    const style = { "--d": (Math.abs(change) / most).toFixed(3) }, kind = change > 0 ? "dlp-gain" : "dlp-loss";
    return h("button", { ...given, class: kind, title: name, "aria-label": name, style, onclick: press }, visibleToken(token));
  }

  const head = now.tokens.map((token) => h("span", { role: "columnheader" }, visibleToken(token)));
  const rows = Array.from({ length: deep }, (_, row) => now.tokens.map((_, i) => cell(row, i)));
  const cells = rows.flat(), first = cells.find((cell) => !cell.disabled);
  if (first) first.tabIndex = 0;
  const move = (event) => {
    const next = arrows(event, cells, now.tokens.length);
    if (next) for (const cell of cells) cell.tabIndex = cell === next ? 0 : -1;
  };
  const given = { class: "dlp-heat", role: "grid", "aria-label": "substitutes by position, best first", onkeydown: move };
  const lines = [head, ...rows].map((line) => h("div", { role: "row" }, ...line));
  const table = h("div", { ...given, style: { "--columns": String(now.tokens.length) } }, ...lines);
  const legend = ` Substitutes for each token${now.partial ? " so far" : ""}, best on top · `
    + `Blue with an edge raises the value, orange lowers it (max ${num(most, digits)})`;
  const box = h("div", { class: "dlp-scroll" }, table);
  // A wide map begins at the column of the strongest token.
  requestAnimationFrame(() => {
    const at = head[(now.drop ?? []).indexOf(Math.max(...(now.drop ?? [])))];
    if (at) box.scrollLeft += at.getBoundingClientRect().right - box.getBoundingClientRect().right;
  });
  return h("div", {},
    box,
    h("p", { class: "dlp-legend" }, h("span", { class: "dlp-ramp dlp-ramp-2" }), legend));
}
