"""Settings of the frontier search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.search.config import MAX_IDS, SearchConfig
from dreamy_lens.search.settings import documented, setting


@documented
@dataclass(frozen=True)
class FrontierSearch(SearchConfig):
    """Settings of the frontier search. An iteration has as many children as one of EPO under its defaults.

    Attributes:
        {settings}

    Raises:
        SettingsError: A setting is outside its range.

    >>> import dreamy_lens as dl
    >>> run = dl.dream("L2.N17", search=dl.FrontierSearch(iterations=4, children=64, samples=32, length=6))
    >>> run.frontier.best(max_cross_entropy=6.0).cross_entropy <= 6.0
    True
    """

    name: ClassVar[str] = "frontier"

    shortest: int | None = setting(
        None,
        "shortest prompt",
        "smallest number of tokens of a prompt: the search then inserts and deletes tokens too, and `length` is the "
        "largest number; length=(4, 16) sets both",
        minimum=1,
        maximum=MAX_IDS,
        when_none="for prompts of one length",
        advanced=True,
        place=21,
    )
    parents: int = setting(8, "parents", "prompts that are changed in one iteration", minimum=1, maximum=100_000)
    children: int = setting(
        256, "children", "changed prompts that are scored in one iteration", minimum=1, maximum=1_000_000
    )
    samples: int = setting(
        256,
        "samples",
        "prompts that the start draws from the language model",
        minimum=8,
        maximum=1_000_000,
        advanced=True,
    )
    max_cross_entropy: float = setting(
        9.0, "largest cross-entropy", "cross-entropy up to which the frontier is searched, nats per token"
    )
    share_prompts: bool = setting(
        False,
        "share prompts",
        "offer every prompt that one of several runs side by side tries to the other runs too",
        advanced=True,
    )

    diversity: float = setting(
        0.0,
        "diversity",
        "share of the parents that are chosen from each way in turn in which prompts drive the feature, so that each "
        "way keeps a frontier; 0.5 suits most features, 0 does not look for ways",
        maximum=1,
        advanced=True,
    )

    def __post_init__(self) -> None:
        if isinstance(self.length, (tuple, list)):
            shortest, longest = _range_of(self.length, self.shortest)
            object.__setattr__(self, "shortest", shortest)
            object.__setattr__(self, "length", longest)
        super().__post_init__()
        if self.shortest is None:
            return
        if self.shortest > self.length:
            raise SettingsError(
                f"shortest is {self.shortest}, which is more than the length, {self.length}; the range begins with the "
                "smaller number, as in length=(4, 16)."
            )
        if self.shortest == self.length:
            object.__setattr__(self, "shortest", None)
        elif self.share_prompts:
            raise SettingsError(
                "share_prompts offers prompts of one length to other searches, and here they have "
                f"{self.shortest} to {self.length} tokens; leave out share_prompts, or give one length."
            )

    @property
    def least_length(self) -> int:
        """Smallest number of tokens of a prompt."""
        return self.length if self.shortest is None else self.shortest

    @property
    def prompts_at_once(self) -> int:
        """Largest number of prompts that one iteration handles."""
        return max(self.children + self.parents, self.samples)


def _range_of(length: tuple[int, ...] | list[int], shortest: int | None) -> tuple[int, int]:
    """Return the smallest and the largest number of tokens that `length=` gives."""
    if len(length) != 2:
        raise SettingsError(
            f"length is {quoted(length)}; it is one number of tokens, or the smallest and the largest, as in "
            "length=(4, 16)."
        )
    if length[0] is None:
        raise SettingsError(
            f"length is {quoted(length)}, which lacks the smallest number of tokens; give two numbers, as in "
            "length=(4, 16), or one."
        )
    if shortest is not None and shortest != length[0]:
        raise SettingsError(f"length={quoted(length)} and shortest={quoted(shortest)} are given; keep one of them.")
    return length[0], length[1]
