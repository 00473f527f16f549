"""Directions from data and from weights: what distinguishes two sets of texts, and vectors that a model holds.

This module promises:

- Texts are run in groups of equal length, without padding, so no number depends on the other texts of a batch.
- One vector stands for a text: the activation at one position, or the mean over its positions without the BOS.
- Means, covariances and probes are computed in float64, and the same input always gives the same direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from dreamy_lens.analysis.direct_path import NoPathError, apply_linear
from dreamy_lens.errors import FeatureError, FeatureRangeError, PromptError, SettingsError, quoted
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.compile import Compiler, left_over
from dreamy_lens.features.directions import Direction
from dreamy_lens.features.forward_pass import ActivationSource, ForwardPass, RowLayout, check_position, check_training
from dreamy_lens.features.parser import parse
from dreamy_lens.features.sae.loading import load_sae
from dreamy_lens.features.shapes import ShapeProbe
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scoring.batching import BatchRunner, memory_budget
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.search.chat import chat_text

Matrix = Float64[np.ndarray, "row unit"]
Vector = Float64[np.ndarray, " unit"]

METHODS = ("mean", "whitened", "probe")
"""Ways to find the direction between two sets of activations."""


def difference(
    positive: Any,
    negative: Any,
    hook: Any,
    model: HookedModel,
    *,
    method: str = "mean",
    position: Any = None,
    prepend_bos: bool | None = None,
    add_generation_prompt: bool = True,
    shrinkage: float | None = None,
    penalty: float = 1.0,
    name: str | None = None,
    batch_size: int | None = None,
) -> Direction:
    """Compute the direction from one set of texts to another; `dl.direction.difference` describes the arguments."""
    if method not in METHODS:
        raise SettingsError(f"method is {quoted(method)}; it is one of {', '.join(map(repr, METHODS))}.")
    if shrinkage is not None and method != "whitened":
        raise SettingsError(f'shrinkage= belongs to method="whitened", and method is {method!r}; leave it out.')
    if penalty != 1.0 and method != "probe":
        raise SettingsError(f'penalty= belongs to method="probe", and method is {method!r}; leave it out.')
    operand = read_operand(hook, position)
    sides = [
        _example_ids(given, model, prepend_bos, add_generation_prompt, side)
        for given, side in ((positive, "positive"), (negative, "negative"))
    ]
    counts = [len(side) for side in sides]
    if method != "mean" and min(counts) < 2:
        raise FeatureRangeError(
            f'method="{method}" needs at least 2 texts on each side, because it measures how they vary; there are '
            f'{counts[0]} and {counts[1]}. Give more, or use method="mean".'
        )
    rows = read_vectors(operand, [*sides[0], *sides[1]], model, prepend_bos, batch_size)
    ahead, behind = rows[: counts[0]], rows[counts[0] :]
    if method == "mean":
        vector, how = _mean_difference(ahead, behind), "difference of the means"
    elif method == "whitened":
        vector, share = _whitened_difference(ahead, behind, shrinkage)
        how = f"whitened difference (shrinkage {share:.3g}) of the means"
    else:
        vector, how = _probe(ahead, behind, penalty), f"logistic probe (penalty {penalty:g})"
    texts = f"{counts[0]} and {counts[1]} texts"
    origin = f"{how} of {texts}, {operand.long_label} of {model.name}"
    return Direction(vector, name, _one_line(origin))


def read_operand(hook: Any, position: Any = None) -> ex.Feature:
    """Return the expression of the vectors that texts are read as.

    Args:
        hook: Name of a hook point, or an expression that leaves its units, such as ``hook(name)[-1, head]``.
        position: Position at which a bare hook point is read: an integer, "bos", or "mean" for the mean over all
            positions without the BOS. None is the last token.

    Raises:
        FeatureError: The hook is none, or it has an index and `position` is given too.
    """
    expression = parse(hook)
    if isinstance(expression, ex.Hook) and expression.index is None:
        if isinstance(position, str) and position == "mean":
            return expression[:].mean()
        at = -1 if position is None else ex.position(position)
        if isinstance(at, ex.Span):
            return expression[at.slice()].mean()
        return expression[at]
    if position is not None:
        raise FeatureError(
            f"{expression.long_label} says by its index which position is read, so position={position!r} cannot be "
            "given too. Give the name of the hook point alone, or leave out position."
        )
    return expression


def read_vectors(
    operand: ex.Feature,
    prompts: Sequence[np.ndarray],
    model: HookedModel,
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
) -> Matrix:
    """Read one vector of activations for each prompt.

    Args:
        operand: Expression that leaves exactly one axis of units; parts of it may be of other models.
        prompts: Token ids of the prompts, without the BOS; their lengths may differ.
        model: Model whose tokenizer the ids are of.
        prepend_bos: Whether a BOS stands before every prompt; None is the model's convention.
        batch_size: Most prompts in one pass; None chooses the number.

    Raises:
        FeatureRangeError: The operand leaves no vector, or reads a position that a prompt does not have.
        PromptError: A prompt is too long for the model.
    """
    probe = ShapeProbe(model, operand, prepend_bos)
    compiler = Compiler(probe)
    axes, compute = compiler.build(operand)
    models = [m for m, names in compiler.hooks.items() if names or m in compiler.logits]
    for each in models:
        each.renew()
        each.check_weights()
    if [axis.name for axis in axes] != ["unit"]:
        raise FeatureRangeError(
            f"{operand.long_label} leaves {left_over(axes) or 'a single number'} for each text, and a direction is one "
            "vector. Name a hook point with units, or index one until the units are left, as in hook(name)[-1, head]."
        )
    out = np.empty((len(prompts), axes[0].size or 0))
    runner = BatchRunner(batch_size, "texts")
    for length in sorted({len(prompt) for prompt in prompts}):
        layout = RowLayout(len(probe.bos), 0, length, 0)
        for each in models:
            if each.n_ctx is not None and layout.total > each.n_ctx:
                raise PromptError(
                    f"A text has {layout.total} tokens{' with the BOS' if layout.bos else ''}, and {each.name}'s "
                    f"context is {each.n_ctx}; shorten it."
                )
        for element, what in compiler.positions:
            check_position(element, layout, what)
        check_training(compiler.conditions, layout)
        chosen = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        ids = np.stack([np.concatenate([probe.bos, prompts[i]]).astype(np.int64) for i in chosen])

        def read(at: slice, ids: np.ndarray = ids, layout: RowLayout = layout) -> np.ndarray:
            readings: dict[HookedModel, ActivationSource] = {}
            with locked(models), torch.no_grad():
                for each in models:
                    rows = to_device(ids[at], each.device)
                    activations, logits = each.run(rows, compiler.hooks[each], logits=each in compiler.logits)
                    readings[each] = ForwardPass(activations, logits, rows, layout)
                return to_host(compute(readings).float())[0]

        parts = runner.map(read, len(ids), budget=memory_budget(model, "scoring"), row_tokens=layout.total)
        out[chosen] = np.concatenate(parts)
    if not np.isfinite(out).all():
        raise FeatureRangeError(f"{operand.long_label} is NaN or infinite on a text, so there is no direction.")
    return out


def token_embedding(token: str | int, model: HookedModel, name: str | None = None) -> Direction:
    """Return a token's embedding, with any scaling of the architecture."""
    i = model.vocabulary.token_id(token)
    vector = model.embed(torch.tensor([[i]], device=model.device))[0, 0]
    return Direction(vector, name, f"embedding of {_token_text(model, i)}, {model.name}")


