"""Fields of the feature browser's form for the settings of a run, and their values as arguments of `dream()`.

The form has a choice of the search, a field for every setting of every search, and further fields for seeds,
constraints, the start text and the template. The view shows the fields of the chosen search.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.search import constraints
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.constraint_kinds import Contexts
from dreamy_lens.search.optimizers import default_search, searches, settings_of_searches
from dreamy_lens.search.settings import SettingField, setting_fields
from dreamy_lens.search.typed_frames import typed_chat, typed_frames

MOST_SEEDS = 64
"""Most runs that one press of the start button starts."""

_CHOICES = {"": None, "yes": True, "no": False}


@dataclass(frozen=True)
class FormField:
    """An input of the form.

    Attributes:
        name: Name of the input: that of a setting or constraint in Python.
        label: Text beside the input.
        help: Sentence below the input.
        kind: "number", "text", "check" (a box to tick) or "choice" (a list of `options`).
        more: Whether the form folds the input away under "More settings".
        default: Initial content of the input: a text, or whether the box is ticked.
        options: Values of a choice, each with its label.
        placeholder: Text in the input while it is empty.
        searches: Names of the searches that have the field; () for all. Several fields of one name belong to different
            searches, and share what is typed.
    """

    name: str
    label: str
    help: str
    kind: str
    more: bool = False
    default: str | bool = ""
    options: tuple[tuple[str, str], ...] = ()
    placeholder: str = "none"
    searches: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON values, for the view."""
        return asdict(self) | {"options": [list(option) for option in self.options], "searches": list(self.searches)}


_SEARCH_LABELS = {
    "frontier": "frontier search",
    "epo": "EPO, the paper's",
    "gcg": "GCG: one member, no fluency",
    "random": "random prompts, a baseline",
}
"""Labels of the searches of this package; other searches have their names."""

SEEDS = FormField(
    "seeds",
    "seeds",
    "Each seed is a run; the runs go side by side. Type a number, several (0, 1, 2) or a range (0-3).",
    "text",
    default="0",
    placeholder="0",
)
"""Field that replaces the setting `seed`."""

OWN_FIELDS = (
    FormField(
        "round_trip", "must round-trip", "The prompt's text encodes back to the same tokens.", "check", default=False
    ),
    FormField(
        "printable", "printable only", "No control characters and no parts of characters.", "check", default=False
    ),
    FormField(
        "start",
        "start text",
        "Where the search starts; leave it empty for prompts that the search draws.",
        "text",
        more=True,
    ),
    FormField("template", "template", "Text around the prompt, with {dream} in the prompt's place.", "text", more=True),
    FormField(
        "chat",
        "chat message",
        "Message of the user with {dream} in the prompt's place, or a JSON list of messages; the model's chat template "
        "writes it.",
        "text",
        more=True,
    ),
    FormField(
        "contexts",
        "several contexts",
        "Templates, and texts before the prompt, with | between them; or a JSON list of them and of chats.",
        "text",
        more=True,
        placeholder="Return {dream} | See also",
    ),
    FormField(
        "combine",
        "value in the contexts",
        "Combination of the values in several contexts.",
        "choice",
        more=True,
        default="mean",
        options=(("mean", "mean"), ("min", "the smallest"), ("soft_min", "soft minimum")),
    ),
    FormField(
        "softness", "softness", "That of the soft minimum, in the feature's units.", "number", True, placeholder="1"
    ),
    FormField(
        "gradients_in",
        "gradients in",
        "Number of contexts, drawn anew in each iteration, in which gradients are computed.",
        "number",
        more=True,
        placeholder="all",
    ),
    FormField(
        "fluency_model",
        "fluency model",
        'Model with the same tokenizer that measures fluency: a name, a folder, or ensemble("a", "b").',
        "text",
        more=True,
        placeholder="the model itself",
    ),
    FormField(
        "forbidden",
        "text to avoid",
        "Text that never occurs in the prompt, in upper or lower case, such as a logit's token.",
        "text",
        more=True,
    ),
)
"""Fields that are not settings of the search."""


def form_fields() -> list[FormField]:
    """Return the form's fields: the choice of the search, the settings of all searches, and the other fields."""
    names = tuple(searches())
    options = tuple((name, _SEARCH_LABELS.get(name, name)) for name in names)
    help = "How prompts are searched; the settings below are those of the chosen search."
    fields = [FormField("search", "optimiser", help, "choice", default=default_search().name, options=options)]
    for setting, owners in settings_of_searches():
        field = SEEDS if setting.name == "seed" else _field(setting)
        fields.append(replace(field, searches=() if owners == names else owners))
    return [*fields, *OWN_FIELDS]


