"""A model with hook points as the rest of the package uses it, whichever backend runs it.

What this module promises:

* A model is used by one thread at a time: hooks, requests and frozen parameters are state that all threads share.
  While a run goes on, a model that is called by another thread waits for the pass in progress: see
  :func:`dreamy_lens.models.locking.shared`.
* A hook point that the model does not have is an error that names the nearest ones.
* The embedding table follows edits of the weights, moves and changes of precision.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.errors import FeatureError, ModelError, UnknownHookError
from dreamy_lens.models.backend import Backend, ComponentBypass, PackedRunner, Reader
from dreamy_lens.models.kernels import Kernels
from dreamy_lens.models.locking import lock_of
from dreamy_lens.models.names import nearest
from dreamy_lens.models.vocabulary import Vocabulary


class HookedModel:
    """A model with the few operations that scoring needs.

    Args:
        backend: what runs the model.

    Attributes:
        name: how results refer to the model.
        vocabulary: its tokens.
        n_ctx: the longest row that it reads, or None.
        n_layers: how many blocks it has.
        d_model: width of its residual stream.
        kernels: faster routines for its arithmetic.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name, self.tokenizer = backend.name, backend.tokenizer
        self.vocabulary = Vocabulary(self.tokenizer, backend.d_vocab)
        self.n_ctx, self.n_layers, self.d_model = backend.n_ctx, backend.n_layers, backend.d_model
        self.kernels = Kernels(backend.module)
        self._parameters: list[Tensor] | None = None
        self._table: Tensor | None = None
        self._table_state: tuple[Any, ...] | None = None

    # What the model has.

    @property
    def source(self) -> Any:
        """What the model was made of, as users can give it again: a bridge, or a backend of their own."""
        return self.backend.source

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return next(self.backend.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its weights now."""
        return next(self.backend.module.parameters()).dtype

    @property
    def is_hooked(self) -> bool:
        """Whether the user has hooks on hook points; what they do may depend on the place of a token in its row."""
        return self.backend.is_hooked

    @property
    def other_hooks(self) -> tuple[int, ...]:
        """The numbers of the hooks on modules that are no hook points."""
        return self.backend.other_hooks

    @property
    def state(self) -> tuple[Any, ...]:
        """What decides how it computes, weights aside: another value after a move or a change of mode."""
        return self.device, self.dtype, *self.backend.mode

    @property
    def lock(self) -> threading.RLock:
        """The lock that a thread holds while it uses the model; one for all models of one source, and re-entrant."""
        # Not an attribute, of this or of the source, because models are copied and pickled, and locks cannot be.
        return lock_of(self.source)

    @property
    def prepends_bos(self) -> bool:
        """The model's own convention: whether prompts follow a BOS token."""
        return bool(self.backend.default_prepend_bos) and self.tokenizer.bos_token_id is not None

    def bos(self, prepend_bos: bool | None) -> list[int]:
        """The ids that stand before every prompt: one BOS, or nothing."""
        if not (self.prepends_bos if prepend_bos is None else prepend_bos):
            return []
        if self.tokenizer.bos_token_id is None:
            raise ModelError(f"{self.name}'s tokenizer has no BOS token, so prepend_bos=True is impossible; use False.")
        return [int(self.tokenizer.bos_token_id)]

    def hook_names(self) -> list[str]:
        """Every name by which a hook point can be asked for."""
        return self.backend.hook_names()

    def gate_of(self, name: str) -> str | None:
        """The setting under which a hook point is computed, if it is computed on request only."""
        return self.backend.gate_of(name)

    def check_hook(self, name: str) -> None:
        """Raise UnknownHookError, with the nearest names, if the model has no such hook point."""
        names = self.hook_names()
        if name in names:
            return
        near = nearest(name, names)
        layer = name.split(".")
        neuron = re.fullmatch(r"[lL]\.?([0-9]+)[._ ]?[nN]\.?([0-9]+)", name)
        if len(layer) > 1 and layer[0] == "blocks" and layer[1].isdigit() and int(layer[1]) >= self.n_layers:
            near_text = f"its layers are 0 to {self.n_layers - 1}"
        elif neuron:
            near_text = f"the neuron {neuron[2]} of layer {neuron[1]} is written L{neuron[1]}.N{neuron[2]}"
        else:
            near_text = "nearest: " + ", ".join(near) if near else "see `dreamy-lens hooks`"
        raise UnknownHookError(f"{self.name} has no hook point {name!r}; {near_text}.")

    def check_same_tokenizer(self, other: HookedModel) -> None:
        """Raise FeatureError unless another model means the same text by the same ids."""
        if self.vocabulary.digest != other.vocabulary.digest:
            raise FeatureError(
                f"{self.name} and {other.name} have different tokenizers, so one prompt's ids mean different text to "
                "them. Choose two models of one family."
            )

    # Embeddings.

    @property
    def embedding_table(self) -> Float[Tensor, "d_vocab d_model"]:
        """What each token embeds to, any scaling of the architecture included."""
        with self.lock:
            table, state = self._table, self._weights_state()
            if table is None or state != self._table_state:
                with torch.no_grad():
                    table = self.backend.embed(torch.arange(self.vocabulary.size, device=self.device)).detach()
                    weight = self.backend.embedding_weight
                    if weight is not None and weight.shape == table.shape and torch.equal(weight, table):
                        table = weight.detach()  # the same memory; architectures that scale need one of their own
                self._table, self._table_state = table, state
            return table

    def embed(self, ids: Int[Tensor, "batch pos"], trust: bool = False) -> Float[Tensor, "batch pos d_model"]:
        """What the model embeds ids to now.

        If the embedding table says otherwise, because weights were edited in a way that torch does not count (through
        ``.data``), the table is made anew when it is next asked for.

        Args:
            ids: rows of token ids.
            trust: leave out that comparison with the table, which waits for the device.
        """
        with self.lock, torch.no_grad():
            embeddings = self.backend.embed(ids).detach()
            table = None if trust else self._table
            if table is not None and self._weights_state() == self._table_state:
                if not torch.equal(table[ids], embeddings):
                    self._table = None
            return embeddings

    def _weights_state(self) -> tuple[Any, ...] | None:
        """A key for the embedding's weights: another one after an edit, a move or a change of precision."""
        weight = self.backend.embedding_weight
        return None if weight is None else (weight.data_ptr(), weight._version, weight.device, weight.dtype)

    # Running it.

    def run(
        self,
        ids: Int[Tensor, "batch pos"],
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
        embeddings: Float[Tensor, "batch pos d_model"] | None = None,
        past: Any = None,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch pos d_vocab"] | None]:
        """One forward pass.

        Args:
            ids: rows of token ids, BOS and everything included.
            capture: hook points to read.
            logits: whether the model's output is wanted; without it the pass ends at the last hook point.
            embeddings: what to use in the place of the tokens' own embeddings.
            past: a Hugging Face cache of what stands before these tokens.

        Returns:
            Activations by the name asked for, `[batch, ...]`, and the logits or None.

        Raises:
            HookNotFiredError: the pass never went through one of the hook points.
        """
        with self.lock:
            if past is None:
                return self.backend.run(ids, capture, logits=logits, embeddings=embeddings)
            return self.backend.run(ids, capture, logits=logits, embeddings=embeddings, past=past)

    def observe(self, ids: Int[Tensor, "batch pos"], readers: Mapping[str, Reader]) -> None:
        """One whole pass with functions of (activation, hook) by hook point, of which any may stay silent.

        Hook points that are computed on request fire only if all that are asked for need the same request, because a
        request can silence other hook points; see :meth:`gate_of`.
        """
        with self.lock:
            self.backend.observe(ids, readers)

    def keep_hooks(self) -> contextlib.AbstractContextManager[None]:
        """Inside, leave the hooks of passes attached between them, for a caller that makes many. It may be nested."""
        return self.backend.keep_hooks()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Parameters take no gradient inside, so that a backward pass keeps only what the embeddings need."""
        with self.lock:
            if self._parameters is None:  # listed once: going through the modules takes longer than a short pass
                self._parameters = list(self.backend.module.parameters())
            active = [p for p in self._parameters if p.requires_grad]
            try:
                for p in active:
                    p.requires_grad_(False)
                yield
            finally:
                for p in active:
                    p.requires_grad_(True)

    # Running it faster, where the backend can.

    def bypass(self, keep_attention: bool = False) -> ComponentBypass:
        """The components that passes can do without, those of attention aside if `keep_attention`."""
        return self.backend.bypass(keep_attention)

    @property
    def packed_ways(self) -> tuple[str, ...]:
        """The ways in which packed rows can be run, the fastest first; none if they cannot."""
        return self.backend.packed_ways

    def packed(self, way: str) -> PackedRunner:
        """Packed passes in one of `packed_ways`.

        Raises:
            NotPackable: the model cannot be run on packed rows in this way.
        """
        return self.backend.packed(self, way)

    def key_values(self, ids: Int[Tensor, "1 pos"]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, `[1, head, pos, d_head]`, from which a later pass can go on."""
        with self.lock:
            return self.backend.key_values(ids)

    def __repr__(self) -> str:
        return f"HookedModel({self.name})"


@contextlib.contextmanager
def locked(models: Iterable[HookedModel]) -> Iterator[None]:
    """Keep several models to this thread; all threads take them in one order, so that none waits in a circle."""
    with contextlib.ExitStack() as locks:
        for lock in sorted({model.lock for model in models}, key=id):
            locks.enter_context(lock)
        yield


@contextlib.contextmanager
def keep_hooks(models: Iterable[HookedModel]) -> Iterator[None]:
    """Leave the hooks of passes attached between them, on several models; see :meth:`HookedModel.keep_hooks`."""
    with contextlib.ExitStack() as kept:
        for model in models:
            kept.enter_context(model.keep_hooks())
        yield
