"""Features, bad input and commands whose texts are recorded, written with public names only.

Names that are to move in the redesign are bound once, at the top of this file; nothing else has to be adapted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dreamy_lens as dl
from dreamy_lens.api.logit_effect import logit_effect
from dreamy_lens.cluster import RayConfig
from dreamy_lens.results import merge
from dreamy_lens.scan import Examples
from dreamy_lens.sweeps import Sweep

MERGE, BIND = merge, dl.features.bind
CROSS_ENTROPY_OF, LOGIT_EFFECT = dl.features.mean_cross_entropy, logit_effect
SWEEP, EXAMPLES = Sweep, Examples
RAY_CONFIG = RayConfig

DIRECTION = [((37 * i) % 11 - 5) / 4 for i in range(224)]
"""A direction of the embedded model's residual stream, with few digits."""

NAMES = ("return", "the", "array", "of", "a", "value", "only", "if", "not", "described", "file", "same", "as", "error")

Hook = dl.hook


def sentences(count: int, words: int, seed: int = 0) -> list[str]:
    """Texts of common words; the same in every version of Python and numpy."""
    state, texts = seed, []
    for number in range(count):
        chosen = []
        for _ in range(words):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            chosen.append(NAMES[(state >> 33) % len(NAMES)])
        texts.append(" ".join(chosen).capitalize() + f" {number}.")
    return texts


def gap(activations: Any) -> Any:
    """The difference of two neurons at the last token, for features made of a function."""
    return activations["blocks.1.mlp.hook_pre"][:, -1, :2].diff().squeeze(-1)


def features() -> dict[str, Any]:
    """Features of every kind by a name, to be printed, parsed and compared."""
    post, resid = Hook("blocks.2.mlp.hook_post"), Hook("blocks.4.hook_resid_post")
    pattern, logit = Hook("blocks.3.attn.hook_pattern"), dl.logit
    n, m = dl.neuron(2, 17), dl.neuron(3, 5)
    return {
        "neuron": n,
        "neuron at a position": dl.neuron(0, 3, position=2),
        "neuron from the end": dl.neuron(1, 4, position=-3),
        "neurons of a layer": dl.neurons(2),
        "neurons of all layers": dl.neurons(),
        "neurons at a position": dl.neurons(1, position=0),
        "hook alone": post,
        "hook with an index": post[-1, 17],
        "hook at the BOS": post["bos"],
        "hook at the BOS, a unit": post["bos", 3],
        "hook with a slice": post[2:5, 17].mean(),
        "hook with an open slice": post[1:, 17].max(),
        "hook with a stepped slice": post[::2, 17].max(),
        "hook from the end": post[-3:, 17].mean(),
        "max over positions": post[..., 17].max(),
        "mean over positions": post[..., 17].mean(),
        "whole axis": post[:, 17].max(),
        "family of units": post[-1],
        "family of maxima": post[..., :].max(),
        "family of hooks": Hook("blocks.*.hook_resid_post")[-1],
        "pattern": pattern[0, -1, 2],
        "pattern on the BOS": pattern[0, -1, "bos"],
        "pattern's maximum": pattern[1, -1, :].max(),
        "head's output": Hook("blocks.3.attn.hook_z")[-1, 0] @ [0.5, -1.0, 2.0],
        "norm": resid[-1].norm(),
        "direction": resid[-1] @ [1.0, 0.0, -0.5],
        "direction of a file": resid[-1] @ "v.safetensors",
        "direction of a name in a file": resid[-1] @ "a b/v.safetensors:one",
        "direction of numpy": resid[0] @ "v.npy",
        "standardised direction": resid[-1].standardised() @ [1.0, 0.25],
        "standardised direction of a file": resid[-1].standardised() @ "v.npy",
        "standardised unit": resid[-1].standardised(),
        "cosine": resid[-1].cosine([3.0, 4.0]),
        "cosine of a file": resid[-1].cosine("v.npy"),
        "maximum along a direction": (resid @ [1.0, 2.0]).max(),
        "long direction": resid[-1] @ DIRECTION,
        "logit": logit(" the"),
        "logit of an id": logit(17),
        "logit at a position": logit(" the", position=2),
        "logit's maximum": logit(" the", slice(None)).max(),
        "logit with quotes": logit('"'),
        "logit with a backslash": logit("\\"),
        "logit with a new line": logit("\n"),
        "logit of other letters": logit("é漢"),
        "runner-up": logit.runner_up(" the"),
        "logit difference": dl.logit_difference(" the"),
        "logit difference of an id": dl.logit_difference(5, position=1),
        "log probability": dl.log_prob(" the"),
        "log probability of an id": dl.log_prob(5, position=-2),
        "latent": dl.sae_latent("folder", 123),
        "latent before its nonlinearity": dl.sae_latent("folder", 123, pre_activation=True),
        "latent with all": dl.sae_latent("a/b", 5, 2, pre_activation=True, hook="blocks.1.hook_resid_pre"),
        "latent's maximum": dl.sae_latent("folder", 7, slice(None)).max(),
        "cross-entropy": CROSS_ENTROPY_OF(),
        "cross-entropy of a model": CROSS_ENTROPY_OF("some/model"),
        "custom": dl.custom("golden gap", ["blocks.1.mlp.hook_pre"], gap),
        "multiple": 0.5 * n,
        "negative": -n,
        "quotient": n / 4,
        "sum": n + m,
        "difference": n - m,
        "constant added": n + 1.5,
        "constant before": 2 - n,
        "product": n * m,
        "combination": 0.5 * n - 2 * m + 0.25 * logit(" the"),
        "nested": 2 * (n - 0.5 * (m + n)) * m,
        "clip above": n.clip(max=6),
        "clip below": n.clip(min=-1.5),
        "clip both": (n - m).clip(min=0, max=6),
        "small number": 1e-7 * n,
        "large number": 1e20 * n,
        "short form": dl.parse("L2.N17"),
        "short form in a sum": dl.parse("0.5 * L2.N17 - l3.n5"),
        "spaces": dl.parse("  blocks.2.mlp.hook_post [ -1 , 17 ] "),
    }


