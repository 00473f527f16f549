"""Fingerprints of prompts: the upstream contributions to a feature's value, of many prompts at once.

Two prompts that drive a feature through the same heads, MLPs and neurons have fingerprints that point the same way,
whatever words they have. The numbers are those of :func:`~dreamy_lens.analysis.upstream.decompose`, from one pass over
all prompts of a length, and only at the positions from which the feature can be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dreamy_lens.analysis.affine_maps import LOGITS, AffineMaps, Map
from dreamy_lens.analysis.direct_path import NoPathError
from dreamy_lens.analysis.frozen_features import HeldFeature, linearised
from dreamy_lens.analysis.upstream import check_differentiable, choose_quantity
from dreamy_lens.errors import FeatureError, PromptError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.forward_pass import ForwardPass
from dreamy_lens.models.hook_evidence import same_numbers
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.transfer import in_float64, to_device, to_host
from dreamy_lens.results.upstream import ModelComponent
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer

ENTRIES = 1 << 26
"""Most numbers that the activations of one pass hold, so that many prompts need little memory."""


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Upstream contributions of P prompts to a feature's value.

    Attributes:
        components: Components (C), in the order in which they write.
        contributions: Contribution of each component to the decomposed quantity, float64 `[P, C]`.
        bias: Contribution of all biases, float64 `[P]`.
        total: Decomposed quantity, float64 `[P]`: the sum of the contributions and the bias.
        quantity: Name of the quantity, as in :class:`~dreamy_lens.results.Upstream`.
        neurons: Layer and number of each neuron (U) of the MLPs that are divided, int64 `[U, 2]`; none if neurons were
            not asked for.
        by_neuron: Contribution of each of these neurons, float32 `[P, U]`.
    """

    components: tuple[ModelComponent, ...]
    contributions: Float64[np.ndarray, "P C"]
    bias: Float64[np.ndarray, " P"]
    total: Float64[np.ndarray, " P"]
    quantity: str
    neurons: Int64[np.ndarray, "U 2"]
    by_neuron: Float[np.ndarray, "P U"]

    def __len__(self) -> int:
        return len(self.contributions)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each number of :meth:`unit_contributions`, such as "L0.H3" or "L1.N17"."""
        divided = set(self.neurons[:, 0].tolist())
        whole = [c.name for c in self.components if c.kind != "mlp" or c.layer not in divided]
        return (*whole, *(f"L{layer}.N{unit}" for layer, unit in self.neurons.tolist()))

    def unit_contributions(self) -> Float64[np.ndarray, "P K"]:
        """Return the contributions with every divided MLP replaced by its neurons, float64 `[P, K]`."""
        divided = set(self.neurons[:, 0].tolist())
        whole = [i for i, c in enumerate(self.components) if c.kind != "mlp" or c.layer not in divided]
        return np.concatenate([self.contributions[:, whole], self.by_neuron.astype(np.float64)], axis=1)

    def normalised(self) -> Float64[np.ndarray, "P K"]:
        """Return the contributions of units, each prompt's scaled to length 1; zeros stay zeros."""
        units = self.unit_contributions()
        return units / np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-30)


