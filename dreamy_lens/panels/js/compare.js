// Two prompts side by side, token by token.

import { h, num, places, promptText, visibleToken } from "./common.js";

/** Return the columns of two lists of ids: pairs of positions, in which -1 is a gap. Equal ids share a column where possible. */
function aligned(a, b) {
  if (a.length === b.length) return a.map((_, i) => [i, i]);
  const same = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0)); // equal ids from i and j on
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      same[i][j] = a[i] === b[j] ? same[i + 1][j + 1] + 1 : Math.max(same[i + 1][j], same[i][j + 1]);
  const columns = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    const both = i < a.length && j < b.length;
    if (both && (a[i] === b[j] || same[i + 1][j + 1] === same[i][j])) columns.push([i++, j++]);
    else if (j === b.length || (both && same[i + 1][j] === same[i][j])) columns.push([i++, -1]);
    else columns.push([-1, j++]);
  }
  return columns;
}

/** Make the comparison of a pinned prompt with the prompt that is shown; both are entries with scores. */
export function comparison(pinned, now) {
  const digits = places([pinned.value, now.value]), series = [pinned.series, now.series];
  const cells = (e) => [
    h("td", {}, num(e.value, digits)), h("td", {}, num(e.ce)),
    h("td", { class: "dlp-c-text" }, promptText(e.text)),
  ];
  const row = (name, parts) => h("tr", {}, h("th", { scope: "row" }, name), ...parts);
  const change = [
    h("td", {}, num(now.value - pinned.value, digits, true)), h("td", {}, num(now.ce - pinned.ce, 2, true)), h("td", {}),
  ];
  const head = ["", "value", "cross-entropy", "text"].map((name) => h("th", { scope: "col" }, name));
  const table = h("table", {}, h("thead", {}, h("tr", {}, ...head)),
    h("tbody", {}, row("pinned", cells(pinned)), row("shown", cells(now)), row("change", change)));

  const columns = aligned(pinned.ids, now.ids);
  const differs = ([i, j]) => pinned.ids[i] !== now.ids[j];
  const token = (e, at, values) => [
    h("code", {}, at < 0 ? "–" : visibleToken(e.tokens[at])),
    values ? h("small", {}, at < 0 ? "" : num(values[at], Math.min(2, digits))) : null,
  ];
  const stacks = columns.map((column) => h("span", { class: differs(column) ? "dlp-diff" : null },
    ...token(pinned, column[0], series[0]), ...token(now, column[1], series[1])));
  const many = columns.filter(differs).length;
  const words = `Pinned above, shown below · ${many} of ${columns.length} tokens differ, with an edge`
    + (series.some(Boolean) ? " · Numbers: value if the prompt ended there" : "");
  return h("div", { class: "dlp-ledger dlp-pair", role: "region", "aria-label": "comparison with the pinned prompt" },
    h("div", { class: "dlp-scroll" }, table), h("div", { class: "dlp-columns" }, ...stacks), h("p", { class: "dlp-legend" }, words));
}
