"""Fit of an autoencoder to a model: the conditions of its training are kept, or the model is refused.

What center_writing_weights does to an activation is computed exactly, because it only takes the mean out of the
residual stream. Other processing is compared with the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Int
from torch import Tensor

from dreamy_lens.errors import SAEError, quoted, shorten
from dreamy_lens.features.sae.conditions import Conditions
from dreamy_lens.features.sae.dictionary import SAE
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.names import same_model
from dreamy_lens.models.processing import ignores_mean, writes_centred

_WRITTEN = re.compile(
    r"(?:hook_embed|hook_pos_embed|embed\.hook_out|pos_embed\.hook_out|ln_final\.hook_in|blocks\.[0-9]+\.(?:hook_in|"
    r"hook_out|hook_resid_pre|hook_resid_mid|hook_resid_post|hook_attn_out|hook_mlp_out|attn\.hook_out|mlp\.hook_out|"
    r"attn\.o\.hook_out|mlp\.out\.hook_out|attn\.hook_result|ln[12]\.hook_in))"
)
"""Hook points in the residual stream, and of what is added to it: centred weights take the mean out there."""

_BEHIND_NORM = re.compile(
    r"(?:ln_final\.hook_(?:normalized|scale|out)|blocks\.[0-9]+\.(?:ln[12]\.hook_(?:normalized|scale|out)|"
    r"mlp\.(?:hook_in|hook_pre|hook_post|in\.hook_(?:in|out)|out\.hook_in)|hook_mlp_(?:pre|post)|"
    r"attn\.(?:hook_[qkvz]|hook_rot_[qk]|hook_pattern|hook_attn_scores|[qkv]\.hook_(?:in|out)|o\.hook_in)))"
)
"""Hook points behind a norm, which takes the mean out in any case."""

_BEHIND_NORM_WEIGHTS = re.compile(r"blocks\.[0-9]+\.(?:ln[12]\.hook_out|(?:attn|mlp)\.hook_in)")
"""Hook points between a norm and the next linear map: folding moves the norm's weights from before to behind them."""

_VALUES = re.compile(r"blocks\.([0-9]+)\.attn\.(?:hook_v|hook_z|v\.hook_out|o\.hook_in)")


def placed(sae: SAE, model: HookedModel) -> SAE:
    """Return an autoencoder at the name that a model has for the output of a module.

    The `HookedTransformer` of TransformerLens 3 names the output of an MLP as what is added to the residual stream.
    That is the same unless a norm comes between.

    Args:
        sae: Autoencoder as it was read.
        model: Model whose activations are encoded.
    """
    found = re.fullmatch(r"(blocks\.[0-9]+)\.(mlp|attn)\.hook_out", sae.hook_name)
    names = model.hook_names()
    if found is None or sae.hook_name in names:
        return sae
    other, norm = f"{found[1]}.hook_{found[2]}_out", f"{found[1]}.ln{2 if found[2] == 'mlp' else 1}_post."
    return replace(sae, hook_name=other) if other in names and not any(norm in name for name in names) else sae


def fitted(sae: SAE, model: HookedModel, has_bos: bool, ids: Callable[[], Int[Tensor, "batch pos"]]) -> SAE:
    """Return an autoencoder that keeps the conditions of its training on a model.

    Args:
        sae: Autoencoder as it was read.
        model: Model whose activations are encoded.
        has_bos: True if a BOS stands before every prompt.
        ids: Function that returns a few rows of ordinary tokens; called only if the model has to be measured.

    Raises:
        SAEError: A condition cannot be kept. The message says how to keep it, and how to ignore it.
    """
    conditions = sae.conditions
    if conditions is None:
        return sae
    if conditions.model_name is not None and "model_name" not in conditions.ignored:
        _check_model(conditions, conditions.model_name, model)
    conditions.check_bos(has_bos, model.tokenizer.bos_token_id is not None)
    if conditions.other_weights:
        conditions.say_once(
            f"weights {model.name}",
            f"was trained on a model loaded with {conditions.other_weights}, and {model.name} does not show how it was "
            "loaded: the latents mean something only if it was loaded in this way.",
        )
    if conditions.chat:
        conditions.say_once(
            "chat",
            "was trained on texts in a chat's form (use_chat_formatting); use template=... for prompts like these.",
        )
    _check_attention(sae, conditions, model)
    _check_normalized(sae, conditions, model)
    _check_folding(sae, conditions, model)
    return _centred(sae, conditions, model, ids)


def _check_model(conditions: Conditions, named: str, model: HookedModel) -> None:
    same = same_model(named, model.name)
    if same is False:
        raise SAEError(
            f"{conditions.whose} was trained on {shorten(named)} (model_name), and this model is {model.name}: its "
            f"latents mean nothing there. Load the model of its training. {conditions.remedy('model_name')}"
        )
    if same is None:
        conditions.say_once(
            f"model {model.name}",
            f"was trained on {shorten(named)} (model_name), and whether {model.name} is the same model cannot be "
            f'told from its name. If it is, ignore="model_name" says so; if it is not, the latents mean nothing: load '
            f"the model of the training, load_model({quoted(named)}).",
        )


