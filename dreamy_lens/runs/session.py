"""What a run needs to go on: the model, its scorer, and the rules for prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import FeatureError, ModelError, PromptError, RunFolderError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.models.hooked_model import keep_hooks
from dreamy_lens.models.load import as_hooked
from dreamy_lens.models.names import EMBEDDED_NAME
from dreamy_lens.results.prompt import Provenance
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.constraints import Constraint, Template
from dreamy_lens.search.epo import ScoreCache, Search, State, Step, epo, search
from dreamy_lens.search.proposals import same_length

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel
    from dreamy_lens.results.history import History
    from dreamy_lens.runs.dream import Dream


SAMPLE = 12
"""How many of a saved run's prompts are scored again before it goes on."""


@dataclass
class Session:
    """Made by :meth:`open` for a new run, and by :meth:`reopen` for a saved one.

    Attributes:
        config: the settings.
        scorer: for the feature.
        rules: which prompts may exist.
        start: initial prompts, or None.
        fluency_name: the fluency model's name, if it is another model.
        change: a sentence on how precision or device differ from the saved run's, if they do.
        mixed: whether the history has scores of more than one precision or device.
    """

    config: EPOConfig
    scorer: Scorer
    rules: ConstraintSet
    start: np.ndarray | None
    fluency_name: str | None
    change: str | None = None
    mixed: bool = False

    @classmethod
    def open(
        cls,
        feature: Feature,
        model: Any,
        config: EPOConfig,
        *,
        start: Any = None,
        constraints: Sequence[Constraint] | Constraint = (),
        fluency_model: Any = None,
        given: set[str] | None = None,
    ) -> Session:
        """Check everything before anything is searched.

        Args:
            feature: an expression.
            model: anything that stands for a model.
            config: settings; a start decides their length.
            start: prompts in any form, or None.
            constraints: on prompts.
            fluency_model: anything that stands for a model, or None.
            given: names of the settings that the user wrote out.
        """
        hooked = as_hooked(model)
        rows = None
        if start is not None:
            rows = same_length(as_ids(start, hooked.vocabulary))
            if "length" in (given or ()) and rows.shape[1] != config.length:
                raise PromptError(
                    f"The start has {rows.shape[1]} tokens and length={config.length} was asked for; leave out length, "
                    f"or give a start of {config.length} tokens."
                )
            config = dataclasses.replace(config, length=rows.shape[1])
        constraints = (constraints,) if isinstance(constraints, Constraint) else tuple(constraints)
        # The template's ids make the scorer, and the scorer's models say which tokens the rules may allow.
        outside = ConstraintSet([c for c in constraints if isinstance(c, Template)], hooked.vocabulary, config.length)
        scorer = Scorer(
            feature,
            hooked,
            fluency_model=fluency_model,
            prefix=outside.prefix,
            suffix=outside.suffix,
            prepend_bos=config.prepend_bos,
            batch_size=config.batch_size,
            share_prefixes=config.share_prefixes,
        )
        scorer.check_length(config.length)
        rules = ConstraintSet(constraints, hooked.vocabulary, config.length, scorer.allowed)
        if rows is not None:
            rules.demand(rows)
        name = None if scorer.fluency is scorer.model else scorer.fluency.name
        return cls(config, scorer, rules, rows, name)

    @classmethod
    def reopen(cls, run: Dream) -> Session:
        """Load what a saved run was made with, and make sure that it gives the same numbers."""
        saved = run._identity or {}
        session = cls.open(
            _feature(run),
            _loaded(run._model, run.provenance.model, "model", saved),
            dataclasses.replace(run.config, prepend_bos=run.provenance.prepend_bos),
            constraints=run.constraints,
            fluency_model=_loaded(run._fluency_model, run._fluency_name, "fluency_model", saved.get("fluency") or {}),
        )
        session.start, session.mixed = run._start, bool(saved.get("mixed"))
        session.change = session._change(saved)
        session._check_same(run, saved)
        return session

    def steps(
        self, until: int, state: State | None, history: History, between: Callable[[], object] | None = None
    ) -> Iterator[Step]:
        """The run's next steps, up to iteration `until`.

        What is known is what the history says: scores that an interrupt kept from it are not, and are found again.
        """
        self.scorer.invalidate_cache()
        config = dataclasses.replace(self.config, iterations=until)
        steps = epo(self.scorer, config, self.rules, self.start, self._known(state, history), state, between)
        return self._standing(steps)

    def _standing(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Steps between which hooks stay where they are."""
        with keep_hooks(self.scorer.models):
            yield from steps

    def search(self, until: int, state: State | None, history: History) -> Search:
        """The same as a coroutine, whose questions somebody else answers."""
        config = dataclasses.replace(self.config, iterations=until)
        return search(self.scorer, config, self.rules, self.start, self._known(state, history), state)

    def _known(self, state: State | None, history: History) -> ScoreCache:
        known = ScoreCache()
        known.add(history.ids, history.value, history.cross_entropy)
        if state is not None and len(state.non_finite):
            lost = np.full(len(state.non_finite), np.nan)
            known.add(state.non_finite, lost, lost)
        return known

    @property
    def provenance(self) -> Provenance:
        """Of the run: what its numbers are of."""
        # Paths are written in full, so that the text means the same from another working folder.
        feature = str(self.scorer.bound.feature.absolute())
        of, seed = self.scorer, self.config.seed
        return Provenance(feature, of.model.name, seed, None, of.prepend_bos, of.prefix, of.suffix)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells models apart, and what their numbers depend on, as JSON values."""
        fluency = None if self.fluency_name is None else _identity(self.scorer.fluency)
        return {**_identity(self.scorer.model), "fluency": fluency, "mixed": self.mixed}

    def go_on_changed(self) -> None:
        """Take it that scores in the present precision follow, whatever those in the history were."""
        self.change, self.mixed = None, True

    def _change(self, saved: dict[str, Any]) -> str | None:
        """How precision or device differ from the saved ones, where those are known."""
        mine, found = self.identity, []
        for what, then, now in (
            ("model", saved, mine),
            ("fluency model", saved.get("fluency") or {}, mine["fluency"] or {}),
        ):
            names = ("dtype", "device")
            if any(name in then and name in now and then[name] != now[name] for name in names):
                before, after = (f"{part.get('dtype')} on {part.get('device')}" for part in (then, now))
                found.append(f"the {what} was in {before} when the run was made, and is in {after} now")
        if not found:
            return None
        return (
            f"The run will not go on exactly as if it had never stopped: {'; '.join(found)}. Scores differ in their "
            "last digits, and with them which prompts are chosen."
        )

    def _tolerance(self, saved: dict[str, Any]) -> float:
        """By which part of their scale scores may differ from the saved ones and be of the same model.

        In one precision on one kind of device only the batches differ. Sixteen bits show that: a logit near 20 has
        steps of 0.125 in bfloat16.
        """
        models = (self.scorer.model, self.scorer.fluency)
        others = any(model not in models for model in self.scorer.models)  # whose precision is not saved
        wide = all(model.dtype.itemsize >= 4 for model in models)
        same = "dtype" in saved and self.change is None and not self.mixed and not others
        return 1e-3 if same and wide else 0.05

    def _check_same(self, run: Dream, saved: dict[str, Any]) -> None:
        name, here, mine = run.provenance.model, self.scorer.model.name, self.identity
        pairs = [("", here, name, saved, mine)]
        if saved.get("fluency") and mine["fluency"]:
            former = str(run._fluency_name)
            pairs.append(("fluency ", self.scorer.fluency.name, former, saved["fluency"], mine["fluency"]))
        for kind, present, former, theirs, ours in pairs:
            for what in ("tokenizer", "n_layers", "d_vocab"):
                if what in theirs and theirs[what] != ours[what]:
                    raise RunFolderError(
                        f"The run was made on {former!r} with {what} {theirs[what]}, and {present!r} has "
                        f"{ours[what]}: it is another {kind}model. Give the one it was made on: "
                        f"load_run(path, {'fluency_model=' if kind else ''}model)."
                    )
        history = run.history
        rows = np.unique(np.linspace(0, len(history) - 1, SAMPLE).astype(int)) if len(history) else []
        if not len(rows):
            return
        scores, part = self.scorer.score(history.ids[rows].astype(np.int64)), self._tolerance(saved)
        for ours, theirs, what in (
            (scores.value, history.value[rows], "value"),
            (scores.cross_entropy, history.cross_entropy[rows], "cross-entropy"),
        ):
            allowed = part * (float(np.abs(theirs).max()) + np.abs(theirs)) + 1e-4
            off = np.nan_to_num(np.abs(ours - theirs) / allowed, nan=np.inf)
            # Rounding that was not expected to matter may throw single scores far off, but not half of them.
            if (np.median(off) if part > 1e-3 else off.max()) > 1:
                worst = int(np.argmax(off))
                raise RunFolderError(
                    f"The run belongs to another model: of one of its prompts the {what} was {theirs[worst]:.6g} on "
                    f"{name!r} when it was saved, and is {ours[worst]:.6g} on {here!r}. Give what it was made with: "
                    "load_run(path, model), and its fluency_model= and feature= if it had its own."
                )


def available(device: str | None) -> str | None:
    """A kind of device, such as "cuda", if there is one here."""
    if device is None:
        return None
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError):
        return None
    return device