def token_unembedding(token: str | int, model: HookedModel, name: str | None = None) -> Direction:
    """Return a token's column of the unembedding: the weights that give its logit after the last norm."""
    i = model.vocabulary.token_id(token)
    vector = _input_weights(model, "unembed", i, f"the token {_token_text(model, i)}")
    return Direction(vector, name, f"unembedding of {_token_text(model, i)}, {model.name}")


def neuron_weights(layer: int, index: int, weights: str, model: HookedModel, name: str | None = None) -> Direction:
    """Return the input, gate or output weights of an MLP neuron."""
    maps = {"output": "out", "input": "in", "gate": "gate"}
    if weights not in maps:
        raise SettingsError(f"weights is {quoted(weights)}; it is one of {', '.join(map(repr, maps))}.")
    layer, index = ex.integer(layer, "neuron"), ex.integer(index, "neuron")
    neuron = ex.Hook(f"blocks.{layer}.mlp.hook_post")[-1, index]
    probe = ShapeProbe(model, neuron, None)
    Compiler(probe).build(neuron)  # checks the layer and the index
    size = probe.axes[probe.hooks[0]][-1].size or 0
    index %= size
    where = f"blocks.{layer}.mlp.{maps[weights]}"
    if weights == "output":
        component = model.backend.component(where)
        one_hot = torch.zeros(size)
        one_hot[index] = 1.0
        vector = _applied(component, one_hot, where, model).detach()
    else:
        vector = _input_weights(model, where, index, f"the neuron L{layer}.N{index}")
    return Direction(vector, name, f"{weights} weights of L{layer}.N{index}, {model.name}")


