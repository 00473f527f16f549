// A run: watch the frontier grow, click a prompt, pull a token.

import { count, duration, frontierOf, h, listen, notices, num, painter, places, register, stage, unique, visible } from "./common.js";
import { frontierPlot, growthChart } from "./plot.js";
import { attributionView } from "./strip.js";
import { frontierTable } from "./table.js";

const WORDS = { ready: "starting", running: "dreaming", paused: "paused", stopped: "stopped", done: "done", failed: "failed" };
const TELL = 20000; // milliseconds between two reports of progress that are read out

export const view = {
  initialize: ({ model }) => register(model),
  render({ model, el }) {
    const get = (name) => model.get(name), live = () => Boolean(get("live"));
    const [root, leave] = stage(el, "dream");
    const [notice, say] = notices();
    const bar = h("div", { class: "dlp-bar" }), error = h("p", { class: "dlp-wrong", role: "alert" });
    const words = h("span", { class: "dlp-state" }), told = h("span", { class: "dlp-away", role: "status", "aria-live": "polite" });
    const limits = h("div", { class: "dlp-row" }), times = h("div", { class: "dlp-times" });
    const known = new Map(Object.entries(get("attributions") ?? {}));
    const plot = frontierPlot({ pick, caption: "frontier: value against cross-entropy" });
    const table = frontierTable({ columns: ["value", "cross-entropy", "perplexity", "iteration", "text"], pick, label: "the frontier" });
    const one = attributionView({ live, known, say, name: unique(), python: () => get("python"), send: (m) => model.send(m.type === "swap" ? { ...m, type: "look" } : m) });
    let limit = null, at = null, asked = -1, drawnBar = "", toldAt = 0, picked = get("picked");

    root.append(h("header", {}, h("h3", {}, visible(get("title"))), h("span", { class: "dlp-quiet" }, visible(get("subtitle"))), notice),
      bar, error, told, h("div", { class: "dlp-two" }, h("div", {}, plot.el, limits, times), table.el), one.el);

    // What is shown: the present frontier, or the one that stood after an iteration.

    function entries() {
      if (at === null || !get("past")) return get("frontier");
      // A frozen view may have no room for the texts of all; those that are on the frontier still have theirs there.
      const { points, texts } = get("past"), place = (x, y, it) => [it, x.toPrecision(4), y.toPrecision(4)].join();
      const byText = new Map(get("frontier").map((e) => [e.text, e])), byPlace = new Map(get("frontier").map((e) => [place(e.x, e.y, e.it), e]));
      const entry = ([x, y, it, text]) => {
        const now = text === undefined ? byPlace.get(place(x, y, it)) : byText.get(texts[text]);
        return { key: now?.key, x, y, it, text: texts[text] ?? now?.text ?? "text not kept" };
      };
      return frontierOf(points.filter((p) => p[2] <= at).map(entry));
    }

    function crowd() {
      if (at === null) return get("population");
      const found = get("past")?.population ?? {}, nearest = Object.keys(found).map(Number).filter((t) => t <= at).at(-1);
      return nearest === undefined ? [] : found[nearest];
    }

    function earlier() {
      if (at === null) return get("previous");
      const before = get("restarts").map(([i]) => i - 1).filter((i) => i < at).at(-1);
      if (before === undefined || !get("past")) return null;
      const then = frontierOf(get("past").points.filter((p) => p[2] <= before).map(([x, y]) => ({ x, y })));
      return { iteration: before, points: then.map(({ x, y }) => [x, y]) };
    }

    function pick(key) {
      if (!key) return;
      picked = key;
      model.set("picked", key);
      model.save_changes();
      paint("plot", "table", "one");
    }

    // The parts.

    function drawBar() {
      const status = get("status"), step = get("step"), steps = get("steps"), going = status === "running" || status === "paused" || status === "ready";
      const kind = `${status} ${live()}`;
      if (kind !== drawnBar) {
        drawnBar = kind;
        const focus = bar.contains(document.activeElement) ? document.activeElement.dataset.act : null;
        const act = (name, label, more = {}) => h("button", { type: "button", "data-act": name, onclick: () => model.send({ type: name, ...more }) }, label);
        const paused = status === "paused";
        bar.replaceChildren(...(live() && going ? [paused ? act("resume", "Resume") : act("pause", "Pause"), act("stop", "Stop")] : []),
          ...(live() && !going ? [act("more", "100 more iterations", { iterations: 100 })] : []),
          ...(going ? [h("progress", { "aria-label": "iterations completed" })] : []), words);
        if (focus) bar.querySelector(focus === "pause" || focus === "resume" ? "[data-act=pause],[data-act=resume]" : `[data-act=${focus}]`)?.focus();
        told.textContent = WORDS[status] ?? status;
        toldAt = Date.now();
      } else if (status === "running" && Date.now() - toldAt > TELL) {
        told.textContent = `iteration ${step} of ${steps}`;
        toldAt = Date.now();
      }
      const progress = bar.querySelector("progress");
      if (progress) { progress.max = Math.max(1, steps); progress.value = step; }
      const left = get("left") >= 0 && status === "running" ? `, about ${duration(get("left"))} left` : "";
      const best = get("frontier").at(-1), found = best ? ` · best value ${num(best.y, places([best.y]))} · hypervolume ${num(get("hypervolume"), places([get("hypervolume")]))}` : "";
      words.textContent = get("evaluated") || !going
        ? `${WORDS[status] ?? status} · iteration ${step} of ${steps} · ${duration(get("seconds"))}${left} · ${count(get("evaluated"), "prompt")}${found}`
        : "scoring the first prompts…";
      error.textContent = visible(get("error"));
      error.hidden = !get("error");
    }

    function drawPlot() {
      const main = entries();
      plot.draw({ lines: [{ entries: main, main: true }], crowd: crowd(), earlier: earlier(), limit, picked, empty: nothing("The frontier grows here.") });
      drawLimits();
    }

    function drawLimits() {
      const main = entries();
      if (!main.length) { limits.replaceChildren(); return; }
      const low = Math.floor(main[0].x * 10) / 10, high = Math.ceil(main.at(-1).x * 10) / 10, value = limit ?? high;
      if (!limits.firstChild) {
        const set = (x) => { limit = x === "" ? null : Number(x); const best = entries().filter((e) => limit === null || e.x <= limit + 1e-9).at(-1); if (limit !== null && best?.key) pick(best.key); paint("plot"); };
        limits.append(h("label", {}, h("span", {}, "most cross-entropy allowed"), h("input", { type: "range", step: "0.05", oninput: (e) => set(e.target.value) })),
          h("input", { type: "number", step: "0.05", "aria-label": "most cross-entropy, as a number", onchange: (e) => set(e.target.value) }), h("output", {}));
      }
      const [range, number] = limits.querySelectorAll("input"), best = main.filter((e) => e.x <= value + 1e-9).at(-1);
      for (const box of [range, number]) { box.min = low; box.max = high; if (document.activeElement !== box || box === range) box.value = value.toFixed(2); }
      limits.querySelector("output").textContent = limit === null ? "slide to pick the strongest prompt that stays under it" : best ? `best under ${num(limit)}: value ${num(best.y, places([best.y]))}` : `no prompt under ${num(limit)}; the most fluent has ${num(main[0].x)}`;
    }

    function drawTimes() {
      const steps = Math.max(get("step"), 0), growth = get("growth") ?? {};
      if (steps < 1) { times.replaceChildren(); return; }
      if (!times.firstChild) {
        const slider = h("input", { type: "range", min: "0", step: "1", oninput: (e) => scrub(Number(e.target.value)) });
        times.append(h("div", { class: "dlp-chart" }), h("label", {}, h("span", {}, "iteration"), slider),
          h("div", { class: "dlp-row" }, h("output", {}), h("button", { type: "button", class: "dlp-link", onclick: () => scrub(null) }, "now")));
      }
      const shownAt = at ?? steps, slider = times.querySelector("input");
      slider.max = steps;
      slider.value = shownAt;
      times.querySelector(".dlp-chart").replaceChildren(growthChart(growth, get("restarts"), steps, at));
      const restarts = get("restarts").length;
      times.querySelector("output").textContent = at === null ? `hypervolume${restarts ? `, dashed: ${count(restarts, "restart")}` : ""} · slide to see the frontier as it stood` : `the frontier as it stood after iteration ${at}${get("past") ? "" : ", in a moment…"}`;
      times.querySelector("button").hidden = at === null;
    }

    function scrub(to) {
      at = to === null || to >= get("step") ? null : to;
      // While the run goes on, what was sent of the past is soon too short.
      if (at !== null && live() && (!get("past") || get("step") > asked)) { asked = get("step"); model.send({ type: "past" }); }
      paint("plot", "table", "times");
    }

    const nothing = (yet) => (get("status") === "failed" ? "Nothing was found." : get("evaluated") ? "No prompt has finite scores." : get("status") === "stopped" ? "Stopped before a prompt was scored." : yet);

    function drawTable() {
      table.draw(entries(), picked, nothing("Its prompts stand here, from fluent to strong."));
    }

    function drawOne() {
      const entry = get("frontier").find((e) => e.key === picked);
      if (entry) one.show(entry); // one that has left the frontier since stays where it is
      else if (!one.shown) one.show(known.get(picked) ?? null);
    }

    const paint = painter({ bar: drawBar, plot: drawPlot, table: drawTable, times: drawTimes, one: drawOne });
    const changed = (...parts) => () => paint(...parts);
    const end = listen(model, {
      "change:status": changed("bar", "table"), "change:step": changed("bar", "times"), "change:steps": changed("bar"), "change:seconds": changed("bar"),
      "change:error": changed("bar"), "change:population": changed("plot"), "change:frontier": changed("bar", "plot", "table", "one"), "change:previous": changed("plot"),
      "change:restarts": changed("times"), "change:growth": changed("times"), "change:past": changed("plot", "table", "times"),
      "change:attributions": () => { for (const [key, found] of Object.entries(get("attributions") ?? {})) if (!known.get(key)?.subs) known.set(key, found); paint("one"); },
      "change:picked": () => { if (get("picked") !== picked) { picked = get("picked"); paint("plot", "table", "one"); } },
      "msg:custom": (message) => { if (message.type === "answer") one.answer(message); else if (message.type === "notice") say(message.text, 20); },
    });
    drawBar(); drawPlot(); drawTable(); drawTimes();
    one.draw();
    drawOne();
    return () => { end(); leave(); };
  },
};
