"""Frozen views: HTML that needs no kernel. It always shows its prompts, and answers clicks where scripts may run.

A page that is not trusted shows coloured tokens and a table, with inline styles. Where scripts run, the module of the
live panel draws the view from the state in the page. While the live panel itself is in the page, the frozen view
connects to that panel.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from typing import Any

from dreamy_lens.html.escaping import escape, with_tooltip
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.tokens import StripToken, token_strip
from dreamy_lens.panels import bundle

ROWS = 12
"""Most rows of the table that a page without scripts shows."""

_SCRIPT = """
const drawn = (globalThis.dreamy_lens_drawn ??= new WeakSet());
const places = [...document.querySelectorAll('[data-dreamy="%(id)s"]')];
const root = places.find((one) => !drawn.has(one)) ?? document.createElement("div");
drawn.add(root);
const data = "%(data)s";
const bytes = new DataView(new ArrayBuffer(data.length / 5 * 4));
for (let i = 0; i < data.length; i += 5) {
  let word = 0;
  for (let j = i; j < i + 5; j++) {
    const c = data.charCodeAt(j);
    word = word * 85 + c - 40 - (c > 60) - (c > 92);
  }
  bytes.setUint32(i / 5 * 4, word);
}
const zipped = new Blob([bytes.buffer.slice(0, %(size)d)]);
const text = await new Response(zipped.stream().pipeThrough(new DecompressionStream("gzip"))).text();
const { module, style, state } = JSON.parse(text);
const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
const view = (await import(url)).default;
URL.revokeObjectURL(url);
const heard = {};
const still = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; for (const f of heard["change:" + name] ?? []) f(); },
  save_changes() {}, send() {},
  on: (name, f) => (heard[name] ??= []).push(f),
  off: (name, f) => { heard[name] = (heard[name] ?? []).filter((g) => g !== f); },
};
let shown = null, leave = null;
const show = () => {
  const model = globalThis.dreamy_lens_live?.get("%(live)s") ?? still;
  if (model === shown) return;
  if (shown) for (const name of ["picked", "view_state"]) state[name] = shown.get(name);
  leave?.();
  shown = model;
  const css = document.createElement("style"), place = document.createElement("div");
  css.textContent = style;
  root.replaceChildren(css, place);
  leave = view.render({ model, el: place });
};
show();
const follow = (event) => {
  if (!root.isConnected) removeEventListener("dreamy-lens-live", follow);
  else if (event.detail === "%(live)s") show();
};
if ("%(live)s") addEventListener("dreamy-lens-live", follow);
"""
"""Script of a frozen view. A page may hold one view several times, so each script takes the first free place; there is
none left if the cell had new content before the script ran."""


_B85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_LETTERS = dict(zip(map(ord, _B85), (code for code in range(40, 127) if chr(code) not in "<\\"), strict=True))


def frozen(view: str, state: dict[str, Any], live_id: str | None = None) -> str:
    """Return a frozen view as HTML for a cell or a page.

    Args:
        view: Name of the view: "dream", "attribution" or "runs".
        state: Traits of the view, as JSON values.
        live_id: Id of the live panel that the view was made from; None if there is none.

    Returns:
        HTML in ASCII, whatever the state holds. Equal arguments give equal HTML.
    """
    content = {"module": bundle.view_module(view), "style": bundle.view_stylesheet(), "state": _lighter(state)}
    packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode("ascii"), compresslevel=9, mtime=0)
    name, live = f"dl-{hashlib.sha256(packed).hexdigest()[:12]}", re.sub(r"[^0-9a-f]", "", live_id or "")
    script = _SCRIPT % {"id": name, "live": live, "data": in_text(packed), "size": len(packed)}
    static = _static_html(state).encode("ascii", "xmlcharrefreplace").decode("ascii")
    return f'<div data-dreamy="{name}">{static}</div><script type="module">{script}</script>'


def in_text(data: bytes) -> str:
    r"""Write bytes as text that may stand in quotes in a script: five letters for four bytes, without `<` and `\`.

    Args:
        data: Bytes; zeros are added to make their number a multiple of four.

    >>> in_text(b"abcd")
    'HBMh`'
    """
    return base64.b85encode(data, pad=True).decode("ascii").translate(_LETTERS)


def from_text(text: str, size: int) -> bytes:
    """Read the bytes that :func:`in_text` wrote.

    Args:
        text: Text.
        size: Number of bytes.
    """
    back = {value: key for key, value in _LETTERS.items()}
    return base64.b85decode(text.translate(back))[:size]


def _lighter(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state without digits that are not shown, and without values that only a kernel uses."""
    attributions = {}
    for key, entry in state.get("attributions", {}).items():
        attributions[key] = entry
        if entry.get("subs"):
            places = decimals([entry["value"] or 0.0, *(s[2] or 0.0 for row in entry["subs"] for s in row)])
            attributions[key] = {**entry, "subs": [[_light(s, places) for s in row] for row in entry["subs"]]}
    past = state.get("past")
    if past:
        places = decimals([y or 0.0 for crowd in past["population"].values() for _, y in crowd], 3)
        crowds = {t: [[_round(x, 2), _round(y, places)] for x, y in crowd] for t, crowd in past["population"].items()}
        # A page cannot ask about past prompts: it picks them by their points, and shows their texts.
        # Columns of numbers, of which those that grow are written as steps, take a third less than rows.
        columns = [list(column) for column in zip(*past["points"], strict=True)]
        columns = columns[:2] + [_steps(column) for column in columns[2:]]
        past = {"columns": columns, "texts": past["texts"], "population": crowds}
    lighter = {**state, "attributions": attributions, **({"past": past} if "past" in state else {})}
    if growth := state.get("growth"):
        lighter["growth"] = {"hypervolume": growth["hypervolume"]}
        if growth["iteration"] != list(range(len(growth["iteration"]))):
            lighter["growth"]["iteration"] = growth["iteration"]
    return lighter