def fingerprints(
    scorer: Scorer, prompts: Any, *, quantity: str | None = None, neurons: bool = True, steps: int = 32
) -> Fingerprints:
    """Divide a feature's value on many prompts into contributions of the model's components.

    Args:
        scorer: Scorer of the feature; of several contexts, the first is used.
        prompts: Texts, ids `[P, n]`, Prompts, or a list of these; of one length, the call is fastest.
        quantity: Quantity to decompose, as in :func:`~dreamy_lens.analysis.upstream.decompose`.
        neurons: Whether to divide MLPs into their neurons, too.
        steps: Points of the integration, for features that are no affine functions.

    Raises:
        FeatureError: The feature, or the architecture, has no decomposition; the message gives the reason.
        PromptError: There is no prompt, or one cannot be scored.
    """
    model, frame = scorer.model, scorer.frame
    rows = as_ids(prompts, scorer.vocabulary, frame.bos)
    feature = scorer.bound.feature
    if scorer.bound.models != (model,) or model.tail:
        raise FeatureError(
            f"{feature.label} reads more than one pass of one model (another model, or a text of several tokens after "
            "the prompt), so its prompts have no fingerprints."
        )
    lengths = [len(row) for row in rows]
    if not lengths:
        raise PromptError("There is no prompt: give texts, or token ids.")
    parts: list[tuple[np.ndarray, Fingerprints]] = []
    with locked([model]), model.keep_hooks(), model.frozen(), torch.inference_mode(False), torch.enable_grad():
        try:
            for length in dict.fromkeys(lengths):
                which = np.flatnonzero(np.array(lengths) == length)
                scorer.check_length(length)
                ids = np.stack([rows[i] for i in which])
                work = _Length(scorer, model, length, quantity, neurons, int(steps))
                parts += [(which[part], found) for part, found in work.parts(ids)]
        except NoPathError as error:
            raise FeatureError(f"{feature.label} has no upstream decomposition on {model.name}: {error}") from error
    return _joined(parts, len(rows))


def _joined(parts: Sequence[tuple[np.ndarray, Fingerprints]], count: int) -> Fingerprints:
    """Join the fingerprints of some prompts each, in the order of the prompts."""
    first = parts[0][1]
    if any(part.components != first.components or len(part.neurons) != len(first.neurons) for _, part in parts):
        raise NoPathError("its components differ between prompts.")

    def put(name: str) -> np.ndarray:
        like = getattr(first, name)
        out = np.empty((count, *like.shape[1:]), dtype=like.dtype)
        for which, part in parts:
            out[which] = getattr(part, name)
        return out

    arrays = {name: put(name) for name in ("contributions", "bias", "total", "by_neuron")}
    return Fingerprints(components=first.components, quantity=first.quantity, neurons=first.neurons, **arrays)


@dataclass
class _Writer:
    """What one attention, one MLP or the embedding contributes, for each prompt."""

    components: list[ModelComponent]
    sums: Tensor  # [batch, component]
    bias: Tensor  # [batch]
    by_neuron: Tensor | None = None


