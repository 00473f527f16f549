"""A view with no kernel: HTML that shows its prompts to everybody, and answers clicks where scripts may run.

A page that is not trusted shows coloured tokens and a table, with styles of their own. Where scripts run, the same
module that a live panel has draws the view from the state that comes along; and while the panel that it was made of is
alive in the page, the view is that panel.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from typing import Any

from dreamy_lens.html.escaping import escape
from dreamy_lens.html.numbers import decimals, number
from dreamy_lens.html.tokens import StripToken, token_strip
from dreamy_lens.panels import bundle

ROWS = 12
"""Of the table that a page without scripts shows."""

_SCRIPT = """
const drawn = (globalThis.dreamy_lens_drawn ??= new WeakSet());
const root = [...document.querySelectorAll('[data-dreamy="%(id)s"]')].find((one) => !drawn.has(one));
drawn.add(root);
const bytes = Uint8Array.from(atob("%(data)s"), (c) => c.charCodeAt(0));
const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
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
  if (shown) state.picked = shown.get("picked");
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
"""A page may hold the same view several times, so each script takes the first place that no other has taken."""


def frozen(view: str, state: dict[str, Any], live_id: str | None = None) -> str:
    """A view as HTML for a cell or a page.

    Args:
        view: its name: "dream", "attribution" or "runs".
        state: its traits, as JSON values.
        live_id: of the panel that it was made of, if there is one.

    Returns:
        ASCII, whatever is in the state; the same for the same arguments.
    """
    given = {"module": bundle.view_module(view), "style": bundle.view_stylesheet(), "state": _lighter(state)}
    packed = gzip.compress(json.dumps(given, separators=(",", ":")).encode("ascii"), compresslevel=9, mtime=0)
    name, live = f"dl-{hashlib.sha256(packed).hexdigest()[:12]}", re.sub(r"[^0-9a-f]", "", live_id or "")
    script = _SCRIPT % {"id": name, "live": live, "data": base64.b64encode(packed).decode("ascii")}
    still = _inert(state).encode("ascii", "xmlcharrefreplace").decode("ascii")
    return f'<div data-dreamy="{name}">{still}</div><script type="module">{script}</script>'


def _lighter(state: dict[str, Any]) -> dict[str, Any]:
    """The state without digits that are not shown, and without what only a kernel has a use for."""
    known = {}
    for key, one in state.get("attributions", {}).items():
        known[key] = one
        if one.get("subs"):
            places = decimals([one["value"] or 0.0, *(s[2] or 0.0 for row in one["subs"] for s in row)])
            known[key] = {**one, "subs": [[_light(s, places) for s in row] for row in one["subs"]]}
    past = state.get("past")
    if past:
        places = decimals([y or 0.0 for crowd in past["population"].values() for _, y in crowd], 3)
        crowds = {t: [[_round(x, 2), _round(y, places)] for x, y in crowd] for t, crowd in past["population"].items()}
        past = {**past, "population": crowds}
    return {**state, "attributions": known, **({"past": past} if "past" in state else {})}


def _light(substitute: list[Any], places: int) -> list[Any]:
    token, _, value, cross_entropy = substitute
    return [token, 0, _round(value, places), _round(cross_entropy, 2)]


def _round(x: float | None, places: int) -> float | None:
    return None if x is None else round(x, places)


def _inert(state: dict[str, Any]) -> str:
    """The picked prompt as coloured tokens and the frontier as a table, with no script and no sheet of style."""
    runs = state.get("runs")
    entries = [e for run in runs for e in run["frontier"]] if runs else state.get("frontier", [])
    found = state.get("found") or state.get("attributions", {}).get(state.get("picked", ""))
    if not found:
        found = next(iter(state.get("attributions", {}).values()), None)
    parts = [f'<div style="font-weight:600">{escape(state.get("title", ""))}</div>']
    if found:
        parts.append(_tokens(found))
    if entries:
        parts.append(_table(entries))
    elif not found:
        parts.append("<p>No prompts yet.</p>")
    return "".join(parts)


def _tokens(found: dict[str, Any]) -> str:
    drops = found.get("drop") or [None] * len(found["tokens"])
    full = max([d for d in drops if d is not None] + [0.0]) or 1.0
    strip = [
        StripToken(token) if drop is None else StripToken(token, max(0.0, drop / full), _note(drop))
        for token, drop in zip(found["tokens"], drops, strict=True)
    ]
    scores = f"value {_said(found['value'], 3)}, cross-entropy {_said(found['ce'], 2)} nats per token"
    return f"{token_strip(strip, inline=True)}<div>{scores}</div>"


def _note(drop: float) -> str:
    return f"loses {number(drop, 3)} with the worst substitute"


def _table(entries: list[dict[str, Any]]) -> str:
    step = max(1, -(-len(entries) // ROWS))
    shown = entries[::-1][::step][::-1]
    rows = "".join(
        f'<tr><td style="text-align:right">{_said(e["y"], 3)}</td><td style="text-align:right">{_said(e["x"], 2)}</td>'
        f'<td style="text-align:left"><bdi dir="ltr">{escape(e["text"].removeprefix(" "))}</bdi></td></tr>'
        for e in shown
    )
    head = '<tr><th>value</th><th>cross-entropy</th><th style="text-align:left">text</th></tr>'
    more = f"<div>{len(shown)} of {len(entries)} prompts</div>" if len(shown) < len(entries) else ""
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>{more}"


def _said(x: float | None, places: int) -> str:
    return "-" if x is None else number(x, places)
