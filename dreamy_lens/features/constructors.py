"""Functions that create features: `hook`, `neuron`, `logit`, `sae_latent` and others."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamy_lens.errors import FeatureError, names_keywords, quoted
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.sae.conditions import chosen_conditions
from dreamy_lens.features.sae.names import source_text

_customs: dict[str, ex.Custom] = {}  # gives the text custom("name") a meaning in the Python session that defined it


def hook(name: str) -> ex.Hook:
    """Return the activation at a hook point, ready to be indexed, reduced and combined.

    Without the batch, an activation is `[position, unit]` for the residual stream and the MLPs, `[position, head,
    unit]` for queries, keys, values and head outputs, `[head, query, key]` for attention scores and patterns. Positions
    count the tokens after the BOS. Position 0 is therefore the first token of the prompt on every model, -1 is the last
    token that the model reads, and `.max()` and `.mean()` leave the BOS out. The index ``"bos"`` reads the BOS itself.
    If the prompt stands in a template, the tokens of the template are counted too.

    Args:
        name: Name of a hook point, such as ``blocks.4.hook_resid_pre``. `dreamy-lens hooks` lists the hook points of a
            model.

    >>> hook("blocks.2.mlp.hook_post")[-1, 17]
    Feature(blocks.2.mlp.hook_post[-1, 17])
    >>> hook("blocks.2.mlp.hook_post")[..., 17].max()
    Feature(blocks.2.mlp.hook_post[..., 17].max())
    >>> hook("blocks.3.attn.hook_pattern")[0, -1, "bos"]
    Feature(blocks.3.attn.hook_pattern[0, -1, bos])
    """
    if not isinstance(name, str) or not name:
        raise FeatureError(
            f"hook() takes the name of a hook point, such as 'blocks.2.mlp.hook_post'; got {quoted(name)}."
        )
    return ex.Hook(name)


def neuron(layer: int, index: int, position: int = -1) -> ex.Feature:
    """Return one MLP neuron, read after its nonlinearity.

    Args:
        layer: Index of the layer, from 0.
        index: Index of the neuron in its layer, from 0.
        position: Position at which the neuron is read. Default: the last token.

    >>> neuron(10, 5) == hook("blocks.10.mlp.hook_post")[-1, 5]
    True
    """
    return hook(f"blocks.{ex.integer(layer, 'neuron')}.mlp.hook_post")[position, index]


def expert_neuron(layer: int, expert: int, index: int, position: Any = -1) -> ex.ExpertNeuron:
    """Return a neuron of one expert in a mixture of experts, read after its nonlinearity.

    The value is what the expert's last linear map reads, before the router's weight. It is 0 at every token for which
    the router does not choose the expert, so the gradient there is 0 too. TransformerLens has no hook point inside
    experts: the value is computed from what the MLP reads, and compared with the layer when the feature is bound.

    Args:
        layer: Index of the layer, from 0.
        expert: Index of the expert in its layer, from 0.
        index: Index of the neuron in its expert, from 0.
        position: Position at which the neuron is read: an integer, "bos", or a slice, which must then be reduced with
            `.max()` or `.mean()`. Default: the last token.

    >>> expert_neuron(1, 2, 3)
    Feature(L1.E2.N3)
    >>> expert_neuron(1, 2, 3, slice(None)).max()
    Feature(expert_neuron(1, 2, 3, position=:).max())
    """
    layer, expert, index = (ex.integer(number, "expert_neuron") for number in (layer, expert, index))
    if min(layer, expert, index) < 0:
        raise FeatureError("expert_neuron(): layers, experts and neurons are counted from 0.")
    return ex.ExpertNeuron(layer, expert, index, ex.position(position))


def router(layer: int, expert: int, position: Any = -1) -> ex.RouterLogit:
    """Return the logit that the router of a mixture of experts gives an expert: its linear map of what the MLP reads.

    The logit is taken before any normalisation and correction, and has a gradient whether or not the expert is chosen.
    A dream of it finds text that goes to the expert, where a dream of one of the expert's neurons can start.

    Args:
        layer: Index of the layer, from 0.
        expert: Index of the expert in its layer, from 0.
        position: Position at which the logit is read: an integer, "bos", or a slice, which must then be reduced with
            `.max()` or `.mean()`. Default: the last token.

    >>> router(1, 2) - router(1, 0)
    Feature(router(1, 2) - router(1, 0))
    """
    layer, expert = (ex.integer(number, "router") for number in (layer, expert))
    if min(layer, expert) < 0:
        raise FeatureError("router(): layers and experts are counted from 0.")
    return ex.RouterLogit(layer, expert, ex.position(position))


class _Logit:
    """Constructor of logit features: `logit(token)`, and `logit.runner_up(token)` for the best other token."""

    def __call__(self, token: str | int, position: Any = -1) -> ex.Logit:
        """Return the logit with which the model predicts a token after `position`.

        Args:
            token: Text of the token, or its id. The text, including a leading space, must be exactly one token of the
                model.
            position: Position after which the token is predicted: an integer, "bos", or a slice, which must then be
                reduced with `.max()` or `.mean()`. Default: the last token.

        >>> logit(" dog") - logit.runner_up(" dog") == logit_difference(" dog")
        True
        """
        return ex.Logit("logit", _token(token), ex.position(position))

    def runner_up(self, token: str | int, position: Any = -1) -> ex.Logit:
        """Return the largest logit of all tokens except this one, the second term of Eq. 3.

        Args:
            token: Text or id of the token that is left out.
            position: Position after which the tokens are predicted: an integer, a slice, or "bos".
        """
        return ex.Logit("runner_up", _token(token), ex.position(position))

    def __repr__(self) -> str:
        return "<function logit, with logit.runner_up>"


logit = _Logit()


def logit_difference(token: str | int, position: Any = -1, reduce: str | None = None) -> ex.Feature:
    """Return the logit of a token minus the largest logit of any other token (Eq. 3), or that of a whole text.

    The value is above zero exactly where the token is the model's most likely next token. For a text of several tokens,
    `reduce` says which margins count.

    Args:
        token: Text or id of the token; with `reduce`, a text of any number of tokens.
        position: Position after which the token is predicted: an integer, a slice, or "bos".
        reduce: "first" for the margin of the text's first token. "min" or "mean" for the smallest or the mean margin of
            all its tokens, each after those before it: the smallest is above zero exactly where the model, always
            taking the likeliest token, writes the whole text. None takes one token.
    """
    if reduce is None:
        return logit(token, position) - logit.runner_up(token, position)
    checked = _reduction(reduce, MARGINS, "logit_difference")
    return ex.Logit("logit_difference", _token(token), ex.position(position), checked)


def log_prob(token: str | int, position: Any = -1, reduce: str | None = None) -> ex.Logit:
    """Return the natural logarithm of the probability with which the model predicts a token after `position`.

    If the text is several tokens, they are read after the prompt, and after the template's end if there is one: each
    token's probability is the one after the prompt and the tokens before it. They are no part of the prompt, and its
    cross-entropy does not count them. ``-log_prob(text)`` suppresses a text.

    Args:
        token: Text of any number of tokens, or the id of one.
        position: Position after which the token is predicted: an integer, a slice, or "bos". Only for one token.
        reduce: "sum" for the log-probability of the whole text, "mean" for its mean per token (minus the loss of GCG),
            "min" for that of its least likely token. None is the sum.

    >>> log_prob("a whole answer", reduce="mean")
    Feature(log_prob("a whole answer", reduce="mean"))
    """
    checked = None if reduce is None else _reduction(reduce, REDUCTIONS, "log_prob")
    return ex.Logit("log_prob", _token(token), ex.position(position), checked)


REDUCTIONS, MARGINS = ("sum", "mean", "min"), ("first", "mean", "min")
"""Ways to make one number from the tokens of a text: of their log-probabilities, and of their margins (Eq. 3)."""


def _reduction(reduce: Any, known: Sequence[str], function: str) -> str:
    if isinstance(reduce, str) and reduce in known:
        return reduce
    raise FeatureError(f"{function}(): reduce is one of {', '.join(map(repr, known))}; got {quoted(reduce)}.")


@names_keywords
def sae_latent(
    sae: Any,
    latent: int,
    position: Any = -1,
    *,
    pre_activation: bool = False,
    hook: str | None = None,
    ignore: str | Iterable[str] | None = None,
    sae_id: str | None = None,
) -> ex.Latent:
    """Return one latent of a sparse autoencoder, read at the hook point that the autoencoder was trained on.

    Args:
        sae: Folder in the format of SAELens, sparsify, dictionary_learning, Gemma Scope or circuit-tracer;
            ``hf://owner/repository/folder`` on the Hugging Face Hub; ``saelens://release/id`` of SAELens' registry; an
            object with ``encode(activation)``; or what `load_sae` returns. docs/features.md has an example of each.
        latent: Index of the latent, from 0.
        position: Position at which the latent is read: an integer, "bos", or a slice, which must then be reduced with
            `.max()` or `.mean()`. Default: the last token.
        pre_activation: True to measure the latent before its nonlinearity. Use this for dreaming: the gradient of an
            inactive latent is exactly zero, while the gradient of its pre-activation shows how to activate it.
        hook: Hook point to read. Needed only if the autoencoder does not name its hook point.
        ignore: Conditions of its training that are not kept: "model_name", "prepend_bos",
            "model_from_pretrained_kwargs", "model_kwargs", "normalize_activations", "context_size". Without it, a model
            or a prompt that does not fit them raises an error.
        sae_id: Dictionary within the source: a folder of a repository ``owner/repository``, or the id in a release.
    """
    if getattr(sae, "reference", None) is not None:  # what `load_sae` returns: its text form says the same
        sae, own_hook, before = sae.reference
        hook, ignore = hook or own_hook, [*before, *chosen_conditions(ignore)]
    source = source_text(sae, sae_id) if isinstance(sae, (str, Path)) else sae
    if sae_id is not None and not isinstance(source, str):
        raise FeatureError("sae_latent(): sae_id names a dictionary within a source that is a text; got an object.")
    if not isinstance(source, str) and not callable(getattr(source, "encode", None)):
        raise FeatureError(f"sae_latent() takes a folder or an object with encode(...); got {type(sae).__name__}.")
    if hook is not None and (not isinstance(hook, str) or not hook):
        raise FeatureError(f"sae_latent(): hook is the name of a hook point; got {quoted(hook)}.")
    ignored = ", ".join(chosen_conditions(ignore)) or None
    if isinstance(latent, bool) or not isinstance(latent, numbers.Integral):
        raise FeatureError(
            f"sae_latent(): a latent is a whole number, its index from 0; got {quoted(latent)} "
            f"({type(latent).__name__}). For several latents, make one feature of each: "
            "[sae_latent(sae, i) for i in range(64)]. For all latents of a dictionary, max_activating() takes the text "
            "'sae_latent(\"folder\", *)'."
        )
    index = ex.integer(latent, "sae_latent")
    return ex.Latent(source, index, ex.position(position), bool(pre_activation), hook, ignored)


def mean_cross_entropy(model: Any = None) -> ex.MeanCrossEntropy:
    """Return the mean cross-entropy of the prompt, in nats per token (Eq. 1), as a feature.

    Args:
        model: Model that computes the cross-entropy: a Hugging Face id, folder or TransformerBridge. It
            must have the tokenizer of the model that the feature is bound to. None stands for that model itself.
    """
    if isinstance(model, (bool, int, float)) or (isinstance(model, str) and not model):
        raise FeatureError(f"mean_cross_entropy() takes a model, its Hugging Face id or a folder; got {quoted(model)}.")
    return ex.MeanCrossEntropy(str(model) if isinstance(model, Path) else model)


def custom(name: str, hooks: Sequence[str], function: Callable[[Mapping[str, Any]], Any]) -> ex.Custom:
    """Return a feature that your own function computes from named hook points.

    Args:
        name: Name of the feature. Its text form ``custom("name")`` is valid in the Python session that defined it.
        hooks: Hook points that the function needs. The forward pass ends after the deepest of them.
        function: Function that takes ``{hook point: tensor [batch, ...]}`` and returns `[batch]`. The tensors are as
            the model computes them, and include the BOS if there is one. For dreaming, torch must be able to
            differentiate the function.

    >>> custom("gap", ["blocks.0.mlp.hook_post"], lambda a: a["blocks.0.mlp.hook_post"][:, -1, :2].diff().squeeze(-1))
    Feature(custom("gap"))
    """
    if isinstance(hooks, str) or not hooks or not all(isinstance(h, str) for h in hooks):
        raise FeatureError(f"custom({quoted(name)}): hooks is a list of hook point names; got {quoted(hooks)}.")
    if not callable(function):
        raise FeatureError(
            f"custom({quoted(name)}): the third argument is a function of the activations; got {quoted(function)}."
        )
    feature = ex.Custom(name, tuple(hooks), function)
    _customs[name] = feature
    return feature


def defined_custom(name: str) -> ex.Custom:
    """Return the custom feature that was last defined under a name.

    Raises:
        FeatureError: This Python session has defined no custom feature of this name.
    """
    if name not in _customs:
        known = ", ".join(map(repr, _customs)) or "none"
        raise FeatureError(
            f"custom({quoted(name)}) is not defined in this session (defined: {known}); call "
            f"dreamy_lens.custom({quoted(name)}, ...) first."
        )
    return _customs[name]


def _token(token: Any) -> str | int:
    if isinstance(token, str) and token:
        return token
    try:
        return ex.integer(token, "a token")
    except FeatureError:
        raise FeatureError(f"A token is given as its text or its id; got {quoted(token)}.") from None
