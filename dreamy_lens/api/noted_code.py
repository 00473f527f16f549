"""Programs in the results of public functions: each result notes, as Python, the call that makes it again."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from dreamy_lens.runs.call_code import call_code

P = ParamSpec("P")
R = TypeVar("R")


def notes_code(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that makes a function note its call in the field `code` of its result.

    Args:
        name: Name of the result in the program.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **keywords: P.kwargs) -> R:
            result: Any = function(*args, **keywords)
            bound = signature.bind(*args, **keywords)
            return dataclasses.replace(result, code=call_code(name, function, bound.arguments))

        return call

    return decorate
