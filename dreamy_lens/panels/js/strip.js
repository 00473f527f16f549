// One prompt: which tokens carry the feature, what others would do, and any token or text of one's own.

import { arrows, copy, h, num, perplexity, places, visible, visibleToken } from "./common.js";

const BEST = 8, WORST = 4;

const PATIENCE = 20; // seconds without an answer after which it is said that none has come

/** Enter in a box sends its form; a prompt may have lines, so there Shift+Enter makes one. */
const enter = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || !/INPUT|TEXTAREA/.test(event.target.tagName)) return;
  event.preventDefault();
  event.currentTarget.requestSubmit();
};

/** How the model would read what is typed: whether it begins with a space makes it another token. */
const reading = (text, more = "") => (text === "" ? "" : `read as ${visible(text.replace(/^ +/, (all) => "·".repeat(all.length)))}${more}${/^\s/.test(text) ? "" : " (no space before it)"}`);

/**
 * The attribution of a prompt.
 *
 * host: {name, live(), send(message), say(text), python(), known: Map of key to found, nothing: said without a prompt}. `show(entry)` shows a prompt of the
 * frontier or a found one, `answer(message)` takes what Python says, `el` is the element.
 */
export function attributionView(host) {
  const el = h("section", { class: "dlp-one", "aria-label": "the picked prompt" });
  let base = null; // where the playing began: {key, ids, tokens, text, value, ce}
  let now = null; // what is shown: the same, with drop, floor, subs, series as far as they are known
  let trail = []; // prompts to go back to
  let chosen = -1, grid = false, all = false, pending = 0, numbers = 0, wrong = "", timer;

  const same = (entry) => ({ value: entry.y, ce: entry.x, drop: null, floor: null, subs: null, series: null, ...entry });

  function show(entry) {
    if (!entry) { base = now = null; trail = []; return draw(); }
    if (base?.key === entry.key) {
      // The frontier of a run that goes on comes several times a second: what is asked already is not asked again, or
      // each question would push the one before it aside, and no answer would be to the newest.
      if (now.subs === null && !pending && !wrong) look();
      return;
    }
    base = same(host.known.get(entry.key) ?? entry);
    now = base;
    trail = [];
    chosen = -1;
    pending = 0; // what was asked about the one before is not waited for
    wrong = "";
    look();
    draw();
  }

  /** Ask for what is not known yet of the prompt that is shown. */
  function look() {
    const known = host.known.get(now.key);
    if (known?.subs) now = { ...now, ...known };
    if (host.live() && (!now.subs || !now.series)) ask({ type: "look", ids: now.ids });
  }

  function ask(message) {
    pending = ++numbers;
    wrong = "";
    host.send({ ...message, id: `${host.name}-${pending}` });
    clearTimeout(timer);
    timer = setTimeout((number) => {
      if (pending !== number || !el.isConnected) return;
      wrong = "No answer has come yet: the model is busy, or the kernel is not running any more.";
      draw();
    }, PATIENCE * 1000, pending);
    draw();
  }

  function play(message) {
    if (trail.at(-1) !== now) trail.push(now); // two before the first is answered are one step back
    ask(message);
  }

  function answer(message) {
    const mine = message.id === `${host.name}-${pending}`;
    if (message.found) {
      const known = host.known.get(message.found.key);
      if (!known?.subs || message.found.subs) host.known.set(message.found.key, message.found);
    }
    if (!mine || !base) return; // an answer to an older question
    if (message.error) {
      wrong = message.error;
      pending = 0;
      if (trail.at(-1) === now) trail.pop();
      return draw();
    }
    wrong = "";
    const other = message.found.key !== now.key;
    if (other && chosen >= message.found.ids.length) chosen = -1;
    if (!other && trail.at(-1)?.key === now.key) trail.pop();
    now = { ...now, ...message.found };
    if (message.found.subs && message.found.series) pending = 0;
    if (base.key === now.key) base = { ...base, ...message.found };
    draw();
  }

  function back(to) {
    now = to;
    pending = 0;
    wrong = "";
    chosen = Math.min(chosen, now.ids.length - 1);
    look();
    draw();
  }

  // How it looks.

  function draw() {
    const focus = el.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const typed = focus ? [document.activeElement.value, document.activeElement.selectionStart] : null;
    const boxes = [...el.querySelectorAll("[data-of]")].map((box) => [box.dataset.focus, box.dataset.of, box.value]);
    if (!now) {
      el.replaceChildren(h("p", { class: "dlp-quiet" }, host.nothing ?? "Pick a point or a row to see which tokens of the prompt carry the feature."));
      return;
    }
    el.replaceChildren(head(), ...(wrong ? [h("p", { class: "dlp-wrong", role: "alert" }, visible(wrong))] : []),
      grid && now.subs ? heat() : strip(), ...(chosen >= 0 && !grid ? [ledger()] : []), ...(host.live() ? [editor()] : []));
    for (const [name, of, value] of boxes) { // what was typed stays, as long as it is about the same thing
      const box = el.querySelector(`[data-of][data-focus="${name}"]`);
      if (box && box.dataset.of === of) { box.value = value; box.dispatchEvent(new Event("input")); }
    }
    if (focus) {
      // A button that is gone when it has done its work leaves the focus at the token, or at the first button.
      const again = el.querySelector(`[data-focus="${CSS.escape(focus)}"]`) ?? el.querySelector(".dlp-token.dlp-on, button");
      again?.focus({ preventScroll: true });
      if (again && typed?.[0] !== undefined && again.setSelectionRange) again.setSelectionRange(typed[1], typed[1]);
    }
  }

  function head() {
    const digits = places([base.value, now.value]), played = now.key !== base.key;
    const change = played ? ` (${num(now.value - base.value, digits, true)})` : "";
    const costs = played ? ` (${num(now.ce - base.ce, 2, true)})` : "";
    const button = (text, f, name, label = null) => h("button", { type: "button", onclick: f, "data-focus": name, "aria-label": label }, text);
    const copied = (what, text) => button(what, async () => {
      const done = await copy(text);
      host.say(done ? `copied as ${what}` : "It could not be copied: the browser does not let this page use the clipboard.");
    }, `copy-${what}`, `copy as ${what}`);
    return h("div", { class: "dlp-head" },
      h("div", { class: "dlp-text" }, h("bdi", { dir: "ltr" }, visible(now.text.replace(/^ /, ""))),
        now.trips === false ? h("span", { class: "dlp-mark", title: "as text it encodes to other tokens" }, " ≠ text") : null),
      h("div", { class: "dlp-numbers" },
        h("span", {}, h("b", {}, num(now.value, digits)), ` value${change}`), h("span", {}, h("b", {}, num(now.ce)), ` cross-entropy${costs}`),
        h("span", {}, h("b", {}, perplexity(now.ce)), " perplexity"), pending ? h("span", { class: "dlp-quiet" }, "working…") : null),
      h("div", { class: "dlp-buttons" },
        trail.length ? button("undo", () => back(trail.pop()), "undo") : null,
        played ? button("back to the picked prompt", () => { trail = []; back(base); }, "back") : null,
        host.live() ? button("dream from here", () => { host.send({ type: "start", ids: now.ids }); host.say("a new dream starts from this prompt"); }, "start") : null,
        h("span", { class: "dlp-quiet" }, "copy"), copied("text", now.text), copied("ids", JSON.stringify(now.ids)),
        copied("Python", `dl.score(${host.python()}, [[${now.ids.join(", ")}]])`),
        now.subs ? h("button", { type: "button", "aria-pressed": String(grid), onclick: () => { grid = !grid; draw(); }, "data-focus": "grid" }, "heat map") : null));
  }

  /** Full colour and a full bar: the largest losses, bars never on a scale so fine that noise towers. */
  function scales() {
    const most = (xs) => Math.max(0, ...(xs ?? []).filter((x) => x !== null));
    const colour = most(now.drop) || 1;
    return [colour, Math.max(most(now.floor), 0.1 * colour)];
  }

  function strip() {
    const [colour, bar] = scales(), digits = places([now.value, ...(now.drop ?? [])], 3);
    const values = now.series?.filter((x) => x !== null) ?? [];
    const low = Math.min(0, ...values), high = Math.max(1e-9, ...values);
    const cells = now.tokens.map((token, i) => {
      const drop = now.drop?.[i] ?? null, floor = now.floor?.[i] ?? null, at = now.series?.[i] ?? null;
      const share = (x, full) => Math.min(1, Math.max(0, (x ?? 0) / full)).toFixed(3);
      const name = `${i + 1} of ${now.tokens.length}: ${visibleToken(token)}` + (drop === null ? "" : `; worst substitute ${num(-drop, digits, true)}, best ${num(-floor, digits, true)}`) + (at === null ? "" : `; value here ${num(at, digits)}`);
      const changed = base.key !== now.key && base.ids[i] !== now.ids[i];
      return h("button", { type: "button", class: `dlp-token${i === chosen ? " dlp-on" : ""}${floor !== null && floor < 0 ? " dlp-better" : ""}${changed ? " dlp-changed" : ""}`,
        "aria-label": name, title: name, "aria-expanded": String(i === chosen), "data-focus": `token-${i}`,
        style: { "--d": share(drop, colour), "--h": share(floor, bar) }, onclick: () => { chosen = chosen === i ? -1 : i; all = false; draw(); } },
        h("i", {}), h("b", {}, visibleToken(token)),
        now.series ? h("u", { style: { "--v": at === null ? "0" : ((Math.max(0, at) - Math.max(0, low)) / (high - Math.max(0, low) || 1)).toFixed(3) } }) : null,
        now.series ? h("small", {}, at === null ? "–" : num(at, Math.min(2, digits))) : null);
    });
    const legend = now.drop
      ? [h("p", { class: "dlp-legend" }, h("span", { class: "dlp-ramp" }), ` colour: lost with the worst substitute (full: ${num(colour, digits)}) · `, h("span", { class: "dlp-swatch" }),
        ` bar: lost even with the best (full: ${num(bar, digits)}, dotted: a gain)`),
        h("p", { class: "dlp-legend" }, now.series ? "underneath: the value if the prompt ended there · " : "", "click a token for its substitutes")]
      : [h("p", { class: "dlp-legend" }, host.live() ? (wrong ? "" : "trying substitutes…") : "No attribution was kept for this prompt.")];
    return h("div", {}, h("div", { class: "dlp-strip", role: "group", "aria-label": "tokens" }, ...cells), ...legend);
  }

  const row = (s, position, digits) => {
    const [token, id, value, ce] = s, better = value > now.value;
    const name = `${visibleToken(token)}`;
    const cell = host.live()
      ? h("button", { type: "button", class: "dlp-sub", "data-focus": `sub-${id}`, title: "try it", onclick: () => play({ type: "swap", ids: [...now.ids.slice(0, position), id, ...now.ids.slice(position + 1)] }) }, name)
      : h("code", { class: "dlp-sub" }, name);
    return h("tr", {}, h("td", {}, cell), h("td", {}, num(value, digits)), h("td", { class: better ? "dlp-up" : "dlp-down" }, num(value - now.value, digits, true)), h("td", {}, num(ce)), h("td", {}, num(ce - now.ce, 2, true)));
  };

  function ledger() {
    const token = now.tokens[chosen], subs = now.subs?.[chosen] ?? [], digits = places([now.value, ...subs.map((s) => s[2])]);
    const short = !all && subs.length > BEST + WORST + 2;
    const rows = short
      ? [...subs.slice(0, BEST).map((s) => row(s, chosen, digits)),
        h("tr", {}, h("td", { colspan: 5 }, h("button", { type: "button", class: "dlp-link", "data-focus": "all", onclick: () => { all = true; draw(); } }, `${subs.length - BEST - WORST} more`))),
        ...subs.slice(-WORST).map((s) => row(s, chosen, digits))]
      : subs.map((s) => row(s, chosen, digits));
    const own = host.live() ? form("try", `${chosen}`, "another token", "try", h("input", { type: "text", placeholder: "a space before it makes a new word", autocomplete: "off", spellcheck: "false" }),
      (text) => play({ type: "try", ids: now.ids, position: chosen, text })) : null;
    const head = ["in its place", "value", "change", "cross-entropy", "change"].map((x) => h("th", { scope: "col" }, x));
    return h("div", { class: "dlp-ledger", role: "region", "aria-label": "substitutes" },
      h("p", {}, "Token ", String(chosen + 1), ": ", h("code", { class: "dlp-sub" }, visibleToken(token))), own,
      subs.length ? h("div", { class: "dlp-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows))) : h("p", { class: "dlp-quiet" }, now.subs ? "No substitute was tried here." : pending ? "trying substitutes…" : "No substitutes were kept for this prompt."));
  }

  /** Positions across, substitutes down, best first: colour and sign say what each does to the value. */
  function heat() {
    const deep = Math.max(...now.subs.map((s) => s.length)), digits = places([now.value, ...(now.drop ?? [])], 3);
    const most = Math.max(1e-9, ...now.subs.flat().map((s) => Math.abs(s[2] - now.value)));
    const cells = [];
    const table = h("div", { class: "dlp-heat", role: "grid", "aria-label": "substitutes by position, best first", style: { "--columns": String(now.tokens.length) } },
      h("div", { role: "row" }, ...now.tokens.map((t) => h("span", { role: "columnheader" }, visibleToken(t)))));
    for (let r = 0; r < deep; r++) {
      const line = h("div", { role: "row" });
      now.subs.forEach((subs, i) => {
        const s = subs[r];
        const change = s ? s[2] - now.value : 0, name = s ? `${i + 1}: ${visibleToken(now.tokens[i])} becomes ${visibleToken(s[0])}: value ${num(s[2], digits)} (${num(change, digits, true)}), cross-entropy ${num(s[3])}` : "";
        const cell = h("button", { type: "button", role: "gridcell", class: change > 0 ? "dlp-gain" : "dlp-loss", disabled: !s, tabindex: -1, title: name, "aria-label": name, "data-focus": `heat-${r}-${i}`,
          style: { "--d": (Math.abs(change) / most).toFixed(3) }, onclick: () => { if (host.live()) play({ type: "swap", ids: [...now.ids.slice(0, i), s[1], ...now.ids.slice(i + 1)] }); else host.say(name, 20); } }, s ? visibleToken(s[0]) : "");
        cells.push(cell);
        line.append(cell);
      });
      table.append(line);
    }
    if (cells.length) cells[0].tabIndex = 0;
    table.addEventListener("keydown", (event) => {
      const next = arrows(event, cells, now.tokens.length);
      if (next) for (const cell of cells) cell.tabIndex = cell === next ? 0 : -1;
    });
    return h("div", {}, h("div", { class: "dlp-scroll" }, table), h("p", { class: "dlp-legend" }, h("span", { class: "dlp-ramp dlp-ramp-2" }),
      ` each column: what was tried in its token's place, best on top · blue with an edge raises the value, orange lowers it (full: ${num(most, digits)})`));
  }

  function editor() {
    const rows = Math.min(5, now.text.split("\n").length + (now.text.length > 90 ? 1 : 0));
    return form("edit", now.key, "edit the whole prompt", "score it", h("textarea", { value: now.text, rows, autocomplete: "off", spellcheck: "false", title: "Enter scores it, Shift+Enter makes a new line" }),
      (text) => play({ type: "edit", text }));
  }

  /** A box with its button; what is typed stays while it is about the same thing. */
  function form(name, of, label, act, box, send) {
    const hint = h("span", { class: "dlp-quiet dlp-reading" });
    const say = () => { hint.textContent = name === "try" ? reading(box.value) : box.value === now.text ? "" : reading(/^\s*\S*/.exec(box.value)[0], "…"); };
    box.dataset.focus = name;
    box.dataset.of = of;
    box.addEventListener("input", say);
    return h("form", { class: `dlp-form dlp-${name}`, onkeydown: enter, onsubmit: (event) => { event.preventDefault(); if (box.value) send(box.value); } },
      h("label", {}, h("span", {}, label), box), h("button", { type: "submit", "data-focus": `${name}-button` }, act), hint);
  }

  return { el, show, answer, draw, get shown() { return now; } };
}
