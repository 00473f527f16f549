"""Exceptions of dreamy_lens, in one tree, so that one `except` catches all of them.

    DreamyLensError
    ├── ModelError              a model cannot be loaded, or cannot do the requested computation
    │   └── TokenizerError      a model's tokenizer is missing or unusable
    ├── FeatureError            a feature has no meaning (also a ValueError)
    │   ├── FeatureSyntaxError  the text of a feature does not parse
    │   ├── UnknownHookError    the model has no such hook point
    │   ├── FeatureRangeError   an index, rank or size is outside the range of the hook point
    │   ├── TokenError          a target is not exactly one token of the model
    │   ├── HookNotFiredError   the hook point exists, but no forward pass reaches it
    │   ├── HookMeaningError    the hook point does not hold what its name says, such as neurons
    │   ├── HookNotEditableError  the model does not go on with what is put at the hook point
    │   ├── NoGradientError     the value is not a differentiable function of the prompt
    │   └── SAEError            a sparse autoencoder cannot be read or does not fit
    ├── PromptError             a prompt is empty, too long, or not made of the model's tokens (also a ValueError)
    ├── ConstraintError         constraints contradict each other or exclude all prompts (also a ValueError)
    ├── CorpusError             a corpus does not exist, has no text, or cannot be read again (also a ValueError)
    ├── SettingsError           a setting is outside its range (also a ValueError)
    ├── RunFolderError          a saved run is incomplete, damaged, or belongs to another model
    ├── ClusterError            Ray is not installed or not reachable, or the workers cannot do the requested work
    ├── ExamplesError           examples from a corpus are damaged, lack a feature, or belong to another model
    ├── FileWriteError          a page, a figure or a table cannot be written (also an OSError)
    ├── LLMError                a language model that is asked for words does not answer as it was asked to
    ├── WaitError               something outside this process did not answer in time (also a TimeoutError)
    └── OutOfMemoryError        a single prompt does not fit into memory

Every message says what was wrong, what exists instead, and what to do.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar


class DreamyLensError(Exception):
    """Base class of every error that dreamy_lens raises deliberately."""


class ModelError(DreamyLensError):
    """A model cannot be loaded, or cannot do the requested computation."""


class TokenizerError(ModelError):
    """A model's tokenizer is missing or unusable."""


class FeatureError(DreamyLensError, ValueError):
    """A feature has no meaning, by itself or for the given model."""


class FeatureSyntaxError(FeatureError):
    """The text of a feature does not parse.

    Attributes:
        message: Description of the mistake.
        text: Text that was parsed.
        position: Index of the character at which the mistake is.
    """

    def __init__(self, message: str, text: str, position: int) -> None:
        message = shorten(message, 1000)
        self.message, self.text, self.position = message, text, position
        # One line of bounded length with one character for each of the text, so that the caret is at the right place.
        start, stop = max(0, position - 60), position + 40
        shown = "".join(c if c.isprintable() else " " for c in text[start:stop])
        before, after = "…" * (start > 0), "…" * (stop < len(text))
        super().__init__(f"{message}\n    {before}{shown}{after}\n    {' ' * (position - start + len(before))}^")

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        # Python pickles an exception by its printed argument, but this class has three arguments.
        return type(self), (self.message, self.text, self.position)


class UnknownHookError(FeatureError):
    """The model has no hook point with this name."""


class FeatureRangeError(FeatureError):
    """An index, a rank or a size is outside the range of the hook point."""


class TokenError(FeatureError):
    """A target is not exactly one token of the model."""


class HookNotEditableError(FeatureError):
    """The hook point shows an activation, but the model does not go on with what is put in its place."""


class HookMeaningError(FeatureError):
    """The hook point does not hold what its name says, such as an MLP's neurons, on this architecture."""


class HookNotFiredError(FeatureError):
    """The hook point exists, but no forward pass reaches it."""


class NoGradientError(FeatureError):
    """The value is not a differentiable function of the prompt, so candidates cannot be ranked."""


class SAEError(FeatureError):
    """A sparse autoencoder cannot be read, or does not fit the model."""


class PromptError(DreamyLensError, ValueError):
    """A prompt is empty, too long, or not made of the model's tokens."""


class ConstraintError(DreamyLensError, ValueError):
    """Constraints contradict each other, or exclude every token or every prompt."""


class CorpusError(DreamyLensError, ValueError):
    """A corpus does not exist, has no text, or cannot be read a second time."""


class SettingsError(DreamyLensError, ValueError):
    """A setting is outside its range."""


class RunFolderError(DreamyLensError):
    """A saved run is incomplete, damaged, of an unknown format, or belongs to another model."""


class ClusterError(DreamyLensError):
    """Ray is not installed or not reachable, or the workers cannot do the requested work."""


class ExamplesError(DreamyLensError):
    """Examples from a corpus cannot be written or read, lack a feature, or belong to another model."""


class FileWriteError(DreamyLensError, OSError):
    """A page, a figure or a table cannot be written to its file."""


class WaitError(DreamyLensError, TimeoutError):
    """Something outside this process, such as a browser or a server, did not answer in time."""


class LLMError(DreamyLensError):
    """The language model that was asked for words does not answer, or not as it was asked to."""


class OutOfMemoryError(DreamyLensError):
    """A single prompt does not fit into the device's memory."""