def arguments(typed: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the form as keywords of `dream()`, without those that have the default value.

    Args:
        typed: Texts or booleans by the names of :func:`form_fields`; a missing or empty value is the default. Settings
            of another search than the chosen one are ignored.

    Raises:
        SettingsError: A setting cannot have the given value.
        ConstraintError: The template has no place for the prompt, or a chat or a context is none.
    """
    keywords: dict[str, Any] = {}
    kind = _search(typed)
    for setting in setting_fields(kind):
        if setting.name != "seed":
            value = _value(setting, typed)
            if value != setting.default:
                keywords[setting.name] = value
    kind.from_settings(None, keywords)
    if kind is not default_search():
        keywords = {"search": kind(), **keywords}
    seeds = parse_seeds(str(typed.get("seeds", "")))
    keywords |= {"seeds": seeds} if len(seeds) > 1 else {"seed": seeds[0]}
    pairs = _constraints(typed)
    if pairs:
        keywords["constraints"] = [constraint for constraint, _ in pairs]
    if str(typed.get("start", "")):
        keywords["start"] = str(typed["start"])
    if str(typed.get("fluency_model", "")).strip():
        keywords["fluency_model"] = str(typed["fluency_model"]).strip()
    return keywords


def python_call(feature: str, model: str, typed: dict[str, Any]) -> str:
    """Return the line of Python that starts the same runs.

    Args:
        feature: Text of the expression.
        model: Model as a Python argument; empty is the embedded model.
        typed: Texts or booleans by the names of :func:`form_fields`.
    """
    keywords = arguments(typed)
    codes = []
    if "search" in keywords:
        kind = type(keywords.pop("search"))
        # The searches of this package are in its top level; other classes have the name under which they are imported.
        codes.append(f"search={'dl.' * kind.__module__.startswith('dreamy_lens.')}{kind.__name__}()")
    codes += [f"{name}={value!r}" for name, value in keywords.items() if name != "constraints"]
    if "constraints" in keywords:
        codes.append(f"constraints=[{', '.join(code for _, code in _constraints(typed))}]")
    return f"dl.dream({', '.join([repr(feature), *([model] if model else []), *codes])})"


def _search(typed: dict[str, Any]) -> type[SearchConfig]:
    """Return the class of settings of the chosen search."""
    name = str(typed.get("search", "")) or default_search().name
    if name not in searches():
        raise SettingsError(f"search is {quoted(name)}; choose one of {', '.join(searches())}.")
    return searches()[name]


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that a text lists, such as `0`, `0, 1, 2`, `0-3` or a mixture of these.

    Args:
        text: List of seeds; an empty text is seed 0.

    Raises:
        SettingsError: The text is not a list of seeds, a seed occurs twice, or there are more than `MOST_SEEDS`.

    >>> parse_seeds("0-2, 7")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in filter(None, re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip()))):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if match is None:
            raise SettingsError(f"seeds has {quoted(part)}; give whole numbers of at least 0, such as 0, 1, 2 or 0-3.")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise SettingsError(f"seeds has {quoted(part)}, which is an empty range; give {high}-{low}.")
        if len(seeds) + high - low >= MOST_SEEDS:
            raise SettingsError(
                f"seeds has more than {MOST_SEEDS} seeds; start the runs from Python: dl.dream(..., seeds=...)."
            )
        seeds.extend(range(low, high + 1))
    twice = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if twice is not None:
        raise SettingsError(f"seeds has {twice} twice; equal seeds make equal runs. Give each seed once.")
    return seeds or [0]


def _field(setting: SettingField) -> FormField:
    """Return the input for a setting of the search."""
    sentence = f"{setting.help[0].upper()}{setting.help[1:]}"
    rest: dict[str, Any] = {"more": setting.advanced}
    if setting.type is bool and not setting.when_none:
        return FormField(setting.name, setting.label, f"{sentence}.", "check", default=setting.default, **rest)
    if setting.type is bool:
        sentence += f"; choose automatic {setting.when_none}"
        default = next(text for text, value in _CHOICES.items() if value is setting.default)
        options = tuple((text, text or "automatic") for text in _CHOICES)
        return FormField(
            setting.name, setting.label, f"{sentence}.", "choice", default=default, options=options, **rest
        )
    sentence += f"; leave it empty {setting.when_none}" if setting.when_none else ""
    default = "" if setting.default is None else f"{setting.default:g}"
    if setting.when_none.startswith("for "):  # "for 300, or for no limit if another budget is given" gives "300"
        rest["placeholder"] = setting.when_none.removeprefix("for ").split(",")[0]
    elif "automatically" in setting.when_none:
        rest["placeholder"] = "automatic"
    elif default:
        rest["placeholder"] = default
    return FormField(setting.name, setting.label, f"{sentence}.", "number", default=default, **rest)


def _value(setting: SettingField, typed: dict[str, Any]) -> Any:
    """Return the value typed for a setting; an invalid text stays as it is, and the setting's check rejects it."""
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
    """Return the constraints that were typed, each with its Python code."""
    pairs: list[tuple[Any, str]] = []
    for name in ("round_trip", "printable"):
        if typed.get(name):
            pairs.append((getattr(constraints, name)(), f"dl.constraints.{name}()"))
    makers = {
        "template": constraints.template,
        "chat": typed_chat,
        "contexts": lambda text: _contexts(text, typed),
        "forbidden": constraints.forbid_text,
    }
    for name, make in makers.items():
        text = str(typed.get(name, ""))
        if text.strip():
            made = make(text)
            pairs.append((made, made.code()))
        elif name == "contexts" and (about := _about_contexts(typed)):
            raise SettingsError(f"contexts is empty, and {about} is about several contexts: give them, or empty it.")
    return pairs


def _about_contexts(typed: dict[str, Any]) -> str:
    """Return the name of a field about several contexts in which something was typed, or an empty text."""
    given = [name for name in ("combine", "softness", "gradients_in") if str(typed.get(name, "")).strip()]
    return next((name for name in given if name != "combine" or typed[name] != "mean"), "")


def _contexts(text: str, typed: dict[str, Any]) -> Contexts:
    """Return the contexts that were typed, with their combination."""
    texts = {name: str(typed.get(name, "")).strip() for name in ("softness", "gradients_in")}
    given = {name: _number(value) for name, value in texts.items() if value}
    return constraints.contexts(typed_frames(text), str(typed.get("combine", "")) or "mean", **given)