class _Length:
    """Work on prompts of one length."""

    def __init__(
        self, scorer: Scorer, model: HookedModel, length: int, quantity: str | None, neurons: bool, steps: int
    ) -> None:
        self.scorer, self.model, self.layout = scorer, model, scorer.layout(length)
        self.wanted, self.neurons, self.steps = quantity, neurons, steps
        self.names: list[str] = []

    def parts(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, Fingerprints]]:
        """Yield numbers of prompts with their fingerprints; as many prompts at once as there is memory for."""
        self.names, entries = self._fired(ids[:1])
        at_once = max(1, ENTRIES // max(1, entries))
        for start in range(0, len(ids), at_once):
            part = np.arange(start, min(start + at_once, len(ids)))
            yield part, self._batch(ids[part])

    def _fired(self, ids: np.ndarray) -> tuple[list[str], int]:
        """Return the hook points that a pass reads, up to the last block that matters, and the numbers they hold."""
        model, hooks = self.model, self.scorer.bound.hooks[self.model]
        row = to_device(self.scorer.frame.rows(ids, model), model.device)
        maps = AffineMaps(model, row, [name for name in hooks if model.gate_of(name) is None])
        layers = [_layer_of(name) for name in hooks]
        known = all(layer is not None for layer in layers) and model not in self.scorer.bound.logits
        last = max((layer for layer in layers if layer is not None), default=0) + 1 if known else model.n_layers
        names = []
        for name in maps.activations:
            layer = _layer_of(name)
            beyond = layer is not None and (layer > last or (layer == last and not name.endswith("hook_resid_pre")))
            late = known and name.startswith(("unembed.", "ln_final."))
            if name in hooks or not (beyond or late):
                names.append(name)
        sizes = sum(maps.activations[name].numel() for name in names)
        return names, sizes + (len(row[0]) * model.vocabulary.size if model in self.scorer.bound.logits else 0)

    def _batch(self, ids: np.ndarray) -> Fingerprints:
        model, bound = self.model, self.scorer.bound
        self.rows = to_device(self.scorer.frame.rows(ids, model), model.device)
        reads_logits = model in bound.logits
        gated = [name for name in bound.hooks[model] if model.gate_of(name) is not None]
        with torch.no_grad():
            found, logits = model.run(self.rows, self.names, logits=reads_logits)
            found = dict(found)
            if gated:
                found |= model.run(self.rows, gated, logits=False)[0]
        self.found = {name: x.detach() for name, x in found.items()}
        self.logits = logits.detach() if reads_logits and logits is not None else None
        self.held = held = self._held()
        own = {name: self.found[name] for name in held.bound.hooks[model]}
        if self.logits is not None:
            own[LOGITS] = self.logits
        self.maps = AffineMaps(model, self.rows, activations=self.found)
        self.readings = {name: self.maps.reading(name, x) for name, x in own.items()}
        self.activations = own
        quantity, _ = choose_quantity(
            bound.feature.label, self.readings.values(), held.linear, held.quantity, self.wanted
        )
        self.quantity = quantity
        slopes, total, bias = self._slopes(held.linear)
        writers = list(self._writers(slopes))
        neurons = [w.by_neuron for w in writers if w.by_neuron is not None]
        layers = [w.components[0].layer or 0 for w in writers if w.by_neuron is not None]
        pairs = [(layer, unit) for layer, x in zip(layers, neurons, strict=True) for unit in range(x.shape[1])]
        sums = torch.cat([w.sums for w in writers], dim=1)
        by_neuron = torch.cat(neurons, dim=1) if neurons else sums.new_zeros((len(ids), 0))
        bias = bias + sum((w.bias for w in writers), torch.zeros_like(bias))
        arrays = to_host(sums, bias, total, by_neuron.float())
        return Fingerprints(
            components=tuple(c for w in writers for c in w.components),
            contributions=arrays[0].astype(np.float64),
            bias=arrays[1].astype(np.float64),
            total=arrays[2].astype(np.float64),
            quantity=quantity,
            neurons=np.array(pairs, dtype=np.int64).reshape(-1, 2),
            by_neuron=arrays[3],
        )

    def _held(self) -> HeldFeature:
        """Return the feature with its norms and its limits held, for these prompts in their order."""

        def values(part: BoundFeature) -> np.ndarray:
            with torch.no_grad():
                return to_host(part({self.model: self._source(self.found, self.logits)}))[0]

        return linearised(self.scorer.bound, self.scorer.prepend_bos, values, self.wanted)

    def _source(self, activations: dict[str, Tensor], logits: Tensor | None) -> ForwardPass:
        hooks = {name: x for name, x in activations.items() if name != LOGITS}
        return ForwardPass(hooks, logits, self.rows, self.layout)

    def _value(self, activations: dict[str, Tensor]) -> Float[Tensor, " batch"]:
        """Return the held feature's values for activations `[batch, ...]`."""
        with torch.enable_grad():
            return self.held.bound({self.model: self._source(activations, activations.get(LOGITS))})

    # The slopes.

    def _slopes(self, exact: bool) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """Return the slopes with respect to the stream at each stage, the decomposed quantity, and its bias."""
        bases = {}
        with torch.no_grad():
            for name, reading in self.readings.items():
                x = self.maps.stream(reading.stage)
                bases[name] = [(each(x), each(torch.zeros_like(x))) for each in reading.maps]
        affine = exact and all(r.combine is None or self.quantity in r.parts for r in self.readings.values())
        if affine and any(isinstance(node, ex.Latent) for node in self.held.bound.feature.walk()):
            start, middle, end = (self._along(bases, a)[1].detach().double() for a in (0.0, 0.5, 1.0))
            size = torch.stack([start, middle, end]).abs().amax(0)
            affine = bool(((middle - (start + end) / 2).abs() <= 1e-4 * size).all())
        weights, total, bias = self._exact(bases) if affine else self._integrated(bases)
        slopes: dict[int, Tensor] = {}
        for name, reading in self.readings.items():
            x = self.maps.stream(reading.stage).clone().requires_grad_()
            slopes.setdefault(reading.stage, torch.zeros_like(x))
            for affine_map, weight in zip(reading.maps, weights[name], strict=True):
                if weight is not None and bool(weight.any()):
                    (slope,) = torch.autograd.grad(affine_map(x), x, weight)
                    slopes[reading.stage] = slopes[reading.stage] + slope
        return slopes, total, bias

    def _exact(self, bases: Any) -> tuple[dict[str, list[Tensor | None]], Tensor, Tensor]:
        """Return the slopes of a linear feature, its value, and its value on a stream of zeros."""
        leaves = {name: x.float().requires_grad_() for name, x in self.activations.items()}
        value = self._value(leaves)
        slopes = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
        constant = in_float64(value.detach())
        total = bias = torch.zeros_like(constant)
        weights: dict[str, list[Tensor | None]] = {}
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True):
            reading = self.readings[name]
            weights[name] = [None] * len(reading.maps)
            if slope is None:
                continue
            constant = constant - _dots(slope, leaf)
            i = 0 if reading.combine is None else reading.parts.index(self.quantity)
            weights[name][i] = slope
            result, zero = bases[name][i]
            total, bias = total + _dots(slope, result), bias + _dots(slope, zero)
        return weights, total + constant, bias + constant

    def _integrated(self, bases: Any) -> tuple[dict[str, list[Tensor | None]], Tensor, Tensor]:
        """Integrate the gradient along the line from a stream of zeros to the stream of each prompt."""
        points, shares = np.polynomial.legendre.leggauss(self.steps)
        weights = {name: [torch.zeros_like(end) for end, _ in pairs] for name, pairs in bases.items()}
        for point, share in zip(points.tolist(), shares.tolist(), strict=True):
            leaves, value = self._along(bases, (point + 1) / 2)
            check_differentiable(value)
            flat = [leaf for each in leaves.values() for leaf in each]
            slopes = iter(torch.autograd.grad(value.sum() * (share / 2), flat, allow_unused=True))
            for name, each in leaves.items():
                for k in range(len(each)):
                    slope = next(slopes)
                    if slope is not None:
                        weights[name][k] += slope
        bias, total = (in_float64(self._along(bases, alpha)[1].detach()) for alpha in (0.0, 1.0))
        if not bool(torch.isfinite(torch.stack([bias, total])).all()):
            raise NoPathError("its value is not a finite number where the residual stream is zero.")
        return {name: list(each) for name, each in weights.items()}, total, bias

    def _along(self, bases: Any, alpha: float) -> tuple[dict[str, list[Tensor]], Tensor]:
        """Return quantities at one point of the line, as leaves of a graph, and the feature's values there."""
        leaves = {
            name: [(zero + alpha * (end - zero)).requires_grad_() for end, zero in pairs]
            for name, pairs in bases.items()
        }
        activations = {}
        for name, each in leaves.items():
            combine = self.readings[name].combine
            activations[name] = each[0] if combine is None else combine(*each).float()
        return leaves, self._value(activations)

    # The contributions.

    def _writers(self, slopes: dict[int, Tensor]) -> Iterator[_Writer]:
        """Yield what each writer of the residual stream contributes; check that they sum to the stream."""
        maps, last = self.maps, max(slopes)
        zeros = torch.zeros_like(slopes[last])
        stream = maps.stream(0)
        yield self._embedding(stream, sum(slopes.values(), zeros))
        total = stream.clone()
        for stage in range(last + 1):
            if stage in slopes and not same_numbers(total, maps.stream(stage), self._scale(stage)):
                raise NoPathError(
                    "the embedding and the outputs of attention and MLPs do not sum to the residual stream, so "
                    "something else writes to it, or scales it (or hooks change it)."
                )
            if stage == last:
                return
            layer, is_mlp = divmod(stage, 2)
            written = maps.read(f"blocks.{layer}.hook_{'mlp' if is_mlp else 'attn'}_out").to(total.device)
            total = total + written.float()
            slope = sum((slope for at, slope in slopes.items() if at > stage), zeros)
            used = (slope != 0).flatten(2).any(2).any(0)  # positions from which the feature is reached
            used[-1] |= not bool(used.any())
            yield (self._mlp if is_mlp else self._attention)(layer, written[:, used], slope[:, used], used)

    def _scale(self, stage: int) -> Tensor:
        """Return the stream in the precision of the model, to which sums are compared."""
        layer, last = stage // 2, self.model.n_layers - 1
        return self.maps.read(f"blocks.{layer}.hook_resid_pre" if layer <= last else f"blocks.{last}.hook_resid_post")

    def _embedding(self, stream: Tensor, slope: Tensor) -> _Writer:
        """Return the contributions of the token and position embeddings."""
        found = self.maps.activations
        parts = [found[name] for name in ("embed.hook_out", "pos_embed.hook_out") if name in found]
        if len(parts) == 2 and all(x.ndim == 3 and x.shape[-1] == stream.shape[-1] for x in parts):
            parts = [x.float().expand_as(stream) for x in parts]
            if same_numbers(parts[0] + parts[1], stream, self._scale(0)):
                kinds = ("embedding", "position")
                sums = torch.stack([_dots(x, slope) for x in parts], dim=1)
                return _Writer([ModelComponent(k, k) for k in kinds], sums, torch.zeros_like(sums[:, 0]))
        return _whole(ModelComponent("embedding", "embedding"), stream, slope)

    def _attention(self, layer: int, written: Tensor, slope: Tensor, used: Tensor) -> _Writer:
        """Return the contributions of a layer's heads."""
        try:
            z = self.maps.read(f"blocks.{layer}.attn.hook_z").float()[:, used.to(written.device)]
            weights, bias = _pulled(self.maps.written_by_heads(layer, z), z, slope, written)
        except NoPathError:
            return _whole(ModelComponent(f"L{layer}.attn", "attention", layer), written, slope)
        sums = (in_float64(z) * in_float64(weights)).sum((1, 3))
        heads = [ModelComponent(f"L{layer}.H{h}", "head", layer, h) for h in range(sums.shape[1])]
        return _Writer(heads, sums, bias)

    def _mlp(self, layer: int, written: Tensor, slope: Tensor, used: Tensor) -> _Writer:
        """Return the contribution of a layer's MLP, with its neurons."""
        component = ModelComponent(f"L{layer}.MLP", "mlp", layer)
        try:
            post = self.maps.read(f"blocks.{layer}.mlp.hook_post").float()[:, used.to(written.device)]
            weights, bias = _pulled(self.maps.written_by_neurons(layer, post), post, slope, written)
        except NoPathError:
            return _whole(component, written, slope)
        each = (in_float64(post) * in_float64(weights)).sum(1)
        return _Writer([component], each.sum(1, keepdim=True), bias, each if self.neurons else None)


