// Other units of a layer: a random one, the most selective ones of a small scan, and the top windows of the chosen one.

import { h, num, places, visible, visibleToken } from "./common.js";

const percent = (share) => (share === null ? "–" : num(100 * share, share < 0.1 ? 2 : 0) + " %");

/** Make the text of a window, in which colour is the value if the prompt ended at the token. */
function windowText({ tokens, series }, full) {
  const token = (text, i) => {
    const share = Math.min(1, Math.max(0, (series[i] ?? 0) / full)).toFixed(2);
    return h("b", { style: { "--d": share }, title: num(series[i], 2) }, visibleToken(text));
  };
  return h("span", { class: "dlb-window" }, ...tokens.map(token));
}

/**
 * Make the part of the form below the feature: {element, show(), windows(answer, has)}.
 *
 * text(): the feature's text; random(): chooses a random unit; choose(label): chooses the feature of a label.
 */
export function unitBrowser(model, { text, random, choose }) {
  const progress = h("p", { class: "dlb-note", role: "status" });
  const cancel = h("button", { hidden: true, onclick: () => model.send({ type: "cancel" }) }, "Cancel");
  const any = h("button", { hidden: true, onclick: random }, "Random unit");
  const scan = h("button", { hidden: true, onclick: begin }, "Most selective units");
  const list = h("div", { class: "dlb-units" });
  const top = h("div", { class: "dlb-tops" });
  function begin() {
    model.send({ type: "scan", text: text() });
    progress.textContent = "preparing the scan …";
  }
  function show() {
    const { part, name } = model.get("scanning") ?? {};
    const { rows, from, name: of, count } = model.get("units") ?? {};
    const busy = part !== undefined;
    cancel.hidden = !busy;
    scan.disabled = busy;
    progress.textContent = busy ? `scanning ${visible(name)}: ${Math.floor(100 * part)} %` : "";
    list.replaceChildren();
    if (!rows) return;
    const why = `The ${rows.length} most selective of ${count} units in ${visible(from)}: few windows have values far from the rest (excess kurtosis).`;
    const cell = (row) => {
      const { value, tokens, series } = row.windows[0] ?? { value: 1, tokens: [], series: [] };
      const facts = `kurtosis ${num(row.kurtosis, 0)}, above 0 in ${percent(row.active)}`;
      return h(
        "button",
        { class: "dlb-unit", title: visible(row.label), onclick: () => choose(row.label) },
        h("strong", {}, visible(row.name)),
        h("small", {}, facts),
        windowText({ tokens, series }, Math.max(1e-9, value)),
      );
    };
    const title = h("summary", {}, `Most selective units of ${visible(of)}`);
    const rowsOf = h("div", { class: "dlb-list" }, ...rows.map(cell));
    list.append(h("details", { class: "dlb-more", open: true }, title, h("p", { class: "dlb-note" }, why), rowsOf));
  }
  function windows(answer, has) {
    any.hidden = !has;
    scan.hidden = !answer.scannable;
    top.replaceChildren();
    if (!answer.windows?.length) return;
    const full = Math.max(1e-9, answer.windows[0].value);
    const digits = places([full], 3);
    const row = (window) => h("p", {}, h("strong", {}, num(window.value, digits)), windowText(window, full));
    const origin = `Top windows in ${visible(answer.windows_from)}. Colour: value if the prompt ended at the token.`;
    const title = h("summary", {}, `Top ${answer.windows.length} windows`);
    const rows = h("div", { class: "dlb-list" }, ...answer.windows.map(row));
    top.append(h("details", { class: "dlb-more", open: true }, title, h("p", { class: "dlb-note" }, origin), rows));
  }
  const line = h("div", { class: "dlb-line" }, any, scan, cancel, progress);
  show();
  return { element: h("div", {}, line, top, list), show, windows };
}
