// The feature browser's form. Names and messages are hostile: they become text, never markup.

import { hookTree } from "./tree.js";
import { expressionOf, fieldsOf, QUICK } from "./spelling.js";

let serial = 0; // ids must differ between two forms in one page

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function debounced(action, pause) {
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(action, pause);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** A labelled input, with its description beneath: {row, input}. */
function field(id, label, input, help = "") {
  input.id = id;
  const said = help ? make("small", { id: `${id}-help`, class: "dlb-help" }, help) : null;
  if (said) input.setAttribute("aria-describedby", said.id);
  const box = input.type === "checkbox";
  const name = make("label", { for: id }, label);
  return make("div", { class: box ? "dlb-check" : "dlb-field" }, ...(box ? [input, name] : [name, input]), said);
}

function render({ model, el }) {
  const id = `dlb${++serial}-`;
  const leave = [];
  const on = (name, action) => {
    model.on(name, action);
    leave.push(() => model.off(name, action));
  };
  const write = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  let typed = { ...model.get("typed") };
  const keep = (name, value) => {
    typed = { ...typed, [name]: value };
    write("typed", typed);
  };

  // Model.
  const choice = make("select", { onchange: () => load(choice.value) });
  const other = make("input", { type: "text", spellcheck: "false", placeholder: "EleutherAI/pythia-160m" });
  const go = make("button", { type: "button", onclick: () => load(other.value) }, "Load");
  other.addEventListener("keydown", (event) => event.key === "Enter" && load(other.value));
  const about = make("p", { class: "dlb-note", role: "status" });
  const trouble = make("p", { class: "dlb-error", role: "alert", hidden: true });
  function load(name) {
    if (name.trim()) model.send({ type: "load", name: name.trim() });
  }
  function showModel() {
    const loading = model.get("loading");
    choice.replaceChildren(...model.get("models").map((name) => make("option", { value: name }, name)));
    if (!model.get("model")) choice.prepend(make("option", { value: "" }, "none yet"));
    choice.value = model.get("model");
    about.textContent = loading ? `loading ${loading} …` : model.get("about");
    trouble.textContent = model.get("model_error");
    trouble.hidden = !trouble.textContent;
    choice.disabled = go.disabled = Boolean(loading);
  }

  // Hook points.
  const count = make("p", { class: "dlb-note", role: "status" });
  const search = make("input", { type: "search", spellcheck: "false", placeholder: "mlp post, or *hook_z" });
  const tree = hookTree({ label: "hook points", id: `${id}tree`, picked: pickHook, counted: (text) => (count.textContent = text) });
  search.addEventListener("input", () => tree.filter(search.value));
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      tree.focus(event.key === "Enter");
    }
  });
  function pickHook(name, compose = true) {
    keep("hook", name);
    showParts();
    if (compose) composeHook();
  }
  const spelt = (name) => (model.get("hooks").find(([known]) => known === name) ?? [name, name])[1];

  // Unit or direction: what the shape asks for.
  const parts = make("div", { class: "dlb-row" });
  let composing = true;
  function showParts() {
    const hook = typed.hook;
    const shapes = model.get("shapes");
    const note = (text) => parts.replaceChildren(make("p", { class: "dlb-note" }, text));
    if (!hook) return note("Pick a hook point, or one of the short cuts below, or type an expression.");
    if (!shapes) return note("Finding out the shapes of activations …");
    if (!shapes[hook]) return note("A forward pass of this model never reaches this hook point, so it has no features.");
    const again = (name, value) => {
      keep(name, value);
      if (name === "reduce" || name === "how") showParts();
      composeHook();
    };
    const focused = parts.contains(document.activeElement) ? document.activeElement.id : "";
    parts.replaceChildren(
      ...fieldsOf(shapes[hook], typed).map((part) => {
        let input;
        if (part.options) {
          input = make("select", { onchange: () => again(part.name, input.value) });
          input.append(...part.options.map(([value, label]) => make("option", { value }, label)));
          input.value = part.value;
        } else if (part.kind === "check") {
          input = make("input", { type: "checkbox", onchange: () => again(part.name, input.checked) });
          input.checked = part.value;
        } else {
          const number = part.kind === "number";
          input = make("input", { type: number ? "number" : "text", step: number && 1, min: part.min, max: part.max });
          input.spellcheck = false;
          input.value = part.value;
          input.addEventListener("input", () => again(part.name, input.value));
        }
        return field(`${id}part-${part.name}`, part.label, input, part.help);
      }),
    );
    if (focused) parts.querySelector(`#${focused}`)?.focus();
  }
  function composeHook() {
    const shape = model.get("shapes")?.[typed.hook];
    if (shape && composing) setText(expressionOf(spelt(typed.hook), shape, typed));
  }
  const quick = make(
    "div",
    { class: "dlb-row" },
    ...QUICK.map(({ name, label, help, initial, write: spell }) => {
      const input = make("input", { type: "text", spellcheck: "false" });
      input.value = typed[name] ?? initial;
      const use = () => (keep(name, input.value), setText(spell(input.value)));
      input.addEventListener("keydown", (event) => event.key === "Enter" && use());
      const row = field(`${id}${name}`, label, input, help);
      const button = make("button", { type: "button", "aria-label": `Use ${label}`, onclick: use }, "Use");
      const pair = make("span", { class: "dlb-pair" });
      input.replaceWith(pair);
      pair.append(input, button);
      return row;
    }),
  );

  // The expression, checked as it is typed.
  const text = make("textarea", { rows: 2, spellcheck: "false", autocapitalize: "off" });
  text.value = model.get("expression");
  const verdict = make("div", { id: `${id}verdict`, class: "dlb-verdict", role: "status" });
  const expression = field(`${id}expression`, "feature", text);
  text.setAttribute("aria-describedby", verdict.id);
  text.addEventListener("input", () => setText(text.value, true));
  let asked = 0;
  const check = debounced(() => {
    if (!model.get("model")) return;
    asked = ++serial;
    model.send({ type: "check", id: asked, text: text.value, typed: settingsTyped() });
  }, 250);
  function setText(value, own = false) {
    if (!own) text.value = value;
    write("expression", value);
    say(value.trim() ? "checking …" : "Nothing is chosen yet.", "");
    line.textContent = "";
    copy.disabled = true;
    if (value.trim()) check();
    else check.cancel();
  }
  function say(words, kind) {
    const [first, ...rest] = words.split("\n");
    const mark = { ok: "✓ ", error: "✗ " }[kind] ?? "";
    verdict.replaceChildren(make("p", {}, mark + first));
    if (rest.length) verdict.append(make("pre", { tabindex: "0", "aria-label": "where" }, rest.join("\n").replace(/^ {4}/gm, "")));
    verdict.className = `dlb-verdict dlb-${kind || "note"}`;
    text.setAttribute("aria-invalid", String(kind === "error"));
  }
  const line = make("code");
  const copied = make("span", { class: "dlb-note", role: "status" });
  const copy = make("button", { type: "button", disabled: true, onclick: copyLine }, "Copy as Python");
  async function copyLine() {
    try {
      await navigator.clipboard.writeText(line.textContent);
      copied.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(line); // a page without the permission; Ctrl-C does it
      copied.textContent = "selected; copy it with Ctrl-C";
    }
    setTimeout(() => (copied.textContent = ""), 2500);
  }

  // Settings.
  const inputs = new Map();
  const wrong = make("p", { id: `${id}wrong`, class: "dlb-error", role: "status", hidden: true });
  function setting(one) {
    const input = make("input", { type: one.kind === "check" ? "checkbox" : "text" });
    if (one.kind === "number") input.inputMode = "decimal";
    if (one.kind === "check") input.checked = Boolean(typed[one.name] ?? one.default);
    else {
      input.value = typed[one.name] ?? one.default;
      input.placeholder = one.default || "none";
      input.spellcheck = false;
    }
    input.addEventListener("input", () => {
      keep(one.name, one.kind === "check" ? input.checked : input.value);
      check();
    });
    inputs.set(one.name, input);
    return field(`${id}set-${one.name}`, one.label, input, one.help);
  }
  function settingsTyped() {
    return Object.fromEntries([...inputs].map(([name, input]) => [name, input.type === "checkbox" ? input.checked : input.value]));
  }
  const fields = model.get("fields");
  const more = make(
    "details",
    { class: "dlb-more" },
    make("summary", {}, "More settings: λ, restarts, start text, template"),
    make("div", { class: "dlb-row" }, ...fields.filter((one) => one.more).map(setting)),
  );
  const settings = make("div", { class: "dlb-row" }, ...fields.filter((one) => !one.more).map(setting));
  function showWrong(message) {
    wrong.textContent = message;
    wrong.hidden = !message;
    for (const [name, input] of inputs) {
      const mine = message.startsWith(`${name} `);
      input.setAttribute("aria-invalid", String(mine));
      if (mine && input.closest("details")) more.open = true;
    }
  }

  // Start.
  const start = make("button", { type: "button", class: "dlb-start", onclick: begin }, "Start dreaming");
  const notice = make("p", { class: "dlb-note", role: "status" });
  let begun = 0;
  function begin() {
    if (start.getAttribute("aria-disabled") === "true") return;
    begun = ++serial;
    start.setAttribute("aria-disabled", "true");
    notice.className = "dlb-note";
    notice.textContent = "starting …";
    model.send({ type: "start", id: begun, text: text.value, typed: settingsTyped() });
  }

  on("msg:custom", (message) => {
    if (message.type === "checked" && message.id === asked) {
      if (message.ok) say(`ok: ${message.said}`, "ok");
      else say(message.error, "error");
      showWrong(message.settings_error ?? "");
      line.textContent = message.python ?? "";
      copy.disabled = !message.python;
      const runs = message.count ?? 1;
      start.textContent = runs > 1 ? `Start ${runs} dreams` : "Start dreaming";
    } else if (message.type === "started" && message.id === begun) {
      start.removeAttribute("aria-disabled");
      notice.className = message.error ? "dlb-error" : "dlb-note";
      notice.textContent = message.error ? `✗ ${message.error}` : "Started; the panel is below.";
    } else if (message.type === "notice") {
      say(message.error, "error");
    }
  });
  for (const name of ["models", "model", "about", "loading", "model_error"]) on(`change:${name}`, showModel);
  on("change:model", check);
  on("change:hooks", () => tree.show(model.get("hooks"), model.get("shapes"), typed.hook));
  on("change:shapes", () => {
    tree.show(model.get("hooks"), model.get("shapes"), typed.hook);
    showParts();
    if (typed.hook && !text.value.trim()) composeHook();
  });
  on("change:expression", () => {
    if (model.get("expression") === text.value) return;
    text.value = model.get("expression");
    say("checking …", "");
    check();
  });

  const head = (words) => make("h3", {}, words);
  el.classList.add("dlb-host");
  const root = make(
    "div",
    { class: "dlb", role: "group", "aria-label": "feature browser" },
    make(
      "section",
      {},
      head("1. Model"),
      make("div", { class: "dlb-row dlb-model" }, field(`${id}model`, "loaded", choice), field(`${id}other`, "or a Hugging Face id or folder", other)),
      about,
      trouble,
      head("2. Hook point"),
      field(`${id}search`, "search", search),
      count,
      tree.element,
    ),
    make(
      "section",
      {},
      head("3. Feature"),
      parts,
      make("details", { class: "dlb-more" }, make("summary", {}, "Short cuts: a neuron, a logit, a log-probability"), quick),
      expression,
      verdict,
      head("4. Settings"),
      settings,
      more,
      wrong,
      make("div", { class: "dlb-line" }, start, copy, copied),
      notice,
      line,
    ),
  );
  const pair = make("span", { class: "dlb-pair" });
  other.replaceWith(pair);
  pair.append(other, go);
  el.append(root);
  showModel();
  tree.show(model.get("hooks"), model.get("shapes"), typed.hook);
  showParts();
  say(text.value.trim() ? "checking …" : "Nothing is chosen yet.", "");
  if (text.value.trim()) check();
  return () => {
    check.cancel();
    leave.forEach((action) => action());
  };
}

export default { initialize() {}, render };