def sae_weights(
    sae: Any, latent: int, weights: str, hook: str | None, ignore: Any, sae_id: str | None, name: str | None = None
) -> Direction:
    """Return the decoder row or the encoder column of a latent."""
    if weights not in ("decoder", "encoder"):
        raise SettingsError(f"weights is {quoted(weights)}; it is 'decoder' or 'encoder'.")
    from dreamy_lens.features.constructors import sae_latent

    node = sae_latent(sae, latent, hook=hook, ignore=ignore, sae_id=sae_id)
    loaded = load_sae(node.sae, node.hook, ignore=node.ignore)
    loaded.check_weights()
    vector = loaded.decoder_row(node.latent) if weights == "decoder" else loaded.encoder_column(node.latent)
    at = loaded.output_hook if weights == "decoder" else loaded.hook_name
    return Direction(vector, name, _one_line(f"{weights} of {node.label} at {at}"))


# Two sets of vectors.


def _mean_difference(ahead: Matrix, behind: Matrix) -> Vector:
    """Return the difference of the means, and refuse one that is only rounding."""
    vector = ahead.mean(0) - behind.mean(0)
    scale = max(float(np.abs(ahead).max()), float(np.abs(behind).max()))
    if float(np.abs(vector).max()) <= 1e-6 * scale:
        raise FeatureRangeError(
            "The two sides have the same mean activation there, so no direction leads from one to the other. Give "
            "texts that differ where they are read, or another position or hook point."
        )
    return vector


def _centred(ahead: Matrix, behind: Matrix) -> Matrix:
    """Return both sides, each minus its own mean, in one matrix."""
    return np.concatenate([ahead - ahead.mean(0), behind - behind.mean(0)])


def _whitened_difference(ahead: Matrix, behind: Matrix, shrinkage: float | None) -> tuple[Vector, float]:
    """Return the difference of the means times the inverse of the shrunk covariance within the sides, and the share."""
    vector, x = _mean_difference(ahead, behind), _centred(ahead, behind)
    n, d = x.shape
    if shrinkage is None:
        share = ledoit_wolf(x)
    elif isinstance(shrinkage, bool) or not isinstance(shrinkage, (int, float)) or not 0 < shrinkage <= 1:
        raise SettingsError(f"shrinkage is {quoted(shrinkage)}; it is a share above 0, up to 1, or None.")
    else:
        share = float(shrinkage)
    variance = float((x**2).sum()) / (n * d)
    if variance == 0:
        raise FeatureRangeError(
            "The texts of each side have the same activation there, so there is no covariance to whiten with. Use "
            'method="mean", or texts that differ.'
        )
    share = max(share, 1e-6)  # fewer texts than units leave a covariance without an inverse
    ridge = share * variance
    # (ridge I + w x'x)⁻¹ v by the matrix of texts, which is the smaller one when there are few texts.
    w = (1 - share) / n
    if n < d:
        inner = ridge / w * np.eye(n) + x @ x.T if w else None
        out = vector if inner is None else vector - x.T @ np.linalg.solve(inner, x @ vector)
        return out / ridge, share
    return np.linalg.solve(ridge * np.eye(d) + w * (x.T @ x), vector), share


def ledoit_wolf(x: Matrix) -> float:
    """Return the shrinkage of Ledoit and Wolf (2004) towards a multiple of the identity, for centred rows."""
    n, d = x.shape
    gram = x @ x.T if n < d else x.T @ x
    squares = (x**2).sum(1)
    mean = squares.sum() / (n * d)
    size = float((gram**2).sum()) / n**2
    spread = (float((squares**2).sum()) / n - size) / (d * n)
    distance = (size - d * mean**2) / d
    spread = min(spread, distance)
    return 0.0 if spread <= 0 or distance <= 0 else float(spread / distance)


