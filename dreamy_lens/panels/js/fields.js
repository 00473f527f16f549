// Labelled inputs, and the settings of a run.

import { h, visible } from "./common.js";

export function debounced(action, pause) {
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(action, pause);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** An input with its label, and what it is in a sentence beneath. */
export function field(id, label, input, help = "") {
  input.id = id;
  const said = help ? h("small", { id: `${id}-help`, class: "dlb-help" }, help) : null;
  if (said) input.setAttribute("aria-describedby", said.id);
  const box = input.type === "checkbox";
  const name = h("label", { for: id }, label);
  return h("div", { class: box ? "dlb-check" : "dlb-field" }, ...(box ? [input, name] : [name, input]), said);
}

/** The settings that Python describes, as {elements, typed(), wrong(sentence)}. */
export function settingsOf(fields, typed, id, changed) {
  const inputs = new Map();
  const trouble = h("p", { class: "dlb-error", role: "status", hidden: true });
  function setting(one) {
    const check = one.kind === "check";
    const input =
      one.kind === "choice"
        ? h("select", {}, ...one.options.map(([value, label]) => h("option", { value }, label)))
        : h("input", { type: check ? "checkbox" : "text", inputmode: one.kind === "number" && "decimal" });
    if (check) input.checked = Boolean(typed[one.name] ?? one.default);
    else input.value = typed[one.name] ?? one.default;
    if (input.type === "text") {
      input.placeholder = one.default || "none";
      input.spellcheck = false;
    }
    input.addEventListener("input", () => changed(one.name, check ? input.checked : input.value));
    inputs.set(one.name, input);
    return field(`${id}set-${one.name}`, one.label, input, one.help);
  }
  const row = (aside) => h("div", { class: "dlb-row" }, ...fields.filter((one) => one.more === aside).map(setting));
  const summary = h("summary", {}, "More settings: λ, restarts, start text, template");
  const more = h("details", { class: "dlb-more" }, summary, row(true));
  return {
    elements: [row(false), more, trouble],
    typed: () =>
      Object.fromEntries([...inputs].map(([name, i]) => [name, i.type === "checkbox" ? i.checked : i.value])),
    /** Show a sentence, and mark the setting whose name it begins with. */
    wrong(sentence) {
      trouble.textContent = visible(sentence);
      trouble.hidden = !sentence;
      for (const [name, input] of inputs) {
        const mine = sentence.startsWith(`${name} `);
        input.setAttribute("aria-invalid", String(mine));
        if (mine && more.contains(input)) more.open = true;
      }
    },
  };
}
