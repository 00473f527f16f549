// Status line of a run, or of several runs: the state in words, and buttons to change it.

import { h } from "./common.js";

export const WORDS = {
  ready: "starting", running: "dreaming", paused: "paused", stopped: "stopped", done: "done", failed: "failed",
};
const ANNOUNCE = 20000; // milliseconds between two reports of progress for screen readers

/** Return the iteration in words; `last` is 0 for a run that another budget ends. */
export const iterations = (step, last) => `iteration ${step}` + (last ? ` of ${last}` : "");

/** Return whether a run with this status has not ended. */
export const isGoing = (status) => ["ready", "running", "paused"].includes(status);

/**
 * Make a status line. `draw(text)` shows a text and the buttons for the model's status; screen readers read `spoken`.
 *
 * suffix: end of the buttons' names; more: iterations that a button adds to a run that has ended, 0 for no button; last: button
 * at the end of the line.
 */
export function runBar({ model, live, suffix = "", more = 0, last }) {
  const words = h("span", { class: "dlp-state", tabindex: -1 });
  const spoken = h("span", { class: "dlp-away", role: "status", "aria-live": "polite" });
  const el = h("div", { class: "dlp-bar" });
  let drawn = "", spokenAt = 0;

  function act(type, label, given = {}) {
    const send = () => model.send({ type, ...given });
    return h("button", { "data-act": type, onclick: send }, label + suffix);
  }

  function buttons(status) {
    if (!live()) return [];
    if (isGoing(status)) return [status === "paused" ? act("resume", "Resume") : act("pause", "Pause"), act("stop", "Stop")];
    return more ? [act("more", `${more} more iterations`, { iterations: more })] : [];
  }

  function renew(status) {
    const focus = el.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    const progress = isGoing(status) ? [h("progress", { "aria-label": "progress" })] : [];
    el.replaceChildren(...buttons(status), ...progress, words, last);
    if (!focus) return;
    // Pause and Resume replace each other. After Stop no button gets the focus, so that Enter does not press another one.
    const again = { pause: "resume", resume: "pause" }[focus];
    (el.querySelector(`[data-act=${focus}], [data-act=${again}]`) ?? words).focus({ preventScroll: true });
  }

  function speak(text) {
    spoken.textContent = text;
    spokenAt = Date.now();
  }

  function draw(text) {
    const [status, step, steps] = ["status", "step", "steps"].map((name) => model.get(name));
    if (drawn !== `${status} ${live()}`) {
      drawn = `${status} ${live()}`;
      renew(status);
      speak(WORDS[status] ?? status);
    } else if (status === "running" && Date.now() - spokenAt > ANNOUNCE) speak(iterations(step, steps));
    const progress = el.querySelector("progress");
    if (progress) {
      const used = model.get("used");
      if (used >= 0) progress.value = used;
      else progress.removeAttribute("value"); // how far the run has come is unknown
    }
    words.textContent = text;
  }

  return { el, spoken, draw };
}
