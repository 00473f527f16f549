// Tokens of a prompt: colour, bar and number show what each token does for the feature.

import { h, num, places, visibleToken } from "./common.js";

const share = (x, full) => Math.min(1, Math.max(0, (x ?? 0) / full)).toFixed(3);

/**
 * Make the strip of a prompt's tokens, with its legend.
 *
 * now, base: entries of the shown prompt and of the picked prompt; chosen: position of the token whose substitutes are
 * shown; yet: text while there is no attribution; choose(position): called when a token is clicked.
 */
export function tokenStrip(now, base, { chosen, yet, choose }) {
  // Colours and bars have one scale.
  const full = Math.max(0, ...(now.drop ?? [])) || 1, digits = places([now.value, ...(now.drop ?? [])], 3);
  const values = now.series?.filter((x) => x !== null) ?? [];
  const high = Math.max(1e-9, ...values);

  // What is 0.00 as a number has no bar and no dotted line.
  const seen = (x) => x !== null && Number(Math.abs(x).toFixed(digits)) > 0;

  function token(text, i) {
    const [drop, floor, at] = [now.drop, now.floor, now.series].map((all) => all?.[i] ?? null);
    const tried = `; worst substitute ${num(-drop, digits, true)}, best ${num(-floor, digits, true)}`;
    const name = [
      `${i + 1} of ${now.tokens.length}: ${visibleToken(text)}`,
      drop === null ? "" : tried, at === null ? "" : `; value here ${num(at, digits)}`,
    ].join("");
    const classes = [
      "dlp-token", i === chosen && "dlp-on", floor < 0 && seen(floor) && "dlp-better",
      base.key !== now.key && base.ids[i] !== now.ids[i] && "dlp-changed",
    ];
    const given = {
      class: classes.filter(Boolean).join(" "), "aria-label": name, title: name,
      "aria-expanded": String(i === chosen), "data-focus": `token-${i}`,
      style: { "--d": share(drop, full), "--h": seen(floor) ? share(floor, full) : "0" }, onclick: () => choose(i),
    };
    const gauge = h("u", { style: { "--v": share(at, high) } });
    const under = now.series ? [gauge, h("small", {}, at === null ? "–" : num(at, Math.min(2, digits)))] : [];
    return h("button", given, h("i", {}), h("b", {}, visibleToken(text)), ...under);
  }

  // A few substitutes come first, and all of them later.
  const many = `${now.tried} substitutes${now.partial ? " so far" : ""}`;
  const worst = ` Colour: drop in value with the worst of ${many} (max ${num(full, digits)}) · `;
  const line = (...parts) => h("p", { class: "dlp-legend" }, ...parts);
  const legend = !now.drop ? [line(yet)] : [
    line(
      h("span", { class: "dlp-ramp" }), worst,
      h("span", { class: "dlp-swatch" }), " Bar: drop with the best, on the same scale (dotted: the best is better)",
    ),
    line(now.series ? "Below: value if the prompt ended there · " : "", "Click a token to see its substitutes"),
  ];
  const strip = h("div", { class: "dlp-strip", role: "group", "aria-label": "tokens" }, ...now.tokens.map(token));
  return h("div", {}, strip, ...legend);
}
