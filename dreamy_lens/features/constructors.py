"""The functions that researchers call to name a feature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamy_lens.errors import FeatureError
from dreamy_lens.features import expressions as ex

_customs: dict[str, ex.Custom] = {}  # so that the text custom("name") means something in the session that defined it


def hook(name: str) -> ex.Hook:
    """The activation at a hook point of the model, to be indexed, reduced and combined.

    Without the batch, an activation is `[position, unit]` for the residual stream and the MLPs, `[position, head,
    unit]` for queries, keys, values and head outputs, `[head, query, key]` for attention scores and patterns. Positions
    count the tokens that follow the BOS, so that 0 is the prompt's first token on every model, -1 is the last token the
    model reads, and `.max()` and `.mean()` leave the BOS out; the index ``"bos"`` is the BOS itself. With a template,
    its tokens count.

    Args:
        name: a hook point's name, such as ``blocks.4.hook_resid_pre``; `dreamy-lens hooks` lists a model's.

    >>> hook("blocks.2.mlp.hook_post")[-1, 17]
    Feature(blocks.2.mlp.hook_post[-1, 17])
    >>> hook("blocks.2.mlp.hook_post")[..., 17].max()
    Feature(blocks.2.mlp.hook_post[..., 17].max())
    >>> hook("blocks.3.attn.hook_pattern")[0, -1, "bos"]
    Feature(blocks.3.attn.hook_pattern[0, -1, bos])
    """
    if not isinstance(name, str) or not name:
        raise FeatureError(f"hook() takes the name of a hook point, such as 'blocks.2.mlp.hook_post'; got {name!r}.")
    return ex.Hook(name)


def neuron(layer: int, index: int, position: int = -1) -> ex.Feature:
    """One MLP neuron after its nonlinearity, at the last token unless said otherwise.

    >>> neuron(10, 5) == hook("blocks.10.mlp.hook_post")[-1, 5]
    True
    """
    return hook(f"blocks.{ex.integer(layer, 'neuron')}.mlp.hook_post")[position, index]


class _Logit:
    """`logit(token)` is a token's logit; `logit.runner_up(token)` the largest logit of any other token."""

    def __call__(self, token: str | int, position: Any = -1) -> ex.Logit:
        """The logit with which a token is predicted after `position` (default: after the last token).

        Args:
            token: its text, which must be exactly one token of the model, leading space included; or its id.
            position: integer, slice (then reduce with `.max()` or `.mean()`), or "bos".

        >>> logit(" dog") - logit.runner_up(" dog") == logit_difference(" dog")
        True
        """
        return ex.Logit("logit", _token(token), ex.position(position))

    def runner_up(self, token: str | int, position: Any = -1) -> ex.Logit:
        """The largest logit among all tokens other than this one: the second term of Eq. 3."""
        return ex.Logit("runner_up", _token(token), ex.position(position))

    def __repr__(self) -> str:
        return "<function logit, with logit.runner_up>"


logit = _Logit()


def logit_difference(token: str | int, position: Any = -1) -> ex.Feature:
    """A token's logit minus the largest other logit (Eq. 3): above zero exactly where it is the model's choice."""
    return logit(token, position) - logit.runner_up(token, position)


def log_prob(token: str | int, position: Any = -1) -> ex.Logit:
    """The natural logarithm of the probability with which a token is predicted after `position`."""
    return ex.Logit("log_prob", _token(token), ex.position(position))


def sae_latent(
    sae: Any, latent: int, position: Any = -1, *, pre_activation: bool = False, hook: str | None = None
) -> ex.Latent:
    """One latent of a sparse autoencoder, read at the hook point that the autoencoder was trained on.

    Args:
        sae: a folder in SAELens' format (``cfg.json`` and ``sae_weights.safetensors``), or an object with
            ``encode(activation)``.
        latent: index of the latent.
        position: integer, slice (then reduce with `.max()` or `.mean()`), or "bos".
        pre_activation: measure the latent before its nonlinearity. Use this to dream: a latent that is off has a
            gradient of exactly zero, while its pre-activation says which way is on.
        hook: hook point to read, where the autoencoder does not say it.
    """
    source = str(sae) if isinstance(sae, (str, Path)) else sae
    if not isinstance(source, str) and not callable(getattr(source, "encode", None)):
        raise FeatureError(f"sae_latent() takes a folder or an object with encode(...); got {type(sae).__name__}.")
    if hook is not None and (not isinstance(hook, str) or not hook):
        raise FeatureError(f"sae_latent(): hook is the name of a hook point; got {hook!r}.")
    return ex.Latent(source, ex.integer(latent, "sae_latent"), ex.position(position), bool(pre_activation), hook)


def mean_cross_entropy(model: Any = None) -> ex.MeanCrossEntropy:
    """Mean cross-entropy of the prompt in nats per token (Eq. 1), as a feature.

    Args:
        model: another model (Hugging Face id, folder or bridge) with the same tokenizer; None is the model itself.
    """
    if isinstance(model, (bool, int, float)) or (isinstance(model, str) and not model):
        raise FeatureError(f"mean_cross_entropy() takes a model, its Hugging Face id or a folder; got {model!r}.")
    return ex.MeanCrossEntropy(str(model) if isinstance(model, Path) else model)


def custom(name: str, hooks: Sequence[str], function: Callable[[Mapping[str, Any]], Any]) -> ex.Custom:
    """Your own function of named hook points.

    Args:
        name: what to call it; ``custom("name")`` is its text form in the session that defined it.
        hooks: the hook points it needs; nothing deeper than them is run.
        function: takes ``{hook point: tensor [batch, ...]}`` as the model computes them, BOS included where there is
            one, and returns `[batch]`. It must be differentiable by torch for dreaming.

    >>> custom("gap", ["blocks.0.mlp.hook_post"], lambda a: a["blocks.0.mlp.hook_post"][:, -1, :2].diff().squeeze(-1))
    Feature(custom("gap"))
    """
    if isinstance(hooks, str) or not hooks or not all(isinstance(h, str) for h in hooks):
        raise FeatureError(f"custom({name!r}): hooks is a list of hook point names; got {hooks!r}.")
    if not callable(function):
        raise FeatureError(f"custom({name!r}): the third argument is a function of the activations; got {function!r}.")
    feature = ex.Custom(name, tuple(hooks), function)
    _customs[name] = feature
    return feature


def defined_custom(name: str) -> ex.Custom:
    """The custom feature last defined under a name."""
    if name not in _customs:
        known = ", ".join(map(repr, _customs)) or "none"
        raise FeatureError(
            f"custom({name!r}) is not defined in this session (defined: {known}); call "
            f"dreamy_lens.custom({name!r}, ...) first."
        )
    return _customs[name]


def _token(token: Any) -> str | int:
    if isinstance(token, str) and token:
        return token
    try:
        return ex.integer(token, "a token")
    except FeatureError:
        raise FeatureError(f"A token is given as its text or its id; got {token!r}.") from None
