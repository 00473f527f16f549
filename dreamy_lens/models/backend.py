"""What the package needs of a model: the protocol that every backend meets.

A backend runs one model and gives access to its hook points. A new one is a class that derives from :class:`Backend`
and has the members marked *required*; an instance of it can be given wherever a `model` is asked for. The other members
have defaults, which say that the backend cannot do what the member is for, and the package then takes the plain way:
whole prompts instead of shared prefixes, every module instead of those that a pass needs.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from dreamy_lens.models.prefix_tree import PrefixTree

EMBEDDING = "embed.hook_out"
"""The hook point of what the embedding gives, by the name that every backend has for it."""

Reader = Callable[..., Any]
"""A function of (activation, hook) that looks at an activation, and returns None."""


class NotPackable(Exception):
    """This model, or this hook point of it, cannot be run on a packed row; the message says why."""


class ComponentBypass(Protocol):
    """Components of a model that passes can do without."""

    def bare(self, names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        """Inside, leave out all components but those that hold one of these hook points."""
        ...


class PackedRunner(Protocol):
    """Passes of one model over packed rows, as :class:`~dreamy_lens.models.packed_forward.PackedModel` makes them.

    Attributes:
        model: the HookedModel that is run.
    """

    model: Any

    def check(self, capture: Sequence[str]) -> None:
        """Raise NotPackable if one of these hook points cannot be read in a packed pass."""
        ...

    def row_hooks(self, capture: Sequence[str]) -> frozenset[str]:
        """Those of these hook points whose activation comes by whole rows, `[batch, pos, ...]`, and not by nodes."""
        ...

    def depth(self, capture: Sequence[str]) -> int:
        """The first block that none of these hook points needs."""
        ...

    def run(self, packing: PrefixTree, capture: Sequence[str], **options: Any) -> dict[str, Tensor]:
        """One pass over the nodes of a tree, with activations by hook point."""
        ...

    def logits(self, final: Float[Tensor, "node d_model"]) -> Float[Tensor, "node d_vocab"]:
        """Logits of what the unembedding reads."""
        ...


class _NothingToBypass:
    """A model that is always run whole."""

    def bare(self, names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Backend(Protocol):
    """One model, as the package runs it.

    Attributes:
        name: how results refer to the model (required).
        tokenizer: a Hugging Face tokenizer (required).
        module: the torch module whose parameters and buffers decide what the model computes (required).
        n_layers: how many blocks (required).
        n_ctx: the longest row, or None if there is no limit (required).
        d_model: width of the residual stream (required).
        d_vocab: rows of the embedding (required).
        default_prepend_bos: whether prompts follow a BOS token unless the user says otherwise.
        packed_ways: the ways in which packed rows can be run, the fastest first.
    """

    name: str
    tokenizer: Any
    module: torch.nn.Module
    n_layers: int
    n_ctx: int | None
    d_model: int
    d_vocab: int
    default_prepend_bos: bool = False
    packed_ways: tuple[str, ...] = ()

    # Required.

    @abstractmethod
    def hook_names(self) -> list[str]:
        """Every name by which a hook point can be asked for; :data:`EMBEDDING` is one."""
        ...

    @abstractmethod
    def run(
        self,
        ids: Int[Tensor, "batch pos"],
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
        embeddings: Float[Tensor, "batch pos d_model"] | None = None,
        past: Any = None,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch pos d_vocab"] | None]:
        """One forward pass, as :meth:`dreamy_lens.models.hooked_model.HookedModel.run` describes it.

        `past` is a Hugging Face cache, and comes only to a backend that has :meth:`key_values`.
        """
        ...

    @abstractmethod
    def embed(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... d_model"]:
        """What the model embeds ids to, any scaling of the architecture included."""
        ...

    # What the model is. The defaults fit a model that is nothing but its module.

    @property
    def source(self) -> Any:
        """What users hold of this model and can give as `model` again; all models made of it share one lock."""
        return self

    @property
    def mode(self) -> tuple[Any, ...]:
        """What decides how the model computes, besides weights, device and precision."""
        return ()

    @property
    def embedding_weight(self) -> Float[Tensor, "d_vocab d_embed"] | None:
        """The weights that :meth:`embed` depends on, for noticing that they have changed; None if there are none."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """The architecture's settings, such as soft caps and window sizes, for telling models apart."""
        return {}

    # Hooks of users, and hook points that are computed on request.

    @property
    def is_hooked(self) -> bool:
        """Whether the user has hooks on hook points; what they do may depend on the place of a token in its row."""
        return False

    @property
    def other_hooks(self) -> tuple[int, ...]:
        """The numbers that torch has given the hooks on modules that are no hook points."""
        return ()

    def gate_of(self, name: str) -> str | None:
        """The setting under which a hook point is computed, if it is computed on request only."""
        return None

    def observe(self, ids: Int[Tensor, "batch pos"], readers: Mapping[str, Reader]) -> None:
        """One whole pass that calls a reader for every hook point that it goes through."""
        activations, _ = self.run(ids, list(readers))
        for name, activation in activations.items():
            readers[name](activation)

    def keep_hooks(self) -> contextlib.AbstractContextManager[None]:
        """Inside, hooks may stay attached between passes."""
        return contextlib.nullcontext()

    # Faster passes.

    def bypass(self, keep_attention: bool = False) -> ComponentBypass:
        """The components that passes can do without, those of attention aside if `keep_attention`."""
        return _NothingToBypass()

    def packed(self, model: Any, way: str) -> PackedRunner:
        """Packed passes in one of `packed_ways`, for the HookedModel that holds this backend."""
        raise NotPackable("its backend cannot run packed rows")

    def key_values(self, ids: Int[Tensor, "1 pos"]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, `[1, head, pos, d_head]`, from which a later pass can go on."""
        raise NotImplementedError(f"{type(self).__name__} keeps no keys and values.")

    # Structure, for what is read off weights.

    def component(self, name: str) -> torch.nn.Module | None:
        """The module of a name such as `blocks.0.mlp.out`, `ln_final` or `unembed`; None if there is no such module."""
        return None

    def is_same_hook(self, name: str, other: str) -> bool:
        """Whether two names mean one hook point; a name that the model does not have means none."""
        return name == other

    @property
    def parallel_blocks(self) -> bool:
        """Whether attention and MLP of a block read the same residual stream."""
        return False
