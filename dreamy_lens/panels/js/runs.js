// Several runs: each frontier, and what they reach together.

import { count, frontierOf, h, listen, notices, painter, register, stage, unique, visible } from "./common.js";
import { frontierPlot } from "./plot.js";
import { attributionView } from "./strip.js";
import { frontierTable } from "./table.js";

const WORDS = { ready: "starting", running: "dreaming", paused: "paused", stopped: "stopped", done: "done", failed: "failed" };
const STYLES = 6;

export const view = {
  initialize: ({ model }) => register(model),
  render({ model, el }) {
    const get = (name) => model.get(name), live = () => Boolean(get("live"));
    const [root, leave] = stage(el, "runs");
    const [notice, say] = notices();
    const bar = h("div", { class: "dlp-bar" }), words = h("span", { class: "dlp-state" }), error = h("p", { class: "dlp-wrong", role: "alert" });
    const choice = h("div", { class: "dlp-row dlp-choice" });
    const plot = frontierPlot({ pick, caption: "frontiers of several runs: value against cross-entropy" });
    const groupOf = (key) => get("runs").find((run) => run.frontier.some((e) => e.key === key))?.group;
    let picked = get("picked"), group = groupOf(picked) ?? 0, only = -1, owner = 0, drawnBar = "", drawnChoice = "";
    const table = frontierTable({ columns: ["value", "cross-entropy", "perplexity", "run", "text"], pick, label: "the merged frontier" });
    const known = memory(() => get("runs"), () => group, get("attributions"));
    const one = attributionView({
      live, known, say, name: unique(),
      python: () => get("runs")[owner]?.python ?? "",
      send: (m) => model.send({ ...m, type: m.type === "swap" ? "look" : m.type, run: owner }),
    });
    root.append(h("header", {}, h("h3", {}, visible(get("title"))), h("span", { class: "dlp-quiet" }, count(get("runs").length, "run")), notice), bar, error, choice, h("div", { class: "dlp-two" }, plot.el, table.el), one.el);

    const mine = () => get("runs").map((run, number) => ({ ...run, number })).filter((run) => run.group === group);
    const merged = () => frontierOf(mine().filter((run) => only < 0 || run.number === only).flatMap((run) => run.frontier.map((e) => ({ ...e, run: run.name }))));

    function pick(key) {
      picked = key;
      model.set("picked", key);
      model.save_changes();
      paint("plot", "table", "one");
    }

    /** To another feature: what was looked at is of the one before, even where the same prompt is on both frontiers. */
    function turn(to) {
      group = to;
      only = -1;
      one.show(null);
      paint("choice", "plot", "table", "one");
    }

    function drawBar() {
      const status = get("status"), going = ["ready", "running", "paused"].includes(status);
      if (`${status} ${live()}` !== drawnBar) {
        drawnBar = `${status} ${live()}`;
        const act = (name, label) => h("button", { type: "button", onclick: () => model.send({ type: name }) }, label);
        bar.replaceChildren(...(live() && going ? [status === "paused" ? act("resume", "Resume all") : act("pause", "Pause all"), act("stop", "Stop all")] : []), ...(going ? [h("progress", { "aria-label": "iterations completed" })] : []), words);
      }
      const progress = bar.querySelector("progress");
      if (progress) { progress.max = Math.max(1, get("steps")); progress.value = get("step"); }
      words.textContent = `${WORDS[status] ?? status} · iteration ${get("step")} of ${get("steps")} · ${count(get("runs").reduce((n, run) => n + run.evaluated, 0), "prompt")}`;
      error.textContent = visible(get("error"));
      error.hidden = !get("error");
    }

    function drawChoice() {
      const groups = get("groups"), names = JSON.stringify([groups, mine().map((run) => run.name), group, only]);
      if (names === drawnChoice) return;
      drawnChoice = names;
      const focus = choice.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
      const features = groups.length > 1 ? [h("label", {}, "feature ", h("select", { "data-focus": "group", onchange: (e) => turn(Number(e.target.value)) }, ...groups.map((g, i) => h("option", { value: String(i), selected: i === group }, visible(g)))))] : [];
      const button = (label, number, style) => h("button", { type: "button", "aria-pressed": String(only === number), "data-focus": `run-${number}`, onclick: () => { only = only === number ? -1 : number; paint("choice", "plot", "table"); } }, style === null ? null : key(style), visible(label));
      choice.replaceChildren(...features, button("all together", -1, null), ...mine().map((run, i) => button(run.name, run.number, i % STYLES)));
      if (focus) choice.querySelector(`[data-focus="${focus}"]`)?.focus();
    }

    const key = (style) => { const line = h("span", { class: `dlp-key dlp-run-${style}`, "aria-hidden": "true" }); return line; };

    function drawPlot() {
      const lines = mine().filter((run) => only < 0 || run.number === only).map((run) => ({ entries: run.frontier, style: `dlp-run dlp-run-${mine().findIndex((r) => r.number === run.number) % STYLES}`, name: mine().length <= 6 ? run.name : "" }));
      plot.draw({ lines: [...lines, { entries: merged(), main: true, style: "dlp-merged" }], crowd: [], earlier: null, limit: null, picked, empty: "The frontiers grow here." });
    }

    function drawTable() {
      table.draw(merged(), picked, "The prompts that no other of these runs beats stand here.");
    }

    function drawOne() {
      const has = (run) => run.frontier.some((e) => e.key === picked), found = mine().find((run) => run.number === only && has(run)) ?? mine().find(has);
      if (!found) return; // one that has left the frontier since stays where it is, and asks the run that it is of
      owner = found.number;
      one.show(found.frontier.find((e) => e.key === picked));
    }

    const paint = painter({ bar: drawBar, choice: drawChoice, plot: drawPlot, table: drawTable, one: drawOne });
    const end = listen(model, {
      "change:status": () => paint("bar"), "change:step": () => paint("bar"), "change:steps": () => paint("bar"), "change:error": () => paint("bar"), "change:groups": () => paint("choice"),
      "change:runs": () => paint("bar", "choice", "plot", "table", "one"),
      "change:picked": () => {
        if (get("picked") === picked) return;
        picked = get("picked");
        const has = (run) => run.frontier.some((e) => e.key === picked);
        if (!mine().some(has) && groupOf(picked) !== undefined) turn(groupOf(picked));
        paint("plot", "table", "one");
      },
      "msg:custom": (message) => { if (message.type === "answer") one.answer(message); else if (message.type === "notice") say(message.text, 20); },
    });
    drawBar(); drawChoice(); drawPlot(); drawTable();
    one.draw();
    drawOne();
    return () => { end(); leave(); };
  },
};

/**
 * What is known of prompts, by key, for the feature that is shown: the same prompt may be on the frontiers of several
 * features. What comes is told apart by its value, and kept wherever it fits.
 */
function memory(runs, group, given) {
  const maps = new Map(), of = (g) => maps.get(g) ?? maps.set(g, new Map()).get(g);
  const fits = (found) => {
    const close = (e) => e.key === found.key && Math.abs(e.y - found.value) <= 1e-3 * (Math.abs(e.y) + 1e-3);
    return [...new Set(runs().filter((run) => run.frontier.some(close)).map((run) => run.group))];
  };
  const set = (key, found) => {
    const groups = fits(found);
    for (const g of groups.length ? groups : [group()]) of(g).set(key, found);
  };
  for (const [key, found] of Object.entries(given ?? {})) set(key, found);
  return { get: (key) => of(group()).get(key), set };
}
