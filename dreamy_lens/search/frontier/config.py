"""Settings of the frontier search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dreamy_lens.search.config import SearchConfig
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

    @property
    def prompts_at_once(self) -> int:
        """Largest number of prompts that one iteration handles."""
        return max(self.children + self.parents, self.samples)
