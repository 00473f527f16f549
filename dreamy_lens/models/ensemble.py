"""Ensembles: several models with one tokenizer that predict the next token together.

The probability that an ensemble gives a token is the mean of those of its members, arithmetic or geometric. So an
ensemble is a language model of its own: it measures fluency, has logits as features, and continues prompts.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.errors import ModelError, quoted
from dreamy_lens.models.backend import EMBEDDING, Backend, NotPackable
from dreamy_lens.models.packed_attention import PassCache
from dreamy_lens.models.packed_forward import FINAL
from dreamy_lens.models.transfer import to_device

if TYPE_CHECKING:
    from dreamy_lens.models.backend import PackedRunner
    from dreamy_lens.models.hooked_model import HookedModel
    from dreamy_lens.models.prefix_tree import PrefixTree

MEANS = ("probabilities", "log_probs")
"""Means of the members' predictions: arithmetic, or geometric and normalised."""

_NAME = re.compile(r"ensemble\((.+)\)", re.DOTALL)


class Ensemble(Backend):
    """Backend of an ensemble; :func:`ensemble` makes it.

    Its embedding of a token is the members' embeddings one after the other, so a gradient with respect to it is exact.

    Args:
        members: Models with one tokenizer, at least two.
        mean: One of `MEANS`.

    Attributes:
        members: Models of the ensemble.
        mean: Mean of the members' predictions.
    """

    def __init__(self, members: Sequence[HookedModel], mean: str = "probabilities") -> None:
        first = members[0]
        for other in members[1:]:
            first.check_same_tokenizer(other)
        self.members, self.mean = tuple(members), mean
        more = "" if mean == MEANS[0] else f', mean="{mean}"'
        self.name = f"ensemble({', '.join(json.dumps(m.name, ensure_ascii=False) for m in members)}{more})"
        self.tokenizer = first.tokenizer
        self.module = torch.nn.ModuleList([m.backend.module for m in members])
        self.n_layers = max(m.n_layers for m in members)
        self.n_ctx = min((m.n_ctx for m in members if m.n_ctx is not None), default=None)
        self.d_vocab = min(m.vocabulary.size for m in members)
        self.widths = [m.embedding_table.shape[1] for m in members]
        self.d_model = sum(self.widths)
        self.default_prepend_bos = first.prepends_bos
        shared = (way for way in first.packed_ways if all(way in m.packed_ways for m in members))
        self.packed_ways = tuple(shared)

    # Required members.

    def hook_names(self) -> list[str]:
        """Return the embedding alone: what a hook point of an ensemble would be is not defined."""
        return [EMBEDDING]

    def embed(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... d_model"]:
        """Return the members' embeddings of token ids, one after the other, on the first member's device."""
        device = self.members[0].device
        return torch.cat([to_device(m.backend.embed(to_device(ids, m.device)), device) for m in self.members], dim=-1)

    def run(
        self,
        ids: Int[Tensor, "batch pos"],
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
        embeddings: Float[Tensor, "batch pos d_model"] | None = None,
        past: Any = None,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch pos d_vocab"] | None]:
        """Run all members on the same rows, and combine their predictions."""
        activations: dict[str, Tensor] = {}
        if EMBEDDING in set(capture):
            activations[EMBEDDING] = self.embed(ids) if embeddings is None else embeddings
        if not logits:
            return activations, None
        outputs = []
        parts = [None] * len(self.members) if embeddings is None else embeddings.split(self.widths, dim=-1)
        for member, part in zip(self.members, parts, strict=True):
            own = None if part is None else to_device(part, member.device)
            _, output = member.run(to_device(ids, member.device), embeddings=own)
            assert output is not None
            outputs.append(output)
        return activations, self.combined(outputs)

    def combined(self, outputs: Sequence[Tensor]) -> Float[Tensor, "... d_vocab"]:
        """Return logits whose probabilities are the mean of those of the members' logits."""
        device = self.members[0].device
        total: Tensor | None = None
        for output in outputs:
            scores = to_device(output.float().log_softmax(-1)[..., : self.d_vocab], device)
            if total is None:
                total = scores
            else:
                total = total + scores if self.mean == "log_probs" else torch.logaddexp(total, scores)
        assert total is not None
        return total / len(outputs) if self.mean == "log_probs" else total - math.log(len(outputs))

    # Properties of the members.

    @property
    def mode(self) -> tuple[Any, ...]:
        """Settings of all members that change how they compute."""
        return tuple(m.backend.mode for m in self.members)

    def settings(self) -> Mapping[str, Any]:
        """Return the mean, and the settings of the members' architectures."""
        return {"mean": self.mean, **{str(i): dict(m.backend.settings()) for i, m in enumerate(self.members)}}

    @property
    def end_tokens(self) -> Sequence[int]:
        """Ids of the tokens with which one of the members ends a text."""
        return [token for m in self.members for token in m.end_tokens]

    @property
    def is_hooked(self) -> bool:
        """True if the user has hooks on a hook point of a member."""
        return any(m.is_hooked for m in self.members)

    @contextlib.contextmanager
    def unhooked(self) -> Any:
        """Within the context, hooks of the user do nothing."""
        with contextlib.ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.backend.unhooked())
            yield

    @property
    def other_hooks(self) -> tuple[int, ...]:
        """Ids of hooks on modules of the members that are not hook points."""
        return tuple(hook for m in self.members for hook in m.other_hooks)

    @property
    def has_foreign_hooks(self) -> bool:
        """True if a member has hooks that none of the libraries involved put there."""
        return any(m.has_foreign_hooks for m in self.members)

    def renew(self) -> None:
        """Look at the modules of the members anew."""
        for member in self.members:
            member.renew()

    @contextlib.contextmanager
    def keep_hooks(self) -> Any:
        """Within the context, hooks of the members may stay attached between passes."""
        with contextlib.ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.keep_hooks())
            yield

    def key_values(self, ids: Int[Tensor, "1 pos"]) -> list[tuple[Tensor, Tensor]]:
        """Raise NotImplementedError: prefixes are computed in every backward pass."""
        raise NotImplementedError("An ensemble has no cache of keys and values of its own.")

    def packed(self, model: Any, way: str) -> PackedEnsemble:
        """Return a runner of packed passes of all members.

        Raises:
            NotPackable: A member cannot be run on packed rows in this way.
        """
        return PackedEnsemble(self, model, [m.packed(way) for m in self.members])

    def __repr__(self) -> str:
        return self.name