def _layer_of(name: str) -> int | None:
    """Return the block of a hook point; None if it is outside the blocks."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" and len(parts) > 2 and parts[1].isdigit() else None


def _whole(component: ModelComponent, written: Tensor, slope: Tensor) -> _Writer:
    """Return the contribution of an output that is not divided further."""
    sums = _dots(written.detach(), slope.to(written.device))
    return _Writer([component], sums[:, None], torch.zeros_like(sums))


def _pulled(write: Map, x: Tensor, slope: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slope with respect to the input of an affine map, and the contributions of the map's bias.

    Raises:
        NoPathError: The map does not give what was written.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = write(leaf)
    if out.shape != written.shape or not same_numbers(out.detach(), written):
        raise NoPathError("its output is not the usual function of its inputs.")
    (weights,) = torch.autograd.grad(out, leaf, slope.to(out.device))
    with torch.no_grad():
        return weights, _dots(slope.to(out.device), write(torch.zeros_like(x)))


def _dots(a: Tensor, b: Tensor) -> Float64[Tensor, " batch"]:
    """Return the inner products of the rows of two tensors `[batch, ...]`, summed in float64."""
    return (in_float64(a.detach()) * in_float64(b.detach()).to(in_float64(a.detach()).device)).flatten(1).sum(1)
