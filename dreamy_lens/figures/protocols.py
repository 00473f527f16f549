"""Protocols of the objects that figures draw. Any object with these attributes can be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@runtime_checkable
class TextDecoder(Protocol):
    """Decoder from token ids to text, such as :class:`dreamy_lens.models.vocabulary.Vocabulary`."""

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        ...

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return each token decoded by itself."""
        ...


@runtime_checkable
class ScoredPrompt(Protocol):
    """Prompt with its scores."""

    @property
    def text(self) -> str:
        """Text of the prompt."""
        ...

    @property
    def value(self) -> float:
        """Value of the feature."""
        ...

    @property
    def cross_entropy(self) -> float:
        """Cross-entropy in nats per token."""
        ...

    @property
    def perplexity(self) -> float:
        """Exponential of the cross-entropy."""
        ...

    @property
    def provenance(self) -> Any:
        """Provenance of the prompt, with the attributes `seed` and `iteration`."""
        ...


@runtime_checkable
class PromptFrontier(Protocol):
    """Prompts from fluent to strong, of which none beats another in both value and cross-entropy."""

    @property
    def values(self) -> np.ndarray:
        """Value of each prompt, rising, `[F]`."""
        ...

    @property
    def cross_entropies(self) -> np.ndarray:
        """Cross-entropy of each prompt, rising, `[F]`."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ScoredPrompt]: ...


@runtime_checkable
class PromptHistory(Protocol):
    """Every prompt that a run evaluated."""

    @property
    def ids(self) -> np.ndarray:
        """Token ids, `[N, n]`."""
        ...

    @property
    def value(self) -> np.ndarray:
        """Value of each prompt, `[N]`."""
        ...

    @property
    def cross_entropy(self) -> np.ndarray:
        """Cross-entropy of each prompt, `[N]`."""
        ...

    @property
    def iterations(self) -> int:
        """Completed iterations after the initial population."""
        ...

    @property
    def restarts(self) -> tuple[tuple[int, float], ...]:
        """Iteration and λ of each restart."""
        ...

    def reference(self) -> tuple[float, float]:
        """Return the reference (value, cross-entropy) of hypervolumes."""
        ...

    def evolution(self, reference: tuple[float, float] | None = None) -> pd.DataFrame:
        """Return a table of the frontier's growth, with one row per iteration."""
        ...

    def ids_of(self, row: int) -> list[int]:
        """Return the token ids of one prompt; in `ids`, shorter prompts have -1 before them."""
        ...

    def frontier_rows(self, iteration: int | None = None) -> np.ndarray:
        """Return the rows of the frontier after an iteration, or at the end."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class RunWithFrontier(Protocol):
    """Run with its provenance and its frontier."""

    @property
    def provenance(self) -> Any:
        """Provenance of the run, with the attribute `seed`."""
        ...

    @property
    def frontier(self) -> PromptFrontier:
        """Frontier of the run."""
        ...


@runtime_checkable
class MergedRuns(Protocol):
    """Several runs of one feature."""

    @property
    def runs(self) -> Sequence[RunWithFrontier]:
        """Runs in the order in which they were merged."""
        ...

    @property
    def frontier(self) -> PromptFrontier:
        """Frontier over all runs."""
        ...


class TokenSubstitute(Protocol):
    """Another token at one position of a prompt."""

    @property
    def token(self) -> str:
        """Substitute, decoded by itself."""
        ...

    @property
    def value(self) -> float:
        """Value of the feature on the changed prompt."""
        ...

    @property
    def change(self) -> float:
        """Value on the changed prompt minus value on the original prompt."""
        ...

    @property
    def cross_entropy(self) -> float:
        """Cross-entropy of the changed prompt."""
        ...


@runtime_checkable
class TokenAttribution(Protocol):
    """Effects of substitutions at each position of a prompt on the value of a feature."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens of the prompt, length n."""
        ...

    @property
    def value(self) -> float:
        """Value of the feature on the prompt."""
        ...

    @property
    def cross_entropy(self) -> float:
        """Cross-entropy of the prompt."""
        ...

    @property
    def candidates(self) -> np.ndarray:
        """Substitutes tried at each position, `[n, k]`."""
        ...

    @property
    def drop_to_worst(self) -> np.ndarray:
        """Value lost with the worst substitute, `[n]`."""
        ...

    @property
    def drop_to_best(self) -> np.ndarray:
        """Value lost with the best substitute, `[n]`."""
        ...

    def top(self, position: int, count: int = 3) -> Sequence[TokenSubstitute]:
        """Return the best substitutes at a position, best first."""
        ...

    def worst(self, position: int, count: int = 3) -> Sequence[TokenSubstitute]:
        """Return the worst substitutes at a position, worst first."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class DrawnFigure(Protocol):
    """Figure that is SVG already, such as :class:`dreamy_lens.figures.SvgFigure`."""

    svg: str
    width: int
    height: int

    def to_html(self) -> str:
        """Return the figure as a page."""
        ...

    def to_plotly(self) -> go.Figure:
        """Return a plotly figure that shows the drawing."""
        ...


class ContributingComponent(Protocol):
    """Component of a model that contributes to a feature."""

    @property
    def name(self) -> str:
        """Short name, such as "L1.H3"."""
        ...

    @property
    def kind(self) -> str:
        """Kind: embedding, position, head, attention or mlp."""
        ...

    @property
    def layer(self) -> int | None:
        """Layer; None for embeddings."""
        ...

    @property
    def head(self) -> int | None:
        """Head in its layer; None for others."""
        ...


@runtime_checkable
class ComponentContributions(Protocol):
    """Contributions of a model's components to a feature's value on one prompt."""

    @property
    def tokens(self) -> Sequence[str]:
        """Tokens of the row that the model read, length P."""
        ...

    @property
    def components(self) -> Sequence[ContributingComponent]:
        """Components, length C."""
        ...

    @property
    def contributions(self) -> np.ndarray:
        """Contribution of each component, `[C]`."""
        ...

    @property
    def by_position(self) -> np.ndarray:
        """Contributions by position, `[C, P]`; NaN where they are not known."""
        ...


class DrivingCell(Protocol):
    """Prompts that drive a feature in one way."""

    @property
    def name(self) -> str:
        """Letter of the cell."""
        ...

    @property
    def frontier(self) -> PromptFrontier:
        """Frontier of its dreams."""
        ...

    @property
    def share(self) -> float:
        """Share of the maximum that its dreams reach; NaN without any."""
        ...

    @property
    def window_share(self) -> float:
        """Share of the maximum that its corpus windows reach; NaN without any."""
        ...


class TextVariety(Protocol):
    """Diversity of the texts of some prompts."""

    @property
    def name(self) -> str:
        """Name of the prompts."""
        ...

    @property
    def self_bleu(self) -> float:
        """Mean BLEU of each prompt against the others."""
        ...

    @property
    def distance(self) -> float:
        """Mean cosine distance of two prompts' embeddings."""
        ...


@runtime_checkable
class FeatureMechanisms(Protocol):
    """Ways in which a feature is driven, K of them."""

    @property
    def cells(self) -> Sequence[DrivingCell]:
        """Cells, the strongest first."""
        ...

    @property
    def asked(self) -> float:
        """Share of the maximum at which a cell counts as a way."""
        ...

    @property
    def ablated(self) -> Sequence[str]:
        """Unit of each cell that was ablated."""
        ...

    @property
    def drops(self) -> np.ndarray:
        """Relative drop of each cell (row) without the unit of each cell (column), `[K, K]`."""
        ...

    @property
    def control_drops(self) -> np.ndarray:
        """Relative drops without random units, `[K, R]`."""
        ...

    @property
    def texts(self) -> Sequence[TextVariety]:
        """Diversity of the texts."""
        ...
