"""States of views as a run of some hundred iterations would leave them, drawn at random from a seed."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from dreamy_lens.panels.state import cloud_of
from dreamy_lens.runs.python_code import BEST, HOLE, attribution_code, program
from tests.helpers.fakes import HOSTILE

WORDS = (
    " the| a| of| and| to| in| is| that| for| it| with| as| was| on| be| by| this| are| from| or| an| which| if| not|"
    " method| given| value| list| file| object| string| return| name| model| array| shape| default| class| function|"
    " applied| only| same| described| optional| otherwise| None| True| index| path| number| returns| raises| error|"
    ",|.|:|\n|\n\n|ing|ed|ly| (|)|`|'s"
).split("|")
SYLLABLES = "ab con der el fin gor hi in jo kel lum mar nor op per qua ri sto tan ul ver wi xen yo za".split()


def vocabulary(size: int = 4000) -> list[str]:
    rng = random.Random(1)
    made = [" " * (rng.random() < 0.7) + "".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(size)]
    return [*WORDS, *made[len(WORDS) :]]


VOCABULARY = vocabulary()
PYTHON = {
    "run": program('run = dl.dream("L2.N812", model="EleutherAI/pythia-160m")'),
    "best": BEST,
    "prompt": attribution_code("L2.N812", "EleutherAI/pythia-160m"),
}


def prompt(rng: random.Random, n: int = 12) -> list[int]:
    """Ids: mostly common words."""
    return [rng.randrange(len(WORDS)) if rng.random() < 0.75 else rng.randrange(len(VOCABULARY)) for _ in range(n)]


def key(ids: list[int]) -> str:
    return ".".join(map(str, ids))


def entry(ids: list[int], x: float, y: float, it: int) -> dict[str, Any]:
    tokens = [VOCABULARY[i] for i in ids]
    scores = {"x": round(x, 4), "y": round(y, 4), "it": it}
    return {"key": key(ids), "ids": ids, "tokens": tokens, "text": "".join(tokens), **scores, "trips": it % 7 != 3}


def found(entry: dict[str, Any], rng: random.Random, k: int = 8, tokens: tuple[str, ...] = ()) -> dict[str, Any]:
    """An attribution, of which the best and the worst few of many substitutes are kept."""
    n, height, ce = len(entry["ids"]), entry["y"], entry["x"]
    weights = [rng.random() ** 3 for _ in range(n)]
    subs = []
    for weight in weights:
        values = sorted((height * (1 + 0.1 * rng.random() - weight * rng.random()) for _ in range(k)), reverse=True)
        ids = [rng.randrange(len(VOCABULARY)) for _ in range(k)]
        names = tokens or VOCABULARY
        costs = [round(ce + rng.gauss(0.1, 0.3), 4) for _ in range(k)]
        of = zip(ids, values, costs, strict=True)
        subs.append([[names[i % len(names)], i, round(value, 4), cost] for i, value, cost in of])
    series = [round(height * (rng.random() ** 2) * (i + 1) / n, 4) for i in range(n - 1)] + [height]
    drop = [round(height - row[-1][2], 4) for row in subs]
    floor = [
        round(height - row[0][2] if w < 0.25 else height * w * 0.4, 4) for row, w in zip(subs, weights, strict=True)
    ]
    same = {name: entry[name] for name in ("key", "ids", "tokens", "text", "trips")}
    scores = {"value": height, "ce": ce, "drop": drop, "floor": floor, "subs": subs, "series": series}
    return {**same, **scores, "tried": 32, "partial": False}


def bare(one: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What is known of a prompt first: its scores."""
    return {**one, **dict.fromkeys(("drop", "floor", "subs", "tried", "series")), **more}


def quick(one: dict[str, Any], k: int = 3) -> dict[str, Any]:
    """What is known of it next: what some of the substitutes do, here the first k and the last."""
    subs = [[*row[:k], row[-1]] for row in one["subs"]]
    drop = [0.5 * d for d in one["drop"]]
    return {**one, "subs": subs, "drop": drop, "tried": k + 1, "partial": True, "series": None}