class PackedEnsemble:
    """Packed passes of an ensemble; the inputs of the members' unembeddings stand one after the other.

    Args:
        ensemble: Ensemble.
        model: HookedModel of the ensemble.
        parts: Packed passes of the members.
    """

    def __init__(self, ensemble: Ensemble, model: Any, parts: Sequence[PackedRunner]) -> None:
        self.ensemble, self.model, self.parts = ensemble, model, tuple(parts)
        self._widths: list[int] = []

    @property
    def has_kernel(self) -> bool:
        """Whether one kernel can compute the attention of every member over the tree on a GPU."""
        return all(part.has_kernel for part in self.parts)

    def check(self, capture: Sequence[str]) -> None:
        """Raise NotPackable if a hook point is to be read."""
        if capture:
            raise NotPackable("an ensemble has no hook points in a packed pass")
        for part in self.parts:
            part.check(capture)

    def row_hooks(self, capture: Sequence[str]) -> frozenset[str]:
        """Return no hook points."""
        return frozenset()

    def depth(self, capture: Sequence[str]) -> int:
        """Return 0: no block is needed for a hook point."""
        return 0

    def run(
        self,
        packing: PrefixTree,
        capture: Sequence[str],
        *,
        final: bool,
        cut: PrefixTree | None = None,
        before: PassCache | None = None,
        keep: PassCache | None = None,
    ) -> dict[str, Tensor]:
        """Run one packed pass of every member; see :meth:`dreamy_lens.models.packed_forward.PackedModel.run`."""
        device, finals = packing.ids.device, []
        for i, part in enumerate(self.parts):
            own = None if keep is None else PassCache(keep.length)
            known = None if before is None else before.members[i]
            found = part.run(packing, (), final=final, cut=cut, before=known, keep=own)
            if keep is not None and own is not None:
                keep.members.append(own)
            finals.append(found.get(FINAL))
        if not final:
            return {}
        kept = [to_device(x, device) for x in finals if x is not None]
        self._widths = [x.shape[-1] for x in kept]
        joined = torch.cat(kept, dim=-1)
        if keep is not None:
            keep.activations = {FINAL: joined[:, : keep.length]}
        return {FINAL: joined}

    def logits(self, final: Float[Tensor, "node width"]) -> Float[Tensor, "node d_vocab"]:
        """Return the combined logits for inputs of the members' unembeddings at some nodes."""
        pieces = zip(self.parts, final.split(self._widths, dim=-1), strict=True)
        return self.ensemble.combined([part.logits(to_device(x, part.model.device)) for part, x in pieces])


def parts_of_name(name: str) -> tuple[list[str], str] | None:
    """Return the members' names and the mean of an ensemble's name, such as `ensemble("a", "b")`; None for other names.

    Args:
        name: Name as :attr:`Ensemble.name` writes it.

    Raises:
        ModelError: The name is not complete.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None:
        return None
    inside, mean = match[1], MEANS[0]
    if found := re.search(r',\s*mean="(\w+)"\s*$', inside):
        inside, mean = inside[: found.start()], found[1]
    try:
        names: list[Any] = json.loads(f"[{inside}]")
    except ValueError:
        names = [None]
    if not all(isinstance(each, str) for each in names):
        raise ModelError(f'{quoted(name)} names no ensemble; write ensemble("a", "b") with names in double quotes.')
    return names, mean


def check_members(count: int, given: Any, mean: str) -> None:
    """Raise ModelError if there are fewer than two members, or if there is no such mean."""
    if count < 2:
        raise ModelError(f"An ensemble has at least two models, in a list; got {quoted(given)}.")
    if mean not in MEANS:
        raise ModelError(f"An ensemble's mean is one of {', '.join(map(repr, MEANS))}; got {quoted(mean)}.")
