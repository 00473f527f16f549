// Helpers of all views. Text from outside enters the page as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element. Attributes that start with "on" are listeners; null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const own = tag === "button" ? { type: "button" } : {};
  return fill(document.createElement(tag), { ...own, ...attributes }, children);
}

/** Make an SVG element, with attributes as for `h`. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else if (name === "value") element.value = value;
    else if ((value ?? false) !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => (child ?? false) !== false));
  return element;
}

// Characters that are invisible, or that would disturb the text around them, are shown as a sign or as their code.
const SIGNS = { "\n": "↵", "\t": "→", "\r": "␍" };
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;
const code = (c) => `[U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
const letter = (c) => SIGNS[c] ?? (c !== "\u200c" && c !== "\u200d" && HIDDEN.test(c) ? code(c) : c);

/** Return a text in which every character is visible. */
export const visible = (text) => Array.from(text, letter).join("");

/** Return the text of a single token, in which every character is visible; an empty token is ∅. */
export function visibleToken(token) {
  if (token === "") return "∅";
  if (/^[\u200c\u200d]+$/.test(token)) return Array.from(token, code).join("");
  const shown = /^\p{M}/u.test(token) ? "◌" + token : token;
  return visible(shown.trim() === "" ? shown.replaceAll(" ", "·") : shown);
}

/** Make the text of a prompt, in which every character is visible. */
export const promptText = (text) => h("bdi", { dir: "ltr" }, visible(text.replace(/^ /, "")));

/** Make the mark of a prompt whose text encodes to other tokens; null if `trips` is not false. */
export function mismatch(trips, more = "") {
  const title = "Re-tokenizes differently";
  return trips === false ? h("span", { class: "dlp-mark", title, role: "img", "aria-label": title }, ` ≠${more}`) : null;
}

/** Return the decimal places with which the largest of some numbers shows `digits` digits. */
export function places(values, digits = 4) {
  const largest = Math.max(0, ...values.filter(Number.isFinite).map(Math.abs));
  return largest > 0 ? Math.min(6, Math.max(0, digits - 1 - Math.floor(Math.log10(largest)))) : 2;
}

/** Return the z-score of a value against a baseline [name, title, mean, deviation]. */
export const zScore = (value, [, , mean, deviation]) => (value - mean) / deviation;

/** Return a number as readable text; null is a dash. */
export function num(value, digits = 2, sign = false) {
  if (Number.isNaN(value ?? NaN)) return "–";
  const text = Math.abs(value).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const zero = Number(text.replaceAll(",", "")) === 0;
  return (value < 0 && !zero ? "−" : sign && !zero ? "+" : "") + text;
}

export const perplexity = (x) => {
  const p = Math.exp(x);
  return p > 1e6 ? p.toExponential(0).replace("e+", "e") : num(p, p < 99.95 ? 1 : 0);
};

