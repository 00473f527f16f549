"""Forward passes of a TransformerLens bridge: read hook points, replace embeddings, leave the bridge as it was.

What this module promises:

* Activations are keyed by the name that was asked for, never by the hook's own, which changes in compatibility mode.
* A hook point that does not fire is an error, not an empty result; one that is gated is switched on for the pass.
* Nothing deeper than the deepest hook point is run when no logits are wanted: an exception raised in the last hook
  leaves the model, and hooks are removed on every way out.
* The caller's bridge is left as it was, except that it is put in evaluation mode, also if it has left that since.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.errors import HookNotFiredError, ModelError
from dreamy_lens.models.backend import EMBEDDING, Backend, Reader
from dreamy_lens.models.names import located, nearest
from dreamy_lens.models.persistent_hooks import attach, persistent_hooks_of

_GATES = {
    "attn.hook_result": "use_attn_result",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
}


def gate_of(name: str) -> str | None:
    """The setting of TransformerLens that a hook point is computed under, if it is computed on request only."""
    return next((gate for suffix, gate in _GATES.items() if name.endswith(suffix)), None)


class _Finished(Exception):
    """Raised inside a hook when everything wanted has been seen."""


class BridgePasses(Backend):
    """The plain passes of a bridge.

    :class:`~dreamy_lens.models.transformer_lens_backend.TransformerLensBackend` adds the faster ones.

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
        self.bridge = self.module = bridge
        self.tokenizer = bridge.tokenizer
        self.name = located(name or str(getattr(bridge.cfg, "model_name", type(bridge).__name__)))
        weight = self.embedding_weight
        self.d_vocab = int(weight.shape[0] if weight is not None else bridge.cfg.d_vocab)
        self.d_model = int(getattr(bridge.cfg, "d_model", 0))
        self.n_ctx = int(getattr(bridge.cfg, "n_ctx", 0) or 0) or None
        self.n_layers = int(bridge.cfg.n_layers)
        self._point_cache: dict[tuple[str, bool], Any] = {}
        # The dictionaries in which torch keeps a module's hooks, under numbers that it never gives twice.
        modules = list(bridge.modules())
        self._hooks_at_points = [hooks for m in modules if hasattr(m, "fwd_hooks") for hooks in _hook_tables(m)]
        self._hooks_elsewhere = [hooks for m in modules if not hasattr(m, "fwd_hooks") for hooks in _hook_tables(m)]

    # What the bridge is.

    @property
    def source(self) -> Any:
        """The bridge."""
        return self.bridge

    @property
    def default_prepend_bos(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The bridge's own convention."""
        return bool(getattr(self.bridge.cfg, "default_prepend_bos", None))

    @property
    def mode(self) -> tuple[Any, ...]:
        """Compatibility mode and folded norms."""
        return self._is_compatible, getattr(self.bridge.cfg, "layer_norm_folding", None)

    @property
    def embedding_weight(self) -> Float[Tensor, "d_vocab d_embed"] | None:
        """The embedding's weight matrix."""
        return getattr(self.bridge.embed, "weight", None)

    @property
    def is_hooked(self) -> bool:
        """Whether the user has hooks on hook points."""
        ours = persistent_hooks_of(self.bridge).ids
        return any(not hooks.keys() <= ours for hooks in self._hooks_at_points if hooks)

    @property
    def other_hooks(self) -> tuple[int, ...]:
        """The numbers of the hooks on modules that are no hook points; TransformerLens sets some up as it runs."""
        return tuple(key for hooks in self._hooks_elsewhere if hooks for key in hooks)

    @property
    def _is_compatible(self) -> bool:
        return bool(getattr(self.bridge, "compatibility_mode", False))

    def hook_names(self) -> list[str]:
        """Every name by which a hook point can be asked for."""
        return list(self.bridge.hook_dict)

    def gate_of(self, name: str) -> str | None:
        """The setting of TransformerLens that a hook point is computed under, if it is computed on request only."""
        return gate_of(name)

    # Passes.

    def embed(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... d_model"]:
        """What the bridge embeds ids to."""
        return self.bridge.embed(ids)

    def run(
        self,
        ids: Int[Tensor, "batch pos"],
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
        embeddings: Float[Tensor, "batch pos d_model"] | None = None,
        past: Any = None,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch pos d_vocab"] | None]:
        """One forward pass; see :meth:`dreamy_lens.models.hooked_model.HookedModel.run`."""
        names = list(dict.fromkeys(capture))
        activations: dict[str, Tensor] = {}
        # The leaf goes in first, so that a reader of the same hook point sees it.
        leaf = None if embeddings is None else lambda activation, hook=None: embeddings.to(activation.dtype)
        hooks = self._readers(names, activations, end=not logits)
        output = None
        if logits or names:
            self._evaluate()
            with contextlib.suppress(_Finished), self._gated(names), self._attached(hooks, leaf):
                output = self.bridge(ids, **(self._no_cache if past is None else {"past_key_values": past}))
        self._check_fired(names, activations, ids)
        if output is not None:
            output = getattr(output, "logits", output)
        return activations, output if logits else None

    def run_to_last_hook(
        self, ids: Int[Tensor, "batch pos"], capture: Sequence[str], **arguments: Any
    ) -> dict[str, Tensor]:
        """A pass that ends at the last of some hook points, with arguments for the bridge's forward call.

        Returns:
            Activations by the name asked for.
        """
        activations: dict[str, Tensor] = {}
        readers = self._readers(capture, activations)
        self._evaluate()
        with contextlib.suppress(_Finished), self._gated(capture), self._attached(readers):
            self.bridge(ids, **self._no_cache, **arguments)
        self._check_fired(capture, activations, ids[:, : self.n_ctx])
        return activations

    def observe(self, ids: Int[Tensor, "batch pos"], readers: Mapping[str, Reader]) -> None:
        """One whole pass with readers by hook point, of which any may stay silent."""
        hooks = list(readers.items())
        gates = {gate_of(name) for name in readers}
        self._evaluate()
        with self._gated(list(readers) if len(gates) == 1 else []), self.bridge.hooks(fwd_hooks=hooks):
            self.bridge(ids, **self._no_cache)

    def keep_hooks(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what passes read with stays attached between them. It may be nested."""
        return persistent_hooks_of(self.bridge).keep()

    # How a pass is made.

    @staticmethod
    def _readers(names: Sequence[str], activations: dict[str, Tensor], end: bool = True) -> list[tuple[str, Any]]:
        """Hooks that note activations, and end the pass with the last of them if `end`."""

        def reader(name: str) -> Any:
            def read(activation: Any, hook: Any = None) -> None:
                activations[name] = activation[0] if isinstance(activation, tuple) else activation
                if end and len(activations) == len(names):
                    raise _Finished

            return read

        return [(name, reader(name)) for name in names]

    @contextlib.contextmanager
    def _attached(self, hooks: list[tuple[str, Any]], leaf: Any = None) -> Iterator[None]:
        """Hooks on their hook points for a pass: persistent ones, or ones of its own behind the user's."""
        if not self.is_hooked:
            persistent = persistent_hooks_of(self.bridge)
            with persistent.in_pass(hooks, self._point, leaf, EMBEDDING) as are_attached:
                if are_attached:
                    yield
                    return
        whole = [*([] if leaf is None else [(EMBEDDING, leaf)]), *hooks]
        if self._is_compatible:  # there, one point goes by several names
            with self.bridge.hooks(fwd_hooks=whole):
                yield
            return
        attached: list[tuple[Any, Any]] = []
        try:
            for name, function in whole:
                point = self._point(name)
                attached.append((point, attach(point, function)))
            yield
        finally:
            for point, handle in reversed(attached):
                handle.hook.remove()
                point.fwd_hooks.remove(handle)

    def _point(self, name: str) -> Any:
        """A hook point, looked up once: a bridge goes through all of its points every time."""
        key = name, self._is_compatible
        if key not in self._point_cache:
            self._point_cache[key] = self.bridge.hook_dict[name]
        return self._point_cache[key]

    def _evaluate(self) -> None:
        """Leave training mode, in which dropout makes every score another one, if the user has gone back to it."""
        original = getattr(self.bridge, "original_model", None)
        if self.bridge.training or getattr(original, "training", False):
            self.bridge.eval()

    @property
    def _no_cache(self) -> dict[str, Any]:
        """`use_cache=False` where the model underneath knows it: worth 10-20 % on small models."""
        if not hasattr(self, "_no_cache_arguments"):
            original = getattr(self.bridge, "original_model", None)
            known = original is not None and "use_cache" in inspect.signature(original.forward).parameters
            self._no_cache_arguments = {"use_cache": False} if known else {}
        return self._no_cache_arguments

    @contextlib.contextmanager
    def _gated(self, names: Sequence[str]) -> Iterator[None]:
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

    def _check_fired(
        self, names: Sequence[str], activations: Mapping[str, Tensor], ids: Int[Tensor, "batch pos"]
    ) -> None:
        """Raise HookNotFiredError, with names of hook points that do fire, if one of these did not."""
        silent = next((name for name in names if name not in activations), None)
        if silent is None:
            return
        fired: dict[str, None] = {}
        others = (n for n in self.bridge.hook_dict if n != silent and gate_of(n) is None)
        self.observe(ids, {n: lambda activation, hook=None, n=n: fired.setdefault(n) for n in others})
        near = nearest(silent, [n for n in fired if n.startswith(silent.rpartition(".")[0])] or list(fired))
        raise HookNotFiredError(
            f"{self.name} lists the hook point {silent!r}, but a forward pass does not go through it; "
            f"nearest of those it does: {', '.join(near)}."
        )


def _hook_tables(module: Any) -> tuple[Any, ...]:
    """Where torch keeps a module's hooks, forward and backward."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
