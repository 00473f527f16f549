"""The one place that touches TransformerLens: run a bridge, read hook points, replace its embeddings.

What this module promises:

* Activations are keyed by the name that was asked for, never by the hook's own, which changes in compatibility mode.
* A hook point that does not fire is an error, not an empty result; one that is gated is switched on for the pass.
* Nothing deeper than the deepest hook point is run when no logits are wanted: an exception raised in the last hook
  leaves the model, and hooks are removed on every way out.
* The caller's model is left as it was, except that it is put in evaluation mode, also if it has left that since.
* A model is used by one thread at a time: hooks, requests and frozen parameters are state that all threads share.
  While a run goes on, a bridge that is called by another thread waits for the pass in progress: see :func:`shared`.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.errors import FeatureError, HookNotFiredError, ModelError, UnknownHookError
from dreamy_lens.models.kernels import Kernels
from dreamy_lens.models.load import located
from dreamy_lens.models.locking import lock_of
from dreamy_lens.models.persistent_hooks import attached, standing_of
from dreamy_lens.models.vocabulary import Vocabulary

EMBEDDING = "embed.hook_out"

_GATES = {
    "attn.hook_result": "use_attn_result",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
}


class _Finished(Exception):
    """Raised inside a hook when everything wanted has been seen."""


class HookedModel:
    """A TransformerLens model with the few operations that scoring needs.

    Args:
        bridge: a `TransformerBridge`, or anything with its `hook_dict`, `hooks(...)`, `embed(...)`, `cfg`, `tokenizer`.
        name: how results refer to it; default: its own name. If it is that of a local folder, the absolute path is.
    """

    def __init__(self, bridge: Any, name: str | None = None) -> None:
        missing = [a for a in ("hook_dict", "hooks", "embed", "cfg", "tokenizer") if not hasattr(bridge, a)]
        if missing:
            raise ModelError(
                f"{type(bridge).__name__} is not a model dreamy_lens can hook (it lacks {', '.join(missing)}). Pass a "
                "TransformerBridge, a Hugging Face id or a local folder; for a Hugging Face model in memory use "
                "TransformerBridge.boot_transformers(name, hf_model=..., tokenizer=...)."
            )
        bridge.eval()
        self.bridge = bridge
        self.tokenizer = bridge.tokenizer
        self.name = located(name or str(getattr(bridge.cfg, "model_name", type(bridge).__name__)))
        weight = getattr(bridge.embed, "weight", None)
        rows = weight.shape[0] if weight is not None else bridge.cfg.d_vocab
        self.vocabulary = Vocabulary(self.tokenizer, int(rows))
        self.n_ctx = int(getattr(bridge.cfg, "n_ctx", 0) or 0) or None
        self.n_layers = int(bridge.cfg.n_layers)
        self.kernels = Kernels(bridge)
        self._parameters: list[Tensor] | None = None
        self._found_points: dict[tuple[str, bool], Any] = {}
        # The dictionaries in which torch keeps a module's hooks, under numbers that it never gives twice.
        modules = list(bridge.modules())
        self._points = [hooks for m in modules if hasattr(m, "fwd_hooks") for hooks in _hooks_of(m)]
        self._others = [hooks for m in modules if not hasattr(m, "fwd_hooks") for hooks in _hooks_of(m)]
        self._table: Tensor | None = None
        self._table_state: tuple[Any, ...] | None = None

    # What the model has.

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return next(self.bridge.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are now."""
        return next(self.bridge.parameters()).dtype

    @property
    def is_hooked(self) -> bool:
        """Whether somebody has hooks on its hook points; what they do may depend on where in a row a token stands."""
        ours, found = standing_of(self.bridge).ids, [hooks for hooks in self._points if hooks]
        return any(not hooks.keys() <= ours for hooks in found)

    @property
    def other_hooks(self) -> tuple[int, ...]:
        """The numbers of the hooks on modules that are no hook points; TransformerLens sets some up as it runs."""
        return tuple(key for hooks in self._others if hooks for key in hooks)

    @property
    def state(self) -> tuple[Any, ...]:
        """What decides how it computes, weights aside: another one after a move or a change of mode."""
        mode = getattr(self.bridge, "compatibility_mode", False)
        return self.device, self.dtype, bool(mode), getattr(self.bridge.cfg, "layer_norm_folding", None)

    @property
    def lock(self) -> threading.RLock:
        """Held by whoever uses the bridge; one for all that was made of it, and re-entrant."""
        # Not an attribute, of this or of the bridge, because models are copied and pickled, and locks cannot be.
        return lock_of(self.bridge)

    @property
    def prepends_bos(self) -> bool:
        """The model's own convention: whether prompts follow a BOS token."""
        convention = getattr(self.bridge.cfg, "default_prepend_bos", None)
        return bool(convention) and self.tokenizer.bos_token_id is not None

    def bos(self, prepend_bos: bool | None) -> list[int]:
        """The ids that stand before every prompt: one BOS, or nothing."""
        if not (self.prepends_bos if prepend_bos is None else prepend_bos):
            return []
        if self.tokenizer.bos_token_id is None:
            raise ModelError(f"{self.name}'s tokenizer has no BOS token, so prepend_bos=True is impossible; use False.")
        return [int(self.tokenizer.bos_token_id)]

    def hook_names(self) -> list[str]:
        """Every name by which a hook point can be asked for."""
        return list(self.bridge.hook_dict)

    def check_hook(self, name: str) -> None:
        """Raise UnknownHookError, with the nearest names, if the model has no such hook point."""
        names = self.bridge.hook_dict
        if name in names:
            return
        near = nearest(name, list(names))
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

    @property
    def embedding_table(self) -> Tensor:
        """What each token embeds to, `[d_vocab, d_model]`, any scaling of the architecture included."""
        with self.lock:
            table, state = self._table, self._weights_state()
            if table is None or state != self._table_state:
                with torch.no_grad():
                    table = self.bridge.embed(torch.arange(self.vocabulary.size, device=self.device)).detach()
                    weight = getattr(self.bridge.embed, "weight", None)
                    if weight is not None and weight.shape == table.shape and torch.equal(weight, table):
                        table = weight.detach()  # the same memory; architectures that scale need one of their own
                self._table, self._table_state = table, state
            return table

    def embedded(self, ids: Tensor, trust: bool = False) -> Tensor:
        """What the bridge embeds ids `[batch, length]` to now, `[batch, length, d_model]`.

        If the embedding table says otherwise, because weights were edited in a way that torch does not count (through
        ``.data``), the table is made anew when it is next asked for; unless it is to be trusted, for a comparison waits
        for the device.
        """
        with self.lock, torch.no_grad():
            found = self.bridge.embed(ids).detach()
            table = None if trust else self._table
            if table is not None and self._weights_state() == self._table_state and not torch.equal(table[ids], found):
                self._table = None
            return found

    def _weights_state(self) -> tuple[Any, ...] | None:
        """Of the embedding: another one after an edit, a move or a change of precision."""
        weight = getattr(self.bridge.embed, "weight", None)
        return None if weight is None else (weight.data_ptr(), weight._version, weight.device, weight.dtype)

    # Running it.

    def run(
        self,
        ids: Tensor,
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
        embeddings: Tensor | None = None,
        past: Any = None,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """One forward pass.

        Args:
            ids: `[batch, length]`, BOS and everything included.
            capture: hook points to read.
            logits: whether the model's output is wanted; without it the pass ends at the last hook point.
            embeddings: `[batch, length, d_model]` to use in the place of the tokens' own.
            past: a Hugging Face cache of what stands before these tokens.

        Returns:
            Activations by the name asked for, `[batch, ...]`, and the logits `[batch, length, d_vocab]` or None.

        Raises:
            HookNotFiredError: the pass never went through one of the hook points.
        """
        wanted = list(dict.fromkeys(capture))
        found: dict[str, Tensor] = {}
        # The leaf goes in first, so that a reader of the same hook point sees it.
        leaf = None if embeddings is None else lambda activation, hook=None: embeddings.to(activation.dtype)
        hooks = self._readers(wanted, found, end=not logits)
        output = None
        with self.lock:
            if logits or wanted:
                self._evaluate()
                with contextlib.suppress(_Finished), self._gated(wanted), self._attached(hooks, leaf):
                    output = self.bridge(ids, **(self._quiet if past is None else {"past_key_values": past}))
            silent = [name for name in wanted if name not in found]
            if silent:
                raise self._never_fired(silent[0], ids)
        if output is not None:
            output = getattr(output, "logits", output)
        return found, output if logits else None

    @staticmethod
    def _readers(names: Sequence[str], found: dict[str, Tensor], end: bool = True) -> list[tuple[str, Any]]:
        """Hooks that note activations in `found`, and end the pass with the last of them if `end`."""

        def reader(name: str) -> Any:
            def read(activation: Any, hook: Any = None) -> None:
                found[name] = activation[0] if isinstance(activation, tuple) else activation
                if end and len(found) == len(names):
                    raise _Finished

            return read

        return [(name, reader(name)) for name in names]

    def passed(self, ids: Tensor, capture: Sequence[str], **arguments: Any) -> dict[str, Tensor]:
        """A pass that ends at the last of some hook points, with arguments for the model's forward call.

        Returns:
            Activations by the name asked for.
        """
        found: dict[str, Tensor] = {}
        readers = self._readers(capture, found)
        with self.lock:
            self._evaluate()
            with contextlib.suppress(_Finished), self._gated(list(capture)), self._attached(readers):
                self.bridge(ids, **self._quiet, **arguments)
            silent = [name for name in capture if name not in found]
            if silent:
                raise self._never_fired(silent[0], ids[:, : self.n_ctx])
        return found

    @contextlib.contextmanager
    def _attached(self, hooks: list[tuple[str, Any]], leaf: Any = None) -> Iterator[None]:
        """Hooks on their hook points for a pass: those that stand there, or ones of its own behind the user's."""
        if not self.is_hooked:
            with standing_of(self.bridge).used(hooks, self._point, leaf, EMBEDDING) as stands:
                if stands:
                    yield
                    return
        whole = [*([] if leaf is None else [(EMBEDDING, leaf)]), *hooks]
        if getattr(self.bridge, "compatibility_mode", False):  # there, one point goes by several names
            with self.bridge.hooks(fwd_hooks=whole):
                yield
            return
        done: list[tuple[Any, Any]] = []
        try:
            for name, function in whole:
                point = self._point(name)
                done.append((point, attached(point, function)))
            yield
        finally:
            for point, handle in reversed(done):
                handle.hook.remove()
                point.fwd_hooks.remove(handle)

    def _point(self, name: str) -> Any:
        """A hook point, looked up once: a bridge goes through all of its points every time."""
        key = name, bool(getattr(self.bridge, "compatibility_mode", False))
        if key not in self._found_points:
            self._found_points[key] = self.bridge.hook_dict[name]
        return self._found_points[key]

    def standing(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what passes read with stays attached between them; for whoever makes many. It may be nested."""
        return standing_of(self.bridge).kept()

    def observe(self, ids: Tensor, readers: dict[str, Any]) -> None:
        """One whole pass with `readers`, functions of (activation, hook) by hook point, of which any may stay silent.

        Hook points that are computed on request fire only if all that are asked for need the same request, because a
        request can silence other hook points; see :func:`gate_of`.
        """
        hooks = list(readers.items())
        gates = {gate_of(name) for name in readers}
        with self.lock:
            self._evaluate()
            with self._gated(list(readers) if len(gates) == 1 else []), self.bridge.hooks(fwd_hooks=hooks):
                self.bridge(ids, **self._quiet)

    def _evaluate(self) -> None:
        """Leave training mode, in which dropout makes every score another one, if the user has gone back to it."""
        original = getattr(self.bridge, "original_model", None)
        if self.bridge.training or getattr(original, "training", False):
            self.bridge.eval()

    @property
    def _quiet(self) -> dict[str, Any]:
        """`use_cache=False` where the model underneath knows it: worth 10-20 % on small models."""
        if not hasattr(self, "_quiet_arguments"):
            original = getattr(self.bridge, "original_model", None)
            known = original is not None and "use_cache" in inspect.signature(original.forward).parameters
            self._quiet_arguments = {"use_cache": False} if known else {}
        return self._quiet_arguments

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Parameters take no gradient inside, so that a backward pass keeps only what the embeddings need."""
        with self.lock:
            if self._parameters is None:  # found once: going through the modules takes longer than a short pass
                self._parameters = list(self.bridge.parameters())
            active = [p for p in self._parameters if p.requires_grad]
            try:
                for p in active:
                    p.requires_grad_(False)
                yield
            finally:
                for p in active:
                    p.requires_grad_(True)

    @contextlib.contextmanager
    def _gated(self, names: list[str]) -> Iterator[None]:
        """Switch on the hook points that TransformerLens computes only on request, and off again."""
        with contextlib.ExitStack() as switched:
            for name in names:
                gate = gate_of(name)
                setter = getattr(self.bridge, f"set_{gate}", None)
                if gate and setter and not getattr(self.bridge.cfg, gate, False):
                    switched.callback(self._ungate, gate)  # first: switching on can be interrupted half-way
                    try:
                        setter(True)
                    except Exception as error:
                        raise HookNotFiredError(f"{self.name} cannot compute {name}: {error}") from error
            yield

    def _ungate(self, gate: str) -> None:
        if getattr(self.bridge.cfg, gate, False):
            getattr(self.bridge, f"set_{gate}")(False)

    def _never_fired(self, name: str, ids: Tensor) -> HookNotFiredError:
        fired: dict[str, None] = {}
        others = (n for n in self.bridge.hook_dict if n != name and gate_of(n) is None)
        self.observe(ids, {n: lambda activation, hook=None, n=n: fired.setdefault(n) for n in others})
        near = nearest(name, [n for n in fired if n.startswith(name.rpartition(".")[0])] or list(fired))
        return HookNotFiredError(
            f"{self.name} lists the hook point {name!r}, but a forward pass does not go through it; "
            f"nearest of those it does: {', '.join(near)}."
        )

    def __repr__(self) -> str:
        return f"HookedModel({self.name})"


def _hooks_of(module: Any) -> tuple[Any, ...]:
    """Where torch keeps a module's hooks, forward and backward."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


@contextlib.contextmanager
def held(models: Iterable[HookedModel]) -> Iterator[None]:
    """Keep several models to this thread; all threads take them in one order, so that none waits in a circle."""
    with contextlib.ExitStack() as locks:
        for lock in sorted({model.lock for model in models}, key=id):
            locks.enter_context(lock)
        yield


@contextlib.contextmanager
def standing(models: Iterable[HookedModel]) -> Iterator[None]:
    """Leave what passes read with attached between them, on several models; see :meth:`HookedModel.standing`."""
    with contextlib.ExitStack() as kept:
        for model in models:
            kept.enter_context(model.standing())
        yield


def gate_of(name: str) -> str | None:
    """The setting of TransformerLens that a hook point is computed under, if it is computed on request only."""
    return next((gate for suffix, gate in _GATES.items() if name.endswith(suffix)), None)


def nearest(name: str, names: list[str], count: int = 3) -> list[str]:
    """The names most like a misspelt one, same layer first; what is only the end of a name is compared with ends."""
    if name in names:
        return [name]
    parts = name.split(".")

    def likeness(other: str) -> float:
        end = ".".join(other.split(".")[-len(parts) :])
        return max(difflib.SequenceMatcher(None, name, text).ratio() for text in {other, end})

    scored = sorted(names, key=lambda other: -likeness(other))
    same = [n for n in scored if n.split(".")[:2] == parts[:2]]
    return (same or scored)[:count]
