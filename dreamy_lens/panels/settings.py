"""The settings of a run in the feature browser's form, and what is typed there as arguments of `dream()`.

The form has a field for every setting that :class:`~dreamy_lens.search.config.EPOConfig` declares, and fields of its
own for seeds, constraints, the start text and the template.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict, dataclass
from typing import Any

from dreamy_lens.errors import SettingsError
from dreamy_lens.search import constraints
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.settings import SettingField, setting_fields

MOST_SEEDS = 64
"""Runs that one press of a button starts at most."""

_CHOICES = {"": None, "yes": True, "no": False}


@dataclass(frozen=True)
class FormField:
    """An input of the form.

    Attributes:
        name: name of what is typed; that of a setting or constraint in Python.
        label: text beside the input.
        help: sentence beneath the input.
        kind: "number", "text", "check" (a box to tick) or "choice" (a list of `options`).
        more: whether the form folds the input away under "More settings".
        default: what the input holds at first: text, or whether the box is ticked.
        options: values of a choice, each with its label.
    """

    name: str
    label: str
    help: str
    kind: str
    more: bool = False
    default: str | bool = ""
    options: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the view."""
        return asdict(self) | {"options": [list(option) for option in self.options]}


SEEDS = FormField(
    "seeds",
    "seeds",
    "One run for each, side by side: a number, several (0, 1, 2) or a range (0-3).",
    "text",
    default="0",
)
"""Field in the place of the setting `seed`."""

OWN_FIELDS = (
    FormField(
        "round_trip", "must round-trip", "The prompt's text encodes to the very same tokens.", "check", default=False
    ),
    FormField(
        "printable", "printable only", "No control characters and no halves of characters.", "check", default=False
    ),
    FormField("start", "start text", "Where the search starts; nothing is random tokens.", "text", more=True),
    FormField("template", "template", "Text around the prompt, with {dream} in its place.", "text", more=True),
    FormField(
        "forbidden", "text to avoid", "Never in the prompt, in any case, such as a logit's token.", "text", more=True
    ),
)
"""Fields that are no settings of the search."""


def form_fields() -> list[FormField]:
    """Return the form's fields, those of the settings first."""
    settings = setting_fields(EPOConfig)
    return [SEEDS if setting.name == "seed" else _field(setting) for setting in settings] + [*OWN_FIELDS]


def arguments(typed: dict[str, Any]) -> dict[str, Any]:
    """Return what was typed as keywords of `dream()`, without those that are the default.

    Args:
        typed: text or booleans by the names of :func:`form_fields`; a missing or empty value is the default.

    Raises:
        SettingsError: a value is not one that the setting can have.
        ConstraintError: the template has no place for the prompt.
    """
    keywords: dict[str, Any] = {}
    for setting in setting_fields(EPOConfig):
        if setting.name != "seed":
            value = _value(setting, typed)
            if value != setting.default:
                keywords[setting.name] = value
    EPOConfig.from_settings(None, keywords)
    seeds = parse_seeds(str(typed.get("seeds", "")))
    keywords |= {"seeds": seeds} if len(seeds) > 1 else {"seed": seeds[0]}
    rules = _constraints(typed)
    if rules:
        keywords["constraints"] = [constraint for constraint, _ in rules]
    if str(typed.get("start", "")):
        keywords["start"] = str(typed["start"])
    return keywords


def python_call(feature: str, model: str, typed: dict[str, Any]) -> str:
    """Return the line of Python that starts the same runs.

    Args:
        feature: the expression's text.
        model: how the model is written in Python; empty is the embedded one.
        typed: text or booleans by the names of :func:`form_fields`.
    """
    keywords = arguments(typed)
    written = [f"{name}={value!r}" for name, value in keywords.items() if name != "constraints"]
    if "constraints" in keywords:
        written.append(f"constraints=[{', '.join(code for _, code in _constraints(typed))}]")
    return f"dl.dream({', '.join([repr(feature), *([model] if model else []), *written])})"


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0`, `0, 1, 2`, `0-3` and mixtures of these; an empty text is seed 0.

    Raises:
        SettingsError: the text has something else, a seed comes twice, or there are more than `MOST_SEEDS`.

    >>> parse_seeds("0-2, 7")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in filter(None, re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip()))):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if match is None:
            raise SettingsError(f"seeds has {part!r}; write whole numbers from 0 on, such as 0, 1, 2 or 0-3.")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise SettingsError(f"seeds has {part!r}, which is empty; write {high}-{low}.")
        if len(seeds) + high - low >= MOST_SEEDS:
            raise SettingsError(f"seeds has more than {MOST_SEEDS}; start them from Python: dl.dream(..., seeds=...).")
        seeds.extend(range(low, high + 1))
    twice = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if twice is not None:
        raise SettingsError(f"seeds has {twice} twice; equal seeds make equal runs.")
    return seeds or [0]


def _field(setting: SettingField) -> FormField:
    """Return the input for a setting of the search."""
    sentence = f"{setting.help[0].upper()}{setting.help[1:]}"
    rest: dict[str, Any] = {"more": setting.advanced}
    if setting.type is bool and not setting.when_none:
        return FormField(setting.name, setting.label, f"{sentence}.", "check", default=setting.default, **rest)
    if setting.type is bool:
        sentence += f"; choose automatic {setting.when_none}"
        shown = next(text for text, value in _CHOICES.items() if value is setting.default)
        options = tuple((text, text or "automatic") for text in _CHOICES)
        return FormField(setting.name, setting.label, f"{sentence}.", "choice", default=shown, options=options, **rest)
    sentence += f"; leave it empty {setting.when_none}" if setting.when_none else ""
    shown = "" if setting.default is None else f"{setting.default:g}"
    return FormField(setting.name, setting.label, f"{sentence}.", "number", default=shown, **rest)


def _value(setting: SettingField, typed: dict[str, Any]) -> Any:
    """Return the value typed for a setting; a text that is no value is left to the setting's check to refuse."""
    text = typed.get(setting.name, "")
    if setting.type is bool and not setting.when_none:
        return setting.default if text == "" else text
    text = str(text).strip()
    if setting.type is bool:
        return _CHOICES.get(text, text)
    return setting.default if not text else _number(text)


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _constraints(typed: dict[str, Any]) -> list[tuple[Any, str]]:
    """Return the constraints that were typed, each with its Python."""
    rules: list[tuple[Any, str]] = []
    for name in ("round_trip", "printable"):
        if typed.get(name):
            rules.append((getattr(constraints, name)(), f"dl.constraints.{name}()"))
    for name, make in (("template", constraints.template), ("forbidden", constraints.forbid_text)):
        text = str(typed.get(name, ""))
        if text.strip():
            rules.append((make(text), f"dl.constraints.{make.__name__}({text!r})"))
    return rules
