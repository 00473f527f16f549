"""Upstream: which components of a model make a feature's value on one prompt.

The residual stream that a feature reads is the sum of what the embedding, the heads and the MLPs have written. With the
scale of the norm before the reader held at its value on the prompt, most features are affine functions of that sum, so
their values divide exactly into one contribution for each component and one for all biases. A feature that is no affine
function is divided by integrated gradients along the straight line from a stream of zeros to the stream of the prompt.

This module promises:

* Nothing is assumed about an architecture: that the components sum to the stream, and that the reader is affine, is
  compared with the activations of the pass. What does not agree is refused with the reason.
* The error that a result states is measured: the sum of all contributions and of the bias, against the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.analysis.affine_maps import LOGITS, AffineMaps, Map, Reading
from dreamy_lens.analysis.direct_path import NoPathError
from dreamy_lens.analysis.frozen_features import linearised
from dreamy_lens.errors import FeatureError, PromptError, SettingsError, quoted
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.forward_pass import ForwardPass
from dreamy_lens.models.hook_evidence import same_numbers
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.transfer import to_host
from dreamy_lens.results.upstream import QUANTITIES, ModelComponent, NeuronContribution, Upstream
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.frames import summary_of_contexts

CHUNK = 1 << 22
"""Most numbers of one hook point in one step of the integration, so that long prompts need little memory."""

Bases = dict[str, list[tuple[Tensor, Tensor]]]
"""For each map of each hook point, its result on the prompt and on a stream of zeros."""

Weights = dict[str, list["Tensor | None"]]
"""For each map of each hook point, the derivative of the value with respect to its result; None is zero."""


def decompose(
    scorer: Scorer, prompt: Any, *, quantity: str | None = None, neurons: int = 10, steps: int = 32
) -> Upstream:
    """Divide a feature's value on a prompt into contributions of the model's components.

    Args:
        scorer: Scorer of the feature; of several contexts, the first is used.
        prompt: One text, ids `[n]`, or a Prompt.
        quantity: Quantity to decompose: "pre", "gate", "up" or "value"; None chooses.
        neurons: Number of neurons to name in each MLP.
        steps: Points of the integration, for features that are no affine functions.

    Raises:
        FeatureError: The feature, or the architecture, has no decomposition; the message gives the reason.
        PromptError: There is not exactly one prompt, or it cannot be scored.
        SettingsError: A setting has a value that it cannot have.
    """
    _check(quantity, neurons, steps)
    model, frame = scorer.model, scorer.frame
    prompts = as_ids(prompt, scorer.vocabulary, frame.bos)
    if len(prompts) != 1:
        raise PromptError(f"One prompt is decomposed at a time; got {len(prompts)}. Call it once for each prompt.")
    ids = prompts[0]
    scorer.check_length(len(ids))
    feature = scorer.bound.feature
    if scorer.bound.models != (model,) or model.tail:
        raise FeatureError(
            f"{feature.label} reads more than one pass of one model (another model, or a text of several tokens after "
            "the prompt). Decompose its parts one by one."
        )
    # A caller may have switched gradients off; slopes are computed all the same.
    with locked([model]), model.keep_hooks(), model.frozen(), torch.inference_mode(False), torch.enable_grad():
        row = torch.as_tensor(frame.rows(ids[None], model), device=model.device)
        try:
            work = _Decomposition(scorer, model, row, frame.layout(len(ids)), quantity, int(steps))
            return work.result(ids, int(neurons))
        except NoPathError as error:
            raise FeatureError(f"{feature.label} has no upstream decomposition on {model.name}: {error}") from error


def _check(quantity: Any, neurons: Any, steps: Any) -> None:
    if quantity is not None and quantity not in QUANTITIES:
        raise SettingsError(f"quantity is {quoted(quantity)}; it is one of {', '.join(QUANTITIES)}, or None.")
    for name, value, least in (("neurons", neurons, 0), ("steps", steps, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SettingsError(f"{name} is {quoted(value)}; it is a whole number of at least {least}.")


def choose_quantity(
    label: str, readings: Iterable[Reading], exact: bool, inner: str, quantity: str | None
) -> tuple[str, list[str]]:
    """Choose the quantity that is decomposed.

    Args:
        label: Name of the feature.
        readings: What its hook points read from the residual stream.
        exact: Whether the feature is linear in its activations, once its choices are made.
        inner: Quantity that the held feature has.
        quantity: Quantity that is asked for; None leaves the choice to the feature.

    Returns:
        One of `QUANTITIES`, and sentences about the choice.

    Raises:
        FeatureError: The feature has no such quantity.
    """
    combined = [r for r in readings if r.combine is not None]
    parts = {part for r in combined for part in r.parts}
    divisible = exact and all(r.unitwise for r in combined)
    if quantity in (None, "value", inner):
        if quantity is None and combined and divisible and parts == {"pre"}:
            return "pre", []
        if quantity is None and "gate" in parts:
            return inner, [
                "A neuron of a gated MLP is the product of an activated gate and a linear part. The product is "
                'divided by integrated gradients; quantity="gate" and quantity="up" divide each part exactly.'
            ]
        return inner, []
    if not combined or not divisible or not all(quantity in r.parts for r in combined):
        has = sorted({inner, "value", *(parts if divisible else ())})
        raise FeatureError(f"{label} has no {quoted(quantity)} to decompose; it has {', '.join(map(quoted, has))}.")
    return quantity, []


@dataclass
class _Total:
    """Decomposed number, with the slopes of the stream at each stage.

    Attributes:
        total: Number that is decomposed.
        bias: Its value where the stream is zero.
        slopes: Derivative with respect to the stream `[pos, d_model]`, by stage.
    """

    total: float
    bias: float
    slopes: dict[int, Tensor]


Part = tuple[ModelComponent, float, np.ndarray]
"""Component, its contribution, and its contribution by position."""


@dataclass
class _Written:
    """Contributions of what one attention, one MLP or the embedding writes."""

    parts: list[Part]
    bias: float
    layer: int = 0
    each: Tensor | None = None
    post: Tensor | None = None

    def neurons(self, count: int) -> list[NeuronContribution]:
        """Return the neurons that contribute most, the largest size first."""
        if self.each is None or self.post is None or not count:
            return []
        sums = self.each.sum(0)
        top = sums.abs().topk(min(count, len(sums))).indices
        at = self.each[:, top].abs().argmax(0)
        activations = self.post[at, top]
        rows = zip(top.tolist(), at.tolist(), activations.tolist(), sums[top].tolist(), strict=True)
        return [NeuronContribution(self.layer, unit, place, a, c) for unit, place, a, c in rows if c]


class _Decomposition:
    """Work on one prompt."""

    def __init__(
        self, scorer: Scorer, model: HookedModel, row: Tensor, layout: Any, quantity: str | None, steps: int
    ) -> None:
        self.scorer, self.model, self.row, self.layout, self.steps = scorer, model, row, layout, steps
        self.notes: list[str] = []
        held = linearised(
            scorer.bound, scorer.prepend_bos, lambda part: np.array([self.evaluate_on_prompt(part)]), quantity
        )
        self.bound, self.exact, self.inner = held.bound, held.linear, held.quantity
        self.notes += held.notes
        names = list(dict.fromkeys([*scorer.bound.hooks[model], *self.bound.hooks[model]]))
        ungated = [name for name in names if model.gate_of(name) is None]
        self.maps = AffineMaps(model, row, ungated)
        with torch.no_grad():
            reads_logits = model in self.bound.logits
            activations, logits = model.run(row, self.bound.hooks[model], logits=reads_logits)
        self.activations = {name: x[0].detach() for name, x in activations.items()}
        if reads_logits and logits is not None:
            self.activations[LOGITS] = logits[0].detach()
        self.readings = {name: self.maps.reading(name, x) for name, x in self.activations.items()}
        self.quantity, note = choose_quantity(
            scorer.bound.feature.label, self.readings.values(), self.exact, self.inner, quantity
        )
        self.notes += note
        if self.quantity == "pre" and self.inner != "pre" and not _reads_one_number(scorer.bound.feature):
            self.notes.append(
                "Neurons and capped logits count by their pre-activations, and other terms by their values; "
                'quantity="value" divides the value itself.'
            )

    def evaluate_on_prompt(self, bound: BoundFeature) -> float:
        """Return the value of another feature on the prompt."""
        model = self.model
        with torch.no_grad():
            activations, logits = model.run(self.row, bound.hooks[model], logits=model in bound.logits)
            return float(bound({model: ForwardPass(activations, logits, self.row, self.layout)})[0])

    # The slopes.

    def total(self) -> _Total:
        """Return the decomposed number, and its slopes with respect to the stream."""
        bases = self._bases()
        affine = self.exact and all(r.combine is None or self.quantity in r.parts for r in self.readings.values())
        if affine and not self._is_affine(bases):
            affine = False
            self.notes.append("The autoencoder scales its input by a number that depends on it.")
        weights, total, bias = self._exact(bases) if affine else self._integrated(bases)
        self.method = "exact" if affine else "integrated gradients"
        slopes: dict[int, Tensor] = {}
        for name, reading in self.readings.items():
            x = self.maps.stream(reading.stage).clone().requires_grad_()
            slopes.setdefault(reading.stage, torch.zeros_like(x))
            for affine_map, weight in zip(reading.maps, weights[name], strict=True):
                if weight is None or not bool(weight.any()):
                    continue
                (slope,) = torch.autograd.grad(affine_map(x), x, weight)
                slopes[reading.stage] = slopes[reading.stage] + slope
        return _Total(total, bias, slopes)

    @torch.no_grad()
    def _bases(self) -> Bases:
        """Return, for each map of each hook point, its result on the prompt and on a stream of zeros."""
        bases = {}
        for name, reading in self.readings.items():
            x = self.maps.stream(reading.stage)
            bases[name] = [(each(x), each(torch.zeros_like(x))) for each in reading.maps]
        return bases

    def _value(self, activations: dict[str, Tensor]) -> Float[Tensor, " m"]:
        """Return the feature's values for activations `[m, ...]`."""
        logits = activations.get(LOGITS)
        hooks = {name: x for name, x in activations.items() if name != LOGITS}
        count = len(next(iter(activations.values())))
        source = ForwardPass(hooks, logits, self.row.expand(count, -1), self.layout)
        with torch.enable_grad():
            return self.bound({self.model: source})

    def _is_affine(self, bases: Bases) -> bool:
        """Return whether the autoencoders that the feature reads are affine before their activation function."""
        if not any(isinstance(node, ex.Latent) for node in self.bound.feature.walk()):
            return True
        _, values = self._along(bases, torch.tensor([0.0, 0.5, 1.0], device=self.row.device))
        start, middle, end = values.detach().double().tolist()
        return abs(middle - (start + end) / 2) <= 1e-4 * max(abs(start), abs(end), abs(middle))

    def _exact(self, bases: Bases) -> tuple[Weights, float, float]:
        """Return the slopes of a linear feature, its value, and its value on a stream of zeros."""
        leaves = {name: x[None].float().requires_grad_() for name, x in self.activations.items()}
        value = self._value(leaves)
        slopes = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
        weights: Weights = {}
        constant = float(value.detach()[0])
        total = bias = 0.0
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True):
            reading = self.readings[name]
            weights[name] = [None] * len(reading.maps)
            if slope is None:
                continue
            constant -= _dot(slope[0], leaf[0])
            i = 0 if reading.combine is None else reading.parts.index(self.quantity)
            weights[name][i] = slope[0]
            result, zero = bases[name][i]
            total, bias = total + _dot(slope[0], result), bias + _dot(slope[0], zero)
        return weights, total + constant, bias + constant

    def _integrated(self, bases: Bases) -> tuple[Weights, float, float]:
        """Integrate the gradient along the line from a stream of zeros to the stream of the prompt."""
        points, shares = np.polynomial.legendre.leggauss(self.steps)
        largest = max(end.numel() for pairs in bases.values() for end, _ in pairs)
        at_once = max(1, CHUNK // max(1, largest))
        weights = {name: [torch.zeros_like(end) for end, _ in pairs] for name, pairs in bases.items()}
        for i in range(0, self.steps, at_once):
            alpha = torch.tensor((points[i : i + at_once] + 1) / 2, dtype=torch.float32, device=self.row.device)
            share = torch.tensor(shares[i : i + at_once] / 2, dtype=torch.float32, device=self.row.device)
            leaves, value = self._along(bases, alpha)
            check_differentiable(value)
            flat = [leaf for each in leaves.values() for leaf in each]
            slopes = iter(torch.autograd.grad((value * share.to(value.device)).sum(), flat, allow_unused=True))
            for name, each in leaves.items():
                for k in range(len(each)):
                    slope = next(slopes)
                    if slope is not None:
                        weights[name][k] += slope.sum(0)
        _, ends = self._along(bases, torch.tensor([0.0, 1.0], device=self.row.device))
        bias, total = (float(x) for x in ends.detach())
        if not np.isfinite([bias, total]).all():
            raise NoPathError("its value is not a finite number where the residual stream is zero.")
        return {name: list(each) for name, each in weights.items()}, total, bias

    def _along(self, bases: Bases, alpha: Float[Tensor, " m"]) -> tuple[dict[str, list[Tensor]], Float[Tensor, " m"]]:
        """Return quantities on the line, as leaves of a graph, and the feature's values there."""
        leaves = {
            name: [
                (zero + alpha.view(-1, *[1] * zero.ndim).to(zero.device) * (end - zero)).requires_grad_()
                for end, zero in pairs
            ]
            for name, pairs in bases.items()
        }
        activations = {}
        for name, each in leaves.items():
            combine = self.readings[name].combine
            activations[name] = each[0] if combine is None else self._combined(combine, each)
        return leaves, self._value(activations)

    def _combined(self, combine: Callable[..., Tensor], parts: list[Tensor]) -> Tensor:
        return torch.stack([combine(*row) for row in zip(*parts, strict=True)]).float()

    # The contributions.

    def result(self, ids: np.ndarray, neurons: int) -> Upstream:
        """Return the contributions of all components upstream of the feature."""
        found = self.total()
        components, rows, sums, named = [], [], [], []
        bias = found.bias
        for writer in self._writers(found.slopes):
            for component, contribution, row in writer.parts:
                components.append(component)
                sums.append(contribution)
                rows.append(row)
            bias += writer.bias
            named += writer.neurons(neurons)
        contributions = np.array(sums, dtype=np.float64)
        by_position = np.stack(rows)
        ids_of_row = [int(i) for i in to_host(self.row)[0][0]]
        several = summary_of_contexts(self.scorer.origin)
        if several:
            self.notes.append(f"The feature is scored {several}; the decomposition is of the first context.")
        vocabulary = self.scorer.vocabulary
        feature = self.scorer.bound.feature
        error = abs(float(contributions.sum()) + bias - found.total)
        if self.method != "exact" and error > 0.01 * max(
            abs(found.total), float(np.abs(contributions).max(initial=0.0))
        ):
            self.notes.append("The completeness error is large: the feature bends sharply. More steps make it smaller.")
        return Upstream(
            feature=str(feature),
            model=self.model.name,
            prompt=vocabulary.text(ids.tolist()),
            ids=np.array(ids_of_row, dtype=np.int64),
            tokens=tuple(vocabulary.tokens(ids_of_row)),
            start=self.layout.before,
            length=len(ids),
            value=self.evaluate_on_prompt(self.scorer.bound),
            quantity=self.quantity,
            method=self.method,
            total=found.total,
            bias=bias,
            error=error,
            components=tuple(components),
            contributions=contributions,
            by_position=by_position,
            neurons=tuple(named),
            notes=tuple(self.notes),
        )

    def _writers(self, slopes: dict[int, Tensor]) -> Iterator[_Written]:
        """Yield what each writer of the residual stream contributes; check that they sum to the stream."""
        maps, last = self.maps, max(slopes)

        def after(stage: int) -> Tensor:
            zeros = torch.zeros_like(slopes[last])
            return sum((slope for at, slope in slopes.items() if at > stage), zeros)

        stream = maps.stream(0)
        everything = sum(slopes.values(), torch.zeros_like(slopes[last]))
        yield self._embedding(stream, everything)
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
            name = f"blocks.{layer}.hook_{'mlp' if is_mlp else 'attn'}_out"
            written = maps.read(name).to(total.device)
            total = total + written.float()
            slope = after(stage)
            yield self._mlp(layer, written, slope) if is_mlp else self._attention(layer, written, slope)

    def _scale(self, stage: int) -> Tensor:
        """Return the stream in the precision of the model, to which sums are compared."""
        layer, _ = divmod(stage, 2)
        last = self.model.n_layers - 1
        return self.maps.read(f"blocks.{layer}.hook_resid_pre" if layer <= last else f"blocks.{last}.hook_resid_post")

    def _embedding(self, stream: Tensor, slope: Tensor) -> _Written:
        """Return the contributions of the token and position embeddings."""
        found = self.maps.activations
        token, position = found.get("embed.hook_out"), found.get("pos_embed.hook_out")
        if token is not None and position is not None:
            parts = [x.float().expand_as(stream) for x in (token, position) if x.shape[-1] == stream.shape[-1]]
            if len(parts) == 2 and same_numbers(parts[0] + parts[1], stream, self._scale(0)):
                kinds = ("embedding", "position")
                return _Written(
                    [_whole(ModelComponent(k, k), x, slope) for k, x in zip(kinds, parts, strict=True)], 0.0
                )
            self.notes.append("Token and position embeddings are one component: their sum is not the whole stream.")
        return _Written([_whole(ModelComponent("embedding", "embedding"), stream, slope)], 0.0)

    def _attention(self, layer: int, written: Tensor, slope: Tensor) -> _Written:
        """Return the contributions of a layer's heads, by source position."""
        whole = ModelComponent(f"L{layer}.attn", "attention", layer)
        try:
            z = self.maps.read(f"blocks.{layer}.attn.hook_z").float()
            weights, bias = _pulled(self.maps.written_by_heads(layer), z, slope, written)
        except NoPathError as error:
            self.notes.append(f"The attention of block {layer} is one component: {error}")
            return _Written([_whole(whole, written, slope)], 0.0)
        shares = (z.double() * weights.double()).sum((0, 2))
        positions = torch.full((len(shares), z.shape[0]), torch.nan, dtype=torch.float64)
        try:
            values = self.maps.values(layer).double()
            pattern = self.maps.read(f"blocks.{layer}.attn.hook_pattern").double()
            mixed = torch.einsum("hts,shd->thd", pattern, values)
            if not same_numbers(mixed, self.maps.read(f"blocks.{layer}.attn.hook_z")):
                raise NoPathError("its output is not its pattern times its values")
            positions = torch.einsum("hts,shd,thd->hs", pattern, values, weights.double()).cpu()
        except NoPathError as error:
            self.notes.append(f"The heads of block {layer} have no source positions: {str(error).rstrip('.')}.")
        heads = [ModelComponent(f"L{layer}.H{h}", "head", layer, h) for h in range(len(shares))]
        sums = shares.tolist()
        return _Written([(c, sums[h], positions[h].numpy()) for h, c in enumerate(heads)], bias)

    def _mlp(self, layer: int, written: Tensor, slope: Tensor) -> _Written:
        """Return the contribution of a layer's MLP, with its neurons."""
        component = ModelComponent(f"L{layer}.MLP", "mlp", layer)
        try:
            post = self.maps.read(f"blocks.{layer}.mlp.hook_post").float()
            weights, bias = _pulled(self.maps.written_by_neurons(layer), post, slope, written)
        except NoPathError as error:
            self.notes.append(f"The MLP of block {layer} is not divided into neurons: {error}")
            return _Written([_whole(component, written, slope)], 0.0)
        each = post.double() * weights.double()  # [pos, unit]
        row = each.sum(1)
        return _Written([(component, float(row.sum()), row.cpu().numpy())], bias, layer, each, post)


def check_differentiable(value: Tensor) -> None:
    """Raise NoPathError if values have no gradient, so that nothing can be integrated."""
    if not value.requires_grad:
        raise NoPathError(
            "its value has no gradient. A function of yours, or encode() of an autoencoder, computes it without one: "
            "leave out torch.no_grad() and detach() there."
        )


def _reads_one_number(feature: ex.Feature) -> bool:
    """Return whether a feature is one number of one hook point, or of the logits, up to a factor and a constant."""
    leaves = [node for node in feature.walk() if node.is_leaf]
    return len(leaves) == 1 and not any(
        isinstance(node, ex.Projected) or (isinstance(node, ex.Reduced) and node.how == "mean")
        for node in feature.walk()
    )


def _whole(component: ModelComponent, written: Tensor, slope: Tensor) -> Part:
    """Return the contribution of an output that is not divided further."""
    row = (written.detach().double() * slope.double().to(written.device)).sum(-1).cpu().numpy()
    return component, float(row.sum()), row


def _pulled(write: Map, x: Tensor, slope: Tensor, written: Tensor) -> tuple[Tensor, float]:
    """Return the slope with respect to the input of an affine map, and the contribution of the map's bias.

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
        return weights, _dot(slope.to(out.device), write(torch.zeros_like(x)))


def _dot(a: Tensor, b: Tensor) -> float:
    """Return the inner product of two tensors, summed in float64."""
    return float((a.detach().double() * b.detach().double().to(a.device)).sum())
