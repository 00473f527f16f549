"""The settings of a run as the feature browser shows them, and what is typed there as arguments of `dream()`."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from dreamy_lens.errors import SettingsError
from dreamy_lens.search import constraints
from dreamy_lens.search.config import EPOConfig

MOST_SEEDS = 64
"""Runs that one press of a button starts at most."""


@dataclass(frozen=True)
class Field:
    """A setting: its name as in Python, its label, what it is in a sentence, its kind, and whether it stands aside."""

    name: str
    label: str
    help: str
    kind: str = "number"
    more: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the view, with the default as it would be typed."""
        default = getattr(EPOConfig(), self.name, None)
        shown = "0" if self.name == "seeds" else "" if default is None or self.kind == "text" else f"{default:g}"
        return {
            "name": self.name,
            "label": self.label,
            "help": self.help,
            "kind": self.kind,
            "more": self.more,
            "default": False if self.kind == "check" else shown,
        }


FIELDS = (
    Field("iterations", "iterations", "How many times the population is replaced by its best children."),
    Field("population", "population", "Prompts that are bred at a time, each with its own weight of fluency λ."),
    Field("children", "children", "Mutations of each member that are scored in one iteration."),
    Field("top_k", "top k", "Candidates for each position, the best by the gradient; fewer is greedier."),
    Field("length", "length", "Tokens of a prompt. A start text decides it instead."),
    Field("seeds", "seeds", "One run for each, side by side: a number, several (0, 1, 2) or a range (0-3).", "text"),
    Field("lambda_min", "least λ", "Weight of fluency of the member that cares least about it.", more=True),
    Field("lambda_max", "largest λ", "Weight of fluency of the member that cares most about it.", more=True),
    Field("restart_every", "restart every", "Iterations after which one member alone survives; 0: never.", more=True),
    Field("restart_lambda_min", "least restart λ", "Lower end of the weights the survivor is chosen by.", more=True),
    Field("restart_lambda_max", "largest restart λ", "Upper end of the weights the survivor is chosen by.", more=True),
    Field("round_trip", "must round-trip", "The prompt's text encodes to the very same tokens.", "check"),
    Field("printable", "printable only", "No control characters and no halves of characters.", "check"),
    Field("start", "start text", "Where the search starts; nothing is random tokens.", "text", more=True),
    Field("template", "template", "Text around the prompt, with {dream} in its place.", "text", more=True),
    Field("forbidden", "text to avoid", "Never in the prompt, in any case: a logit's token, say.", "text", more=True),
)


def arguments(typed: dict[str, Any]) -> dict[str, Any]:
    """What was typed, as keywords of `dream()`; those that are the default are left out.

    Args:
        typed: by the names of `FIELDS`; text, or booleans. What is missing or empty is the default.

    Raises:
        SettingsError: a value is not one that the setting can have.
        ConstraintError: the template has no place for the prompt.
    """
    known: dict[str, Any] = {}
    for field in FIELDS:
        if field.kind == "number":
            value = _number(str(typed.get(field.name, "")).strip())
            if value is not None and value != getattr(EPOConfig(), field.name):
                known[field.name] = value
    EPOConfig.from_settings(None, known)
    seeds = seeds_of(str(typed.get("seeds", "")))
    if len(seeds) > 1:
        known["seeds"] = seeds
    else:
        known["seed"] = seeds[0]
    rules = _rules(typed)
    if rules:
        known["constraints"] = [rule for rule, _ in rules]
    if str(typed.get("start", "")):
        known["start"] = str(typed["start"])
    return known


def python_of(feature: str, model: str, typed: dict[str, Any]) -> str:
    """The line of Python that starts the same runs.

    Args:
        feature: the expression's text.
        model: how the model is written in Python; empty is the embedded one.
        typed: as for :func:`arguments`.
    """
    known = arguments(typed)
    given = [f"{name}={value!r}" for name, value in known.items() if name != "constraints"]
    if "constraints" in known:
        given.append(f"constraints=[{', '.join(code for _, code in _rules(typed))}]")
    return f"dl.dream({', '.join([repr(feature), *([model] if model else []), *given])})"


def seeds_of(text: str) -> list[int]:
    """Seeds from `0`, `0, 1, 2`, `0-3` and mixtures of these; nothing is 0.

    Raises:
        SettingsError: something else is there, a seed comes twice, or there are more than `MOST_SEEDS`.

    >>> seeds_of("0-2, 7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in filter(None, re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip()))):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if match is None:
            raise SettingsError(f"seeds has {part!r}; write whole numbers from 0 on, such as 0, 1, 2 or 0-3.")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise SettingsError(f"seeds has {part!r}, which is empty; write {high}-{low}.")
        if len(found) + high - low >= MOST_SEEDS:
            raise SettingsError(f"seeds has more than {MOST_SEEDS}; start them from Python: dl.dream(..., seeds=...).")
        found.extend(range(low, high + 1))
    twice = next((seed for i, seed in enumerate(found) if seed in found[:i]), None)
    if twice is not None:
        raise SettingsError(f"seeds has {twice} twice; equal seeds make equal runs.")
    return found or [0]


def _number(text: str) -> Any:
    """A number, or the text itself, about which the settings know what to say."""
    if not text:
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _rules(typed: dict[str, Any]) -> list[tuple[Any, str]]:
    """Constraints, each with its Python."""
    found: list[tuple[Any, str]] = []
    for name in ("round_trip", "printable"):
        if typed.get(name):
            found.append((getattr(constraints, name)(), f"dl.constraints.{name}()"))
    for name, make in (("template", constraints.template), ("forbidden", constraints.forbid_text)):
        text = str(typed.get(name, ""))
        if text.strip():
            found.append((make(text), f"dl.constraints.{make.__name__}({text!r})"))
    return found
