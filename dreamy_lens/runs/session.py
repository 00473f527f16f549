"""What a run needs to go on: the model, its scorer, and the rules for prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens.errors import FeatureError, ModelError, RunFolderError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import parse
from dreamy_lens.models.hooked_model import HookedModel, keep_hooks
from dreamy_lens.models.load import EMBEDDED_NAME, as_hooked
from dreamy_lens.results.history import History, HistoryBuilder
from dreamy_lens.results.prompt import Provenance
from dreamy_lens.runs.spec import RunRecord, RunSpec
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.constraints import Template
from dreamy_lens.search.optimizers import find_optimizer
from dreamy_lens.search.protocol import Search, drive
from dreamy_lens.search.score_cache import ScoreCache
from dreamy_lens.search.steps import State, Step

SAMPLE = 12
"""How many of a saved run's prompts are scored again before it goes on."""


@dataclass
class Session:
    """Made by :meth:`open` for a new run, and by :meth:`reopen` for a saved one.

    Attributes:
        spec: what the run was asked for, with the models at hand.
        scorer: scorer for the feature, inside the run's template.
        rules: the run's constraints, which say what prompts may exist.
        change: a sentence on how precision or device differ from the saved run's, if they do.
        mixed: whether the history has scores of more than one precision or device.
    """

    spec: RunSpec
    scorer: Scorer
    rules: ConstraintSet
    change: str | None = None
    mixed: bool = False

    @classmethod
    def open(cls, spec: RunSpec) -> Session:
        """Check everything before anything is searched.

        Args:
            spec: what a run is asked for; its feature is an expression, and its models are HookedModels.

        Raises:
            FeatureError: the feature does not fit the model.
            PromptError: a start, or the length, is more than the model can read.
            ConstraintError: constraints leave nothing to search, or a start breaks one.
        """
        feature, model, config = spec.feature, spec.model, spec.config
        assert feature is not None, "only a saved run may leave its feature to its text; see reopen()"
        # The template's ids make the scorer, and the scorer's models say which tokens the rules may allow.
        templates = [c for c in spec.constraints if isinstance(c, Template)]
        outside = ConstraintSet(templates, model.vocabulary, config.length)
        scorer = Scorer(
            feature,
            model,
            fluency_model=spec.fluency_model,
            prefix=outside.prefix,
            suffix=outside.suffix,
            prepend_bos=config.prepend_bos,
            batch_size=config.batch_size,
            share_prefixes=config.share_prefixes,
        )
        scorer.check_length(config.length)
        rules = ConstraintSet(spec.constraints, model.vocabulary, config.length, scorer.allowed)
        if spec.start is not None:
            rules.require(spec.start)
        return cls(spec, scorer, rules)

    @classmethod
    def reopen(cls, record: RunRecord) -> Session:
        """Load what a saved run was made with, and make sure that it gives the same numbers.

        Args:
            record: what was kept of the run; its texts are not read.

        Raises:
            RunFolderError: a model cannot be loaded, gives other numbers, or the feature cannot be made from its text.
        """
        saved, spec, origin = record.identity or {}, record.spec, record.provenance
        live = dataclasses.replace(
            spec,
            feature=_feature(record),
            model=_loaded(spec.model, origin.model, "model", saved),
            fluency_model=_loaded(spec.fluency_model, record.fluency_name, "fluency_model", saved.get("fluency") or {}),
        )
        # What was a start then need not be checked, and the convention for BOS may have been another.
        config = dataclasses.replace(spec.config, prepend_bos=origin.prepend_bos)
        session = cls.open(dataclasses.replace(live, config=config, start=None))
        session.spec, session.mixed = live, bool(saved.get("mixed"))
        session.change = session._change(saved)
        session._check_same(record, saved)
        return session

    def record(self) -> RunRecord:
        """The record of a new run, which has found nothing yet."""
        history = HistoryBuilder(self.spec.config.lambdas).build()
        return RunRecord(self.spec, self.provenance, history, identity=self.identity, fluency_name=self.fluency_name)

    def steps(
        self, until: int, state: State | None, history: History, between: Callable[[], object] | None = None
    ) -> Iterator[Step]:
        """The run's next steps, up to iteration `until`.

        What is known is what the history says: scores that an interrupt kept from it are not, and are found again.
        """
        self.scorer.invalidate_cache()
        return self._standing(drive(self.search(until, state, history), self.scorer, between))

    def _standing(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Steps between which hooks stay where they are."""
        with keep_hooks(self.scorer.models):
            yield from steps

    def search(self, until: int, state: State | None, history: History) -> Search:
        """The run's next steps as a coroutine, whose requests for scores and gradients the caller answers."""
        config = dataclasses.replace(self.spec.config, iterations=until)
        cache = self._known(state, history)
        return find_optimizer(config).search(self.scorer, config, self.rules, self.spec.start, cache, state)

    def _known(self, state: State | None, history: History) -> ScoreCache:
        known = ScoreCache()
        known.add(history.ids, history.value, history.cross_entropy)
        if state is not None and len(state.non_finite):
            lost = np.full(len(state.non_finite), np.nan)
            known.add(state.non_finite, lost, lost)
        return known

    @property
    def provenance(self) -> Provenance:
        """Feature, model, seed, BOS and template that the run's numbers are of."""
        # Paths are written in full, so that the text means the same from another working folder.
        feature = str(self.scorer.bound.feature.absolute())
        scorer, seed = self.scorer, self.spec.config.seed
        return Provenance(feature, scorer.model.name, seed, None, scorer.prepend_bos, scorer.prefix, scorer.suffix)

    @property
    def fluency_name(self) -> str | None:
        """Name of the fluency model, if it is another model than the feature's."""
        return None if self.scorer.fluency is self.scorer.model else self.scorer.fluency.name

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

    def _check_same(self, record: RunRecord, saved: dict[str, Any]) -> None:
        name, here, mine = record.provenance.model, self.scorer.model.name, self.identity
        pairs = [("", here, name, saved, mine)]
        if saved.get("fluency") and mine["fluency"]:
            former = str(record.fluency_name)
            pairs.append(("fluency ", self.scorer.fluency.name, former, saved["fluency"], mine["fluency"]))
        for kind, present, former, theirs, ours in pairs:
            for what in ("tokenizer", "n_layers", "d_vocab"):
                if what in theirs and theirs[what] != ours[what]:
                    raise RunFolderError(
                        f"The run was made on {former!r} with {what} {theirs[what]}, and {present!r} has "
                        f"{ours[what]}: it is another {kind}model. Give the one it was made on: "
                        f"load_run(path, {'fluency_model=' if kind else ''}model)."
                    )
        history = record.history
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


def _feature(record: RunRecord) -> Feature:
    try:
        return parse(record.provenance.feature) if record.spec.feature is None else record.spec.feature
    except FeatureError as error:
        raise RunFolderError(
            f"The run's feature, {record.provenance.feature}, cannot be made from its text here, so the run cannot go "
            f"on; give the feature: load_run(path, feature=...). {error}"
        ) from error


def _loaded(given: Any, name: str | None, what: str, saved: dict[str, Any]) -> HookedModel | None:
    """Load a run's model: the one that was given to go on with, or the one of its name, as it was when saved."""
    if given is None and name is None:
        return None
    given = name if given is None else given
    if not isinstance(given, (str, Path)):
        return as_hooked(given)
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
