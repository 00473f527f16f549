// Scale of a feature's values: z-scores against baselines, held-out cross-entropy, and repetition of a prompt.

import { h, num } from "./common.js";

/** Return the length of the longest sequence of tokens that occurs at two places of a prompt. */
export function longestRepeat(ids) {
  let best = 0, row = new Array(ids.length + 1).fill(0);
  for (let i = 1; i < ids.length; i++) {
    const next = new Array(ids.length + 1).fill(0);
    for (let j = i + 1; j <= ids.length; j++) if (ids[i - 1] === ids[j - 1]) best = Math.max(best, next[j] = row[j - 1] + 1);
    row = next;
  }
  return best;
}

/**
 * Make the scale of a view. given() returns {scales: [[name, source, mean, deviation], ...], held: {key: cross-entropy}, fluency},
 * or nothing before the baselines are measured.
 *
 * `known()` says whether they are, `columns()` names what a table shows, `of(entry)` returns an entry with its scores, and
 * `scores(entry)` returns elements for the numbers of one prompt.
 */
export function calibration(given) {
  const known = () => Boolean(given()?.scales);
  const z = (value, [, , mean, deviation]) => (deviation > 0 ? (value - mean) / deviation : null);
  const score = (value, name, title) => h("span", { title }, h("b", {}, value), ` ${name}`);

  return {
    known,
    columns: () => (known() ? ["z", ...(given().fluency ? ["held-out"] : [])] : []),
    of: (e) => (known() ? { ...e, z: z(e.y, given().scales.at(-1)), held: given().held[e.key] ?? null } : e),
    scores(e) {
      if (!known()) return [];
      const { scales, held, fluency } = given(), repeat = longestRepeat(e.ids);
      const short = (name) => (name === "corpus windows" ? "corpus" : "random");
      return [
        ...scales.map((s) => score(num(z(e.value, s), 1), `z, ${short(s[0])}`,
          `standard deviations above the mean of ${s[0]}${s[1] ? ` (${s[1]})` : ""}: ${num(s[2])} ± ${num(s[3])}`)),
        ...(held[e.key] === undefined ? [] : [score(num(held[e.key]), "held-out", `cross-entropy under ${fluency}`)]),
        ...(e.ids.length ? [score(String(repeat), "repeated", "tokens of the longest sequence that occurs twice")] : []),
      ];
    },
  };
}
