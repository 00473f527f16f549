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

/**
 * Make the inputs of the settings that Python describes: {elements, typed(), wrong(sentence)}.
 *
 * The field `search` chooses which fields are shown. Fields of one name, which belong to different searches, share what
 * is typed; a field that was not typed in has the default of the chosen search.
 */
export function settingsOf(fields, typed, id, changed) {
  const given = { ...typed }, inputs = new Map();
  const trouble = h("p", { class: "dlb-error", role: "status", hidden: true });
  const valueOf = (setting) => given[setting.name] ?? setting.default;
  const chosen = () => {
    const choice = fields.find((field) => field.name === "search");
    if (!choice) return "";
    return choice.options.some(([name]) => name === valueOf(choice)) ? valueOf(choice) : choice.default;
  };
  const belongs = (setting) => !setting.searches?.length || setting.searches.includes(chosen());
  function inputOf(setting) {
    const check = setting.kind === "check";
    const input =
      setting.kind === "choice"
        ? h("select", {}, ...setting.options.map(([value, label]) => h("option", { value }, label)))
        : h("input", { type: check ? "checkbox" : "text", inputmode: setting.kind === "number" && "decimal" });
    if (check) input.checked = Boolean(valueOf(setting));
    else input.value = setting.name === "search" ? chosen() : valueOf(setting);
    if (input.type === "text") {
      input.placeholder = setting.placeholder;
      input.spellcheck = false;
    }
    input.addEventListener("input", () => {
      given[setting.name] = check ? input.checked : input.value;
      if (setting.name === "search") show();
      changed(setting.name, given[setting.name]);
    });
    inputs.set(setting.name, input);
    return field(`${id}set-${setting.name}`, setting.label, input, setting.help);
  }
  const rows = [h("div", { class: "dlb-row" }), h("div", { class: "dlb-row" })];
  const summary = h("summary");
  const more = h("details", { class: "dlb-more" }, summary, rows[1]);
  const choice = fields.filter((field) => field.name === "search").map(inputOf);
  function show() {
    for (const name of [...inputs.keys()]) if (name !== "search") inputs.delete(name);
    const shown = fields.filter((setting) => setting.name !== "search" && belongs(setting));
    rows.forEach((row, i) => row.replaceChildren(...shown.filter((setting) => setting.more === Boolean(i)).map(inputOf)));
    const weights = shown.some((setting) => setting.name.startsWith("lambda")) ? "λ, restarts, " : "";
    summary.textContent = `More settings: ${weights}start text, template, contexts`;
    trouble.hidden = true; // Python checks the settings of the chosen search next
  }
  show();
  return {
    elements: [h("div", { class: "dlb-row dlb-choice" }, ...choice), rows[0], more, trouble],
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