def errors(models: Any, place: Path) -> dict[str, Callable[[], Any]]:
    """Wrong calls by a name; each raises.

    Args:
        models: the helper module of the tests that makes small models.
        place: an empty folder.
    """
    (place / "something").mkdir(exist_ok=True)
    (place / "something" / "else.txt").write_text("else")
    (place / "empty.txt").write_text("")
    neuron, small = "L2.N17", {"iterations": 1, "population": 2, "children": 4, "length": 4, "progress": False}
    texts = sentences(2, 12)

    def dream(*given: Any, **settings: Any) -> Callable[[], Any]:
        return lambda: dl.dream(*(given or (neuron,)), **{**small, **settings})

    def parse(text: str) -> Callable[[], Any]:
        return lambda: dl.parse(text)

    def bind(feature: Any) -> Callable[[], Any]:
        return lambda: BIND(feature)

    def scan(*given: Any, **settings: Any) -> Callable[[], Any]:
        return lambda: dl.max_activating(*given, **{"cache": False, "progress": False, **settings})

    rules = dl.constraints
    return {
        "an index without an end": parse("blocks.2.mlp.hook_post[-1, 17"),
        "a number": parse("17"),
        "nothing": parse(""),
        "an unknown method": parse("a.b[0].nrm()"),
        "an index that is no integer": parse("a[1.5]"),
        "a step backwards": parse("a[::-1]"),
        "a division by nothing": parse("a / 0"),
        "a direction that is a number": parse("a[0] @ 3"),
        "a custom feature that is not there": parse('custom("unheard of")'),
        "a feature that is a number": lambda: dl.parse(17),  # type: ignore[arg-type]
        "a hook point without a name": lambda: dl.hook(""),
        "a neuron that is a text": lambda: dl.neuron("2", 17),  # type: ignore[arg-type]
        "an empty token": lambda: dl.logit(""),
        "an autoencoder that is a number": lambda: dl.sae_latent(3, 1),
        "hooks that are a text": lambda: dl.custom("x", "blocks.1.mlp.hook_pre", gap),
        "a direction of nothing": lambda: dl.hook("a.b")[-1] @ [],
        "an unknown hook point": bind("blocks.2.mlp.hook_pst[-1, 17]"),
        "a layer that is not there": bind("L9.N17"),
        "a unit that is not there": bind("L2.N5000"),
        "a token that is several": bind('logit(" unbelievable things")'),
        "a direction that is too short": bind(dl.hook("blocks.4.hook_resid_post")[-1] @ [1.0, 2.0]),
        "units that are left": bind("blocks.2.mlp.hook_post[-1]"),
        "positions that are left": bind("blocks.2.mlp.hook_post[..., 17]"),
        "an unknown pattern": scan("blocks.*.mlp.hook_pst[-1]", corpus=texts),
        "two patterns": scan(dl.hook("a.*.b")[-1, 0] + dl.hook("c.*.d")[-1, 0], corpus=texts),
        "no features": scan([], corpus=texts),
        "an unknown setting": dream(childen=3),
        "a setting below its range": dream(population=0),
        "a setting that is no number": dream(iterations=2.5),
        "a negative weight": dream(lambda_min=-1.0),
        "limits the wrong way round": dream(lambda_min=5.0, lambda_max=1.0),
        "seed and seeds": dream(seed=1, seeds=[2]),
        "seeds that are a number": dream(seeds=-3),
        "no seeds": dream(seeds=[]),
        "equal seeds": dream(seeds=[1, 1]),
        "a list of no features": dream([]),
        "an empty start": dream(start=""),
        "a start of unknown ids": dream(start=[10**6]),
        "a start that a rule forbids": dream(start="the same", constraints=rules.forbid_text("same"), length=2),
        "rules that leave nothing": dream(constraints=[rules.fix({0: " a", 1: " a", 2: " a", 3: " a"})]),
        "a position outside the prompt": dream(constraints=[rules.fix({9: " a"})]),
        "a template without a place": lambda: rules.template("User:"),
        "a forbidden text of nothing": lambda: rules.forbid_text(" "),
        "a forbidden list": lambda: rules.forbid_tokens([" a"]),  # type: ignore[arg-type]
        "positions that are a list": lambda: rules.fix([" a"]),  # type: ignore[arg-type]
        "a fluency model with another tokenizer": dream(fluency_model=models.family("gpt2").bridge),
        "a folder that is something else": dream(save_to=place / "something"),
        "a model that is a number": dream(neuron, 3),
        "a device that is not there": lambda: dl.load_model(device="nothing"),
        "an unknown dtype": lambda: dl.load_model(dtype="float7"),
        "no run": lambda: dl.load_run(place / "nothing"),
        "a folder without a run": lambda: dl.load_run(place / "something"),
        "an attribution of two prompts": lambda: dl.attribution(neuron, ["a", "b"]),
        "an attribution with no substitutes": lambda: dl.attribution(neuron, "a", k=0),
        "scores of an empty text": lambda: dl.score(neuron, [""]),
        "an effect of no tokens": lambda: LOGIT_EFFECT(neuron, count=0),
        "nothing to merge": lambda: MERGE([]),
        "no corpus": scan(neuron, corpus=str(place / "nothing.txt")),
        "a corpus that is one text": scan(neuron, corpus="one text of some words"),
        "a corpus that is a number": scan(neuron, corpus=3),
        "an empty corpus": scan(neuron, corpus=[]),
        "an empty file": scan(neuron, corpus=place / "empty.txt"),
        "a corpus of short texts": scan(neuron, corpus=["a"], length=12),
        "windows of nothing": scan(neuron, corpus=texts, length=0),
        "nothing kept": scan(neuron, corpus=texts, k=0),
        "a scan into something else": scan(neuron, corpus=texts, length=6, out=place / "something"),
        "workers without a cluster": scan(neuron, corpus=texts, workers=2),
        "a split that is not there": lambda: dl.corpus.open(split="test"),
        "an option that does not fit": lambda: dl.corpus.open(["a"], separator="x"),
        "no examples": lambda: EXAMPLES.load(place / "nothing"),
        "no sweep": lambda: SWEEP.load(place / "something"),
        "a sweep with a seed": lambda: dl.sweep(neuron, out=place / "sweep", settings=[{"seed": 1}]),
        "a sweep together with none": lambda: dl.sweep(neuron, out=place / "sweep", together=0),
        "an unknown public name": lambda: dl.nothing,  # type: ignore[attr-defined]
    }


