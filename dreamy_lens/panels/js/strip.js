// View of one prompt: which tokens carry the feature, what substitutes would do, and inputs for other tokens and texts.

import { filled, h, mismatch, num, perplexity, places, promptText, visible, visibleToken, zScore } from "./common.js";
import { comparison } from "./compare.js";
import { heatMap, ledger } from "./substitutes.js";
import { tokenStrip } from "./tokens.js";

const NOTHING = "Pick a point or a row to see which tokens of the prompt carry the feature.";
const UNDO = 20, EDITS = 6; // most steps of undo, and most edited prompts, that are kept when the view is drawn again
export const PATIENCE = 20; // seconds without an answer after which the view reports that
export const LATE = "No answer has come yet: the model is busy, or the kernel is no longer running.";

/** Submit the form of an input on Enter; Shift+Enter makes a new line, because a prompt may have several lines. */
const enter = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || !/INPUT|TEXTAREA/.test(event.target.tagName)) return;
  event.preventDefault();
  event.currentTarget.requestSubmit();
};

/** Return the length of the longest sequence of tokens that occurs at two places of a prompt. */
function longestRepeat(ids) {
  let n = 0, parts;
  do parts = ids.slice(n).map((_, i) => ids.slice(i, i + n + 1).join());
  while (new Set(parts).size < parts.length && ++n);
  return n;
}

/** Return how the model reads a typed text: a leading space makes it another token. */
const reading = (text, more = "") => {
  if (text === "") return "";
  const shown = visible(text.replace(/^ +/, (all) => "·".repeat(all.length)));
  return `Read as ${shown}${more}${/^\s/.test(text) ? "" : " (no space before it)"}`;
};

/**
 * Make the view of a prompt's attribution.
 *
 * host: {name, live(), send(message), say(text), python(): code with a place for the ids, copies, known: Map of entries by key, kept: memory of the view,
 * scale(): scale of the values: {scales: [[name, title, mean, deviation], ...], held: {key: cross-entropy}, fluency: title of held-out
 * cross-entropies or ""}, or {} before baselines are measured; undefined in a view without z-scores,
 * slot(key): name of a prompt's edit there, stays(): whether the picked prompt is on the present frontier, nothing: text
 * without a prompt, stars: {has(key), turn(entry)} or undefined in a view without starred prompts, moved(): called when the prompt
 * that is shown has changed}.
 * `show(entry)` shows a prompt of the frontier or an entry with scores, `answer(message)` takes an answer of Python, `el`
 * is the element.
 */
