"""Forward passes of a TransformerLens bridge: read hook points and replace embeddings.

This module promises:

* Activations are keyed by the requested name, never by the hook's own name, which changes in compatibility mode.
* A hook point that does not fire raises an error. A gated hook point is switched on for the pass.
* When no logits are wanted, the pass ends at the deepest hook point: an exception raised in the last hook leaves the
  model. Hooks are removed in every case.
* The caller's bridge is left unchanged, except that every pass puts it in evaluation mode.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.errors import HookNotFiredError, ModelError, NoGradientError, quoted
from dreamy_lens.models.backend import EMBEDDING, Backend, Edit, Reader
from dreamy_lens.models.names import located, nearest
from dreamy_lens.models.persistent_hooks import attach, persistent_hooks_of
from dreamy_lens.models.stand_ins import without_stand_ins

_GATES = {
    "attn.hook_result": "use_attn_result",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
}


def gate_of(name: str) -> str | None:
    """Return the TransformerLens setting that switches on a hook point computed on request; None for others."""
    return next((gate for suffix, gate in _GATES.items() if name.endswith(suffix)), None)


LIBRARIES = ("accelerate", "bitsandbytes", "dreamy_lens", "peft", "torch", "transformer_lens", "transformers")
"""Packages whose hooks on modules belong to the model."""


class _Finished(Exception):
    """Signal, raised inside a hook, that all requested activations have been read."""


class BridgePasses(Backend):
    """Plain forward passes of a bridge.

    :class:`~dreamy_lens.models.transformer_lens_backend.TransformerLensBackend` adds faster passes.

    Args:
        bridge: `TransformerBridge`, or any object with its `hook_dict`, `hooks(...)`, `embed(...)`, `cfg`, `tokenizer`.
        name: Name of the model in results; default: the bridge's own. A local folder is named by its absolute path.
    """

    def __init__(self, bridge: Any, name: str | None = None) -> None:
        missing = [a for a in ("hook_dict", "hooks", "embed", "cfg", "tokenizer") if not hasattr(bridge, a)]
        if missing:
            raise ModelError(
                f"{type(bridge).__name__} is not a model dreamy_lens can hook (it lacks {', '.join(missing)}). Pass a "
                "TransformerBridge, a Hugging Face id or a local folder; for a Hugging Face model in memory use "
                "TransformerBridge.boot_transformers(name, hf_model=..., tokenizer=...)."
            )
        _check_weights(bridge)
        bridge.eval()
        self.bridge = self.module = bridge
        points = bridge.hook_dict
        self._embedding_point = next((name for name in (EMBEDDING, "hook_embed") if name in points), None)
        self.tokenizer = without_stand_ins(bridge.tokenizer)
        self.name = located(name or str(getattr(bridge.cfg, "model_name", type(bridge).__name__)))
        weight = self.embedding_weight
        self.d_vocab = int(weight.shape[0] if weight is not None else bridge.cfg.d_vocab)
        self.d_model = int(getattr(bridge.cfg, "d_model", 0))
        self.n_ctx = int(getattr(bridge.cfg, "n_ctx", 0) or 0) or None
        self.n_layers = int(bridge.cfg.n_layers)
        self.n_heads = int(getattr(bridge.cfg, "n_heads", 0) or 0) or None
        self._point_cache: dict[tuple[str, bool], Any] = {}
        self._hooks_at_points: list[Any] = []
        self._hooks_elsewhere: list[Any] = []
        self.renew()

    def renew(self) -> None:
        """Look at the modules anew, so that hooks on modules that were put in later are noticed."""
        # Dictionaries in which torch keeps a module's hooks, keyed by ids that it never reuses.
        modules = list(self.bridge.modules())
        self._hooks_at_points = [hooks for m in modules if hasattr(m, "fwd_hooks") for hooks in _hook_tables(m)]
        self._hooks_elsewhere = [hooks for m in modules if not hasattr(m, "fwd_hooks") for hooks in _hook_tables(m)]

    # Properties of the bridge.

    @property
    def source(self) -> Any:
        """Bridge that this backend runs."""
        return self.bridge

    @property
    def default_prepend_bos(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True if the bridge puts a BOS token before prompts by default."""
        return bool(getattr(self.bridge.cfg, "default_prepend_bos", None))

    @property
    def mode(self) -> tuple[Any, ...]:
        """Compatibility mode and folding of layer norms, which change how the bridge computes."""
        return self._is_compatible, getattr(self.bridge.cfg, "layer_norm_folding", None)

    @property
    def embedding_weight(self) -> Float[Tensor, "d_vocab d_embed"] | None:
        """Weight matrix of the embedding, or None if it has none."""
        return getattr(self.bridge.embed, "weight", None)

    @property
    def is_hooked(self) -> bool:
        """True if the user has hooks on hook points."""
        ours = persistent_hooks_of(self.bridge).ids
        return any(not hooks.keys() <= ours for hooks in self._hooks_at_points if hooks)

    @contextlib.contextmanager
    def unhooked(self) -> Iterator[None]:
        """Take the user's hooks off the hook points within the context, and put them back afterwards."""
        ours = persistent_hooks_of(self.bridge).ids
        tables = [(hooks, dict(hooks)) for hooks in self._hooks_at_points if not hooks.keys() <= ours]
        for hooks, former in tables:
            for key in former.keys() - ours:
                del hooks[key]
        try:
            yield
        finally:
            for hooks, former in tables:  # in their former order, which is the order in which they run
                rest = dict(hooks)
                hooks.clear()
                hooks.update(former | rest)

    @property
    def other_hooks(self) -> tuple[int, ...]:
        """Ids of the hooks on modules that are not hook points; TransformerLens adds some of them while it runs."""
        return tuple(key for hooks in self._hooks_elsewhere if hooks for key in hooks)

    @property
    def has_foreign_hooks(self) -> bool:
        """True if modules that are not hook points have hooks that none of the libraries involved put there."""
        hooks = (hook for table in self._hooks_elsewhere if table for hook in table.values())
        return any(_library_of(hook) not in LIBRARIES for hook in hooks)

    @property
    def _is_compatible(self) -> bool:
        return bool(getattr(self.bridge, "compatibility_mode", False))

    def hook_names(self) -> list[str]:
        """Return every valid hook point name, aliases included."""
        return list(self.bridge.hook_dict)

    def gate_of(self, name: str) -> str | None:
        """Return the TransformerLens setting that switches on a hook point computed on request; None for others."""
        return gate_of(name)

    # Forward passes.

    def embed(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... d_model"]:
        """Return the bridge's embeddings of token ids."""
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
        """Run one forward pass; see :meth:`dreamy_lens.models.hooked_model.HookedModel.run`."""
        names = list(dict.fromkeys(capture))
        if embeddings is not None and self._embedding_point is None:
            raise NoGradientError(
                f"{self.name} has no hook point {EMBEDDING!r} at the embeddings of its tokens, so there are values of "
                "features, but no gradients of prompts, and no search. Choose another model."
            )
        activations: dict[str, Tensor] = {}
        # The replacement embeddings come first, so that a reader of the embedding hook point sees them.
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
        """Run a pass that ends at the last requested hook point, with extra arguments for the bridge's forward call.

        Returns:
            Activations by requested name.
        """
        activations: dict[str, Tensor] = {}
        readers = self._readers(capture, activations)
        self._evaluate()
        with contextlib.suppress(_Finished), self._gated(capture), self._attached(readers):
            self.bridge(ids, **self._no_cache, **arguments)
        self._check_fired(capture, activations, ids[:, : self.n_ctx])
        return activations

    def run_edited(
        self,
        ids: Int[Tensor, "batch pos"],
        edits: Sequence[tuple[str, Edit]],
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch pos d_vocab"] | None]:
        """Run one pass with activations changed; see :meth:`dreamy_lens.models.hooked_model.HookedModel.run_edited`."""
        names = list(dict.fromkeys(capture))
        activations: dict[str, Tensor] = {}
        edited: dict[str, Tensor] = {}
        # Edits come after the user's hooks and before the readers, which see the edited activations.
        hooks = [(name, _editor(name, edit, edited)) for name, edit in edits]
        hooks += self._readers(names, activations, end=not logits)
        output = None
        self._evaluate()
        gated = self._gated([*names, *(name for name, _ in edits)])
        with contextlib.suppress(_Finished), gated, self._attached(hooks, may_persist=False):
            output = self.bridge(ids, **self._no_cache)
        self._check_fired(names, activations, ids)
        if output is not None:
            self._check_fired([name for name, _ in edits], edited, ids)
            output = getattr(output, "logits", output)
        return activations, output if logits else None

    def observe(self, ids: Int[Tensor, "batch pos"], readers: Mapping[str, Reader]) -> None:
        """Run one full pass with a reader for each hook point; a hook point may not fire."""
        hooks = list(readers.items())
        gates = {gate_of(name) for name in readers}
        self._evaluate()
        with self._gated(list(readers) if len(gates) == 1 else []), self.bridge.hooks(fwd_hooks=hooks):
            self.bridge(ids, **self._no_cache)

    def keep_hooks(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that keeps reader hooks attached between passes; it may be nested."""
        return persistent_hooks_of(self.bridge).keep()

    # Parts of a pass.

    @staticmethod
    def _readers(names: Sequence[str], activations: dict[str, Tensor], end: bool = True) -> list[tuple[str, Any]]:
        """Return hooks that store activations; if `end`, the last one that fires ends the pass."""

        def reader(name: str) -> Any:
            def read(activation: Any, hook: Any = None) -> None:
                activations[name] = activation[0] if isinstance(activation, tuple) else activation
                if end and len(activations) == len(names):
                    raise _Finished

            return read

        return [(name, reader(name)) for name in names]

    @contextlib.contextmanager
    def _attached(self, hooks: list[tuple[str, Any]], leaf: Any = None, may_persist: bool = True) -> Iterator[None]:
        """Attach hooks for one pass: persistent hooks, or temporary hooks that run after the user's."""
        if may_persist and not self.is_hooked:
            persistent = persistent_hooks_of(self.bridge)
            with persistent.in_pass(hooks, self._point, leaf, self._embedding_point or "") as are_attached:
                if are_attached:
                    yield
                    return
        all_hooks = [*([] if leaf is None else [(str(self._embedding_point), leaf)]), *hooks]
        if self._is_compatible:  # in this mode, one hook point has several names
            with self.bridge.hooks(fwd_hooks=all_hooks):
                yield
            return
        attached: list[tuple[Any, Any]] = []
        try:
            for name, function in all_hooks:
                point = self._point(name)
                attached.append((point, attach(point, function)))
            yield
        finally:
            for point, handle in reversed(attached):
                handle.hook.remove()
                point.fwd_hooks.remove(handle)

    def _point(self, name: str) -> Any:
        """Return a hook point by name; cached, because a bridge lists all of its hook points for every lookup."""
        key = name, self._is_compatible
        if key not in self._point_cache:
            self._point_cache[key] = self.bridge.hook_dict[name]
        return self._point_cache[key]

    def _evaluate(self) -> None:
        """Put the bridge in evaluation mode if the user left it: in training mode, dropout makes scores random."""
        original = getattr(self.bridge, "original_model", None)
        if self.bridge.training or getattr(original, "training", False):
            self.bridge.eval()

    @property
    def _no_cache(self) -> dict[str, Any]:
        """Argument `use_cache=False` if the wrapped model accepts it (saves 10-20 % on small models); else empty.

        A model of several parts, such as one for text and images, passes it on to the part for text.
        """
        if not hasattr(self, "_no_cache_arguments"):
            original = getattr(self.bridge, "original_model", None)
            known = False
            if original is not None:
                parameters = inspect.signature(original.forward).parameters
                config = getattr(original, "config", None)
                text = getattr(config, "get_text_config", lambda: None)()
                passed_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
                known = "use_cache" in parameters or (passed_on and text is not config and hasattr(text, "use_cache"))
            self._no_cache_arguments = {"use_cache": False} if known else {}
        return self._no_cache_arguments

    @contextlib.contextmanager
    def _gated(self, names: Sequence[str]) -> Iterator[None]:
        """Switch on the hook points that TransformerLens computes only on request, and switch them off afterwards."""
        with contextlib.ExitStack() as switched:
            for name in names:
                gate = gate_of(name)
                setter = getattr(self.bridge, f"set_{gate}", None)
                if gate and setter and not getattr(self.bridge.cfg, gate, False):
                    switched.callback(self._ungate, gate)  # registered first, because switching on can be interrupted
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
        """Raise HookNotFiredError, naming the nearest hook points that fire, if a requested hook point did not."""
        silent = next((name for name in names if name not in activations), None)
        if silent is None:
            return
        fired: dict[str, None] = {}
        others = (n for n in self.bridge.hook_dict if n != silent and gate_of(n) is None)
        self.observe(ids, {n: lambda activation, hook=None, n=n: fired.setdefault(n) for n in others})
        near = nearest(silent, [n for n in fired if n.startswith(silent.rpartition(".")[0])] or list(fired), cutoff=0)
        raise HookNotFiredError(
            f"{self.name} lists the hook point {quoted(silent)}, but a forward pass does not go through it; "
            f"the nearest hook points that it goes through: {', '.join(near)}."
        )


def _check_weights(bridge: Any) -> None:
    """Raise ModelError if the bridge has no weights, or weights that can have no gradients."""
    for parameter in bridge.parameters():
        if parameter.device.type == "meta":
            raise ModelError(
                "The model has weights on the device 'meta', which are only shapes: they were not loaded, or were "
                "moved to the disk. Load the model on a CPU or a GPU."
            )
        if parameter.is_inference():
            raise ModelError(
                "The model was made inside torch.inference_mode(), so its weights can have no gradients. Make it "
                "outside, or inside torch.no_grad()."
            )


def _editor(name: str, edit: Edit, edited: dict[str, Tensor]) -> Any:
    """Return a hook that puts an edited activation in the place of an activation, with its type and shape."""

    def replace(activation: Any, hook: Any = None) -> Any:
        first = activation[0] if isinstance(activation, tuple) else activation
        edited[name] = first
        new = edit(first)
        if new is None:
            return None
        new = new.to(first.device, first.dtype)
        return (new, *activation[1:]) if isinstance(activation, tuple) else new

    return replace


def _library_of(hook: Any) -> str:
    """Return the name of the package that defines a hook; "" if it is unknown."""
    function = getattr(hook, "func", hook)  # of a functools.partial
    return str(getattr(function, "__module__", None) or "").partition(".")[0]


def _hook_tables(module: Any) -> tuple[Any, ...]:
    """Return the dictionaries in which torch keeps a module's forward and backward hooks."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
