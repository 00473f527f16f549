// Control of the highest cross-entropy: a slider and a number box that always show the same value.

import { h, visible } from "./common.js";

const HINT = "Set a limit to pick the strongest prompt below it";

/** Return the number that a text spells, null for an empty text, and NaN for any other text. */
const read = (text) => (text.trim() === "" ? null : Number(text.trim().replace(",", ".")));

/**
 * Make the control. `change(limit)` is called with each valid number while it is typed, and with null for an empty box.
 *
 * draw(low, high, limit, words): the range of the slider, the limit or null, and what the limit picks.
 */
export function limitControl(change) {
  const set = (limit) => { change(Math.round(limit * 100) / 100); };
  const range = h("input", { type: "range", step: "0.01", oninput: () => { typed = null; set(Number(range.value)); } });
  const name = "maximum cross-entropy, as a number";
  const box = h("input", {
    type: "text", inputmode: "decimal", class: "dlp-number", "aria-label": name, autocomplete: "off", spellcheck: "false",
    oninput: type, onkeydown: keys, onblur: settle,
  });
  const said = h("output", {});
  const label = h("label", {}, h("span", {}, "Maximum cross-entropy"), range);
  const el = h("div", { class: "dlp-row" }, label, box, said);
  let typed = null, last = null; // text that is being typed, and what was drawn

  function type() {
    typed = box.value;
    const limit = read(typed);
    if (limit === null) change(null);
    else if (Number.isFinite(limit)) set(limit);
    else draw(...last);
  }

  /** Replace the typed text by the limit that holds, in its usual form. */
  function settle() {
    typed = null;
    if (last) draw(...last);
  }

  function keys(event) {
    const step = { ArrowUp: 0.05, ArrowDown: -0.05 }[event.key];
    if (event.key !== "Enter" && !step) return;
    event.preventDefault(); // Enter is also a shortcut of notebooks
    settle();
    if (step && last) set(Number(range.value) + step);
  }

  function draw(low, high, limit, words) {
    last = [low, high, limit, words];
    [range.min, range.max] = [Math.min(low, limit ?? low), Math.max(high, limit ?? high)];
    range.value = limit ?? high;
    const wrong = typed !== null && Number.isNaN(read(typed));
    if (typed === null) box.value = (limit ?? high).toFixed(2);
    box.setAttribute("aria-invalid", String(wrong));
    said.textContent = wrong ? `“${visible(typed)}” is not a number` : limit === null ? HINT : words;
    said.className = wrong ? "dlp-wrong" : "";
  }

  return { el, draw };
}