def _check_attention(sae: SAE, conditions: Conditions, model: HookedModel) -> None:
    """Compare the processing of attention's weights, which shows only inside attention."""
    if ".attn." not in sae.hook_name:
        return
    if conditions.refactored:
        raise SAEError(
            f"{conditions.whose} was trained on attention with refactored matrices "
            f"(refactor_factored_attn_matrices), which dreamy_lens cannot keep at {sae.hook_name}. "
            f"{conditions.remedy('model_from_pretrained_kwargs')}"
        )
    found, stated = _VALUES.fullmatch(sae.hook_name), conditions.folds_value_biases
    if found is None or stated is None:
        return
    bias = model.backend.value_bias(int(found[1]))
    if stated:
        without_norm_bias = model.backend.normalisation == "rms" or model.is_processed
        as_trained = without_norm_bias and (bias is None or not bool(bias.any()))
    else:
        as_trained = bias is None or bool(bias.any()) or not model.is_processed
    if not as_trained:
        was, do = ("with", "model.enable_compatibility_mode()") if stated else ("without", "load_model(name)")
        raise SAEError(
            f"{conditions.whose} was trained {was} folded value biases (fold_value_biases), and the weights of "
            f"{model.name} are not so, which changes {sae.hook_name}. Use the model after {do}. "
            f"{conditions.remedy('model_from_pretrained_kwargs')}"
        )


def _check_normalized(sae: SAE, conditions: Conditions, model: HookedModel) -> None:
    """Refuse the input of a layer norm's weights for an autoencoder that was trained on its output.

    The hook point `hook_normalized` of a HookedTransformer, which SAELens used, is behind the weights of an unfolded
    layer norm, and that of a bridge is before them.
    """
    by_configuration = sae.encoder is not None and sae.encoder.hook_name == sae.hook_name
    normalized = sae.hook_name.endswith(".hook_normalized") and model.backend.normalisation == "layer"
    if normalized and by_configuration and conditions.folds_norms is False:
        better = sae.hook_name.replace("hook_normalized", "hook_out")
        raise SAEError(
            f"{conditions.whose} was trained behind the weights of a layer norm (fold_ln is not true), and "
            f'{sae.hook_name} is before them on {model.name}. Read the right place: hook="{better}".'
        )


def _check_folding(sae: SAE, conditions: Conditions, model: HookedModel) -> None:
    """Compare the folding of norms at hook points behind the weights of a norm."""
    stated = conditions.folds_norms
    if stated is None or _BEHIND_NORM_WEIGHTS.fullmatch(sae.hook_name) is None or stated is model.is_processed:
        return
    was, do = ("with", "after model.enable_compatibility_mode()") if stated else ("without", "as it was loaded")
    raise SAEError(
        f"{conditions.whose} was trained {was} folded norms (fold_ln), and those of {model.name} are "
        f"{'not folded' if stated else 'folded'}, which changes {shorten(sae.hook_name)}. Use the model {do}. "
        f"{conditions.remedy('model_from_pretrained_kwargs')}"
    )


def _centred(sae: SAE, conditions: Conditions, model: HookedModel, ids: Callable[[], Int[Tensor, "batch pos"]]) -> SAE:
    """Keep center_writing_weights: compute its effect on a plain model, and refuse a centred model without it."""
    name, wanted = sae.hook_name, conditions.centred
    if _BEHIND_NORM.fullmatch(name) or model.backend.normalisation == "rms":
        return sae  # nothing changes behind a norm, and TransformerLens centres no model with RMS norms
    if wanted is None and not conditions.centred_by_default:
        return sae
    is_written = _WRITTEN.fullmatch(name) is not None
    centred = is_written and writes_centred(model, ids())
    if wanted is None:
        if not centred:
            conditions.say_once(
                f"centred {model.name}",
                "comes from a version of SAELens that centred the writing weights of models by default, and its "
                "configuration does not say whether they were: they are not here. State it in the configuration: "
                '"model_from_pretrained_kwargs": {"center_writing_weights": true} or false.',
            )
        return sae
    if not wanted and centred:
        raise SAEError(
            f"{conditions.whose} was trained on {shorten(name)} with its mean (center_writing_weights: false), and "
            f"the writing weights of {model.name} are centred, so the mean is lost. Use the model as it was loaded, "
            f"without enable_compatibility_mode(). {conditions.remedy('model_from_pretrained_kwargs')}"
        )
    if not wanted or centred:
        return sae
    if not is_written or model.backend.normalisation != "layer" or not ignores_mean(model, ids()):
        raise SAEError(
            f"{conditions.whose} was trained on a model with centred writing weights (center_writing_weights), and "
            f"what that does to {shorten(name)} of {model.name} cannot be computed. Use the model after "
            f"model.enable_compatibility_mode(). {conditions.remedy('model_from_pretrained_kwargs')}"
        )
    return replace(sae, centres=True)
