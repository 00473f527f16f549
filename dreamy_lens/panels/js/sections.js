// Sections below a prompt that Python computes when they are opened: where the value comes from, what the feature does.

import { h, unique, visible } from "./common.js";
import { LATE, PATIENCE } from "./strip.js";

/**
 * Make a row of buttons, each of which opens a section below the row.
 *
 * The model has `sections`: [[name, label, what Python then does, whether it is about the whole run], ...]; `section_style`: the
 * rules of their HTML; and `fragments`: HTML that is known without a question, by "name key-of-the-prompt". A frozen view has
 * only the buttons of these.
 *
 * A section about a prompt is open for the prompt for which it was opened, and closed while another prompt is shown. shown():
 * entry of the prompt that is shown; null for none. `draw()` is called when it may have changed, and `answer(message)` takes an
 * answer of Python.
 */
export function sectionRow({ model, live, kept, shown }) {
  const place = h("div", { class: "dlp-section", id: unique() });
  const sections = (model.get("sections") ?? []).map(([name, label, waiting, whole]) => {
    const id = () => `${name} ${whole ? "" : shown()?.key}`;
    const button = h("button", { class: "dlp-link", "aria-controls": place.id, onclick: () => turn(id()) }, label);
    return { name, waiting, whole, id, button };
  });
  const el = h("section", { class: "dlp-about" }, h("div", { class: "dlp-row" }, ...sections.map((s) => s.button)), place);
  let open = kept.get("section"), filled = "", timer; // ids of the section that is open, and of that in the place

  function turn(id) {
    open = open === id ? "" : id;
    filled = "";
    kept.set({ section: open });
    draw();
  }

  function draw() {
    const entry = shown();
    place.hidden = true;
    for (const { name, waiting, whole, id, button } of sections) {
      const own = id(), html = model.get("fragments")?.[own], asks = live() && (whole || entry?.ids.length);
      button.hidden = !asks && !html;
      button.setAttribute("aria-expanded", String(own === open));
      if (own !== open || button.hidden) continue;
      place.hidden = false;
      if (filled === own) continue;
      filled = own;
      if (html) show(html);
      else tell(waiting);
      if (!asks || (html && !whole)) continue; // what is known of a run may be of an earlier iteration
      model.send({ type: "section", name, ids: whole ? [] : entry.ids });
      timer = setTimeout(() => html || tell(`${waiting} ${LATE}`), PATIENCE * 1000);
    }
    el.hidden = sections.every((s) => s.button.hidden);
  }

  function tell(text, given = { class: "dlp-quiet", role: "status" }) {
    clearTimeout(timer);
    place.replaceChildren(h("p", given, visible(text)));
  }

  function show(html) {
    clearTimeout(timer);
    // In a shadow root, the rules of the notebook and those of the view do not meet those of the section.
    const box = h("div", {}), page = `<div class="dl"><style>${model.get("section_style")}</style>${html}</div>`;
    box.attachShadow({ mode: "open" }).append(new DOMParser().parseFromString(page, "text/html").body.firstChild);
    place.replaceChildren(box);
  }

  function answer({ id, html, error }) {
    if (id !== open) return; // it has been closed, or another one is open
    if (error) tell(error, { class: "dlp-wrong", role: "alert" });
    else show(html);
  }

  draw();
  return { el, draw, answer };
}
