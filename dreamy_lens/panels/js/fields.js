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

/** Make a row of the form: an input, its label, and a sentence of help below. */
export function field(id, label, input, help = "") {
  input.id = id;
  const hint = help ? h("small", { id: `${id}-help`, class: "dlb-help" }, help) : null;
  if (hint) input.setAttribute("aria-describedby", hint.id);
  const box = input.type === "checkbox";
  const name = h("label", { for: id }, label);
  return h("div", { class: box ? "dlb-check" : "dlb-field" }, ...(box ? [input, name] : [name, input]), hint);
}

/** Make the inputs of the settings that Python describes: {elements, typed(), wrong(sentence)}. */
export function settingsOf(fields, typed, id, changed) {
  const inputs = new Map();
  const trouble = h("p", { class: "dlb-error", role: "status", hidden: true });
  function inputOf(setting) {
    const check = setting.kind === "check";
    const input =
      setting.kind === "choice"
        ? h("select", {}, ...setting.options.map(([value, label]) => h("option", { value }, label)))
        : h("input", { type: check ? "checkbox" : "text", inputmode: setting.kind === "number" && "decimal" });
    if (check) input.checked = Boolean(typed[setting.name] ?? setting.default);
    else input.value = typed[setting.name] ?? setting.default;
    if (input.type === "text") {
      input.placeholder = setting.default || "none";
      input.spellcheck = false;
    }
    input.addEventListener("input", () => changed(setting.name, check ? input.checked : input.value));
    inputs.set(setting.name, input);
    return field(`${id}set-${setting.name}`, setting.label, input, setting.help);
  }
  const row = (more) => h("div", { class: "dlb-row" }, ...fields.filter((field) => field.more === more).map(inputOf));
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
