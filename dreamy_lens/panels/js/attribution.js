// One prompt by itself: the view of `dl.explore` and of an attribution.

import { errorLine, heading, hear, listen, notices, register, stage, unique, visible } from "./common.js";
import { attributionView } from "./strip.js";

export const view = {
  initialize: ({ model }) => register(model),
  render({ model, el }) {
    const get = (name) => model.get(name), live = () => Boolean(get("live"));
    const [root, leave] = stage(el, "attribution");
    const [notice, say] = notices();
    const known = new Map(Object.entries(get("attributions") ?? {}));
    const send = (message) => model.send(message), nothing = "Scoring the prompt…";
    const one = attributionView({ live, known, say, send, nothing, name: unique(), python: () => get("python") });
    const error = errorLine(model);
    root.append(heading(get("title"), visible(get("subtitle")), notice), error.el, one.el);

    function draw() {
      const found = get("found");
      error.draw();
      if (!found) return one.draw();
      if (found.subs) known.set(found.key, found);
      one.show({ ...found, x: found.ce, y: found.value });
    }

    const end = listen(model, { "change:found": draw, "change:error": draw, "msg:custom": hear(one, say) });
    draw();
    return () => { end(); leave(); };
  },
};
