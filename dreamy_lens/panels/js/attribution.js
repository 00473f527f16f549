// View of one prompt, for `dl.explore` and for an attribution.

import { copier, errorLine, heading, hear, keeper, listen, notices, register, stage, unique, visible } from "./common.js";
import { sectionRow } from "./sections.js";
import { attributionView } from "./strip.js";

export const view = {
  initialize: ({ model }) => register(model),
  render({ model, el }) {
    const get = (name) => model.get(name), live = () => Boolean(get("live"));
    const [root, leave] = stage(el, "attribution");
    const [notice, say] = notices();
    const copies = copier(say);
    const known = new Map(Object.entries(get("attributions") ?? {}));
    const send = (message) => model.send(message), nothing = "Scoring the prompt…";
    const kept = keeper(model, root), stays = () => true, slot = (key) => key, python = () => get("python");
    const prompt = attributionView({ live, known, kept, stays, slot, say, send, nothing, name: unique(), python, copies, moved });
    const sections = sectionRow({ model, live, kept, shown: () => prompt.shown });
    const error = errorLine(model);
    root.append(heading(get("title"), visible(get("subtitle")), notice, get("full_title")), error.el, copies.el, prompt.el, sections.el);

    function moved() {
      sections.draw();
    }

    function draw() {
      const entry = get("found");
      error.draw();
      if (!entry) return prompt.draw();
      if (entry.subs) known.set(entry.key, entry);
      prompt.show({ ...entry, x: entry.ce, y: entry.value });
    }

    const end = listen(model, { "change:found": draw, "change:error": draw, "msg:custom": hear(prompt, say, sections) });
    draw();
    return () => { kept.end(); end(); leave(); };
  },
};
