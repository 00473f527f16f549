// Form of the feature browser. Names and messages are not trusted: they enter the page as text, never as markup.

import { copier, h, listen, put, stage, visible } from "./common.js";
import { debounced, field, settingsOf } from "./fields.js";
import { expressionOf, fieldsOf, QUICK } from "./spelling.js";
import { hookTree } from "./tree.js";
import { unitBrowser } from "./units.js";

let serial = 0; // gives different ids to two forms in one page

function render({ model, el }) {
  const id = `dlb${++serial}-`;
  const [root, leave] = stage(el, "browser");
  const write = (name, value) => put(model, name, value);
  let typed = { ...model.get("typed") };
  const keep = (name, value) => {
    typed = { ...typed, [name]: value };
    write("typed", typed);
  };

  // Model.
  const choice = h("select", { onchange: () => load(choice.value) });
  const other = h("input", { type: "text", spellcheck: "false", placeholder: "EleutherAI/pythia-160m" });
  const go = h("button", { onclick: () => load(other.value) }, "Load");
  other.addEventListener("keydown", (event) => event.key === "Enter" && load(other.value));
  const about = h("p", { class: "dlb-note", role: "status" });
  const trouble = h("p", { class: "dlb-error", role: "alert", hidden: true });
  function load(name) {
    if (name.trim()) model.send({ type: "load", name: name.trim() });
  }
  function showModel() {
    const loading = model.get("loading");
    choice.replaceChildren(...model.get("models").map((name) => h("option", { value: name }, visible(name))));
    if (!model.get("model")) choice.prepend(h("option", { value: "" }, "no model yet"));
    choice.value = model.get("model");
    about.textContent = loading ? `loading ${visible(loading)} …` : visible(model.get("about"));
    trouble.textContent = visible(model.get("model_error"));
    trouble.hidden = !trouble.textContent;
    choice.disabled = go.disabled = Boolean(loading);
  }

  // Hook points.
  const count = h("p", { class: "dlb-note", role: "status" });
  const search = h("input", { type: "search", spellcheck: "false", placeholder: "mlp post, or *hook_z" });
  const counted = (words) => (count.textContent = words);
  const tree = hookTree({ label: "hook points", id: `${id}tree`, picked: pickHook, counted });
  search.addEventListener("input", () => tree.filter(search.value));
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      tree.focus(event.key === "Enter");
    }
  });
  function pickHook(name) {
    keep("hook", name);
    if (!(name in (model.get("alive") ?? {}))) model.send({ type: "alive", hook: name });
    showParts();
    composeHook();
  }
  const spelt = (name) => (model.get("hooks").find(([known]) => known === name) ?? [name, name])[1];

  // Unit or direction: the fields depend on the shape.
  const parts = h("div", { class: "dlb-row" });
  // A unit that is alive, until the user has named another one.
  const withUnit = () => {
    const unit = (model.get("alive") ?? {})[typed.hook];
    return unit === undefined ? typed : { unit: String(unit), ...typed };
  };
  function showParts() {
    const hook = typed.hook;
    const shapes = model.get("shapes");
    const note = (text) => parts.replaceChildren(h("p", { class: "dlb-note" }, text));
    if (!hook) return note("Choose a hook point, use a shortcut below, or type an expression.");
    if (!shapes) return note("Finding the shapes of the activations …");
    if (!shapes[hook]) return note("A forward pass of this model never reaches this hook point, so it has no features.");
    const again = (name, value) => {
      keep(name, value);
      if (name === "reduce" || name === "how") showParts();
      composeHook();
    };
    const focused = parts.contains(document.activeElement) ? document.activeElement.id : "";
    parts.replaceChildren(
      ...fieldsOf(shapes[hook], withUnit()).map((part) => {
        let input;
        if (part.options) {
          input = h("select", { onchange: () => again(part.name, input.value) });
          input.append(...part.options.map(([value, label]) => h("option", { value }, label)));
          input.value = part.value;
        } else if (part.kind === "check") {
          input = h("input", { type: "checkbox", onchange: () => again(part.name, input.checked) });
          input.checked = part.value;
        } else {
          const number = part.kind === "number";
          const range = { step: number && 1, min: part.min, max: part.max, required: number };
          input = h("input", { type: number ? "number" : "text", ...range });
          input.spellcheck = false;
          input.value = part.value;
          input.addEventListener("input", () => {
            input.setAttribute("aria-invalid", String(!input.validity.valid));
            again(part.name, input.value);
          });
        }
        return field(`${id}part-${part.name}`, part.label, input, part.help);
      }),
    );
    if (focused) parts.querySelector(`#${focused}`)?.focus();
  }
  const sizeOfUnits = () => {
    const size = (model.get("shapes")?.[typed.hook] ?? []).at(-1);
    return typeof size === "number" && (typed.how ?? "unit") === "unit" ? size : 0;
  };
  function composeHook() {
    const shape = model.get("shapes")?.[typed.hook];
    if (shape) setText(expressionOf(spelt(typed.hook), shape, withUnit()));
  }
  const quick = h(
    "div",
    { class: "dlb-row" },
    ...QUICK.map(({ name, label, help, initial, write: spell }) => {
      const input = h("input", { type: "text", spellcheck: "false" });
      input.value = typed[name] ?? initial;
      const use = () => (keep(name, input.value), setText(spell(input.value)));
      input.addEventListener("keydown", (event) => event.key === "Enter" && use());
      const row = field(`${id}${name}`, label, input, help);
      const button = h("button", { "aria-label": `Use ${label}`, onclick: use }, "Use");
      const pair = h("span", { class: "dlb-pair" });
      input.replaceWith(pair);
      pair.append(input, button);
      return row;
    }),
  );

  // The expression, which Python checks while you type.
  const text = h("textarea", { rows: 2, spellcheck: "false", autocapitalize: "off" });
  text.value = model.get("expression");
  const verdict = h("div", { id: `${id}verdict`, class: "dlb-verdict", role: "status" });
  const expression = field(`${id}expression`, "feature", text);
  text.setAttribute("aria-describedby", verdict.id);
  text.addEventListener("input", () => setText(text.value, true));
  let asked = 0;
  const check = debounced(() => {
    if (!model.get("model")) return;
    asked = ++serial;
    model.send({ type: "check", id: asked, text: text.value, typed: settings.typed() });
  }, 250);
  function setText(value, own = false) {
    if (!own) text.value = value;
    write("expression", value);
    say(value.trim() ? "checking …" : "No feature is chosen yet.", "");
    line.textContent = "";
    copy.disabled = true;
    if (value.trim()) check();
    else check.cancel();
  }
  function say(words, kind) {
    const [first, ...rest] = words.split("\n");
    const mark = { ok: "✓ ", error: "✗ " }[kind] ?? "";
    verdict.replaceChildren(h("p", {}, mark + visible(first)));
    const place = rest.map((line) => visible(line.replace(/^ {4}/, ""))).join("\n");
    if (place) verdict.append(h("pre", { tabindex: "0", "aria-label": "position of the error" }, place));
    verdict.className = `dlb-verdict dlb-${kind || "note"}`;
    text.setAttribute("aria-invalid", String(kind === "error"));
  }
  // Units of the layer, and the top windows of the chosen one.
  const another = unitBrowser(model, {
    text: () => text.value,
    random: () => {
      const size = sizeOfUnits();
      if (!size) return;
      keep("unit", String(Math.floor(Math.random() * size)));
      showParts();
      composeHook();
    },
    choose: (label) => {
      const unit = /(\d+)\](?:\.\w+\(\))?$/.exec(label);
      if (unit && sizeOfUnits()) keep("unit", unit[1]);
      showParts();
      setText(label);
    },
  });
  const line = h("code");
  const copied = h("span", { class: "dlb-note", role: "status" });
  const copy = h("button", { disabled: true, onclick: copyLine }, "Copy as Python");
  const copies = copier((words) => {
    copied.textContent = words;
    setTimeout(() => (copied.textContent = ""), 8000);
  });
  let program = "";
  function copyLine() {
    copies.give(program, "Python");
  }

  // Settings.
  const settings = settingsOf(model.get("fields"), typed, id, (name, value) => {
    keep(name, value);
    check();
  });

  // Start.
  const start = h("button", { class: "dlb-start", onclick: begin }, "Start dreaming");
  const notice = h("p", { class: "dlb-note", role: "status" });
  let begun = 0;
  function begin() {
    if (start.getAttribute("aria-disabled") === "true") return;
    if (!text.value.trim()) {
      notice.className = "dlb-error";
      notice.textContent = "✗ Choose a feature first: choose a hook point, or type an expression.";
      return text.focus();
    }
    begun = ++serial;
    start.setAttribute("aria-disabled", "true");
    notice.className = "dlb-note";
    notice.textContent = "starting …";
    model.send({ type: "start", id: begun, text: text.value, typed: settings.typed() });
  }

  function hear(message) {
    if (message.type === "checked" && message.id === asked) {
      // A check of the settings also comes while the feature is empty, which is not an error.
      another.windows(message, Boolean(typed.hook) && sizeOfUnits() > 0);
      if (!text.value.trim()) say("No feature is chosen yet.", "");
      else if (message.ok) say(`ok: ${message.said}`, "ok");
      else say(message.error, "error");
      settings.wrong(message.settings_error ?? "");
      line.textContent = message.python ?? "";
      copy.disabled = !message.python;
      program = message.program ?? line.textContent;
      const runs = message.count ?? 1;
      start.textContent = runs > 1 ? `Start ${runs} dreams` : "Start dreaming";
    } else if (message.type === "started" && message.id === begun) {
      start.removeAttribute("aria-disabled");
      notice.className = message.error ? "dlb-error" : "dlb-note";
      notice.textContent = message.error ? `✗ ${visible(message.error.split("\n")[0])}` : "Started; the panel is below.";
    } else if (message.type === "notice") {
      say(message.error, "error");
      another.show();
    }
  }
  const showHooks = () => tree.show(model.get("hooks"), model.get("shapes"), typed.hook);
  const end = listen(model, {
    "msg:custom": hear,
    "change:models": showModel,
    "change:model": () => (showModel(), check()),
    "change:about": showModel,
    "change:loading": showModel,
    "change:model_error": showModel,
    "change:hooks": showHooks,
    "change:shapes": () => {
      showHooks();
      showParts();
      if (typed.hook && !text.value.trim()) composeHook();
    },
    "change:alive": () => {
      if (!typed.hook || typed.unit !== undefined || !(typed.hook in model.get("alive"))) return;
      showParts();
      composeHook();
    },
    "change:units": () => (another.show(), check()),
    "change:scanning": another.show,
    "change:expression": () => {
      if (model.get("expression") === text.value) return;
      text.value = model.get("expression");
      say("checking …", "");
      check();
    },
  });

  const head = (words) => h("h3", {}, words);
  const form = h(
    "div",
    { class: "dlb", role: "group", "aria-label": "feature browser" },
    h(
      "section",
      {},
      head("1. Model"),
      h(
        "div",
        { class: "dlb-row dlb-model" },
        field(`${id}model`, "loaded", choice),
        field(`${id}other`, "or a Hugging Face id or folder", other),
      ),
      about,
      trouble,
      head("2. Hook point"),
      field(`${id}search`, "search", search),
      count,
      tree.element,
    ),
    h(
      "section",
      {},
      head("3. Feature"),
      parts,
      h("details", { class: "dlb-more" }, h("summary", {}, "Shortcuts: a neuron, a logit, a log-probability"), quick),
      expression,
      verdict,
      another.element,
      head("4. Settings"),
      ...settings.elements,
      h("div", { class: "dlb-line" }, start, copy, copied),
      notice,
      copies.el,
      line,
    ),
  );
  const pair = h("span", { class: "dlb-pair" });
  other.replaceWith(pair);
  pair.append(other, go);
  root.append(form);
  showModel();
  showHooks();
  showParts();
  say(text.value.trim() ? "checking …" : "No feature is chosen yet.", "");
  if (text.value.trim()) check();
  return () => {
    check.cancel();
    end();
    leave();
  };
}

export const view = { initialize() {}, render };