COMMANDS = (
    "dream",
    "attribute",
    "upstream",
    "steer",
    "ablate",
    "patch",
    "mechanisms",
    "baselines",
    "scan",
    "compare",
    "card",
    "sweep",
    "direction",
    "hooks",
    "show",
    "doctor",
)

SMALL = "--iterations 2 --population 2 --children 4 --top-k 16 --length 6 --quiet".split()


def commands(golden: Path, place: Path) -> dict[str, list[str]]:
    """Command lines by a name.

    Args:
        golden: the folder with the data.
        place: an empty folder.
    """
    (place / "texts.txt").write_text("\n\n".join(sentences(12, 24)))
    corpus = ["--corpus", str(place / "texts.txt"), "--separator", r"\n\n"]
    run, scan = str(golden / "runs" / "pre"), str(golden / "scans" / "several")
    neuron = "blocks.2.mlp.hook_pre[-1, 812]"
    return {
        "nothing": [],
        "help": ["--help"],
        "version": ["--version"],
        **{f"help of {name}": [name, "--help"] for name in COMMANDS},
        "an unknown command": ["sleep"],
        "dream": ["dream", neuron, *SMALL],
        "dream with rules": [
            *["dream", neuron, *SMALL, "--seed", "1", "--forbid", " the", "--printable", "--round-trip"],
            *["--template", "User: {dream} Assistant:", "--keep-parents", "--no-bos", "--out", str(place / "run")],
        ],
        "dream goes on": ["dream", "--resume", str(place / "run"), "--iterations", "1", "--quiet"],
        "dream from a text": ["dream", neuron, *SMALL, "--start", "the same as described", "--html", str(place / "d")],
        "dream of nothing": ["dream"],
        "dream of an unknown hook point": ["dream", "blocks.2.mlp.hook_pst[-1, 17]", *SMALL],
        "dream of what does not parse": ["dream", "blocks.2.mlp.hook_post[-1, 17", *SMALL],
        "dream with a bad setting": ["dream", neuron, "--population", "0"],
        "dream with a bad number": ["dream", neuron, "--population", "x"],
        "dream goes on otherwise": ["dream", neuron, "--resume", run, "--seed", "3"],
        "attribute": ["attribute", neuron, "the same as described only", "-k", "4"],
        "attribute of nothing": ["attribute", neuron, ""],
        "scan": ["scan", neuron, "L3.N40", *corpus, "--length", "6", "-k", "3", "--quiet", "--out", str(place / "s")],
        "scan of a layer": ["scan", "L2.N*", *corpus, "--length", "6", "-k", "2", "--tokens", "200", "--quiet"],
        "scan without a corpus": ["scan", neuron, "--corpus", str(place / "nothing.txt"), "--quiet"],
        "scan with a bad count": ["scan", neuron, "--tokens", "many"],
        "scan with workers": ["scan", neuron, *corpus, "--workers", "2"],
        "compare": ["compare", run, scan, "--limit", "7", "--html", str(place / "c.html")],
        "compare with nothing": ["compare", run, str(place / "nothing")],
        "card": ["card", neuron, "--run", run, "--examples", scan, "--html", str(place / "card.html"), "--quiet"],
        "card without a page": ["card", neuron],
        "sweep": ["sweep", neuron, *SMALL, "--seeds", "2", "--out", str(place / "sweep")],
        "sweep with no seeds": ["sweep", neuron, *SMALL, "--seeds", "0", "--out", str(place / "sweep")],
        "hooks": ["hooks", "blocks.2", "mlp"],
        "hooks by a pattern": ["hooks", "*hook_post"],
        "hooks that are not there": ["hooks", "blocks.2", "mpl"],
        "show": ["show", run],
        "show the best": ["show", run, "--max-cross-entropy", "9", "--csv", str(place / "table.csv")],
        "show what no prompt is": ["show", run, "--max-cross-entropy", "0.1"],
        "show nothing": ["show", str(place / "nothing")],
        "doctor": ["doctor", neuron],
        "doctor of an unknown hook point": ["doctor", "L9.N17"],
    }
