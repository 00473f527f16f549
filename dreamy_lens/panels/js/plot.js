// Plot of value against cross-entropy: frontiers as steps, populations as marks.

import { arrows, h, num, perplexity, places, promptText, svg, ticks, tickStep, unique, visible } from "./common.js";

const LEFT = 58, TOP = 12, BOTTOM = 48;

/**
 * Make a plot that can be drawn again and again.
 *
 * draw({lines, crowd, cloud, earlier, limit, picked, own, empty}): lines are [{entries: [{key, x, y, text, it}], style, name, main}];
 * prompts can be picked only from the main line. crowd is [[x, y, λ, text]]; cloud is [[x, y]] or null, points
 * behind all others; earlier is {points, iteration} or null; picked
 * is the entry of the picked prompt or null, and has its ring also where no line has it; own is the entry of an
 * edited prompt or null, which has a mark of its own; empty is the text of a plot without points. The plot is as wide as its parent element, so that letters keep their size.
 */
export function frontierPlot({ pick, caption }) {
  const tip = h("div", { class: "dlp-tip", hidden: true });
  let W = 600, H = 380, right = 16;
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "dlp-plot", role: "group", "aria-label": caption });
  const plane = h("div", { class: "dlp-plane" }, drawing, tip), legend = h("p", { class: "dlp-marks" });
  const el = h("div", {}, plane, legend);
  const clip = unique();
  let domain = null, last = null, spots = [], shown = null;
  // A clicked prompt is shown below the plot. Its tip would only cover other points, so it stays away until the pointer leaves.
  let clicked = null, pressing = false, redrawing = false;

  const X = (x) => LEFT + ((x - domain.x0) / (domain.x1 - domain.x0)) * (W - LEFT - right);
  const Y = (y) => H - BOTTOM - ((y - domain.y0) / (domain.y1 - domain.y0)) * (H - TOP - BOTTOM);

  function draw(content) {
    last = content;
    const focused = drawing.contains(document.activeElement) ? document.activeElement.dataset.key : null, before = shown;
    const names = content.lines.filter((line) => line.name && line.entries.length);
    right = names.length ? 22 + Math.min(130, 7 * Math.max(...names.map((line) => line.name.length))) : 16;
    const main = content.lines.find((line) => line.main) ?? { entries: [] };
    const off = content.picked && !main.entries.some((e) => e.key === content.picked.key) ? content.picked : null;
    const behind = (content.cloud ?? []).map(([x, y]) => ({ x, y }));
    const points = [...content.lines.flatMap((line) => line.entries), ...(off ? [off] : []), ...(content.own ? [content.own] : []), ...behind];
    explain(content);
    domain = fit(domain, points.length ? points : content.crowd.map(([x, y]) => ({ x, y })));
    if (!domain) {
      const ground = svg("rect", { class: "dlp-nothing", x: 1, y: 1, width: W - 2, height: H - 2, rx: 6 });
      drawing.replaceChildren(ground, svg("text", { x: W / 2, y: H / 2, "text-anchor": "middle" }, content.empty ?? ""));
      return;
    }
    const inside = (x, y) => x >= domain.x0 && x <= domain.x1 && y >= domain.y0 && y <= domain.y1;
    const parts = [axes()];
    const body = svg("g", { "clip-path": `url(#${clip})` });
    // One path, because a thousand elements would be slow to draw again and again.
    const dot = ({ x, y }) => `M${X(x).toFixed(1)} ${Y(y).toFixed(1)}h0`;
    if (behind.length) body.append(svg("path", { class: "dlp-cloud", d: behind.map(dot).join("") }));
    if (content.earlier?.points.length)
      body.append(svg("path", { class: "dlp-earlier", d: steps(content.earlier.points.map(([x, y]) => ({ x, y })), X, Y) }));
    for (const [x, y] of content.crowd)
      if (inside(x, y)) body.append(svg("path", { class: "dlp-member", d: cross(X(x), Y(y)) }));
    for (const { entries, style } of content.lines)
      if (entries.length) body.append(svg("path", { class: `dlp-line ${style ?? ""}`, d: steps(entries, X, Y) }));
    const window = svg("rect", { x: LEFT, y: TOP - 8, width: W - LEFT - right + 8, height: H - TOP - BOTTOM + 8 });
    parts.push(svg("defs", {}, svg("clipPath", { id: clip }, window)), body);
    if (Number.isFinite(content.limit)) {
      const x = Math.min(W - right, Math.max(LEFT, X(content.limit)));
      parts.push(svg("path", { class: "dlp-limit", d: `M${x} ${TOP}V${H - BOTTOM}` }));
    }
    parts.push(...endLabels(names));
    parts.push(dots(main.entries, content.picked?.key));
    if (off) parts.push(stray(off));
    if (content.own) parts.push(edited(content.own));
    redrawing = true;
    drawing.replaceChildren(...parts);
    spots = [
      ...content.crowd.filter(([x, y]) => inside(x, y)).map(([x, y, weight, text]) => ({ x, y, weight, text })),
      ...content.lines.filter((line) => !line.main).flatMap((line) => line.entries.map((e) => ({ ...e, of: line.name }))),
      ...(content.own ? [{ ...content.own, of: "edited", own: true, key: null }] : []),
      ...[...main.entries, ...(off ? [off] : [])].map((e) => ({ ...e, main: true })),
    ];
    if (focused !== null) {
      const again = drawing.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? drawing.querySelector("[tabindex='0']");
      again?.focus({ preventScroll: true });
    }
    redrawing = false;
    hover((before && spots.find((s) => s.text === before.text && s.x === before.x)) ?? null);
  }

  /** Write what the marks are, below the plot, where the words cover no point. */
  function explain({ lines, crowd, cloud, earlier }) {
    const mark = (name) => h("span", { class: `dlp-key dlp-key-${name}`, "aria-hidden": "true" });
    const named = lines.some((line) => line.name);
    legend.hidden = named || !lines.some((line) => line.entries.length);
    legend.replaceChildren(
      mark("line"), "Frontier",
      ...(crowd.length ? [" · × population"] : []),
      ...(cloud?.length ? [" · ", mark("cloud"), "evaluated"] : []),
      ...(earlier?.points.length ? [" · ", mark("earlier"), `dotted: iteration ${earlier.iteration}`] : []),
    );
  }

  /** Make the mark of the picked prompt where it is not on the frontier. */
  function stray(e) {
    const name = "the picked prompt, which is not on this frontier", at = { cx: X(e.x), cy: Y(e.y) };
    return svg("g", { class: "dlp-stray", role: "img", "aria-label": name },
      svg("circle", { class: "dlp-ring", ...at, r: 9.5 }), svg("circle", { ...at, r: 4.5 }));
  }

  /** Make the mark of a prompt that the user has made from the picked one. */
  function edited(e) {
    const [x, y] = [X(e.x), Y(e.y)], left = x > W - right - 60;
    const name = `the edited prompt: value ${num(e.y)}, cross-entropy ${num(e.x)}`;
    const words = { class: "dlp-small", x: x + (left ? -12 : 12), y: y + 4, "text-anchor": left ? "end" : "start" };
    return svg("g", { class: "dlp-own", role: "img", "aria-label": name },
      svg("path", { d: `M${x} ${y - 8}l8 8l-8 8l-8 -8z` }), svg("text", words, "edited"));
  }

  /** Make the dots of the prompts that can be picked: the Tab key reaches one of them, arrow keys move along. */
  function dots(entries, picked) {
    const group = svg("g", { role: "radiogroup", "aria-label": "prompts of the frontier, fluent to strong" });
    const stop = entries.some((e) => e.key === picked) ? picked : entries.at(-1)?.key;
    const digits = places(entries.map((e) => e.y)), r = entries.length > 30 ? 3.8 : 5;
    entries.forEach((e, i) => {
      const on = e.key === picked && Boolean(picked), x = X(e.x), y = Y(e.y);
      const name = `${i + 1} of ${entries.length}: value ${num(e.y, digits)}, cross-entropy ${num(e.x)}: ${visible(e.text)}`;
      const given = {
        class: `dlp-dot${on ? " dlp-on" : ""}`, role: "radio", "aria-checked": String(on), "aria-label": name,
        tabindex: e.key === stop ? 0 : -1, onfocus: () => focus({ ...e, main: true }), onblur: () => focus(null),
      };
      const ring = on ? svg("circle", { class: "dlp-ring", cx: x, cy: y, r: 9.5 }) : null;
      const dot = svg("g", given, ring, svg("circle", { cx: x, cy: y, r: on ? 5 : r }));
      dot.dataset.key = e.key ?? "";
      group.append(dot);
    });
    group.addEventListener("keydown", (event) => {
      const all = [...group.querySelectorAll("[role=radio]")];
      const key = { ArrowUp: "ArrowRight", ArrowDown: "ArrowLeft" }[event.key] ?? event.key;
      const here = event.key === "Enter" || event.key === " " ? event.target : null;
      const next = arrows({ key, preventDefault: () => event.preventDefault() }, all) ?? here;
      if (!next?.dataset.key) return;
      event.preventDefault();
      pick(next.dataset.key);
    });
    return group;
  }

  const focus = (spot) => { if (!pressing && !redrawing) hover(spot); };

  function nearest(event, reach) {
    const box = drawing.getBoundingClientRect(), scale = W / box.width;
    const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
    let best = null, least = reach * scale;
    for (const s of spots) {
      const d = Math.hypot(X(s.x) - px, Y(s.y) - py) - (s.main || s.own ? 4 : 0);
      if (d < least) [best, least] = [s, d];
    }
    return best;
  }

  function hover(spot) {
    shown = spot;
    tip.hidden = !spot;
    if (!spot) return;
    const digits = places(spots.filter((s) => s.main).map((s) => s.y));
    const parts = [
      ...(spot.of ? [visible(spot.of)] : []),
      `value ${num(spot.y, digits)}`, `cross-entropy ${num(spot.x)}`, `perplexity ${perplexity(spot.x)}`,
      ...(spot.weight !== undefined ? [`member with λ ${num(spot.weight, 2)}`] : []),
      ...(Number.isFinite(spot.it) ? [`iteration ${spot.it}`] : []),
    ];
    tip.replaceChildren(promptText(spot.text ?? ""), h("div", { class: "dlp-quiet" }, parts.join(" · ")));
    const x = X(spot.x) / W, y = Y(spot.y) / H; // the tip extends away from the nearer edges
    const across = `${x > 0.5 ? "right" : "left"}: ${(x > 0.5 ? 1 - x : x) * 100}%`;
    const down = `${y > 0.6 ? "bottom" : "top"}: calc(${(y > 0.6 ? 1 - y : y) * 100}% + 12px)`;
    tip.style.cssText = `${across}; ${down}`;
  }

  /** Make the names at the right edge, each at the height of its line's end, or as close to it as the other names allow. */
  function endLabels(lines) {
    const labels = lines.map((line) => ({ line, end: line.entries.at(-1) })).sort((a, b) => b.end.y - a.end.y);
    let above = -Infinity;
    const least = (i) => H - BOTTOM - 14 * (labels.length - 1 - i);
    return labels.flatMap(({ line, end }, i) => {
      const at = above = Math.min(least(i), Math.max(above + 14, Math.max(TOP, Y(end.y))));
      const lead = `M${X(end.x)} ${Y(end.y)}L${W - right + 4} ${at}`;
      return [svg("path", { class: `dlp-lead ${line.style ?? ""}`, d: lead }),
        svg("text", { class: "dlp-small dlp-name", x: W - right + 8, y: at + 4 }, visible(line.name))];
    });
  }

  function axes() {
    const group = svg("g", { class: "dlp-axes" });
    const across = ticks(domain.x0, domain.x1, W / 95), up = ticks(domain.y0, domain.y1, H / 60);
    const digits = (marks) => Math.max(0, -Math.floor(Math.log10(marks[1] - marks[0] || 1) + 1e-9));
    const grid = (d) => svg("path", { class: "dlp-grid", d });
    for (const x of across) {
      const label = svg("text", { x: X(x), y: H - BOTTOM + 18, "text-anchor": "middle" }, num(x, digits(across)));
      group.append(grid(`M${X(x)} ${TOP}V${H - BOTTOM}`), label);
    }
    for (const y of up) {
      const label = svg("text", { x: LEFT - 8, y: Y(y) + 4, "text-anchor": "end" }, num(y, digits(up)));
      group.append(grid(`M${LEFT} ${Y(y)}H${W - right}`), label);
    }
    const middle = (TOP + H - BOTTOM) / 2;
    const words = `cross-entropy, nats per token${W - right - LEFT < 310 ? "" : " (fluent on the left)"}`;
    const axis = { class: "dlp-axis", "text-anchor": "middle" };
    group.append(
      svg("text", { ...axis, x: (LEFT + W - right) / 2, y: H - 8 }, words),
      svg("text", { ...axis, x: 14, y: middle, transform: `rotate(-90 14 ${middle})` }, "value"),
    );
    return group;
  }

  const sizes = new ResizeObserver(() => {
    const width = Math.round(plane.clientWidth);
    if (!width || width === W) return;
    [W, H] = [width, Math.round(Math.min(420, Math.max(250, 0.66 * width)))];
    drawing.setAttribute("viewBox", `0 0 ${W} ${H}`);
    if (last) draw(last);
  });
  sizes.observe(plane);

  drawing.addEventListener("pointerdown", () => { pressing = true; });
  drawing.addEventListener("mousemove", (event) => {
    const spot = nearest(event, 24), of = spot?.main ? spot.key : null;
    pressing = false;
    if (clicked !== of) clicked = null;
    hover(clicked ? null : spot);
    drawing.classList.toggle("dlp-hand", Boolean(of));
  });
  drawing.addEventListener("mouseleave", () => { clicked = null; hover(null); });
  drawing.addEventListener("click", (event) => {
    const spot = nearest(event, 24);
    pressing = false;
    if (!spot?.key || !spot.main) return;
    clicked = spot.key;
    hover(null);
    pick(spot.key);
  });
  return { el, draw };
}

