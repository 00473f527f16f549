"""Hooked models: models with hook points as the rest of the package uses them, with any backend.

This module promises:

* Only one thread uses a model at a time: hooks, requests and frozen parameters are state that all threads share.
  During a run, a call of the model from another thread waits for the pass in progress: see
  :func:`dreamy_lens.models.locking.shared`.
* A hook point that the model does not have raises an error that names the nearest hook points.
* The embedding table follows edits of the weights, moves and changes of precision.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.errors import FeatureError, ModelError, UnknownHookError, quoted, warn
from dreamy_lens.models.backend import Backend, ComponentBypass, Edit, PackedRunner, Reader
from dreamy_lens.models.kernels import Kernels
from dreamy_lens.models.locking import lock_of
from dreamy_lens.models.names import nearest
from dreamy_lens.models.vocabulary import Vocabulary
from dreamy_lens.models.weights import check_finite, weights_digest

_NEURON = r"(?:[lL]|[lL]ayer|blocks)[._ ]?([0-9]{1,9})(?:[._ ]?(?:[nN]|[nN]euron|mlp|MLP)[._ ]?|[._ ])([0-9]{1,9})"
"""Spellings of a neuron that mean `L2.N812`: L2.812, L2N812, layer2.N812, L2.MLP.812."""


class HookedModel:
    """Model with the operations that scoring needs.

    Args:
        backend: Backend that runs the model.

    Attributes:
        name: Name of the model in results.
        vocabulary: Vocabulary of the model.
        n_ctx: Maximum length of a row in tokens, or None if there is no limit.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        kernels: Faster routines for the model's modules.
        loaded_by_name: Whether the model was loaded by its name with the default settings, so that the name alone gives
            the same model again.
        tail: Token ids that stand at the end of every row of this model; none unless it is a :class:`ContinuedModel`.
    """

    tail: tuple[int, ...] = ()

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.loaded_by_name = False
        self.name, self.tokenizer = backend.name, backend.tokenizer
        self.vocabulary = Vocabulary(self.tokenizer, backend.d_vocab)
        self.n_ctx, self.n_layers, self.d_model = backend.n_ctx, backend.n_layers, backend.d_model
        self.kernels = Kernels(backend.module)
        if backend.default_prepend_bos and self.vocabulary.bos is None:
            warn(
                f"{self.name}'s tokenizer {self.vocabulary.why_no_bos}, so its prompts start without one. To put a "
                'token of your choice before every prompt, use a template, such as template("<token>{dream}").',
                UserWarning,
            )
        self._slots: list[tuple[Mapping[str, Any], str]] | None = None
        self._continued: dict[tuple[int, ...], ContinuedModel] = {}
        self._table: Tensor | None = None
        self._checked_weights: tuple[Any, ...] | None = None
        self._table_state: tuple[Any, ...] | None = None

    # Properties of the model.

    @property
    def base(self) -> HookedModel:
        """Return the model without a tail: this model, unless it is a :class:`ContinuedModel`."""
        return self

    def continued(self, tail: Sequence[int]) -> HookedModel:
        """Return this model with token ids at the end of every row; for the same ids always the same object."""
        ids = (*self.tail, *map(int, tail))
        known = self.base._continued
        if ids not in known:
            known[ids] = ContinuedModel(self.base, ids)
        return known[ids] if ids else self

    @property
    def source(self) -> Any:
        """Object that the model was made from and that users pass as `model`: a bridge or a custom backend."""
        return self.backend.source

    @property
    def device(self) -> torch.device:
        """Current device of the model."""
        return self._first_parameter().device

    @property
    def dtype(self) -> torch.dtype:
        """Current precision of the weights."""
        return self._first_parameter().dtype

    @property
    def is_hooked(self) -> bool:
        """True if the user has hooks on hook points; their effect may depend on the position of a token in its row."""
        return self.backend.is_hooked

    @property
    def other_hooks(self) -> tuple[int, ...]:
        """Ids of the hooks on modules that are not hook points."""
        return self.backend.other_hooks

    @property
    def state(self) -> tuple[Any, ...]:
        """State, except weights, that changes how the model computes; it differs after a move or a change of mode."""
        return self.device, self.dtype, *self.backend.mode

    @property
    def has_foreign_hooks(self) -> bool:
        """True if modules that are not hook points have hooks that none of the libraries involved put there."""
        return self.backend.has_foreign_hooks

    @property
    def versions(self) -> int:
        """Number that grows whenever a parameter or a buffer is edited in place; edits of `.data` do not count."""
        return sum(0 if tensor.is_inference() else tensor._version for tensor in self._weights())

    @property
    def addresses(self) -> tuple[int, ...]:
        """Addresses of all parameters and buffers; they change when one is replaced or moved."""
        return tuple(tensor.data_ptr() for tensor in self._weights())

    @property
    def is_recordable(self) -> bool:
        """Whether passes can be recorded as graphs: on one CUDA device, and no code of the user's runs in them."""
        return (
            self.device.type == "cuda"
            and bool(self.packed_ways)
            and not (self.is_hooked or self.has_foreign_hooks)
            and self.devices == {self.device}
        )

    @property
    def devices(self) -> set[torch.device]:
        """Devices of the parameters and buffers: several if the model's layers are spread over devices."""
        return {tensor.device for tensor in self._weights()}

    def renew(self) -> None:
        """Look at the modules anew: the user may have replaced some. Replaced parameters are noticed without it."""
        with self.lock:
            self._slots = None
            self.backend.renew()

    def _weights(self) -> list[Tensor]:
        """Return the present parameters and buffers; their places in the modules are listed once, which takes long."""
        if self._slots is None:
            stores = [s for m in self.backend.module.modules() for s in (m._parameters, m._buffers)]
            self._slots = [(store, name) for store in stores for name, x in store.items() if x is not None]
        return [tensor for store, name in self._slots if (tensor := store.get(name)) is not None]

    def _first_parameter(self) -> Tensor:
        """Return the first parameter; `next(module.parameters())` takes 30 times as long, and a search asks often."""
        found = _first_parameter(self.backend.module)
        return next(self.backend.module.parameters()) if found is None else found

    @property
    def is_processed(self) -> bool:
        """True if the model is in a mode in which its weights are usually processed, as in compatibility mode."""
        return any(self.backend.mode)

    @property
    def lock(self) -> threading.RLock:
        """Re-entrant lock that a thread holds while it uses the model; all models of one source share it."""
        # Not stored on the model or its source: models are copied and pickled, and locks cannot be.
        return lock_of(self.source)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids of the tokens that end a text, as the tokenizer and the model's configurations state them."""
        stated = [getattr(self.tokenizer, "eos_token_id", None), *self.backend.end_tokens]
        return frozenset(int(i) for i in stated if isinstance(i, int) and 0 <= i < self.vocabulary.size)

    @property
    def prepends_bos(self) -> bool:
        """True if prompts follow a BOS token by the model's own convention."""
        return bool(self.backend.default_prepend_bos) and self.vocabulary.bos is not None

    def bos(self, prepend_bos: bool | None) -> list[int]:
        """Return the ids that precede every prompt: one BOS token, or none."""
        if not (self.prepends_bos if prepend_bos is None else prepend_bos):
            return []
        if self.vocabulary.bos is None:
            raise ModelError(
                f"{self.name}'s tokenizer {self.vocabulary.why_no_bos}, so prepend_bos=True is impossible; use False."
            )
        return [self.vocabulary.bos]

    def hook_names(self) -> list[str]:
        """Return every valid hook point name, aliases included."""
        return self.backend.hook_names()

    def gate_of(self, name: str) -> str | None:
        """Return the setting that switches on a hook point computed on request, or None for other hook points."""
        return self.backend.gate_of(name)

    def check_hook(self, name: str) -> None:
        """Raise UnknownHookError, with the nearest names, if the model has no such hook point."""
        names = self.hook_names()
        if name in names:
            return
        near = nearest(name, names)
        layer = name.split(".")
        neuron = re.fullmatch(_NEURON, name)
        only_neuron = re.fullmatch(r"(?:[nN]|[nN]euron|unit)[._]?([0-9]{1,9})", name)
        only_layer = re.fullmatch(r"[lL]\.?([0-9]{1,9})(?:[._ ]?[nN]\.?)?", name)
        is_layer = len(layer) > 1 and layer[0] == "blocks" and re.fullmatch("[0-9]+", layer[1]) is not None
        if is_layer and (len(layer[1]) > 9 or int(layer[1]) >= self.n_layers):
            near_text = f"its layers are 0 to {self.n_layers - 1}"
        elif neuron:
            near_text = f"the neuron {neuron[2]} of layer {neuron[1]} is written L{neuron[1]}.N{neuron[2]}"
        elif only_neuron:
            unit = only_neuron[1]
            near_text = f"a neuron has a layer, too: L2.N{unit} is the neuron {unit} of layer 2"
        elif only_layer:
            near_text = f"a neuron of layer {only_layer[1]} is, for example, L{only_layer[1]}.N812"
        else:
            near_text = "nearest: " + ", ".join(near) if near else "see `dreamy-lens hooks`"
        raise UnknownHookError(f"{self.name} has no hook point {quoted(name)}; {near_text}.")

    def check_same_tokenizer(self, other: HookedModel) -> None:
        """Raise FeatureError unless another model has the same tokenizer."""
        if self.vocabulary.digest != other.vocabulary.digest:
            raise FeatureError(
                f"{self.name} and {other.name} have different tokenizers, so one prompt's ids mean different text to "
                "them. Choose two models of one family."
            )

    # Weights.

    def check_weights(self) -> None:
        """Raise ModelError if a weight is NaN or infinite. The weights are looked at once, and again after an edit."""
        with self.lock, torch.no_grad():
            named = list(self.backend.module.named_parameters())
            state = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for _, p in named if not p.is_meta)
            if state != self._checked_weights:
                check_finite(named, self.name)
                self._checked_weights = state

    @property
    def weights_digest(self) -> str:
        """Digest of the weights; see :func:`dreamy_lens.models.weights.weights_digest`."""
        with self.lock:
            return weights_digest(self.backend.module, str(self.backend.mode))

    # Embeddings.

    @property
    def embedding_table(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding of each token, including any scaling of the architecture."""
        with self.lock:
            table, state = self._table, self._weights_state()
            if table is None or state != self._table_state:
                with torch.no_grad():
                    table = self.backend.embed(torch.arange(self.vocabulary.size, device=self.device)).detach()
                    weight = self.backend.embedding_weight
                    if weight is not None and weight.shape == table.shape and torch.equal(weight, table):
                        table = weight.detach()  # shares memory; architectures with scaling need a separate table
                self._table, self._table_state = table, state
            return table

    def embed(self, ids: Int[Tensor, "batch pos"], trust: bool = False) -> Float[Tensor, "batch pos d_model"]:
        """Return the embeddings of token ids with the current weights.

        If they differ from the embedding table, because weights were edited in a way that torch does not record
        (through ``.data``), the table is computed again when it is next used.

        Args:
            ids: Rows of token ids.
            trust: True to skip the comparison with the table, which waits for the device.
        """
        with self.lock, torch.no_grad():
            embeddings = self.backend.embed(ids).detach()
            table = None if trust else self._table
            if table is not None and self._weights_state() == self._table_state:
                if not torch.equal(table[ids], embeddings):
                    self._table = None
            return embeddings

    def _weights_state(self) -> tuple[Any, ...] | None:
        """Return a key for the embedding's weights, which changes after an edit, a move or a change of precision."""
        weight = self.backend.embedding_weight
        return None if weight is None else (weight.data_ptr(), weight._version, weight.device, weight.dtype)

    # Forward passes.

    def run(
        self,
        ids: Int[Tensor, "batch pos"],
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
        embeddings: Float[Tensor, "batch pos d_model"] | None = None,
        past: Any = None,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch pos d_vocab"] | None]:
        """Run one forward pass.

        Args:
            ids: Rows of token ids, BOS and template included.
            capture: Hook points to read.
            logits: True to compute the model's output; otherwise the pass ends at the last hook point.
            embeddings: Embeddings that replace the tokens' own embeddings.
            past: Hugging Face cache of the tokens that precede `ids`.

        Returns:
            Activations by requested hook point name, `[batch, ...]`, and the logits or None.

        Raises:
            HookNotFiredError: One of the hook points did not fire.
        """
        with self.lock:
            if past is None:
                return self.backend.run(ids, capture, logits=logits, embeddings=embeddings)
            return self.backend.run(ids, capture, logits=logits, embeddings=embeddings, past=past)

    def run_edited(
        self,
        ids: Int[Tensor, "batch pos"],
        edits: Sequence[tuple[str, Edit]],
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch pos d_vocab"] | None]:
        """Run one forward pass in which functions change activations. No cache and no shared prefix is used.

        Args:
            ids: Rows of token ids, BOS and template included.
            edits: Pairs of a hook point and a function of its activation `[batch, ...]`, which returns the activation
                to use instead. They run after the user's hooks there, in this order.
            capture: Hook points to read, after the edits.
            logits: True to compute the model's output; otherwise the pass ends at the last hook point of `capture`.

        Returns:
            Activations by requested hook point name, `[batch, ...]`, and the logits or None.

        Raises:
            HookNotFiredError: One of the hook points did not fire.
            ModelError: The backend cannot change activations.
        """
        with self.lock:
            return self.backend.run_edited(ids, edits, capture, logits=logits)

    def observe(self, ids: Int[Tensor, "batch pos"], readers: Mapping[str, Reader]) -> None:
        """Run one full pass with a function of (activation, hook) for each hook point; a hook point may not fire.

        Hook points that are computed on request fire only if all hook points in `readers` need the same request,
        because a request can silence other hook points; see :meth:`gate_of`.
        """
        with self.lock:
            self.backend.observe(ids, readers)

    def keep_hooks(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that keeps hooks attached between passes, for many passes; it may be nested."""
        return self.backend.keep_hooks()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the parameters within the context, so that a backward pass keeps only what the embeddings need."""
        with self.lock:
            active = [p for p in self._weights() if p.requires_grad]
            try:
                for p in active:
                    p.requires_grad_(False)
                yield
            finally:
                for p in active:
                    p.requires_grad_(True)

    # Faster passes, if the backend supports them.

    def bypass(self, keep_attention: bool = False) -> ComponentBypass:
        """Return the components that passes can skip, except those of attention if `keep_attention`."""
        return self.backend.bypass(keep_attention)

    @property
    def packed_ways(self) -> tuple[str, ...]:
        """Names of the ways to run packed rows, fastest first; empty if the backend cannot run them."""
        return self.backend.packed_ways

    def packed(self, way: str) -> PackedRunner:
        """Return a runner of packed passes in one of `packed_ways`.

        Raises:
            NotPackable: The model cannot be run on packed rows in this way.
        """
        return self.backend.packed(self, way)

    def key_values(self, ids: Int[Tensor, "1 pos"]) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values of each layer, `[1, head, pos, d_head]`, from which a later pass can continue."""
        with self.lock:
            return self.backend.key_values(ids)

    def __repr__(self) -> str:
        return f"HookedModel({self.name})"


class ContinuedModel(HookedModel):
    """Model whose rows all end in given tokens, such as the answer whose probability is measured.

    It is the same model in everything else: the weights, the hooks and the lock are those of `base`. Passes of the two
    are two passes, because their rows differ.

    Args:
        base: Model that is run.
        tail: Token ids at the end of every row.
    """

    def __init__(self, base: HookedModel, tail: tuple[int, ...]) -> None:
        self.__dict__.update(base.__dict__)
        self._base, self.tail = base, tail

    @property
    def base(self) -> HookedModel:
        """Return the model without the tail."""
        return self._base

    def renew(self) -> None:
        """Look at the modules anew; see :meth:`HookedModel.renew`."""
        self._base.renew()

    def check_weights(self) -> None:
        """Raise ModelError if a weight is NaN or infinite; the weights are looked at once for both models."""
        self._base.check_weights()

    @property
    def embedding_table(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding of each token, including any scaling of the architecture."""
        return self._base.embedding_table

    def embed(self, ids: Int[Tensor, "batch pos"], trust: bool = False) -> Float[Tensor, "batch pos d_model"]:
        """Return the embeddings of token ids; see :meth:`HookedModel.embed`."""
        return self._base.embed(ids, trust)

    def _weights(self) -> list[Tensor]:
        return self._base._weights()

    def __repr__(self) -> str:
        return f"ContinuedModel({self.name}, {len(self.tail)} tokens)"


def _first_parameter(module: torch.nn.Module) -> torch.nn.Parameter | None:
    """Return the first parameter of a module or of what is in it, or None."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    found = (_first_parameter(child) for child in module._modules.values() if child is not None)
    return next((parameter for parameter in found if parameter is not None), None)


@contextlib.contextmanager
def locked(models: Iterable[HookedModel]) -> Iterator[None]:
    """Hold the locks of several models; all threads acquire them in the same order, which prevents deadlocks."""
    with contextlib.ExitStack() as locks:
        for lock in sorted({model.lock for model in models}, key=id):
            locks.enter_context(lock)
        yield


@contextlib.contextmanager
def keep_hooks(models: Iterable[HookedModel]) -> Iterator[None]:
    """Keep the hooks of several models attached between passes; see :meth:`HookedModel.keep_hooks`."""
    with contextlib.ExitStack() as kept:
        for model in models:
            kept.enter_context(model.keep_hooks())
        yield
