"""Protocol that every backend implements.

A backend runs one model and gives access to its hook points. To add a backend, derive a class from :class:`Backend` and
define the members marked *required*; you can pass an instance of it as any `model` argument. The other members are
optional. Their defaults say that the backend does not support the feature, and the package then uses plain passes:
full prompts instead of shared prefixes, and all modules instead of only those that a pass needs.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.errors import ModelError

if TYPE_CHECKING:
    from dreamy_lens.models.prefix_tree import PrefixTree

EMBEDDING = "embed.hook_out"
"""Name of the hook point of the embedding's output in every backend."""

Reader = Callable[..., Any]
"""Function of (activation, hook) that reads an activation and returns None."""

Edit = Callable[[Tensor], "Tensor | None"]
"""Function of an activation `[batch, ...]` that returns the one to put in its place, or None to leave it."""


class NotPackable(Exception):
    """Error for a model or hook point that cannot be run on a packed row; the message gives the reason."""


class ComponentBypass(Protocol):
    """Components of a model that passes can skip."""

    def bare(self, names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        """Skip, within the context, all components except those that contain one of the hook points."""
        ...


class PackedRunner(Protocol):
    """Passes of one model over packed rows, as :class:`~dreamy_lens.models.packed_forward.PackedModel` makes them.

    Attributes:
        model: HookedModel that the passes run.
        has_kernel: Whether one kernel can compute the attention over the tree on a GPU.
    """

    model: Any

    @property
    def has_kernel(self) -> bool:
        """Whether one kernel can compute the attention over the tree on a GPU."""
        ...

    def check(self, capture: Sequence[str]) -> None:
        """Raise NotPackable if one of the hook points cannot be read in a packed pass."""
        ...

    def row_hooks(self, capture: Sequence[str]) -> frozenset[str]:
        """Return the hook points whose activation has full rows, `[batch, pos, ...]`, instead of nodes."""
        ...

    def depth(self, capture: Sequence[str]) -> int:
        """Return the index of the first block that none of the hook points needs."""
        ...

    def run(self, packing: PrefixTree, capture: Sequence[str], **options: Any) -> dict[str, Tensor]:
        """Run one pass over the nodes of a tree and return activations by hook point."""
        ...

    def logits(self, final: Float[Tensor, "node d_model"]) -> Float[Tensor, "node d_vocab"]:
        """Return the logits for inputs of the unembedding."""
        ...


class _NothingToBypass:
    """Bypass for a model whose components are never skipped."""

    def bare(self, names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Backend(Protocol):
    """Model as the package runs it.

    Attributes:
        name: Name of the model in results (required).
        tokenizer: Hugging Face tokenizer (required).
        module: Torch module whose parameters and buffers determine what the model computes (required).
        n_layers: Number of blocks (required).
        n_ctx: Maximum length of a row in tokens, or None if there is no limit (required).
        d_model: Width of the residual stream (required).
        d_vocab: Number of rows of the embedding (required).
        default_prepend_bos: True if prompts follow a BOS token by default.
        packed_ways: Names of the ways to run packed rows, fastest first.
        has_aliases: True if familiar names, such as `blocks.1.mlp.hook_post`, are aliases that may lead to other places
            than they say; they are then verified by means of :meth:`component`
            (:mod:`dreamy_lens.models.hook_meanings`).
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
    has_aliases: bool = False

    # Required members.

    @abstractmethod
    def hook_names(self) -> list[str]:
        """Return every valid hook point name, including :data:`EMBEDDING`.

        The familiar names mean here what they mean elsewhere: `blocks.1.mlp.hook_post` holds neurons.
        """
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
        """Run one forward pass, as :meth:`dreamy_lens.models.hooked_model.HookedModel.run` describes it.

        `past` is a Hugging Face cache; only a backend that defines :meth:`key_values` receives it.
        """
        ...

    @abstractmethod
    def embed(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... d_model"]:
        """Return the model's embeddings of token ids, including any scaling of the architecture."""
        ...

    # Properties of the model. The defaults fit a model that consists only of its module.

    @property
    def source(self) -> Any:
        """Object that users pass as `model`; all HookedModels made from it share one lock."""
        return self

    @property
    def mode(self) -> tuple[Any, ...]:
        """Settings that change how the model computes, except weights, device and precision."""
        return ()

    @property
    def embedding_weight(self) -> Float[Tensor, "d_vocab d_embed"] | None:
        """Weights that :meth:`embed` depends on, used to detect changes; None if there are none."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """Return settings of the architecture, such as soft caps and window sizes, which distinguish models."""
        return {}

    @property
    def end_tokens(self) -> Sequence[int]:
        """Return the ids of the tokens that end a text, besides the tokenizer's own."""
        return ()

    # Hooks of users, and hook points that are computed on request.

    @property
    def is_hooked(self) -> bool:
        """True if the user has hooks on hook points; their effect may depend on the position of a token in its row."""
        return False

    def unhooked(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager within which hooks of the user do nothing; the caller holds the lock."""
        return contextlib.nullcontext()

    @property
    def other_hooks(self) -> tuple[int, ...]:
        """Ids that torch gave to the hooks on modules that are not hook points."""
        return ()

    @property
    def has_foreign_hooks(self) -> bool:
        """True if modules that are not hook points have hooks that none of the libraries involved put there."""
        return False

    def renew(self) -> None:
        """Look at the modules anew, so that hooks on modules that were put in later are noticed."""

    def gate_of(self, name: str) -> str | None:
        """Return the setting that switches on a hook point computed on request, or None for other hook points."""
        return None

    def observe(self, ids: Int[Tensor, "batch pos"], readers: Mapping[str, Reader]) -> None:
        """Run one full pass and call the reader of every hook point that fires."""
        activations, _ = self.run(ids, list(readers))
        for name, activation in activations.items():
            readers[name](activation)

    def run_edited(
        self,
        ids: Int[Tensor, "batch pos"],
        edits: Sequence[tuple[str, Edit]],
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch pos d_vocab"] | None]:
        """Run one pass with activations changed; see :meth:`dreamy_lens.models.hooked_model.HookedModel.run_edited`."""
        raise ModelError(
            f"The backend {type(self).__name__} of {self.name} has no run_edited(), so activations cannot be changed "
            "on it. Define that method, or use a TransformerBridge."
        )

    def keep_hooks(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager within which hooks may stay attached between passes."""
        return contextlib.nullcontext()

    # Faster passes.

    def bypass(self, keep_attention: bool = False) -> ComponentBypass:
        """Return the components that passes can skip, except those of attention if `keep_attention`."""
        return _NothingToBypass()

    def packed(self, model: Any, way: str) -> PackedRunner:
        """Return a runner of packed passes in one of `packed_ways`, for the HookedModel that holds this backend."""
        raise NotPackable("its backend has no packed passes")

    def key_values(self, ids: Int[Tensor, "1 pos"]) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values of each layer, `[1, head, pos, d_head]`, from which a later pass can continue."""
        raise NotImplementedError(f"{type(self).__name__} keeps no keys and values.")

    # Structure of the model, for results that are computed from weights.

    def component(self, name: str) -> torch.nn.Module | None:
        """Return the module named, for example, `blocks.0.mlp.out`, `ln_final` or `unembed`; None if there is none."""
        return None

    def output_logits(self, raw: Float[Tensor, "... d_vocab"]) -> Float[Tensor, "... d_vocab"]:
        """Return the model's logits for outputs of its unembedding: the same, unless it caps or scales them."""
        return raw

    def is_same_hook(self, name: str, other: str) -> bool:
        """Return whether two names refer to the same hook point; an unknown name refers to no hook point."""
        return name == other

    @property
    def normalisation(self) -> str | None:
        """Kind of the norms that read the residual stream: "layer" or "rms"; None if it is not known."""
        return None

    def value_bias(self, layer: int) -> Tensor | None:
        """Return the bias of the attention's values in a layer; None if there is none or it is not known."""
        return None

    @property
    def parallel_blocks(self) -> bool:
        """True if attention and MLP of a block read the same residual stream."""
        return False
