// View of several runs: each run's frontier, and their merged frontier.

import { WORDS, isGoing, iterations, runBar } from "./bar.js";
import { codeButton, copier, count, errorLine, frontierOf, h, heading, hear, listen, notices, painter } from "./common.js";
import { keeper, put, register, stage, unique, visible } from "./common.js";
import { frontierPlot } from "./plot.js";
import { attributionView } from "./strip.js";
import { frontierTable } from "./table.js";

const STYLES = 6, NAMED = 6; // number of line styles; most runs whose lines have a name at the end
const COLUMNS = ["value", "cross-entropy", "perplexity", "run", "text"];

export const view = {
  initialize: ({ model }) => register(model),
  render({ model, el }) {
    const get = (name) => model.get(name), live = () => Boolean(get("live"));
    const [root, leave] = stage(el, "runs");
    const [notice, say] = notices();
    const error = errorLine(model);
    const choice = h("div", { class: "dlp-row dlp-choice" });
    const copies = copier(say);
    const bar = runBar({ model, live, suffix: " all", last: codeButton(copies, () => get("python").run) });
    const plot = frontierPlot({ pick, caption: "frontiers of several runs: value against cross-entropy" });
    const kept = keeper(model, root);
    // Starred prompts of the feature that is shown; each is kept with the number of the run that found it.
    const starred = () => kept.get("stars") ?? {}, star = (key) => starred()[slot(key)];
    const mark = ([, e]) => ({ ...e, x: e.ce, y: e.value, run: get("runs")[e.run]?.name ?? "" });
    const stars = {
      has: (key) => Boolean(star(key)),
      all: () => Object.entries(starred()).filter(([name]) => name.startsWith(`${group} `)).map(mark),
      turn(entry) {
        const { [slot(entry.key)]: before, ...others } = starred();
        kept.set({ stars: before ? others : { ...others, [slot(entry.key)]: { ...entry, run: owner } } });
        paint("table");
      },
    };
    const table = frontierTable({ columns: COLUMNS, pick, kept, label: "the merged frontier", stars });

    // The view remembers which run found the picked prompt, because that run answers even after the prompt is beaten.
    const holds = (run) => run.frontier.some((e) => e.key === picked);
    let marked = "null", picked = get("picked"), group = get("runs").find(holds)?.group ?? kept.get("group") ?? 0;
    let only = kept.get("only") ?? -1, owner = kept.get("owner") ?? 0, drawnChoice = "", held = null;
    if (get("runs")[only]?.group !== group) only = -1;
    const known = memory(() => get("runs"), () => group, get("attributions"));
    const send = (message) => model.send({ ...message, run: owner });
    const python = () => get("runs")[owner]?.python;
    const stays = () => mine().some(holds), slot = (key) => `${group} ${key}`;
    const prompt = attributionView({ live, known, kept, stays, slot, say, send, name: unique(), python, copies, stars, moved });
    root.append(
      heading(get("title"), count(get("runs").length, "run"), notice, get("full_title")),
      bar.el, copies.el, error.el, bar.spoken, choice, h("div", { class: "dlp-two" }, plot.el, table.el), prompt.el,
    );

    const mine = () => get("runs").map((run, number) => ({ ...run, number })).filter((run) => run.group === group);
    const shown = () => mine().filter((run) => only < 0 || run.number === only);
    const merged = () => frontierOf(shown().flatMap((run) => run.frontier.map((e) => ({ ...e, run: run.name }))));

    function pick(key) {
      picked = key;
      put(model, "picked", key);
      paint("plot", "table", "prompt");
    }

    /** Show another feature. The picked prompt's results are those of the old feature, even if both frontiers have it. */
    function turn(to) {
      group = to;
      only = -1;
      held = null;
      kept.set({ group, only });
      prompt.show(null);
      paint("choice", "plot", "table", "prompt");
    }

    function drawBar() {
      const status = get("status"), prompts = get("runs").reduce((n, run) => n + run.evaluated, 0);
      const done = iterations(get("step"), get("steps")), used = get("used") ?? -1;
      const share = isGoing(status) && !get("steps") && used >= 0 ? [`${Math.floor(100 * used)} % of the budget`] : [];
      bar.draw([WORDS[status] ?? status, done, count(prompts, "prompt"), ...share].join(" · "));
      error.draw();
    }

    function features() {
      const options = get("groups").map((name, i) => h("option", { value: String(i), selected: i === group }, visible(name)));
      const change = (e) => turn(Number(e.target.value));
      return h("label", {}, "Feature ", h("select", { "data-focus": "group", onchange: change }, ...options));
    }

    function toggle(label, number, style) {
      const line = style === null ? null : h("span", { class: `dlp-key dlp-run-${style}`, "aria-hidden": "true" });
      const press = () => {
        only = only === number ? -1 : number;
        kept.set({ group, only });
        paint("choice", "plot", "table");
      };
      const given = { "aria-pressed": String(only === number), "data-focus": `run-${number}`, onclick: press };
      return h("button", given, line, visible(label));
    }

    function drawChoice() {
      const content = JSON.stringify([get("groups"), mine().map((run) => run.name), group, only]);
      if (content === drawnChoice) return;
      drawnChoice = content;
      const focus = choice.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
      const each = mine().map((run, i) => toggle(run.name, run.number, i % STYLES));
      choice.replaceChildren(...(get("groups").length > 1 ? [features()] : []), toggle("All runs", -1, null), ...each);
      if (focus) choice.querySelector(`[data-focus="${focus}"]`)?.focus();
    }

    function drawPlot() {
      const all = mine(), style = (run) => all.findIndex((other) => other.number === run.number) % STYLES;
      const line = (run) => ({
        entries: run.frontier, style: `dlp-run dlp-run-${style(run)}`, name: all.length <= NAMED ? run.name : "",
      });
      const main = { entries: merged(), main: true, style: "dlp-merged" }, empty = "The frontiers grow here.";
      marked = JSON.stringify(own());
      plot.draw({ lines: [...shown().map(line), main], crowd: [], earlier: null, limit: null, picked: pickedEntry(), own: own(), empty });
    }

    /** Return the entry of the prompt that the user has made from the picked one; null if there is none. */
    function own() {
      const now = prompt.shown, is = now && picked && now.key !== picked && Number.isFinite(now.value) && Number.isFinite(now.ce);
      return is ? { key: now.key, text: now.text, x: now.ce, y: now.value } : null;
    }

    function moved() {
      if (JSON.stringify(own()) !== marked) paint("plot");
    }

    function drawTable() {
      table.draw(merged(), picked, "The prompts of the merged frontier appear here.");
    }

    /** Return the entry of the picked prompt; a prompt that has left the frontiers stays in view. */
    function pickedEntry() {
      const run = shown().find(holds) ?? mine().find(holds), before = kept.get("edits")?.[slot(picked)]?.base ?? star(picked);
      if (run) held = { ...run.frontier.find((e) => e.key === picked), run: run.name };
      else if (held?.key !== picked) held = before ? { ...before, ...mark([picked, before]) } : null;
      if (run) owner = run.number;
      else if (star(picked)) owner = star(picked).run;
      else if (held && kept.get("owner") !== owner) kept.set({ owner });
      return held;
    }

    function drawPrompt() {
      const entry = pickedEntry();
      if (entry) prompt.show(entry);
    }

    function follow() {
      if (get("picked") === picked) return;
      picked = get("picked");
      const other = mine().some(holds) ? undefined : get("runs").find(holds);
      if (other) turn(other.group);
      paint("plot", "table", "prompt");
    }

    const paint = painter({ bar: drawBar, choice: drawChoice, plot: drawPlot, table: drawTable, prompt: drawPrompt });
    const changed = (...parts) => () => paint(...parts);
    const end = listen(model, {
      "change:status": changed("bar"),
      "change:step": changed("bar"),
      "change:steps": changed("bar"),
      "change:error": changed("bar"),
      "change:groups": changed("choice"),
      "change:runs": changed("bar", "choice", "plot", "table", "prompt"),
      "change:picked": follow,
      "msg:custom": hear(prompt, say),
    });
    drawBar();
    drawChoice();
    drawPlot();
    drawTable();
    prompt.draw();
    drawPrompt();
    return () => { kept.end(); end(); leave(); };
  },
};

/**
 * Make a store of entries by key for the feature that is shown. One prompt may be on the frontiers of several features, so
 * a new entry is stored for every feature under which the prompt has the entry's value.
 */
function memory(runs, group, given) {
  const maps = new Map();

  function of(number) {
    if (!maps.has(number)) maps.set(number, new Map());
    return maps.get(number);
  }

  function set(key, entry) {
    const close = (e) => e.key === key && Math.abs(e.y - entry.value) <= 1e-3 * (Math.abs(e.y) + 1e-3);
    const groups = runs().filter((run) => run.frontier.some(close)).map((run) => run.group);
    for (const number of groups.length ? groups : [group()]) of(number).set(key, entry);
  }

  for (const [key, entry] of Object.entries(given ?? {})) set(key, entry);
  return { get: (key) => of(group()).get(key), set };
}
