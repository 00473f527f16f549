"""Numbers of dreamy_lens on an architecture, compared with the plain Hugging Face model for each kind of feature."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import dreamy_lens as dl
from dreamy_lens.errors import DreamyLensError, HookMeaningError, HookNotFiredError, UnknownHookError
from dreamy_lens.models import as_hooked
from dreamy_lens.scoring import Scorer
from tests.trust.zoo import HEADS, LAYER, Architecture, bridge_of, plain_model

RIGHT, REFUSED, WRONG, NONE = "right", "refused", "wrong", "none"
KINDS = (
    "fluency",
    "logit",
    "residual stream",
    "neuron",
    "expert neuron",
    "pre-activation",
    "head output",
    "attention pattern",
    "gradient",
)
LENGTH, PROMPTS = 7, 3


class _Products(TorchFunctionMode):
    """Keeps the operands of every linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.nn.functional.linear, torch.Tensor.__matmul__, torch.Tensor.matmul):
            self.seen.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


class Examination:
    """Examination of one architecture.

    Args:
        architecture: Architecture to examine.

    Attributes:
        raw: Plain Hugging Face model.
        bridge: Bridge over a copy of it.
        ids: Token ids of prompts, `[PROMPTS, LENGTH]`.
        rows: Rows that the models read, `[PROMPTS, total]`: BOS and prompt.
        bos: Number of tokens before the prompt.
        block: Name of the examined layer in hook points.
        layer: The layer in the plain model.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.raw = plain_model(architecture)
        self.bridge = bridge_of(architecture, self.raw)
        self.random = np.random.default_rng(sum(map(ord, architecture.name)))
        vocabulary = as_hooked(self.bridge).vocabulary
        allowed = vocabulary.allowed.nonzero()[0]
        self.ids = self.random.choice(allowed, size=(PROMPTS, LENGTH))
        self.bos = len(as_hooked(self.bridge).bos(None))
        before = np.zeros((PROMPTS, self.bos), dtype=np.int64)
        self.rows = torch.tensor(np.concatenate([before, self.ids], 1))
        self.block = f"{architecture.block}.{LAYER}"
        self.layer = self.raw.get_submodule(f"{architecture.layers}.{LAYER}")

    # The plain model.

    @property
    def arguments(self) -> dict[str, Tensor]:
        """Arguments of the plain model's call. A bridge gives a decoder the encoder's tokens, shifted by one."""
        both = getattr(self.raw.config, "is_encoder_decoder", False)
        return {"input_ids": self.rows} | ({"decoder_input_ids": self.raw._shift_right(self.rows)} if both else {})

    @contextlib.contextmanager
    def watching(self, module: Any) -> Iterator[dict[str, Tensor]]:
        """Keep the input and the output of a module of the plain model."""
        seen: dict[str, Tensor] = {}

        def look(_: Any, args: Any, kwargs: Any, out: Any) -> None:
            seen["input"] = args[0] if args else kwargs.get("hidden_states")
            seen["output"] = out[0] if isinstance(out, tuple) else out

        handle = module.register_forward_hook(look, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()

    def run(self, module: Any = None, side: str = "output") -> Tensor:
        """Return the logits `[PROMPTS, total, d_vocab]`, or what a module reads or writes, `[PROMPTS, total, -1]`."""
        with torch.no_grad(), self.watching(module or self.raw) as seen:
            logits = self.raw(**self.arguments, use_cache=False).logits
        return logits if module is None else seen[side].reshape(*self.rows.shape, -1)

    # The kinds of features. Each returns the feature, or a function that computes, and the expected values [PROMPTS].

    def fluency(self) -> tuple[Any, Tensor]:
        """Cross-entropy of the prompts (Eq. 1)."""
        losses = self.run().log_softmax(-1)[:, :-1].gather(-1, self.rows[:, 1:, None])[..., 0]
        return "cross-entropy", -losses[:, max(self.bos - 1, 0) :].mean(1)

    def logit(self) -> tuple[Any, Tensor]:
        """Logit of a token, and its log probability."""
        token = int(self.ids[0, 0])
        at = self.run()[:, -1]
        both = dl.logit(token) + 3 * dl.log_prob(token)
        return both, at[:, token] + 3 * at.log_softmax(-1)[:, token]

    def residual_stream(self) -> tuple[Any, Tensor]:
        """Projection of the residual stream before the layer on a random direction, the maximum over the prompt."""
        x = self.run(self.layer, "input")[:, self.bos :]
        direction = self.random.standard_normal(x.shape[-1]).astype(np.float32)
        return (dl.hook(f"{self.block}.hook_resid_pre") @ direction).max(), (x @ torch.tensor(direction)).amax(1)

    def neuron(self) -> tuple[Any, Tensor]:
        """Neuron at the last token, and another one's mean over the prompt."""
        down = self.architecture.down
        x = self.run(self.layer if down is None else self.layer.get_submodule(down), "input")
        i, j = (int(k) for k in self.random.integers(x.shape[-1], size=2))
        feature = (
            dl.hook(f"{self.block}.mlp.hook_post")[-1, i] - 2 * dl.hook(f"{self.block}.mlp.hook_post")[..., j].mean()
        )
        return feature, x[:, -1, i] - 2 * x[:, self.bos :, j].mean(1)

    def expert_neuron(self) -> tuple[Any, Tensor]:
        """Neuron of an expert at the last token, another one's mean, and a logit of the router.

        A neuron is a number that the expert's last linear map reads, a logit one that the router's linear map writes.
        """
        parts = [module for module in self.layer.modules() if getattr(module, "down_proj", None) is not None]
        stacked = [m for m in parts if isinstance(m.down_proj, Tensor) and m.down_proj.ndim == 3]
        if not stacked:
            return dl.expert_neuron(LAYER, 0, 0), torch.full((PROMPTS,), torch.nan)
        (experts,) = stacked
        given: list[Any] = []
        handle = experts.register_forward_pre_hook(lambda module, args: given.append(args))
        with torch.no_grad(), _Products() as products:
            self.raw(**self.arguments, use_cache=False)
        handle.remove()
        if len(given[0]) < 3:  # the experts read all tokens, each times its weight
            return dl.expert_neuron(LAYER, 0, 0), torch.full((PROMPTS,), torch.nan)
        index = given[0][1]  # [token, chosen]
        expert = int(index.reshape(PROMPTS, -1, index.shape[-1])[0, -1, 0])
        other = next(e for e in range(len(experts.down_proj)) if e != expert and (index == e).any())
        neurons = {}
        for e in (expert, other):
            tokens = (index.T == e).nonzero()[:, 1]  # those for which it is the first choice come first
            (read,) = (x for x, weight in products.seen if torch.equal(weight, experts.down_proj[e]))
            neurons[e] = read.new_zeros(len(index), read.shape[-1])
            neurons[e][tokens] = read
            neurons[e] = neurons[e].reshape(*self.rows.shape, -1)
        i, j = (int(k) for k in self.random.integers(read.shape[-1], size=2))
        feature = dl.expert_neuron(LAYER, expert, i) - 2 * dl.expert_neuron(LAYER, other, j, slice(None)).mean()
        expected = neurons[expert][:, -1, i] - 2 * neurons[other][:, self.bos :, j].mean(1)
        (mlp,) = (m for m in self.layer.children() if experts in m.modules())
        shape = len(experts.down_proj), self.raw.config.hidden_size
        (weight,) = (
            module.weight
            for module in mlp.modules()
            if getattr(getattr(module, "weight", None), "shape", None) == shape
        )
        (x,) = (x for x, w in products.seen if w.shape == shape and torch.equal(w, weight))
        bias = next((m.bias for m in mlp.modules() if getattr(m, "weight", None) is weight and "bias" in dir(m)), None)
        logits = x @ weight.T + (0 if bias is None else bias)
        return feature + dl.router(LAYER, other), expected + logits.reshape(*self.rows.shape, -1)[:, -1, other]

    def pre_activation(self) -> tuple[Any, Tensor]:
        """Pre-activation of a neuron, which is a number that one of the layer's linear maps writes."""
        feature = dl.hook(f"{self.block}.mlp.hook_pre")[-1, 5]
        found = Scorer(feature, as_hooked(self.bridge)).values(self.ids)
        for module in self.layer.modules():
            if isinstance(getattr(module, "weight", None), Tensor):
                y = self.run(module)[:, -1]
                if y.shape[-1] > 5 and np.allclose(found, y[:, 5], atol=1e-4):
                    return feature, y[:, 5]
        return feature, torch.full((PROMPTS,), torch.nan)

    def head_output(self) -> tuple[Any, Tensor]:
        """Number of one head's output."""
        out = self.architecture.out
        x = self.run(self.layer if out is None else self.layer.get_submodule(out), "input")
        width = x.shape[-1] // HEADS
        return dl.hook(f"{self.block}.attn.hook_z")[-1, 3, 2], x[:, -1, 3 * width + 2]

    def attention_pattern(self) -> tuple[Any, Tensor]:
        """Weight of one head's attention."""
        feature = dl.hook(f"{self.block}.attn.hook_pattern")[2, -1, 1]
        with torch.no_grad():
            all_layers = self.raw(**self.arguments, use_cache=False, output_attentions=True)
        patterns = [p for p in getattr(all_layers, "attentions", None) or () if p is not None and p.ndim == 4]
        if not patterns:
            return feature, torch.full((PROMPTS,), torch.nan)
        return feature, patterns[-1][:, 2, -1, 1 + self.bos]

    def gradient(self) -> tuple[Any, Tensor]:
        """Token gradient of a projection of the residual stream after the layer."""
        name = f"{self.block}.hook_resid_pre"
        feature = dl.hook(name)[-1, 3]
        embedding = self.raw.get_input_embeddings()
        with torch.enable_grad(), self.watching(self.layer) as seen:
            leaf: dict[str, Tensor] = {}

            def keep(_: Any, args: Any, out: Tensor) -> Tensor:
                leaf["x"] = out.detach().requires_grad_(True)
                return leaf["x"]

            handle = embedding.register_forward_hook(keep)
            try:
                self.raw(**self.arguments, use_cache=False)
            finally:
                handle.remove()
            if "x" not in leaf:
                return feature, torch.full((PROMPTS,), torch.nan)
            value = seen["input"].reshape(*self.rows.shape, -1)[:, -1, 3].sum()
            slope = torch.autograd.grad(value, leaf["x"])[0][:, self.bos :]
        with torch.no_grad():
            table = embedding(torch.arange(len(as_hooked(self.bridge).embedding_table)))
        token = int(self.ids[0, 1])
        return feature, (slope @ table[token])[:, -1]

    # The comparison.

    def found(self, kind: str, feature: Any) -> np.ndarray:
        """Return what dreamy_lens computes for a kind of feature, `[PROMPTS]`."""
        hooked = as_hooked(self.bridge)
        if kind == "fluency":
            return dl.score(f"{self.block}.hook_resid_pre[-1, 0]", self.ids, self.bridge).cross_entropy
        scorer = Scorer(feature, hooked)
        if kind == "gradient":
            token = int(self.ids[0, 1])
            return scorer.gradient(self.ids).of_value()[:, -1, token].numpy()
        return scorer.values(self.ids)

    def verdict(self, kind: str) -> tuple[str, str]:
        """Return "right", "refused" or "wrong" for a kind of feature, or "none" if there is none, and the reason."""
        if kind == "expert neuron" and not any("expert" in name for name, _ in self.layer.named_modules()):
            return NONE, ""
        make: Callable[[], tuple[Any, Tensor]] = getattr(self, kind.replace(" ", "_").replace("-", "_"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                feature, expected = make()
                found = self.found(kind, feature)
        except DreamyLensError as error:
            return REFUSED, _reason(error)
        expected = expected.detach().numpy()
        scale = max(1.0, float(np.abs(expected).max()))
        if np.isnan(expected).any():
            return WRONG, "the plain model shows no such number"
        if not np.allclose(found, expected, atol=2e-4 * scale, rtol=0):
            return WRONG, f"{found.tolist()} instead of {expected.tolist()}"
        return RIGHT, ""


def _reason(error: DreamyLensError) -> str:
    """Return the short reason of a refusal."""
    match error:
        case HookMeaningError():
            return re.split(r": |\. The layer's|\. `", str(error))[1]
        case UnknownHookError():
            return "TransformerLens has no such hook point there"
        case HookNotFiredError():
            return "a forward pass does not reach the hook point"
    return str(error).partition(": ")[0].partition(" ")[2]


def row(architecture: Architecture) -> str:
    """Return the row of an architecture in the table of docs/architectures.md."""
    examination = Examination(architecture)
    verdicts = {kind: examination.verdict(kind) for kind in KINDS}
    reasons: dict[str, list[str]] = {}
    for kind, (verdict, why) in verdicts.items():
        if verdict not in (RIGHT, NONE):
            reasons.setdefault(f"**{why}**" if verdict == WRONG else why, []).append(kind)
    words = {RIGHT: "yes", REFUSED: "no", WRONG: "WRONG", NONE: "–"}
    cells = [words[verdict] for verdict, _ in verdicts.values()]
    notes = "; ".join(f"{', '.join(kinds)}: {why}" for why, kinds in reasons.items())
    return f"| {architecture.family} | {' | '.join(cells)} | {notes} |"