const cross = (x, y) => `M${x - 3} ${y - 3}l6 6m0 -6l-6 6`;

function steps(entries, X, Y) {
  const at = (e) => [X(e.x).toFixed(1), Y(e.y).toFixed(1)];
  return entries.map((e, i) => (i ? "H" : "M") + at(e).join(i ? "V" : " ")).join("");
}

/** Return axes that contain all points. They grow in whole steps, and stay the same while the points still fill them. */
function fit(old, points) {
  if (!points.length) return old;
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
  const [a, b] = extent(xs), [c, d] = extent(ys);
  const holds = old && a >= old.x0 && b <= old.x1 && c >= old.y0 && d <= old.y1;
  if (holds && (b - a) > 0.6 * (old.x1 - old.x0) && (d - c) > 0.6 * (old.y1 - old.y0)) return old;
  const [x0, x1] = rounded(a, b), [y0, y1] = rounded(c, d);
  return { x0, x1, y0, y1 };
}

const extent = (values) => [Math.min(...values), Math.max(...values)];

function rounded(low, high) {
  const room = 0.04 * (high - low) || 0.1 * Math.abs(high) || 1;
  const step = tickStep(low - room, high + room, 6) / 2;
  return [Math.floor((low - room) / step) * step, Math.ceil((high + room) / step) * step];
}

/** Make a small chart of the hypervolume over iterations, with restarts as dashed lines. */
export function growthChart(growth, restarts, total, at) {
  const w = 600, high = 64, values = growth.hypervolume ?? [], when = growth.iteration ?? values.map((_, i) => i);
  const place = { viewBox: `0 0 ${w} ${high}`, preserveAspectRatio: "none" };
  const chart = svg("svg", { ...place, class: "dlp-growth", "aria-hidden": "true" });
  const end = Math.max(1, total), top = Math.max(...values, 1e-9);
  const X = (i) => (i / end) * w, Y = (v) => high - 3 - (Math.max(0, v) / top) * (high - 8);
  for (const [i] of restarts) chart.append(svg("path", { class: "dlp-restart", d: `M${X(i)} 0V${high}` }));
  if (values.length) {
    const line = steps(values.map((v, i) => ({ x: when[i], y: v })), X, Y) + `H${X(when.at(-1))}`;
    chart.append(svg("path", { class: "dlp-line", d: line }));
  }
  if (at !== null) chart.append(svg("path", { class: "dlp-limit", d: `M${X(at)} 0V${high}` }));
  return chart;
}
