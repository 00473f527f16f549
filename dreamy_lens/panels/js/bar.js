// The line on top of a run, or of several: its state in words, and what can be done about it.

import { h } from "./common.js";

export const WORDS = {
  ready: "starting", running: "dreaming", paused: "paused", stopped: "stopped", done: "done", failed: "failed",
};
const TELL = 20000; // milliseconds between two reports of progress that are read out

/** Whether a run may still find something by itself. */
export const isGoing = (status) => ["ready", "running", "paused"].includes(status);

/**
 * `draw(text)` shows a text and the buttons that fit the model's status; `told` is what is read out.
 *
 * suffix: of the buttons' names; more: iterations that can be added to a run that has ended, 0 for none.
 */
export function runBar({ model, live, suffix = "", more = 0 }) {
  const words = h("span", { class: "dlp-state", tabindex: -1 });
  const told = h("span", { class: "dlp-away", role: "status", "aria-live": "polite" });
  const el = h("div", { class: "dlp-bar" });
  let drawn = "", toldAt = 0;

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
    const progress = isGoing(status) ? [h("progress", { "aria-label": "iterations completed" })] : [];
    el.replaceChildren(...buttons(status), ...progress, words);
    if (!focus) return;
    // Pause and Resume stand for each other; after Stop no other button gets the focus, which Enter might press too.
    const again = { pause: "resume", resume: "pause" }[focus];
    (el.querySelector(`[data-act=${focus}], [data-act=${again}]`) ?? words).focus({ preventScroll: true });
  }

  function tell(text) {
    told.textContent = text;
    toldAt = Date.now();
  }

  function draw(text) {
    const [status, step, steps] = ["status", "step", "steps"].map((name) => model.get(name));
    if (drawn !== `${status} ${live()}`) {
      drawn = `${status} ${live()}`;
      renew(status);
      tell(WORDS[status] ?? status);
    } else if (status === "running" && Date.now() - toldAt > TELL) tell(`iteration ${step} of ${steps}`);
    const progress = el.querySelector("progress");
    if (progress) {
      progress.max = Math.max(1, steps);
      progress.value = step;
    }
    words.textContent = text;
  }

  return { el, told, draw };
}