P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_BETWEEN = ("concurrent", "contextlib", "functools", "threading", "torch", "transformer_lens")
"""Libraries through which the package calls its own functions, as with context managers, threads and hooks."""

LONGEST = 200
"""Largest number of characters of a name that are compared with other names: the time grows with their product."""
MOST = 20_000
"""Largest number of names with which a name is compared."""


def shorten(text: str, limit: int = 80) -> str:
    """Return a text for a message: whole if it is short, or else its beginning and its length.

    Args:
        text: Text of any length.
        limit: Largest number of characters that are shown.

    >>> shorten("a" * 500, 4)
    'aaaa… (500 characters)'
    """
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def quoted(value: Any, limit: int = 80) -> str:
    """Return what a user gave as it would be written in Python, for a message: its beginning if it is long.

    Args:
        value: Text, or any other object.
        limit: Largest number of characters that are shown.

    >>> quoted("a" * 500, 4), quoted(12)
    ("'aaaa'… (500 characters)", '12')
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= limit else f"{value[:limit]!r}… ({len(value):,} characters)"
    if hasattr(type(value), "named_modules"):  # a model's repr is thousands of lines
        return f"a {type(value).__name__}"
    try:
        if getattr(value, "ndim", None) == 0 and type(value).__module__ == "numpy":
            value = value.item()  # NumPy's own repr is np.int64(12)
        return shorten(repr(value), limit)
    except ValueError:  # Python writes no whole number of more than some thousand digits
        return "a number of thousands of digits"
    except Exception:
        return f"an object of type {type(value).__name__}"


def close_names(name: str, names: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the names that a misspelt name may stand for, the closest first; none for a name of absurd length.

    Args:
        name: Name that the user gave.
        names: Names that exist.
        count: Largest number of names to return.
        cutoff: Least similarity, from 0 to 1.
    """
    if len(name) > LONGEST:
        return []
    comparable = (other for other in itertools.islice(names, MOST) if len(other) <= LONGEST)
    return difflib.get_close_matches(name, list(comparable), count, cutoff)


_ROLES = {
    "Corpus": "write corpus=...",
    "Dream": "a run is given by run=..., and its model is run.model",
    "Dreams": "runs are given by run=..., and their model is runs[0].model",
    "Examples": "examples are given by examples=...",
    "Prompt": "the feature comes first, then the prompt, then the model",
}
"""Advice on objects of the package that were given in the place of something else, by the names of their classes."""


def misplaced(given: Any, expected: str, advice: str = "") -> str:
    """Return the sentence on an object that was given in the place of another, or "" for objects that are not known.

    Args:
        given: Object that the user gave.
        expected: What belongs there, as in "a model".
        advice: What to do, for objects without advice of their own.

    >>> misplaced(3, "a model")
    ''
    """
    kind = type(given)
    is_ours = kind.__module__.partition(".")[0] == "dreamy_lens"
    is_model = hasattr(given, "hook_dict") and hasattr(given, "cfg")
    is_feature = ".features." in kind.__module__ and hasattr(given, "label")
    if not (is_ours or is_model) or (is_feature and expected == "a feature"):
        return ""
    name = "feature" if is_feature else kind.__name__
    article = "an" if name[0] in "AEIOUaeiou" else "a"
    own = _ROLES.get(name, "") if expected == "a model" else ""
    own = "the feature comes first, and then the model" if is_feature and not own else own
    end = own or advice
    return f"{article} {name} where {expected} was expected" + (f": {end}." if end else ".")


def unknown_setting(name: str, known: Sequence[str]) -> SettingsError:
    """Return the error for a setting that does not exist. Its message names the nearest setting.

    Args:
        name: Name that the user gave.
        known: Names of all settings.

    >>> print(unknown_setting("lenght", ["length", "stride"]))
    There is no setting 'lenght'; did you mean length?
    """
    near = close_names(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}."
    return SettingsError(f"There is no setting {quoted(name)}{hint}")


def keywords_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's arguments, without those that stand for any number of arguments.

    >>> keywords_of(shorten)
    ['text', 'limit']
    """
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, each in inspect.signature(function).parameters.items() if each.kind not in several]


def names_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function raise SettingsError for a keyword that it does not have.

    Python's own error is a TypeError, which no `except DreamyLensError` catches, and before Python 3.12 it names no
    other keyword.

    Args:
        function: Function, which keeps its signature and its documentation.
    """
    known = keywords_of(function)

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        for name in keywords:
            if name not in known:
                raise unknown_setting(name, known)
        return function(*args, **keywords)

    return call


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that points at the code of the user, whatever part of the package finds the reason for it.

    Python prints the file and line that a warning points at. Here these are of the nearest frame that belongs neither
    to the package nor to a library through which the package calls itself. In a thread of the package's own there may
    be none; the nearest frame outside of the package then takes its place.

    Args:
        message: Sentence of the warning.
        category: Kind of the warning.
    """
    frame, level, outside = inspect.currentframe(), 1, 0
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            outside = outside or level
            if str(frame.f_globals.get("__name__")).partition(".")[0] not in _BETWEEN:
                outside = level
                break
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=outside or 2)


def __dir__() -> list[str]:
    return sorted(
        name for name, each in globals().items() if isinstance(each, type) and issubclass(each, DreamyLensError)
    )