export function attributionView(host) {
  const el = h("section", { class: "dlp-one", "aria-label": "the picked prompt" });
  let base = null; // entry of the picked prompt: {key, ids, tokens, text, value, ce}
  // Entry that is shown, with drop, floor, subs and series as far as they are known. A partial entry has only the first
  // substitutes in subs; it is never kept in known.
  let now = null;
  let trail = []; // entries that undo goes back to
  let typed = {}; // texts that are typed and not sent, by the name of their input: {of: what they belong to, value}
  let chosen = -1, grid = false, all = false, pending = 0, numbers = 0, wrong = "", refused = "", stood = true, timer;

  const nothing = { drop: null, floor: null, subs: null, tried: null, partial: false, series: null };
  const complete = (entry) => ({ value: entry.y, ce: entry.x, ids: [], tokens: [], ...nothing, ...entry });
  const bare = ({ key, ids, tokens, text, trips, value, ce }) => ({ key, ids, tokens, text, trips, value, ce });

  function show(entry) {
    if (!entry) {
      base = now = null;
      return draw();
    }
    if (base?.key === entry.key) {
      // While a run goes on, its frontier comes several times a second. A pending question is not asked again, because
      // each question makes the one before it obsolete, and no answer would belong to the newest.
      if (now.subs === null && !pending && !wrong) look();
      if (stood !== host.stays()) draw();
      return;
    }
    base = complete(host.known.get(entry.key) ?? entry);
    // The edit of a prompt is the user's work: it outlasts this drawing of the view.
    const left = host.kept.get("edits")?.[host.slot(entry.key)];
    [now, trail, chosen, typed] = [base, [], -1, {}];
    if (left) {
      now = left.now.key === base.key ? base : complete(left.now);
      [trail, chosen, grid, typed] = [left.trail.map(complete), left.chosen, left.grid, left.typed];
    }
    pending = 0; // do not wait for answers about another prompt
    wrong = "";
    look();
    draw();
  }

  /** Keep what the user has made of the picked prompt. */
  function keep() {
    if (!base) return;
    const { [host.slot(base.key)]: before, ...others } = host.kept.get("edits") ?? {};
    const edited = now.key !== base.key || trail.length || Object.keys(typed).length || !host.stays();
    const edit = { base: bare(base), now: bare(now), trail: trail.slice(-UNDO).map(bare), chosen, grid, typed };
    if (edited ? JSON.stringify(edit) === JSON.stringify(before) : !before) return;
    const last = Object.entries(others).slice(1 - EDITS);
    host.kept.set({ edits: Object.fromEntries([...last, ...(edited ? [[host.slot(base.key), structuredClone(edit)]] : [])]) });
  }

  /** Ask Python for the missing results of the prompt that is shown. */
  function look() {
    const known = host.known.get(now.key);
    if (known?.subs) now = { ...now, ...known };
    if (host.live() && now.ids.length && (!now.subs || !now.series)) ask({ type: "look", ids: now.ids });
  }

  function ask(message) {
    pending = ++numbers;
    wrong = "";
    host.send({ ...message, id: `${host.name}-${pending}` });
    clearTimeout(timer);
    timer = setTimeout((number) => {
      if (pending !== number || !el.isConnected) return;
      wrong = LATE;
      draw();
    }, PATIENCE * 1000, pending);
    draw();
  }

  function play(message) {
    if (trail.at(-1) !== now) trail.push(now); // two changes before the first answer are one undo step
    ask(message);
  }

  function answer(message) {
    const mine = message.id === `${host.name}-${pending}`;
    if (message.found && !message.found.partial) {
      const known = host.known.get(message.found.key);
      if (!known?.subs || message.found.subs) host.known.set(message.found.key, message.found);
    }
    if (!mine || !base) return; // the answer belongs to an older question
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
    if (typed.edit && typed.edit.of !== now.key) delete typed.edit; // it has become the prompt
    if (base.key === now.key) base = { ...base, ...message.found };
    draw();
  }

  /** Say what is wrong with a typed text, without a question to Python. */
  function refuse(words) {
    wrong = refused = words;
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

  // Drawing.

  function draw() {
    const focus = el.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const caret = focus ? document.activeElement.selectionStart : null;
    stood = host.stays();
    keep();
    if (!now) {
      el.replaceChildren(h("p", { class: "dlp-quiet" }, host.nothing ?? NOTHING));
      return;
    }
    const fault = wrong ? [h("p", { class: "dlp-wrong", role: "alert" }, visible(wrong))] : [];
    const picture = grid && now.subs ? [heatMap(now, { swap: swap(), say: host.say })] : [strip()];
    if (chosen >= 0 && !grid) picture.push(substitutes());
    el.replaceChildren(head(), ...fault, ...picture, ...beside(), ...(host.live() ? [editor()] : []));
    host.moved?.();
    if (focus) {
      // If the focused button no longer exists, the focus goes to the chosen token, or to the first button.
      const again = el.querySelector(`[data-focus="${CSS.escape(focus)}"]`) ?? el.querySelector(".dlp-token.dlp-on, button");
      again?.focus({ preventScroll: true });
      if (Number.isInteger(caret) && again?.setSelectionRange) again.setSelectionRange(caret, caret);
    }
  }

  /** Return the prompt that is pinned for a comparison, with its newest results; null if there is none under this feature. */
  function pinned() {
    const kept = host.kept.get("pinned");
    return kept && kept.slot === host.slot(kept.key) ? { ...kept, series: host.known.get(kept.key)?.series } : null;
  }

  function beside() {
    const other = pinned();
    if (!other) return [];
    if (other.key !== now.key && now.ids.length) return [comparison(other, now)];
    return [h("p", { class: "dlp-legend" }, "This prompt is pinned: pick or type another prompt to compare them.")];
  }

  /** Return the action of a click on a substitute; null in a frozen view, which cannot try anything. */
  const swap = () => (host.live() ? (ids) => play({ type: "look", ids }) : null);

  function strip() {
    const waiting = wrong ? "" : "Trying substitutes…", live = host.live();
    if (!now.tokens.length && !live) return h("p", { class: "dlp-legend" }, "Only the text and the scores of this prompt were kept.");
    const choose = (i) => {
      chosen = chosen === i ? -1 : i;
      all = false;
      draw();
    };
    return tokenStrip(now, base, { chosen, choose, yet: live ? waiting : "No attribution was kept for this prompt." });
  }

  function head() {
    return h("div", { class: "dlp-head" },
      h("div", { class: "dlp-text" }, promptText(now.text), mismatch(now.trips, " text")),
      numbersOf(), h("div", { class: "dlp-buttons" }, ...buttons()));
  }

  function numbersOf() {
    const digits = places([base.value, now.value]), played = now.key !== base.key;
    const change = (text) => (played ? ` (${text})` : "");
    const score = (value, name, title = null) => h("span", { title }, h("b", {}, value), ` ${name}`);
    return h("div", { class: "dlp-numbers" },
      score(num(now.value, digits), `value${change(num(now.value - base.value, digits, true))}`),
      score(num(now.ce), `cross-entropy${change(num(now.ce - base.ce, 2, true))}`),
      score(perplexity(now.ce), "perplexity"),
      ...(host.scale?.().scales ? scaled() : []).map((one) => score(...one)),
      pending ? h("span", { class: "dlp-quiet" }, "Working…") : host.stays() ? null
        : h("span", { class: "dlp-quiet" }, "not on the frontier shown"));
  }

  /** Return [number, name, title] of the z-scores, the held-out cross-entropy and the repetition of the prompt that is shown. */
  function scaled() {
    const { scales, held, fluency } = host.scale();
    return [
      ...scales.map((s) => [num(zScore(now.value, s), 1), ...s]),
      ...(fluency ? [[num(held[now.key]), "held-out", fluency]] : []), [longestRepeat(now.ids), "repeated"],
    ];
  }

  function buttons() {
    const button = (text, f, name, more = {}) => h("button", { onclick: f, "data-focus": name, ...more }, text);
    const copied = (what, text) =>
      button(what, () => host.copies.give(text, what), `copy-${what}`, { "aria-label": `copy as ${what}` });
    const leave = () => {
      trail = [];
      back(base);
    };
    const start = () => {
      host.send({ type: "start", ids: now.ids });
      host.say("A new dream starts from this prompt.");
    };
    const turn = () => {
      grid = !grid;
      draw();
    };
    const pin = () => {
      host.kept.set({ pinned: pinned() ? null : { ...bare(now), slot: host.slot(now.key) } });
      draw();
    };
    const starred = host.stars?.has(now.key), star = () => {
      host.stars.turn(bare(now));
      draw();
    };
    return [
      trail.length ? button("Undo", () => back(trail.pop()), "undo") : null,
      now.key !== base.key ? button("Back to the picked prompt", leave, "back") : null,
      host.live() ? button("Dream from here", start, "start") : null,
      h("span", { class: "dlp-quiet" }, "Copy"), copied("text", now.text),
      now.ids.length ? copied("ids", JSON.stringify(now.ids)) : null,
      now.ids.length && host.python()?.prompt ? copied("Python", filled(host.python().prompt, now.ids.join(", "))) : null,
      host.stars && now.ids.length ? button(starred ? "★ Starred" : "☆ Star", star, "star", { "aria-pressed": String(starred) }) : null,
      now.ids.length || pinned() ? button(pinned() ? "End comparison" : "Compare", pin, "pin") : null,
      host.live() && host.scale && !host.scale().scales ? button("z-scores", () => host.send({ type: "calibrate" }), "scale") : null,
      now.subs ? button("Heat map", turn, "grid", { "aria-pressed": String(grid) }) : null,
    ];
  }

  /** Make the part about the chosen token: its substitutes, and an input for another token. */
  function substitutes() {
    const own = (text) => play({ type: "try", ids: now.ids, position: chosen, text });
    const box = { type: "text", placeholder: "a leading space starts a new word", autocomplete: "off", spellcheck: "false" };
    const none = pending ? "Trying substitutes…" : "No substitutes were kept for this prompt.";
    const unfold = () => {
      all = true;
      draw();
    };
    return h("div", { class: "dlp-ledger", role: "region", "aria-label": "substitutes" },
      h("p", {}, `Token ${chosen + 1}: `, h("code", { class: "dlp-sub" }, visibleToken(now.tokens[chosen]))),
      host.live() ? form("try", `${chosen}`, "Another token", "Try", h("input", box), own) : null,
      ledger(now, chosen, { swap: swap(), all, unfold, yet: now.subs ? "No substitute was tried here." : none }));
  }

  function editor() {
    const rows = Math.min(5, now.text.split("\n").length + (now.text.length > 90 ? 1 : 0));
    const title = "Enter scores the prompt; Shift+Enter starts a new line";
    const box = h("textarea", { value: now.text, rows, title, autocomplete: "off", spellcheck: "false" });
    return form("edit", now.key, "Edit the whole prompt", "Score", box, (text) => play({ type: "edit", text }));
  }

  /** Make a form with an input and a button; `of` names the prompt or token to which the typed text belongs. */
  function form(name, of, label, act, box, send) {
    const hint = h("span", { class: "dlp-quiet dlp-reading" }), given = box.value, empty = name === "try" ? "token" : "prompt";
    const first = () => (box.value === now.text ? "" : reading(/^\s*\S*/.exec(box.value)[0], "…"));
    const submit = (event) => {
      event.preventDefault();
      if (box.value) send(box.value);
      else refuse(`Type a ${empty} first: a prompt needs at least one token.`);
    };
    const hear = () => {
      hint.textContent = name === "try" ? reading(box.value) : box.value ? first() : "A prompt needs at least one token";
      box.setAttribute("aria-invalid", String(!box.value && box.value !== given));
      if (box.value === given) delete typed[name];
      else typed[name] = { of, value: box.value };
    };
    box.dataset.focus = name;
    if (typed[name]?.of === of) {
      box.value = typed[name].value;
      hear();
    }
    box.addEventListener("input", () => {
      hear();
      keep();
      if (!refused || wrong !== refused) return;
      wrong = refused = "";
      draw();
    });
    return h("form", { class: `dlp-form dlp-${name}`, onkeydown: enter, onsubmit: submit },
      h("label", {}, h("span", {}, label), box),
      h("button", { type: "submit", "data-focus": `${name}-button` }, act), hint);
  }

  return { el, show, answer, draw, get shown() { return now; } };
}