def _steps(values: list[int]) -> list[int]:
    return [value - before for before, value in zip([0, *values], values, strict=False)]


def _light(substitute: list[Any], places: int) -> list[Any]:
    token, _, value, cross_entropy = substitute
    return [token, 0, _round(value, places), _round(cross_entropy, 2)]


def _round(x: float | None, places: int) -> float | None:
    return None if x is None else round(x, places)


def _static_html(state: dict[str, Any]) -> str:
    """Return the picked prompt as coloured tokens and the frontier as a table, with no script and no style sheet."""
    runs = state.get("runs")
    entries = [e for run in runs for e in run["frontier"]] if runs else state.get("frontier", [])
    picked = state.get("found") or state.get("attributions", {}).get(state.get("picked", ""))
    if not picked:
        picked = next(iter(state.get("attributions", {}).values()), None)
    title = with_tooltip(state.get("title", ""), state.get("full_title") or state.get("title", ""))
    parts = [f'<div style="font-weight:600">{title}</div>']
    if state.get("note"):
        parts.append(f"<p>{escape(state['note'])}</p>")
    if picked:
        parts.append(_tokens(picked))
    if entries:
        parts.append(_table(entries))
    elif not picked:
        parts.append("<p>No prompts yet.</p>")
    return "".join(parts)


def _tokens(entry: dict[str, Any]) -> str:
    drops = entry.get("drop") or [None] * len(entry["tokens"])
    full = max([d for d in drops if d is not None] + [0.0]) or 1.0
    strip = [
        StripToken(token) if drop is None else StripToken(token, max(0.0, drop / full), _note(drop))
        for token, drop in zip(entry["tokens"], drops, strict=True)
    ]
    scores = f"value {_number(entry['value'], 3)}, cross-entropy {_number(entry['ce'], 2)} nats per token"
    many = f"Colour: drop in value with the worst of {entry['tried']} substitutes (max {number(full, 3)})"
    legend = f"<div>{many}</div>" if entry.get("drop") else ""
    return f"{token_strip(strip, inline=True)}<div>{scores}</div>{legend}"


def _note(drop: float) -> str:
    return f"worst substitute {number(-drop, 3, sign=True)}"


def _table(entries: list[dict[str, Any]]) -> str:
    step = max(1, -(-len(entries) // ROWS))
    shown = entries[::-1][::step][::-1]
    rows = "".join(
        f'<tr><td style="text-align:right">{_number(e["y"], 3)}</td>'
        f'<td style="text-align:right">{_number(e["x"], 2)}</td>'
        f'<td style="text-align:left"><bdi dir="ltr">{escape(e["text"].removeprefix(" "))}</bdi></td></tr>'
        for e in shown
    )
    head = '<tr><th>value</th><th>cross-entropy</th><th style="text-align:left;width:99%">text</th></tr>'
    more = f"<div>{len(shown)} of {len(entries)} prompts</div>" if len(shown) < len(entries) else ""
    # JupyterLab makes the columns of tables equally wide, and centres tables.
    return f'<table style="table-layout:auto;width:100%"><thead>{head}</thead><tbody>{rows}</tbody></table>{more}'


def _number(x: float | None, places: int) -> str:
    return "-" if x is None else number(x, places)
