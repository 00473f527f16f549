// View of a run: watch the frontier grow, click a prompt, try other tokens.

import { WORDS, isGoing, iterations, runBar } from "./bar.js";
import { codeButton, copier, count, duration, errorLine, filled, frontierOf, h, heading, hear, listen, notices, num, painter } from "./common.js";
import { keeper, places, put, register, stage, starred, unique, visible } from "./common.js";
import { limitControl } from "./limit.js";
import { frontierPlot, growthChart } from "./plot.js";
import { sectionRow } from "./sections.js";
import { attributionView } from "./strip.js";
import { frontierTable } from "./table.js";

/** Return the points [x, y, iteration] of a cloud that Python has packed. */
function points({ x, y, at, data }) {
  const value = (column, i) => 90 * (data.charCodeAt(2 * column * at + i) - 35) + data.charCodeAt((2 * column + 1) * at + i) - 35;
  let it = 0;
  return Array.from({ length: at }, (_, i) => [x[0] + x[1] * value(0, i), y[0] + y[1] * value(1, i), it += value(2, i)]);
}

const COLUMNS = ["value", "z", "cross-entropy", "perplexity", "iteration", "text"];

export const view = {
  initialize: ({ model }) => register(model),
  render({ model, el }) {
    const get = (name) => model.get(name), live = () => Boolean(get("live"));
    const [root, leave] = stage(el, "dream");
    const [notice, say] = notices();
    const error = errorLine(model);
    const kept = keeper(model, root), times = h("div", { class: "dlp-times" });
    const known = new Map(Object.entries(get("attributions") ?? {}));
    const copies = copier(say);
    const bar = runBar({ model, live, more: 100, last: codeButton(copies, code) });
    const plot = frontierPlot({ pick, caption: "frontier: value against cross-entropy" });
    const stars = starred(kept, () => paint("table"));
    const scale = () => get("calibration") ?? {};
    const table = frontierTable({ columns: COLUMNS, scale, pick, kept, label: "the frontier", stars });
    const limits = limitControl(setLimit);
    const send = (message) => model.send(message);
    const stays = () => get("frontier").some((e) => e.key === picked), name = unique(), python = () => get("python");
    const prompt = attributionView({ live, known, kept, stays, slot: (key) => key, say, send, name, python, copies, stars, moved, scale });
    const sections = sectionRow({ model, live, kept, shown: () => prompt.shown });
    let limit = kept.get("limit"), at = kept.get("at"), asked = -1, picked = get("picked");
    let marked = "null", opened = {}, unpacked = {}, cloudAt = -1; // the points of the cloud, and the iteration at which they were asked for
    let held = null; // entry of the picked prompt, wherever it was found
    let following = false; // whether the limit picked the prompt, so that it picks again at another iteration

    const all = h("input", { type: "checkbox", checked: Boolean(kept.get("cloud")), onchange: turn }), many = h("span", {});
    const cloudy = h("label", { class: "dlp-cloudy" }, all, many);
    const left = h("div", {}, plot.el, cloudy, limits.el, times);
    root.append(
      heading(get("title"), visible(get("subtitle")), notice, get("full_title")),
      bar.el, copies.el, error.el, bar.spoken, h("div", { class: "dlp-two" }, left, table.el), prompt.el, sections.el,
    );

    /** Return the past; a frozen view has its points as columns, of which iterations and texts are steps. */
    function past() {
      const given = get("past");
      if (!given?.columns) return given;
      if (opened.of !== given) {
        const [x = [], y, ...more] = given.columns, sums = more.map((steps) => { let n = 0; return steps.map((d) => n += d); });
        opened = { of: given, past: { ...given, points: x.map((_, i) => [x[i], y[i], ...sums.map((sum) => sum[i])]) } };
      }
      return opened.past;
    }

    // Data to show: the present frontier, or the frontier after an earlier iteration.

    function entries() {
      if (at === null || !get("past")) return get("frontier");
      // A small frozen view has no texts of past prompts; prompts that are still on the frontier have their texts there.
      const { points, texts, ids } = past();
      const place = (x, y, it) => [it, x.toPrecision(4), y.toPrecision(4)].join();
      const byText = new Map(get("frontier").map((e) => [e.text, e]));
      const byPlace = new Map(get("frontier").map((e) => [place(e.x, e.y, e.it), e]));
      const entry = ([x, y, it, text], i) => {
        const present = text === undefined ? byPlace.get(place(x, y, it)) : byText.get(texts[text]);
        const own = ids?.[text], now = own ? { ids: own, key: own.join(".") } : { ...present, key: present?.key ?? `@${i}` };
        return { ...now, x, y, it, text: texts[text] ?? present?.text ?? "text not kept" };
      };
      return frontierOf(points.map(entry).filter((e) => e.it <= at));
    }

    /** Return the entry of the picked prompt; a prompt that has left the frontier stays in view. */
    function pickedEntry() {
      const is = (e) => e?.key === picked, scored = (e) => e && { x: e.ce, y: e.value, ...e };
      const found = picked && (get("frontier").find(is) ?? entries().find(is));
      if (found) held = found;
      else if (!is(held)) held = scored([kept.get("edits")?.[picked]?.base, kept.get("stars")?.[picked], known.get(picked)].find(is)) ?? null;
      return held;
    }

    /** Return the entry of the prompt that the user has made from the picked one; null if there is none. */
    function own() {
      const now = prompt.shown, is = now && picked && now.key !== picked && Number.isFinite(now.value) && Number.isFinite(now.ce);
      return is ? { key: now.key, text: now.text, x: now.ce, y: now.value } : null;
    }

    function moved() {
      sections.draw();
      if (JSON.stringify(own()) !== marked) paint("plot");
    }

    function crowd() {
      if (at === null) return get("population");
      const crowds = get("past")?.population ?? {};
      const nearest = Object.keys(crowds).map(Number).filter((t) => t <= at).at(-1);
      return nearest === undefined ? [] : crowds[nearest];
    }

    /** Return the points of all evaluated prompts up to the iteration that is shown; null if they are not shown. */
    function cloud() {
      const packed = get("cloud");
      if (!all.checked || !packed) return null;
      if (unpacked.of !== packed) unpacked = { of: packed, points: points(packed) };
      return at === null ? unpacked.points : unpacked.points.filter((p) => p[2] <= at);
    }

    function turn() {
      kept.set({ cloud: all.checked });
      fetchCloud();
      paint("plot");
    }

    function drawCloud() {
      const { of, at: shown } = get("cloud") ?? { of: get("evaluated"), at: 0 };
      cloudy.hidden = !of || !(live() || get("cloud"));
      const some = shown && shown < of ? ` (${shown.toLocaleString("en")} of ${of.toLocaleString("en")})` : "";
      many.textContent = `Show all evaluated prompts${some}`;
    }

    function fetchCloud() {
      const step = get("step"), due = get("cloud") ? step > 1.05 * cloudAt : step !== cloudAt;
      if (!all.checked || !live() || !due) return;
      cloudAt = step;
      model.send({ type: "cloud" });
    }

    function earlier() {
      if (at === null) return get("previous");
      const before = get("restarts").map(([i]) => i - 1).filter((i) => i < at).at(-1);
      if (before === undefined || !get("past")) return null;
      const frontier = frontierOf(past().points.filter((p) => p[2] <= before).map(([x, y]) => ({ x, y })));
      return { iteration: before, points: frontier.map(({ x, y }) => [x, y]) };
    }

    function pick(key) {
      following = false;
      choose(key);
    }

    function choose(key) {
      if (!key) return;
      picked = key;
      put(model, "picked", key);
      paint("plot", "table", "prompt");
    }

    // Parts of the view.

    function summary() {
      const status = get("status"), best = get("frontier").at(-1), area = get("hypervolume");
      if (!get("evaluated") && isGoing(status)) return "Scoring the first prompts…";
      const { seconds, prompts } = get("budget") ?? {};
      const rest = get("left") >= 0 && status === "running" ? `, about ${duration(get("left"))} left` : "";
      return [
        WORDS[status] ?? status,
        iterations(get("step"), get("steps")),
        duration(get("seconds")) + (seconds ? ` of ${duration(seconds)}` : "") + rest,
        (prompts ? `${get("evaluated").toLocaleString("en")} of ` : "") + count(prompts ?? get("evaluated"), "prompt"),
        ...(best ? [`best value ${num(best.y, places([best.y]))}`, `hypervolume ${num(area, places([area]))}`] : []),
      ].join(" · ");
    }

    function drawBar() {
      bar.draw(summary());
      error.draw();
    }

    function nothing(yet) {
      if (get("status") === "failed") return "Nothing was found.";
      if (get("evaluated")) return "No prompt has finite scores.";
      return get("status") === "stopped" ? "Stopped before a prompt was scored." : yet;
    }

    function drawPlot() {
      const main = { entries: entries(), main: true }, empty = nothing("The frontier grows here.");
      drawCloud();
      marked = JSON.stringify(own());
      plot.draw({ lines: [main], crowd: crowd(), cloud: cloud(), earlier: earlier(), limit, picked: pickedEntry(), own: own(), empty });
      drawLimits(main.entries);
    }

    /** Return the code that makes the run, and with a limit its best prompt. */
    function code() {
      const { run, best } = get("python");
      return limit === null || at !== null ? run : `${run}\n${filled(best, String(limit))}`;
    }

    const under = (main, most) => main.filter((e) => e.x <= most + 1e-9).at(-1);

    function setLimit(most) {
      limit = most;
      kept.set({ limit });
      pickBest();
      paint("plot");
    }

    /** Pick the strongest prompt under the limit, at the iteration that is shown. */
    function pickBest() {
      const best = limit === null ? null : under(entries(), limit);
      following = limit !== null;
      if (best) choose(best.key);
    }

    function drawLimits(main) {
      limits.el.hidden = !main.length;
      if (!main.length) return;
      const all = [...main, ...get("frontier")].map((e) => e.x), best = limit === null ? null : under(main, limit);
      const low = Math.floor(Math.min(...all) * 10) / 10, high = Math.ceil(Math.max(...all) * 10) / 10;
      const when = at === null ? "" : ` after iteration ${at}`;
      limits.draw(low, high, limit, best ? `Best under ${num(limit)}${when}: value ${num(best.y, places([best.y]))}`
        : `No prompt under ${num(limit)}${when}; the most fluent has ${num(main[0].x)}`);
    }

    function drawTimes() {
      const steps = Math.max(get("step"), 0), restarts = get("restarts");
      if (steps < 1) return times.replaceChildren();
      if (!times.firstChild) {
        const slider = h("input", { type: "range", min: "0", step: "1", oninput: (e) => scrub(Number(e.target.value)) });
        const now = h("button", { class: "dlp-link", onclick: () => scrub(null) }, "now");
        times.append(
          h("div", { class: "dlp-quiet" }, "Hypervolume, the area under the frontier"),
          h("div", { class: "dlp-chart" }), h("label", {}, h("span", {}, "Iteration"), slider),
          h("div", { class: "dlp-row" }, h("output", {}), now),
        );
      }
      const slider = times.querySelector("input");
      slider.max = steps;
      slider.value = at ?? steps;
      times.querySelector(".dlp-chart").replaceChildren(growthChart(get("growth") ?? {}, restarts, steps, at));
      const dashed = restarts.length ? `, dashed: ${count(restarts.length, "restart")}` : "";
      times.querySelector("output").textContent =
        at === null ? `Drag to replay the search${dashed}`
          : `Frontier after iteration ${at}${get("past") ? "" : ", loading…"}`;
      times.querySelector("button").hidden = at === null;
    }

    function scrub(to) {
      const button = times.querySelector("button"), slider = times.querySelector("input");
      if (to === null && document.activeElement === button) slider.focus(); // the button disappears
      at = to === null || to >= get("step") ? null : to;
      kept.set({ at });
      fetchPast();
      if (following) pickBest();
      paint("plot", "table", "times");
    }

    function fetchPast() {
      // While the run goes on, the past that Python sent earlier lacks the newest iterations.
      if (at !== null && live() && (!get("past") || get("step") > asked)) {
        asked = get("step");
        model.send({ type: "past" });
      }
    }

    function drawTable() {
      table.draw(entries(), picked, nothing("The prompts of the frontier appear here, from fluent to strong."));
    }

    function drawPrompt() {
      const entry = pickedEntry();
      if (entry || !prompt.shown) prompt.show(entry);
    }

    function learn() {
      for (const [key, entry] of Object.entries(get("attributions") ?? {}))
        if (!known.get(key)?.subs) known.set(key, entry);
      paint("prompt");
    }

    function follow() {
      if (get("picked") === picked) return;
      picked = get("picked");
      following = false;
      paint("plot", "table", "prompt");
    }

    /** Take the past, and pick in it what the limit picks. */
    function recall() {
      if (at !== null && following && get("past")) pickBest();
      paint("plot", "table", "times", "prompt");
    }

    const paint = painter({ bar: drawBar, plot: drawPlot, table: drawTable, times: drawTimes, prompt: drawPrompt });
    const changed = (...parts) => () => paint(...parts);
    const end = listen(model, {
      "change:status": changed("bar", "plot", "table"),
      "change:step": () => { fetchCloud(); paint("bar", "times"); },
      "change:steps": changed("bar"),
      "change:seconds": changed("bar"),
      "change:evaluated": changed("bar", "plot", "table"),
      "change:error": changed("bar"),
      "change:population": changed("plot"),
      "change:frontier": changed("bar", "plot", "table", "prompt"),
      "change:previous": changed("plot"),
      "change:restarts": changed("times"),
      "change:growth": changed("times"),
      "change:past": recall,
      "change:cloud": () => { if (!get("cloud")) cloudAt = -1; fetchCloud(); paint("plot"); },
      "change:attributions": learn,
      "change:calibration": () => { paint("table"); prompt.draw(); },
      "change:picked": follow,
      "msg:custom": hear(prompt, say, sections),
    });
    fetchPast();
    fetchCloud();
    drawBar();
    drawPlot();
    drawTable();
    drawTimes();
    prompt.draw();
    drawPrompt();
    return () => { kept.end(); end(); leave(); };
  },
};
