"""The exceptions of dreamy_lens: one tree, so that one `except` catches them all.

    DreamyLensError
    ├── ModelError              a model cannot be loaded, or cannot do what is asked
    │   └── TokenizerError      its tokenizer is missing or unusable
    ├── FeatureError            a feature does not make sense (also a ValueError)
    │   ├── FeatureSyntaxError  its text does not parse
    │   ├── UnknownHookError    the model has no such hook point
    │   ├── FeatureRangeError   an index, rank or size is outside what the hook point has
    │   ├── TokenError          a target is not exactly one token of the model
    │   ├── HookNotFiredError   the hook point exists, but the model never passes through it
    │   ├── NoGradientError     the value does not depend on the prompt differentiably
    │   └── SAEError            a sparse autoencoder cannot be read or does not fit
    ├── PromptError             a prompt is empty, too long, or not made of the model's tokens (also a ValueError)
    ├── ConstraintError         constraints contradict each other or leave nothing (also a ValueError)
    ├── CorpusError             there is no such corpus, it has no text, or it is read a second time (also a ValueError)
    ├── SettingsError           a setting is outside its range (also a ValueError)
    ├── RunFolderError          a saved run is incomplete, damaged, or belongs to another model
    ├── ClusterError            Ray is not installed or cannot be reached, or workers cannot do what is asked
    ├── ExamplesError           examples from a corpus are damaged, lack a feature, or belong to another model
    └── OutOfMemoryError        one prompt alone does not fit into memory

Every message says what was wrong, what there is instead, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class DreamyLensError(Exception):
    """Base class of every error that dreamy_lens raises on purpose."""


class ModelError(DreamyLensError):
    """A model cannot be loaded, or cannot do what is asked of it."""


class TokenizerError(ModelError):
    """A model's tokenizer is missing or unusable."""


class FeatureError(DreamyLensError, ValueError):
    """A feature does not make sense, by itself or for the model at hand."""


class FeatureSyntaxError(FeatureError):
    """The text of a feature does not parse.

    Attributes:
        message: what is wrong.
        text: what was parsed.
        position: index of the character at which it went wrong.
    """

    def __init__(self, message: str, text: str, position: int) -> None:
        self.message, self.text, self.position = message, text, position
        # One line of bounded length, character for character, so that the caret stands where it should.
        start, stop = max(0, position - 60), position + 40
        shown = "".join(c if c.isprintable() else " " for c in text[start:stop])
        before, after = "…" * (start > 0), "…" * (stop < len(text))
        super().__init__(f"{message}\n    {before}{shown}{after}\n    {' ' * (position - start + len(before))}^")

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        # Exceptions are pickled by their one printed argument; this one has three.
        return type(self), (self.message, self.text, self.position)


class UnknownHookError(FeatureError):
    """The model has no hook point of this name."""


class FeatureRangeError(FeatureError):
    """An index, a rank or a size is outside what the hook point has."""


class TokenError(FeatureError):
    """A target is not exactly one token of the model."""


class HookNotFiredError(FeatureError):
    """The hook point exists, but a forward pass does not go through it."""


class NoGradientError(FeatureError):
    """The value does not depend on the prompt differentiably, so proposals cannot be ranked."""


class SAEError(FeatureError):
    """A sparse autoencoder cannot be read, or does not fit the model."""


class PromptError(DreamyLensError, ValueError):
    """A prompt is empty, too long, or not made of the model's tokens."""


class ConstraintError(DreamyLensError, ValueError):
    """Constraints contradict each other, or leave no token or no prompt to try."""


class CorpusError(DreamyLensError, ValueError):
    """There is no such corpus, it has no text, or it cannot be read a second time."""


class SettingsError(DreamyLensError, ValueError):
    """A setting is outside its range."""


class RunFolderError(DreamyLensError):
    """A saved run is incomplete, damaged, of an unknown format, or belongs to another model."""


class ClusterError(DreamyLensError):
    """Ray is not installed or cannot be reached, or its workers cannot do what is asked of them."""


class ExamplesError(DreamyLensError):
    """Examples from a corpus cannot be written or read, lack what is asked of them, or belong to another model."""


class OutOfMemoryError(DreamyLensError):
    """A single prompt does not fit into the device's memory."""


def unknown_setting(name: str, known: Sequence[str]) -> SettingsError:
    """Return the error for a setting that does not exist, which names the nearest one.

    Args:
        name: The setting that was given.
        known: The settings that there are.

    >>> print(unknown_setting("lenght", ["length", "stride"]))
    There is no setting 'lenght'; did you mean length?
    """
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}."
    return SettingsError(f"There is no setting {name!r}{hint}")