/** Return a number of seconds as readable text. */
export const duration = (s) =>
  s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${num(s / 3600, 1)} h`;

/** Return about `count` round numbers within a range. */
export function ticks(low, high, count = 6) {
  const step = tickStep(low, high, count), marks = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) marks.push(+(i * step).toPrecision(12));
  return marks;
}

export function tickStep(low, high, count = 6) {
  const rough = (high - low || 1) / count, power = 10 ** Math.floor(Math.log10(rough));
  const off = (n) => Math.abs(Math.log(n * power / rough));
  return power * [1, 2, 5, 10].reduce((a, b) => (off(b) < off(a) ? b : a));
}

/** Return the frontier of points {x, y, ...}, from fluent to strong, by the same rule as the search. */
export function frontierOf(points) {
  const frontier = [];
  for (const p of [...points].sort((a, b) => a.x - b.x || b.y - a.y))
    if (!frontier.length || p.y > frontier.at(-1).y) frontier.push(p);
  return frontier;
}

/** Return a name that is unique in the page, even if the page has several copies of this module. */
export const unique = () => `dlp-${Math.random().toString(36).slice(2, 10)}`;

/** Listen to a model, and return a function that ends that. Each call has one event name, because marimo takes no lists. */
export function listen(model, handlers) {
  for (const [name, f] of Object.entries(handlers)) model.on(name, f);
  return () => { for (const [name, f] of Object.entries(handlers)) model.off(name, f); };
}

/** Return a function that marks parts to be drawn; each marked part is drawn once in the next frame. */
export function painter(parts) {
  const marked = new Set();
  let waiting = false;
  const paint = () => {
    waiting = false;
    const names = [...marked];
    marked.clear();
    for (const name of names) parts[name]();
  };
  return (...names) => {
    for (const name of names) marked.add(name);
    if (!waiting) { waiting = true; requestAnimationFrame(paint); }
  };
}

/** Return whether the theme of the page is dark. Colab marks its frames with an attribute `theme` if its theme is dark. */
const dark = () => {
  const html = document.documentElement, { dataset, className } = document.body;
  const lab = dataset.jpThemeLight ?? html.dataset.jpThemeLight;
  if (lab) return lab === "false";
  const colab = globalThis.google?.colab && html.getAttribute("theme") + "light";
  const kind = dataset.vscodeThemeKind ?? html.dataset.theme ?? colab ?? className;
  return /dark/.test(kind) || (!/light/.test(kind) && matchMedia("(prefers-color-scheme: dark)").matches);
};

/** Make the root element of a view, which follows the theme of the page; return it with a function that removes it. */
export function stage(el, name) {
  const root = h("div", { class: `dlp dlp-${name}`, dir: "ltr" });
  // JupyterLab uses arrows, Enter and letters as shortcuts. Inside a view they belong to the view; Ctrl+S still is Lab's.
  const keys = (event) => {
    const runs = event.shiftKey && event.key === "Enter" && event.target.tagName !== "TEXTAREA"; // the cell
    const theirs = event.ctrlKey || event.metaKey || runs;
    // JupyterLab reads the attribute only at the element that has the focus.
    if (root.contains(event.target)) event.target.toggleAttribute("data-lm-suppress-shortcuts", !theirs);
  };
  addEventListener("keydown", keys, true);
  const follow = () => root.classList.toggle("dlp-dark", dark());
  follow();
  const query = matchMedia("(prefers-color-scheme: dark)"), watch = new MutationObserver(follow);
  query.addEventListener("change", follow);
  // Each program has an attribute of its own for the theme, and pages change few others.
  for (const node of [document.body, document.documentElement]) watch.observe(node, { attributes: true });
  el.append(root);
  const leave = () => {
    removeEventListener("keydown", keys, true);
    query.removeEventListener("change", follow);
    watch.disconnect();
    root.remove();
  };
  return [root, leave];
}

/** Make the heading of a view, with a line for notices beside it. */
export function heading(title, subtitle, notice, full) {
  const given = full && full !== title ? { title: visible(full) } : {};
  return h("header", {}, h("h3", given, visible(title)), h("span", { class: "dlp-quiet" }, subtitle), notice);
}

/** Make the lines that show the error and the note of a model; `draw` updates them. */
export function errorLine(model) {
  const lines = { error: h("p", { class: "dlp-wrong", role: "alert" }), note: h("p", { class: "dlp-warn", role: "note" }) };
  const el = h("div", {}, lines.error, lines.note);
  const draw = () => {
    for (const [name, line] of Object.entries(lines)) {
      line.textContent = visible(model.get(name) ?? "");
      line.hidden = !model.get(name);
    }
  };
  return { el, draw };
}

/** Set a value of a model, and send it to Python and to the model's other views. */
export function put(model, name, value) {
  model.set(name, value);
  model.save_changes();
}

/**
 * Return the memory of what the user has set in a view: {get(name), set(changes), end()}.
 *
 * It is a trait, so that the view is as the user left it when the notebook draws it again, and when Python freezes it. When
 * the user has edited or opened something and left the view, Python is asked to freeze it again, so that a saved notebook has it.
 */
export function keeper(model, root) {
  const all = () => model.get("view_state") ?? {}, edits = () => JSON.stringify([all().edits ?? {}, all().stars ?? {}, all().pinned ?? null, all().section || null]);
  let timer = 0, absence = 0, last = edits();
  const flush = () => {
    if (!timer) return;
    clearTimeout(timer);
    timer = 0;
    model.save_changes();
  };
  const set = (changes) => {
    model.set("view_state", { ...all(), ...changes });
    clearTimeout(timer);
    timer = setTimeout(flush, 300); // a slider changes many times a second
  };
  const away = () => {
    if (root.matches(":hover, :focus-within") || edits() === last) return;
    last = edits();
    flush();
    model.send({ type: "keep" });
  };
  const leave = () => {
    clearTimeout(absence);
    absence = setTimeout(away, 1500);
  };
  root.addEventListener("pointerleave", leave);
  root.addEventListener("focusout", leave);
  const end = () => {
    clearTimeout(absence);
    flush();
  };
  return { get: (name) => all()[name] ?? null, set, end };
}

/** Return the prompts that the user has starred, which a view's memory keeps: {has(key), all(), turn(entry)}. */
export function starred(kept, changed) {
  const of = () => kept.get("stars") ?? {}, has = (key) => Object.hasOwn(of(), key);
  const turn = (entry) => {
    const { [entry.key]: before, ...others } = of();
    kept.set({ stars: before ? others : { ...others, [entry.key]: entry } });
    changed();
  };
  const all = () => Object.values(of()).map((e) => ({ ...e, x: e.ce, y: e.value }));
  return { has, all, turn };
}

/** Make a line for notices, which screen readers read and which disappear after some seconds. */
export function notices() {
  // The line is beside the title, so that a notice moves nothing else.
  const line = h("div", { class: "dlp-notice", role: "status", "aria-live": "polite" });
  let timer;
  const say = (text, seconds = 8) => {
    line.textContent = visible(text);
    clearTimeout(timer);
    timer = setTimeout(() => { line.textContent = ""; }, seconds * 1000);
  };
  return [line, say];
}

/** Handle the messages of Python: an answer for the view of a prompt or for its sections, or a notice. */
export function hear(prompt, say, sections) {
  return (message) => {
    if (message.type === "answer") prompt.answer(message);
    else if (message.type === "section") sections.answer(message);
    else if (message.type === "notice") say(message.text, 20);
  };
}

/** Copy a text, through a selection if the page may not use the clipboard; return whether that worked. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const box = h("textarea", { value: text, class: "dlp-away", "aria-hidden": "true" });
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    before?.focus({ preventScroll: true });
    return done;
  }
}

/**
 * Make a function that copies a text, and the element in which the text appears if the page may not use the clipboard.
 *
 * give(text, what) copies a text and says so: "Copied as {what}".
 */
export function copier(say) {
  const el = h("div", { class: "dlp-code", hidden: true });
  async function give(text, what) {
    el.hidden = await copy(text);
    say(el.hidden ? `Copied as ${what}` : "The browser does not let this page use the clipboard. Copy the text that is shown.");
    if (el.hidden) return;
    const rows = Math.min(10, text.split("\n").length + 1);
    const box = h("textarea", { value: text, rows, readonly: true, "aria-label": `${what} to copy`, spellcheck: "false" });
    el.replaceChildren(box, h("button", { onclick: () => { el.hidden = true; } }, "Close"));
    box.focus();
    box.select();
  }
  return { el, give };
}

/** Return Python code with a value in the place that Python left open in it. */
export const filled = (code, value) => code.replace("\0", () => value);

/** Make the button that copies the code which makes what a view shows. */
export const codeButton = (copies, code) =>
  h("button", { class: "dlp-python", onclick: () => copies.give(code(), "Python") }, "Copy as Python");

/**
 * Move the focus with the arrow keys among elements of which only one is reached by the Tab key.
 *
 * With several columns the elements are a grid, and no key leaves a row at its ends. Disabled elements are skipped.
 */
export function arrows(event, elements, columns = 1) {
  const at = elements.indexOf(document.activeElement);
  if (at < 0) return null;
  const left = columns > 1 ? at % columns : at, right = (columns > 1 ? columns : elements.length) - 1 - left;
  const line = (from, step, length) => Array.from({ length: Math.max(0, length) }, (_, i) => from + i * step);
  const ways = {
    ArrowRight: () => line(at + 1, 1, right),
    ArrowLeft: () => line(at - 1, -1, left),
    ArrowDown: () => line(at + columns, columns, Math.floor((elements.length - 1 - at) / columns)),
    ArrowUp: () => line(at - columns, -columns, Math.floor(at / columns)),
    Home: () => line(at - left, 1, left),
    End: () => line(at + right, -1, right),
  };
  if (!Object.hasOwn(ways, event.key)) return null;
  event.preventDefault();
  const next = elements[ways[event.key]().find((i) => !elements[i].disabled) ?? at];
  next.focus();
  return next;
}

/**
 * Make the live model of a view known to its frozen views in the same page; return a function that undoes it.
 *
 * JupyterLab keeps models whose kernel has ended or restarted, and reports that by an event that only JupyterLab has.
 */
export function register(model) {
  const id = model.get("live_id");
  if (!id) return undefined;
  const all = (globalThis.dreamy_lens_live ??= new Map());
  const put = (alive) => {
    if (alive) all.set(id, model);
    else if (all.get(id) === model) all.delete(id);
    dispatchEvent(new CustomEvent("dreamy-lens-live", { detail: id }));
  };
  put(true);
  model.on("comm_live_update", () => put(all.get(id) !== model));
  return () => put(false);
}

/** Return a number with a noun, in the plural unless the number is 1. */
export const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
