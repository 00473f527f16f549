"""Signatures of public functions that take settings as keywords, so that editors and notebooks complete them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from dreamy_lens.errors import FeatureError, FeatureSyntaxError, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import parse
from dreamy_lens.scan.config import ScanConfig
from dreamy_lens.search.optimizers import default_search, searches, settings_of_searches


def search_settings() -> dict[str, Any]:
    """Return the settings of all searches with their defaults: those of the default search, where it has the setting.

    Settings of every search come first.
    """
    defaults: dict[str, Any] = {}
    kinds = searches()
    for setting, owners in settings_of_searches():
        usual = default_search().name
        if setting.name not in defaults or usual in owners:
            defaults[setting.name] = getattr(kinds[usual if usual in owners else owners[0]](), setting.name)
    return defaults


def scan_settings() -> dict[str, Any]:
    """Return the settings of a scan with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(ScanConfig)}


def show_settings(function: Any, settings: Mapping[str, Any], without: Iterable[str] = ()) -> None:
    """Name the settings that a function takes as `**settings` in its signature, as keywords with their defaults.

    Args:
        function: Function whose signature gets the settings.
        settings: Names of the settings, with their defaults.
        without: Names of settings that the function does not take.
    """
    own = inspect.signature(function).parameters
    kept = [each for each in own.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [name for name in settings if name not in own and name not in set(without)]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, keyword, default=settings[name]) for name in more]
    returned = inspect.signature(function).return_annotation
    function.__signature__ = inspect.Signature([*kept, *added], return_annotation=returned)


def parse_first(feature: Any, second: Any, call: str) -> Feature:
    """Parse the first argument of a function whose second one is a prompt; tell if the two are exchanged.

    Args:
        feature: Feature, or its text.
        second: Argument that follows.
        call: Call as it is written, such as "attribution(feature, prompt)".

    Raises:
        FeatureError: The first argument is no feature.
    """
    try:
        return parse(feature)
    except FeatureSyntaxError:
        try:
            parse(second)
        except FeatureError:
            pass
        else:
            raise FeatureError(
                f"{quoted(second)} is a feature, and stands where the prompt belongs: the feature comes first, as in "
                f"{call}."
            ) from None
        raise
