"""Verification that hook points hold what their names say: neurons, pre-activations, heads.

The familiar names are aliases, and on some architectures an alias leads elsewhere: `mlp.hook_post` of a mixture of
experts is the output of the whole layer, and `attn.hook_z` of multi-head latent attention is cut into the wrong heads.
An activation whose name has a meaning is therefore compared, in one short pass, with the inputs and outputs of the
modules that give the name its meaning:

- `mlp.hook_post` is the input of the MLP's last linear map, which writes the residual stream;
- `mlp.hook_pre` is the output of the MLP's first linear map, before the nonlinearity, with one number per neuron;
- `attn.hook_z` is the input of the attention's last linear map, cut into as many heads as the layer has;
- `attn.hook_q` is the output of the query's linear map, cut into heads; `attn.hook_k` and `attn.hook_v` those of keys
  and values, whose heads are shared by equally many query heads;
- `attn.hook_pattern` and `attn.hook_attn_scores` have one square per head, and a pattern's weights are 0 to 1;
- the heads of `attn.hook_result` sum to the output of the attention's last linear map, except for its bias.

Other hook points are named after places, and need no verification. A backend whose names are no aliases, see
:attr:`dreamy_lens.models.backend.Backend.has_aliases`, promises these meanings itself.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dreamy_lens.errors import HookMeaningError
from dreamy_lens.models.hook_evidence import PROBE_LENGTH, Evidence, observe, same_numbers

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

_FOUND: weakref.WeakKeyDictionary[Any, dict[Any, str | None]] = weakref.WeakKeyDictionary()
"""Verdicts of each model, by name of the hook point and mode of the model."""

_MIXTURE = "as in a mixture of experts"

Test = Callable[[Evidence], "str | None"]
"""Function that returns why an activation does not have its meaning, or None if it has."""


def unmeant(model: HookedModel, name: str) -> str | None:
    """Return why a hook point does not hold what its name says, or None if it does or its name says nothing.

    Args:
        model: Model with the hook point.
        name: Name of the hook point, which fires in a forward pass.
    """
    layer, meaning = _named(name)
    if meaning is None or not model.backend.has_aliases:
        return None
    known = _FOUND.setdefault(model, {})
    key = name, model.backend.mode
    if key not in known:
        evidence = observe(model, name, layer, meaning.components)
        if not evidence.activation.isfinite().all() and "scores" not in name:
            return None  # NaN shows nothing; the scorer says which weights are damaged
        known[key] = meaning.test(evidence)
    return known[key]


def check_meaning(model: HookedModel, name: str) -> None:
    """Raise HookMeaningError unless a hook point holds what its name says.

    Args:
        model: Model with the hook point.
        name: Name of the hook point, which fires in a forward pass.
    """
    why = unmeant(model, name)
    if why is None:
        return
    layer, meaning = _named(name)
    assert meaning is not None
    beside = [n for n in model.hook_names() if n.startswith(f"{layer}.") and _named(n)[1] is None]
    exist = f"The layer's other hook points: {', '.join(beside[:8])}{', …' if len(beside) > 8 else ''}. " * bool(beside)
    number = re.search(r"\.([0-9]+)\.", name)
    of_experts = f"Neuron 3 of expert 0 is written L{number[1]}.E0.N3. " if number and _MIXTURE in why else ""
    raise HookMeaningError(
        f"{name} of {model.name} is not {meaning.noun}: {why}. {exist}{of_experts}`dreamy-lens hooks` shows the "
        "shapes of all hook points."
    )


# The tests.


def _neurons(e: Evidence) -> str | None:
    if "out" not in e.inputs:
        return f"this layer has no single last linear map whose inputs would be its neurons, {_MIXTURE}"
    if not same_numbers(e.activation, e.inputs["out"]):
        return "it differs from the input of the MLP's last linear map"
    if e.outputs["out"].shape[-1] != e.d_model:
        return f"the linear map that reads it writes {e.outputs['mlp.out'].shape[-1]} numbers, not {e.d_model}"
    return None


def _pre_activations(e: Evidence) -> str | None:
    if "out" not in e.inputs:
        return f"this layer has no single last linear map whose inputs would be its neurons, {_MIXTURE}"
    width = e.inputs["out"].shape[-1]
    if e.activation.shape[-1] != width:
        return f"it has {e.activation.shape[-1]} numbers and the layer has {width} neurons"
    if not any(same_numbers(e.activation, e.outputs[part]) for part in ("gate", "in") if part in e.outputs):
        return "it differs from the output of the MLP's first linear map"
    return None


def _head_outputs(e: Evidence) -> str | None:
    if "o" not in e.inputs or not same_numbers(e.activation, e.inputs["o"]):
        return "it differs from the input of the attention's last linear map"
    return _wrong_heads(e, e.activation.shape[-2])


def _queries(e: Evidence) -> str | None:
    return _projected(e, "q") or _wrong_heads(e, _heads_of(e))


def _keys(e: Evidence) -> str | None:
    return _projected(e, "k") or _wrong_groups(e)


def _values(e: Evidence) -> str | None:
    return _projected(e, "v") or _wrong_groups(e)


def _scores(e: Evidence) -> str | None:
    if e.activation.ndim != 4 or e.activation.shape[2] > e.activation.shape[3]:
        return f"it has shape {list(e.activation.shape[1:])}, where [heads, queries, keys] is needed"
    return _wrong_heads(e, e.activation.shape[1])


def _weights(e: Evidence) -> str | None:
    why = _scores(e)
    if why is None and not (e.activation.min() >= 0 and e.activation.float().sum(-1).max() <= 1.05):
        why = "its numbers are not weights of 0 to 1 that sum to at most 1"
    return why


def _results(e: Evidence) -> str | None:
    if "o" not in e.outputs or e.activation.ndim != 4:
        return "it does not show what each head adds to the output of the attention's last linear map"
    rest = e.outputs["o"].reshape(-1, e.d_model).float() - e.activation.float().sum(2).reshape(-1, e.d_model)
    if not same_numbers(rest, rest[:1].expand_as(rest), e.outputs["o"]):
        return "its sum over heads differs from the output of the attention's last linear map by more than a bias"
    return _wrong_heads(e, e.activation.shape[2])


def _projected(e: Evidence, part: str) -> str | None:
    """Return why an activation is not the output of a projection; heads may stand before or after positions."""
    x, y = e.activation, e.outputs.get(part)
    if y is None:  # computed from a low-rank projection, as in multi-head latent attention: only heads can be counted
        return None if x.ndim == 4 else "it has no axis of heads"
    if not (same_numbers(x, y) or (x.ndim == 4 and same_numbers(x.transpose(1, 2), y))):
        return f"it differs from the output of the attention's linear map {part!r}"
    return None if x.ndim == 4 else "it has no axis of heads"


def _heads_of(e: Evidence) -> int:
    """Return the number of heads of `[batch, head, pos, d_head]` or `[batch, pos, head, d_head]`."""
    return e.activation.shape[2] if e.activation.shape[1] == PROBE_LENGTH else e.activation.shape[1]


def _wrong_heads(e: Evidence, heads: int) -> str | None:
    if e.n_heads in (None, heads):
        return None
    return f"it is cut into {heads} heads and the layer has {e.n_heads}"


def _wrong_groups(e: Evidence) -> str | None:
    heads = _heads_of(e)
    if e.n_heads is None or (heads <= e.n_heads and e.n_heads % heads == 0):
        return None
    return f"it is cut into {heads} heads, among which the layer's {e.n_heads} query heads cannot be divided equally"


class _Meaning(NamedTuple):
    """Meaning of a name.

    Attributes:
        noun: Noun phrase for what the name says, for messages.
        test: Function that compares the activation with the components.
        components: Components whose inputs and outputs the test needs.
    """

    noun: str
    test: Test
    components: tuple[str, ...] = ()


_MEANINGS = {
    "mlp.hook_post": _Meaning("the MLP's neurons", _neurons, ("out",)),
    "mlp.hook_pre": _Meaning("the pre-activations of the MLP's neurons", _pre_activations, ("out", "in", "gate")),
    "attn.hook_z": _Meaning("the output of each head", _head_outputs, ("o",)),
    "attn.hook_q": _Meaning("the queries of each head", _queries, ("q",)),
    "attn.hook_k": _Meaning("the keys of each head", _keys, ("k",)),
    "attn.hook_v": _Meaning("the values of each head", _values, ("v",)),
    "attn.hook_attn_scores": _Meaning("the attention scores of each head", _scores),
    "attn.hook_pattern": _Meaning("the attention pattern of each head", _weights),
    "attn.hook_result": _Meaning("what each head adds to the residual stream", _results, ("o",)),
}

_NAME = re.compile(r"(?P<layer>.+\.(?P<kind>mlp|(?:\w+_)?attn))\.(?P<point>hook_\w+)")


def _named(name: str) -> tuple[str, _Meaning | None]:
    """Return the layer of a hook point, such as `blocks.1.mlp`, and what its name says; None if it says nothing."""
    match = _NAME.fullmatch(name)
    if match is None:
        return "", None
    return match["layer"], _MEANINGS.get(f"{'mlp' if match['kind'] == 'mlp' else 'attn'}.{match['point']}")