def _probe(ahead: Matrix, behind: Matrix, penalty: float) -> Vector:
    """Return the weights of a logistic regression, in log-odds per unit of the activation.

    The activations are divided by one number, the root mean square of their deviations from the mean. The sum of the
    log-losses plus `penalty / 2` times the squared weights is minimised by Newton's method, with a free intercept.
    """
    if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not 0 < penalty < np.inf:
        raise SettingsError(f"penalty is {quoted(penalty)}; it is a number above 0.")
    x = np.concatenate([ahead, behind])
    y = np.concatenate([np.ones(len(ahead)), np.zeros(len(behind))])
    x = x - x.mean(0)
    scale = float(np.sqrt((x**2).mean()))
    if scale == 0:
        _mean_difference(ahead, behind)  # raises, with the reason
    x = x / scale
    # The weights lie in the span of the rows, so they are found in its coordinates.
    _, sizes, axes = np.linalg.svd(x, full_matrices=False)
    axes = axes[sizes > 1e-9 * sizes[0]]
    z = np.concatenate([x @ axes.T, np.ones((len(x), 1))], axis=1)
    ridge = np.full(z.shape[1], float(penalty))
    ridge[-1] = 0.0
    weights = np.zeros(z.shape[1])

    def loss(w: np.ndarray) -> float:
        margins = z @ w * (2 * y - 1)
        return float(np.logaddexp(0, -margins).sum() + 0.5 * (ridge * w**2).sum())

    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(z @ weights, -700, 700)))
        gradient = z.T @ (p - y) + ridge * weights
        hessian = (z.T * (p * (1 - p))) @ z + np.diag(ridge + 1e-12)
        step, size, now = np.linalg.solve(hessian, gradient), 1.0, loss(weights)
        while loss(weights - size * step) > now - 1e-4 * size * float(gradient @ step) and size > 1e-8:
            size /= 2
        weights = weights - size * step
        if np.abs(gradient).max() < 1e-9 * len(x):
            break
    vector = axes.T @ weights[:-1] / scale
    if not np.abs(vector * scale).max() > 1e-9:
        raise FeatureRangeError(
            "The probe finds nothing that distinguishes the two sides there. Give texts that differ where they are "
            "read, or another position or hook point."
        )
    return vector


# Texts.


def _example_ids(
    given: Any, model: HookedModel, prepend_bos: bool | None, add_generation_prompt: bool, side: str
) -> list[np.ndarray]:
    """Return the token ids of the texts of one side, without the BOS that stands before them."""
    examples: Any = [given] if _is_chat(given) else given
    if isinstance(examples, Mapping):
        raise FeatureError(
            f"The {side} side is one message; a chat is a list of messages, and a side is a chat or a list of texts."
        )
    if hasattr(examples, "__iter__") and not hasattr(examples, "__len__"):
        examples = list(examples)  # of a generator
    if not isinstance(examples, str) and hasattr(examples, "__len__") and len(examples) == 0:
        raise FeatureRangeError(f"The {side} side has no texts; give at least one text, or one chat.")
    if isinstance(examples, (list, tuple)) and any(_is_chat(example) for example in examples):
        examples = [_chat_ids(e, model, add_generation_prompt) if _is_chat(e) else e for e in examples]
    try:
        return as_ids(examples, model.vocabulary, model.bos(prepend_bos))
    except PromptError as error:
        raise PromptError(f"The {side} side: {error}") from None


def _is_chat(given: Any) -> bool:
    """Return whether something is a chat: a list of messages."""
    return isinstance(given, (list, tuple)) and len(given) > 0 and all(isinstance(m, Mapping) for m in given)


def _chat_ids(messages: Sequence[Mapping[str, Any]], model: HookedModel, generation_prompt: bool) -> list[int]:
    for message in messages:
        if not isinstance(message.get("role"), str):
            raise FeatureError(f"Every message of a chat has a role, such as 'user'; got {quoted(message)}.")
    if getattr(model.tokenizer, "chat_template", None) is None:
        raise FeatureError(
            f"{model.name}'s tokenizer has no chat template to write the messages with; give the texts of the chats."
        )
    return model.vocabulary.encode(chat_text(model.tokenizer, messages, None, generation_prompt))


# Weights.


def _input_weights(model: HookedModel, where: str, index: int, what: str) -> Tensor:
    """Return the weights by which one output of a linear component reads its input."""
    component = model.backend.component(where)
    with torch.enable_grad():
        x = torch.zeros(model.d_model, requires_grad=True)
        out = _applied(component, x, where, model)
        if index >= len(out):
            raise FeatureRangeError(f"{where} of {model.name} has {len(out)} outputs, and none is that of {what}.")
        (gradient,) = torch.autograd.grad(out[index], x)
    return gradient


def _applied(component: Any, x: Tensor, where: str, model: HookedModel) -> Tensor:
    """Map a vector through a linear component, or raise FeatureError if there is none."""
    if component is None:
        raise FeatureError(f"{model.name} has no weights {where}, so there is no direction to read from them.")
    try:
        with model.lock:
            return apply_linear(component, x, where).cpu()
    except NoPathError as error:
        raise FeatureError(f"{error} So there is no direction to read from it.") from error


def _token_text(model: HookedModel, token: int) -> str:
    return _one_line(f"{model.vocabulary.piece(token)!r} (id {token})")


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:400]