def _identity(model: HookedModel) -> dict[str, Any]:
    names = {"tokenizer": model.vocabulary.digest, "n_layers": model.n_layers, "d_vocab": model.vocabulary.size}
    return {**names, "dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type}


def _feature(run: Dream) -> Feature:
    try:
        return run.feature
    except FeatureError as error:
        raise RunFolderError(
            f"The run's feature, {run.provenance.feature}, cannot be made from its text here, so the run cannot go on; "
            f"give the feature: load_run(path, feature=...). {error}"
        ) from error


def _loaded(given: Any, name: str | None, what: str, saved: dict[str, Any]) -> Any:
    """A run's model: the one that was given to go on with, or else the one of its name, as it was when saved."""
    if given is None and name is None:
        return None
    given = name if given is None else given
    if not isinstance(given, (str, Path)):
        return given
    device, dtype = available(saved.get("device")), saved.get("dtype")
    try:
        usual = as_hooked(given) if str(given) == EMBEDDED_NAME else None
        if usual is not None and usual.device.type == (device or usual.device.type) and dtype in (None, "float32"):
            return usual
        return as_hooked(given, device=device, dtype=dtype)
    except ModelError as error:
        raise RunFolderError(
            f"The run's {what} cannot be loaded by its name, {str(given)!r}. If it was one in memory, give it: "
            f"load_run(path, {what}=...). {error}"
        ) from error