def frontier_of(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for p in sorted(points, key=lambda p: (p["x"], -p["y"])):
        if not kept or p["y"] > kept[-1]["y"]:
            kept.append(p)
    return kept


def cloud_state(step: int, seed: int, count: int) -> dict[str, Any]:
    """The cloud of a run after so many iterations, of 256 prompts each."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(2.4, 12, count)
    iteration = np.sort(rng.integers(0, step + 1, count))
    y = 9 * (1 - np.exp(-(iteration + 8) / 150)) * (1 - np.exp(-(x - 2) / 2.2)) - rng.exponential(1.5, count)
    history = SimpleNamespace(cross_entropy=x, value=y, iteration=iteration)
    return {**cloud_of(history), "of": 1 + 256 * step}  # pyright: ignore


def run_state(
    step: int = 300, seed: int = 0, steps: int = 300, attributed: int = 20, k: int = 8, draws: int = 5, **changes: Any
) -> dict[str, Any]:
    """The state of the dream view after so many iterations."""
    rng = random.Random(seed)
    front: list[dict[str, Any]] = []
    ever: list[dict[str, Any]] = []
    growth: dict[str, list] = {"iteration": [], "best": [], "hypervolume": []}
    crowds, members, previous = {}, [], None
    restarts = [[i, round(rng.uniform(0.7, 6), 3)] for i in range(30, step, 30)]
    for t in range(step + 1):
        reach = 9 * (1 - math.exp(-(t + 8) / 150))
        drawn = []
        for _ in range(draws):
            x = rng.uniform(2.4, 10.5)
            top = reach * (1 - math.exp(-(x - 2) / 2.2))
            drawn.append(entry(prompt(rng), x, top - rng.expovariate(1.0), t))
        ever += [p for p in drawn if not any(q["x"] <= p["x"] and q["y"] >= p["y"] for q in front)]
        front = frontier_of(front + drawn)
        members = drawn
        crowds[str(t)] = [[p["x"], p["y"]] for p in drawn]
        growth["iteration"].append(t)
        growth["best"].append(front[-1]["y"])
        growth["hypervolume"].append(round(sum(p["y"] for p in front) / len(front) * 4, 3))
        if restarts and t == restarts[-1][0] - 1:
            previous = {"iteration": t, "points": [[p["x"], p["y"]] for p in front]}
    texts = list(dict.fromkeys(p["text"] for p in ever))
    number = {text: i for i, text in enumerate(texts)}
    spread = front[:: max(1, len(front) // max(1, attributed))][:attributed] if attributed else []
    past: dict[str, Any] = {"points": [[p["x"], p["y"], p["it"], number[p["text"]]] for p in ever], "texts": texts}
    past["ids"] = list({p["text"]: p["ids"] for p in ever}.values())
    past["population"] = {t: crowd for t, crowd in crowds.items() if int(t) % max(1, step // 100) == 0}
    return {
        "live": True,
        "live_id": "0123456789abcdef",
        "title": "blocks.2.mlp.hook_post[-1, 812]",
        "subtitle": f"embedded · seed {seed} · 12 tokens",
        "python": PYTHON,
        "status": "done" if step == steps else "running",
        "step": step,
        "steps": steps,
        "used": step / steps,
        "seconds": round(0.2 * step, 2),
        "left": -1.0 if step == steps else round(0.2 * (steps - step), 1),
        "evaluated": 1 + 256 * step,
        "hypervolume": growth["hypervolume"][-1],
        "error": "",
        "population": [[p["x"], p["y"], round(10 ** rng.uniform(-1, 1), 3), p["text"]] for p in members],
        "frontier": front,
        "previous": previous,
        "restarts": restarts,
        "growth": growth,
        "past": past,
        "cloud": cloud_state(step, seed, 2000),
        "attributions": {p["key"]: found(p, rng, k) for p in spread},
        "picked": "",
        "view_state": {},
        **changes,
    }


def empty_state(**changes: Any) -> dict[str, Any]:
    """The state of the dream view before anything is known."""
    nothing = {"population": [], "frontier": [], "previous": None, "restarts": [], "past": None, "cloud": None}
    growth = {"iteration": [], "best": [], "hypervolume": []}
    nothing["attributions"] = {}
    counts = {"step": 0, "evaluated": 0, "seconds": 0.0, "left": -1.0, "hypervolume": 0.0, "status": "running"}
    return {**run_state(1, attributed=0), **nothing, **counts, "steps": 300, "growth": growth, **changes}


def runs_state(
    seeds: int = 4, groups: tuple[str, ...] = ("L2.N812",), step: int = 300, **changes: Any
) -> dict[str, Any]:
    """The state of the view of several runs: each seed for each feature."""
    runs, known = [], {}
    for group in range(len(groups)):
        for seed in range(seeds):
            one = run_state(step, seed=seed + 10 * group, attributed=4)
            known |= one["attributions"]
            kept = ("status", "step", "steps", "evaluated", "error", "frontier", "title", "subtitle", "python")
            runs.append({"name": f"seed {seed}", "group": group, **{name: one[name] for name in kept}})
    return {
        "live": True,
        "live_id": "fedcba9876543210",
        "title": groups[0] if len(groups) == 1 else f"{len(groups)} features",
        "status": runs[0]["status"],
        "error": "",
        "step": step,
        "steps": 300,
        "used": step / 300,
        "runs": runs,
        "groups": list(groups),
        "python": {"run": program('runs = dl.dream("L2.N812", seeds=[0, 1])')},
        "attributions": known,
        "picked": "",
        **changes,
    }


def attribution_state(**changes: Any) -> dict[str, Any]:
    """The state of the view of one prompt."""
    run = run_state(30, attributed=1)
    (one,) = run["attributions"].values()
    names = ("live", "live_id", "title", "subtitle", "python", "error", "attributions")
    return {**{name: run[name] for name in names}, "found": one, **changes}


def hostile_state(**changes: Any) -> dict[str, Any]:
    """A run whose vocabulary, names and errors are the worst there is."""
    state = run_state(40, attributed=0, steps=300)
    rng, known = random.Random(2), {}
    for at, e in enumerate(state["frontier"]):
        e["tokens"] = [HOSTILE[(at * 5 + i) % len(HOSTILE)] for i in range(len(e["ids"]))]
        e["text"] = "".join(e["tokens"])
        known[e["key"]] = found(e, rng, tokens=HOSTILE)
    state["population"] = [[x, y, w, HOSTILE[i]] for i, (x, y, w, _) in enumerate(state["population"])]
    state["past"]["texts"] = [HOSTILE[i % len(HOSTILE)] for i in range(len(state["past"]["texts"]))]
    names: dict[str, Any] = {name: "".join(HOSTILE[:6]) for name in ("title", "subtitle", "error")}
    names["python"] = dict.fromkeys(PYTHON, "".join(HOSTILE[:6]) + HOLE)
    return {**state, **names, "attributions": known, "picked": state["frontier"][-1]["key"], **changes}
