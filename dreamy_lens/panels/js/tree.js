// Tree of hook points with their shapes: blocks, components, hook points. Keys: arrows, Home, End, Enter.

import { h, visible } from "./common.js";

const MOST_MATCHES = 200; // most rows that a search shows

/** Return [group, component, rest] of a name: blocks.2.attn.q.hook_out is hook_out of attn.q in blocks.2. */
export function place(name) {
  const parts = name.split(".");
  const deep = parts.length > 2 && /^\d+$/.test(parts[1]) ? 2 : parts.length > 1 ? 1 : 0;
  const group = deep ? parts.slice(0, deep).join(".") : "(model)";
  return [group, parts.slice(deep, -1).join("."), parts[parts.length - 1]];
}

/** Return whether a name contains every word, ignoring case; with * or ? the whole name must match, as in Python. */
export function fits(name, wanted) {
  const [low, words] = [name.toLowerCase(), wanted.toLowerCase().trim()];
  if (!/[*?]/.test(words)) return words.split(/\s+/).every((word) => low.includes(word));
  const pattern = words.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  return new RegExp(`^${pattern}$`, "s").test(low);
}

export function shapeText(shapes, name) {
  if (!shapes) return "";
  return shapes[name] ? `[${shapes[name].join(", ")}]` : "never reached";
}

/** Make a tree element with show(hooks, shapes, picked), filter(text) and focus(pick). */
export function hookTree({ label, id, picked, counted }) {
  const element = h("div", { class: "dlb-tree", role: "tree", "aria-label": label, id });
  let hooks = [];
  let shapes = null;
  let chosen = "";
  let wanted = "";
  let current = ""; // key of the row that Tab reaches
  const open = new Set();

  /** Return the visible rows: {key, level, text, name, open}. */
  function rows() {
    const names = hooks.map(([name]) => name);
    if (wanted.trim()) {
      const matches = names.filter((name) => fits(name, wanted));
      const cut = matches.length > MOST_MATCHES ? `; the first ${MOST_MATCHES} are shown` : "";
      counted(`${matches.length} of ${names.length} hook points${cut}`);
      return matches.slice(0, MOST_MATCHES).map((name) => ({ key: name, level: 1, text: name, name }));
    }
    counted(names.length ? `${names.length} hook points` : "");
    const groups = new Map();
    for (const name of names) {
      const [group, component, rest] = place(name);
      if (!groups.has(group)) groups.set(group, new Map());
      const parts = groups.get(group);
      if (!parts.has(component)) parts.set(component, []);
      parts.get(component).push([name, rest]);
    }
    const shown = [];
    const leaves = (list, level) => list.forEach(([name, rest]) => shown.push({ key: name, level, text: rest, name }));
    for (const [group, parts] of groups) {
      const key = `/${group}`;
      shown.push({ key, level: 1, text: group, open: open.has(key) });
      if (!open.has(key)) continue;
      for (const [component, list] of parts) {
        if (!component) {
          leaves(list, 2);
          continue;
        }
        const inner = `${key}/${component}`;
        shown.push({ key: inner, level: 2, text: component, open: open.has(inner) });
        if (open.has(inner)) leaves(list, 3);
      }
    }
    return shown;
  }

  function draw() {
    const held = element.contains(document.activeElement);
    const top = element.scrollTop;
    const shown = rows();
    if (!shown.some((row) => row.key === current)) current = shown.length ? shown[0].key : "";
    element.replaceChildren(
      ...shown.map((row) => {
        const leaf = row.name !== undefined;
        const item = h("div", {
          class: "dlb-item",
          role: "treeitem",
          "aria-level": row.level,
          "aria-expanded": leaf ? null : String(row.open),
          "aria-selected": leaf ? String(row.name === chosen) : null,
          title: leaf && row.name,
          tabindex: row.key === current ? 0 : -1,
          style: { "padding-inline-start": `${0.4 + 1.1 * (row.level - 1)}em` },
        });
        item.dataset.key = row.key;
        const sign = leaf ? (row.name === chosen ? "✓" : "") : row.open ? "▾" : "▸";
        item.append(h("span", { class: "dlb-fold", "aria-hidden": "true" }, sign));
        item.append(h("span", { class: "dlb-name" }, visible(row.text)));
        if (leaf) item.append(h("span", { class: "dlb-shape" }, visible(shapeText(shapes, row.name))));
        return item;
      }),
    );
    if (!shown.length && hooks.length)
      element.append(h("p", { class: "dlb-note" }, "No hook point has all these words."));
    element.scrollTop = top;
    if (held) move(current);
  }

  function items() {
    return [...element.querySelectorAll("[role=treeitem]")];
  }

  function move(key) {
    current = key;
    for (const item of items()) {
      item.tabIndex = item.dataset.key === key ? 0 : -1;
      if (item.dataset.key === key) item.focus();
    }
  }

  function fold(key, wish) {
    if (wish) open.add(key);
    else open.delete(key);
    current = key;
    draw();
    move(key);
  }

  function use(item) {
    const key = item.dataset.key;
    if (item.hasAttribute("aria-expanded")) return fold(key, item.getAttribute("aria-expanded") !== "true");
    chosen = key;
    current = key;
    draw();
    move(key);
    picked(key);
  }

  element.addEventListener("click", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (item) use(item);
  });
  element.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
    const list = items();
    const at = list.indexOf(item);
    const level = (row) => Number(row.getAttribute("aria-level"));
    const expanded = item.getAttribute("aria-expanded");
    const actions = {
      ArrowDown: () => list[at + 1] && move(list[at + 1].dataset.key),
      ArrowUp: () => list[at - 1] && move(list[at - 1].dataset.key),
      Home: () => move(list[0].dataset.key),
      End: () => move(list[list.length - 1].dataset.key),
      ArrowRight: () => {
        if (expanded === "false") fold(item.dataset.key, true);
        else if (expanded === "true" && list[at + 1]) move(list[at + 1].dataset.key);
      },
      ArrowLeft: () => {
        if (expanded === "true") return fold(item.dataset.key, false);
        const parent = list.slice(0, at).reverse().find((row) => level(row) < level(item));
        if (parent) move(parent.dataset.key);
      },
      Enter: () => use(item),
      " ": () => use(item),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    event.stopPropagation(); // notebooks use these keys, too
    actions[event.key]();
  });

  return {
    element,
    show(newHooks, newShapes, name) {
      hooks = newHooks;
      shapes = newShapes;
      chosen = name ?? chosen;
      draw();
    },
    filter(words) {
      wanted = words;
      draw();
    },
    /** Move the focus to the first row; with `pick`, choose that row. */
    focus(pick = false) {
      const first = items()[0];
      if (!first) return;
      move(first.dataset.key);
      if (pick) use(first);
    },
  };
}
