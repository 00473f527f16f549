// One prompt by itself: the view of `dl.explore` and of an attribution.

import { h, listen, notices, register, stage, unique, visible } from "./common.js";
import { attributionView } from "./strip.js";

export const view = {
  initialize: ({ model }) => register(model),
  render({ model, el }) {
    const get = (name) => model.get(name);
    const [root, leave] = stage(el, "attribution");
    const [notice, say] = notices();
    const known = new Map(Object.entries(get("attributions") ?? {}));
    const one = attributionView({ live: () => Boolean(get("live")), known, say, name: unique(), nothing: "Scoring the prompt…", python: () => get("python"), send: (m) => model.send(m.type === "swap" ? { ...m, type: "look" } : m) });
    const error = h("p", { class: "dlp-wrong", role: "alert" });
    root.append(h("header", {}, h("h3", {}, visible(get("title"))), h("span", { class: "dlp-quiet" }, visible(get("subtitle"))), notice), error, one.el);
    const draw = () => {
      const found = get("found");
      error.textContent = visible(get("error"));
      error.hidden = !get("error");
      if (!found) return one.draw();
      if (found.subs) known.set(found.key, found);
      one.show({ ...found, x: found.ce, y: found.value });
    };
    const end = listen(model, {
      "change:found": draw, "change:error": draw,
      "msg:custom": (message) => { if (message.type === "answer") one.answer(message); else if (message.type === "notice") say(message.text, 20); },
    });
    draw();
    return () => { end(); leave(); };
  },
};
