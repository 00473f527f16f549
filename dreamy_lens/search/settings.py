"""Settings with descriptions: fields of a dataclass that carry a label, a help text and bounds.

A setting is declared once, with :func:`setting`. The declaration serves four purposes: the dataclass checks values
(:func:`check_values`) and lists the setting in its docstring (:func:`documented`), the command line offers an option,
and the notebook form offers an input.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np

from dreamy_lens.errors import SettingsError, quoted

T = TypeVar("T", bound=type)

_KEY = "setting"
_LARGEST = 2**63 - 1

SMALLEST, LARGEST = 1e-30, 1e30
"""Limits of settings that are not whole numbers: products with a score stay within the range of float32."""


@dataclass(frozen=True)
class SettingField:
    """Description of a setting.

    Attributes:
        name: Name in Python, also a keyword of `dream()`.
        type: Type of the value: int, float or bool.
        default: Default value.
        label: Short name, shown in forms.
        help: Effect of the setting, as a phrase without capital letter and full stop.
        minimum: Smallest number allowed. A number that is not whole is at most :data:`LARGEST`, and not closer to zero
            than :data:`SMALLEST`, unless it is zero.
        maximum: Largest number allowed, so that nothing is allocated for a number that is typed by mistake.
        too_low: End of the error message for a number below the minimum; "" names the minimum.
        when_none: Effect of None, such as "to choose it automatically"; "" if None is not allowed.
        advanced: Whether a form hides the setting at first, because most users do not need it.
        place: Place of the setting among all settings of its class, those of base classes included: lower ones come
            first, equal ones as they are declared. None is 10, or 30 for an advanced setting.
    """

    name: str
    type: type
    default: Any
    label: str
    help: str
    minimum: float = 0
    maximum: float = math.inf
    too_low: str = ""
    when_none: str = ""
    advanced: bool = False
    place: int | None = None

    @property
    def rank(self) -> int:
        """Place of the setting as a number."""
        return (30 if self.advanced else 10) if self.place is None else self.place

    def checked(self, value: Any) -> Any:
        """Return the value as a plain Python number or boolean.

        Raises:
            SettingsError: The setting cannot have this value; the message begins with the setting's name.
        """
        if value is None and self.when_none:
            return None
        or_none = f", or None {self.when_none}" if self.when_none else ""
        if self.type is bool:
            if not isinstance(value, (bool, np.bool_)):
                raise SettingsError(f"{self.name} is {quoted(value)}; use True or False{or_none}.")
            return bool(value)
        return self._checked_number(value, or_none)

    def _checked_number(self, value: Any, or_none: str) -> Any:
        """Return the value as a plain Python number; raise SettingsError if the setting cannot have it."""
        numbers = (int, np.integer) if self.type is int else (int, float, np.integer, np.floating)
        what = "whole" if self.type is int else "finite"
        demand = f"it must be a {what} number, at least {self.minimum}{or_none}"
        is_number = isinstance(value, numbers) and not isinstance(value, bool)
        if not is_number or (self.type is float and not _is_finite(value)):
            raise SettingsError(f"{self.name} is {quoted(value)}; {demand}.")
        if value < self.minimum:
            reason = self.too_low or (demand if self.when_none else f"it must be at least {self.minimum}")
            raise SettingsError(f"{self.name} is {quoted(value)}; {reason}.")
        most = _LARGEST if self.type is int and self.maximum == math.inf else self.maximum
        if value > most:
            raise SettingsError(f"{self.name} is {quoted(value)}; it must be at most {most:,}.")
        if self.type is float and not (value == 0 or SMALLEST <= value <= LARGEST):
            bound = f"at most {LARGEST:g}" if value > LARGEST else f"0 or at least {SMALLEST:g}"
            raise SettingsError(f"{self.name} is {value}; it must be {bound}, because scores are float32 numbers.")
        return self.type(value)


def setting(default: Any, label: str, help: str, **description: Any) -> Any:
    """Declare a dataclass field that is a setting.

    Args:
        default: Default value.
        label: Short name, shown in forms.
        help: Effect of the setting, as a phrase without capital letter and full stop.
        **description: Further attributes of :class:`SettingField`.
    """
    return dataclasses.field(default=default, metadata={_KEY: {"label": label, "help": help, **description}})


@lru_cache
def setting_fields(cls: type) -> tuple[SettingField, ...]:
    """Return the settings that a dataclass declares, by their places; their types come from the annotations."""
    hints = get_type_hints(cls)
    settings = []
    for field in dataclasses.fields(cls):
        if _KEY in field.metadata:
            (kind,) = set(get_args(hints[field.name]) or [hints[field.name]]) - {type(None)}
            settings.append(SettingField(field.name, kind, field.default, **field.metadata[_KEY]))
    return tuple(sorted(settings, key=lambda setting: setting.rank))


def check_values(config: Any) -> None:
    """Check every setting of an instance of a frozen dataclass, and convert numpy numbers to Python numbers.

    Raises:
        SettingsError: A setting is outside its range.
    """
    for field in setting_fields(type(config)):
        object.__setattr__(config, field.name, field.checked(getattr(config, field.name)))


def documented(cls: T) -> T:
    """Replace `{settings}` in the docstring of a dataclass by a list of its settings."""
    wrap = textwrap.TextWrapper(width=112, subsequent_indent=" " * 12)
    entries = []
    for field in setting_fields(cls):
        none = f"; None {field.when_none}" if field.when_none else ""
        entries.append(wrap.fill(f"{field.name}: {field.help[:1].upper()}{field.help[1:]}{none}."))
    if cls.__doc__:  # `python -OO` removes it
        cls.__doc__ = cls.__doc__.replace("{settings}", f"\n{' ' * 8}".join(entries))
    return cls


def _is_finite(value: Any) -> bool:
    """Return whether a number is finite as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False
