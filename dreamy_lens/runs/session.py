"""Session of a run: the model, the scorer and the constraints that the search needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens.errors import ConstraintError, FeatureError, FeatureRangeError, ModelError, PromptError, RunFolderError
from dreamy_lens.features.expressions import Feature, Latent
from dreamy_lens.features.parser import feature_names, parse
from dreamy_lens.features.sae.names import commit_of
from dreamy_lens.models.embedded import EMBEDDED_NAME
from dreamy_lens.models.hooked_model import HookedModel, keep_hooks
from dreamy_lens.models.load import as_hooked
from dreamy_lens.models.weights import have_changed
from dreamy_lens.results.history import History, HistoryBuilder
from dreamy_lens.results.prompt import Provenance
from dreamy_lens.runs.spec import RunRecord, RunSpec
from dreamy_lens.scoring.contexts import ContextScorer
from dreamy_lens.scoring.gradient_check import require_gradient
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.budgets import Budget, metered, within_budget
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.frames import scorer_in_frames, summary_of_contexts
from dreamy_lens.search.lengths import by_length, in_order, without_empty
from dreamy_lens.search.optimizers import find_optimizer
from dreamy_lens.search.protocol import Search, drive
from dreamy_lens.search.score_cache import ScoreCache
from dreamy_lens.search.steps import State, Step

_OTHER = "other "
"""Role of a model that only a part of the feature reads."""

SAMPLE = 12
"""Number of a saved run's prompts that are scored again before the run continues."""


@dataclass
class Session:
    """Model, scorer and constraints of a run. :meth:`open` makes it for a new run, :meth:`reopen` for a saved run.

    Attributes:
        spec: Spec of the run, with its models in memory.
        scorer: Scorer of the feature, inside the run's template.
        constraint_set: Constraints of the run, applied to token ids.
        change: Sentence on how precision or device differ from those of the saved run; None if they do not.
        mixed: Whether the history has scores of more than one precision or device.
    """

    spec: RunSpec
    scorer: Scorer
    constraint_set: ConstraintSet
    change: str | None = None
    mixed: bool = False
    _identities: dict[HookedModel, dict[str, Any]] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, spec: RunSpec) -> Session:
        """Check a spec, and make the session of a new run.

        Args:
            spec: Spec of the run; its feature is an expression, and its models are HookedModels.

        Raises:
            FeatureError: The feature does not fit the model.
            PromptError: A start, or the length, is longer than the model's context.
            ConstraintError: The constraints leave no prompt to search, or a start breaks one of them.
        """
        feature, model, config = spec.feature, spec.model, spec.config
        assert feature is not None, "only the feature of a saved run may be None; see reopen()"
        # The scorer needs the template's ids; the constraints need the tokens that the scorer's models allow.
        scorer = scorer_in_frames(
            spec.constraints,
            feature,
            model,
            fluency_model=spec.fluency_model,
            prepend_bos=config.prepend_bos,
            batch_size=config.batch_size,
            share_prefixes=config.share_prefixes,
        )
        shortest = config.least_length
        scorer.check_length(config.length)
        if shortest < config.length:
            try:
                scorer.check_length(shortest)
            except (FeatureRangeError, PromptError) as error:
                raise type(error)(f"In the shortest prompts, of {shortest} tokens: {error}") from error
        constraint_set = ConstraintSet(spec.constraints, model.vocabulary, config.length, scorer.allowed, shortest)
        parts = scorer.parts if isinstance(scorer, ContextScorer) else (scorer,)
        first = config.length - constraint_set.shortest  # of the shortest prompts
        if any(part.frame.bos == [constraint_set.fixed.get(first)] for part in parts):
            where = "at the beginning of the shortest prompts" if first else "at position 0"
            raise ConstraintError(
                f"fix() puts the BOS {where}, and a BOS stands before every prompt anyway. Leave it out, or set "
                "prepend_bos=False."
            )
        if spec.start is not None:
            constraint_set.require(spec.start)
        if getattr(config, "diversity", 0):
            _give_fingerprints(scorer, config.length)
        return cls(spec, scorer, constraint_set)

    @classmethod
    def reopen(cls, record: RunRecord) -> Session:
        """Load the models of a saved run, and check that they give the same numbers.

        Args:
            record: Record of the run; its texts are not read.

        Raises:
            RunFolderError: A model cannot be loaded or gives other numbers, or the feature cannot be parsed.
        """
        saved, spec, origin = record.identity or {}, record.spec, record.provenance
        live = dataclasses.replace(
            spec,
            feature=_feature(record),
            model=_loaded(spec.model, origin.model, "model", saved),
            fluency_model=_loaded(spec.fluency_model, record.fluency_name, "fluency_model", saved.get("fluency") or {}),
        )
        # The start was checked when the run was new. BOS is as in the run, whatever the default is now.
        config = dataclasses.replace(spec.config, prepend_bos=origin.prepend_bos)
        try:
            session = cls.open(dataclasses.replace(live, config=config, start=None))
        except FeatureError as error:
            name = None if live.model is None else live.model.name
            if name in (None, origin.model):
                raise
            raise RunFolderError(
                f"The run was made on {origin.model!r}, and its feature does not fit {name!r}, which is another model: "
                f"{str(error).rstrip('.')}. Give the model of the run: load_run(path, model)."
            ) from error
        session.spec, session.mixed = live, bool(saved.get("mixed"))
        session.change = session._change(saved)
        session._check_same(record, saved)
        return session

    def record(self) -> RunRecord:
        """Return the record of a new run, with an empty history."""
        history = HistoryBuilder(self.spec.config.lambdas).build()
        return RunRecord(self.spec, self.provenance, history, identity=self.identity, fluency_name=self.fluency_name)

    def steps(
        self, until: int, state: State | None, history: History, between: Callable[[], object] | None = None
    ) -> Iterator[Step]:
        """Return the next steps of the search.

        Scores come from the history where it has them. Scores that an interrupt kept out of the history are computed
        again.

        Args:
            until: Last iteration.
            state: State from which the search continues; None before the first step.
            history: Every prompt evaluated so far.
            between: Function to call before every pass through the model.

        Raises:
            NoGradientError: The run has not begun, and its feature moves where its gradient is exactly zero.
        """
        self.scorer.invalidate_cache()
        if state is None:
            self.check_gradient()
        return self._standing(drive(self.search(until, state, history), self.scorer, between))

    def _standing(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Yield steps, and leave the model's hooks in place between them; free recorded passes at the end."""
        with keep_hooks(self.scorer.models):
            try:
                yield from steps
            finally:
                self.scorer.release_graphs()

    def check_gradient(self) -> None:
        """Compare the gradient of the feature with finite differences, if the optimiser is guided by gradients.

        A run does this once, before its first step.

        Raises:
            NoGradientError: The value moves with the embeddings, and the gradient is exactly zero.
        """
        config = self.spec.config
        if getattr(find_optimizer(config), "uses_gradient", False):
            start = self.spec.start
            length = config.length if start is None else len(without_empty(start[0]))
            if start is not None:
                start = next(ids for _, ids in by_length(start) if ids.shape[1] == length)
            require_gradient(self.scorer, length, start)

    def search(self, until: int, state: State | None, history: History) -> Search:
        """Return the next steps of the search as a coroutine; the caller answers its requests for scores and gradients.

        Args:
            until: Last iteration.
            state: State from which the search continues; None before the first step.
            history: Every prompt evaluated so far.
        """
        config = dataclasses.replace(self.spec.config, iterations=until)
        cache = self._score_cache(state, history)
        search = find_optimizer(config).search(self.scorer, config, self.constraint_set, self.spec.start, cache, state)
        used = float(history.token_layers[-1]) if len(history.token_layers) else 0.0
        search = metered(search, self.scorer.work, used, 0.0 if state is None else state.seconds)
        budget = Budget(config)
        is_used_up = budget.add_steps(history.value, history.cross_entropy, history.iteration, history.seconds)
        # A run that is continued beyond its budgets ends at the iteration that the user named.
        return search if is_used_up else within_budget(search, budget)

    def _score_cache(self, state: State | None, history: History) -> ScoreCache:
        cache = ScoreCache()
        cache.add(history.ids, history.value, history.cross_entropy)
        if state is not None and len(state.non_finite):
            scores = np.full(len(state.non_finite), np.nan)
            cache.add(state.non_finite, scores, scores)
        return cache

    @property
    def provenance(self) -> Provenance:
        """Feature, model, seed, BOS and template of the run's prompts."""
        # Paths are absolute, so that the text of the feature is valid in another working folder.
        feature = str(self.scorer.bound.feature.absolute())
        scorer, seed = self.scorer, self.spec.config.seed
        around = scorer.prepend_bos, scorer.prefix, scorer.suffix
        return Provenance(feature, scorer.model.name, seed, None, *around, summary_of_contexts(scorer.origin))

    @property
    def fluency_name(self) -> str | None:
        """Name of the fluency model; None if the feature's own model measures fluency."""
        return None if self.scorer.fluency is self.scorer.model else self.scorer.fluency.name

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values that identify the models and what their numbers depend on."""
        fluency = None if self.fluency_name is None else self._identity(self.scorer.fluency)
        identity = {**self._identity(self.scorer.model), "fluency": fluency, "mixed": self.mixed}
        others = [{"name": other.name, **self._identity(other)} for other in self._others]
        commits = self._commits
        return identity | ({"others": others} if others else {}) | ({"dictionaries": commits} if commits else {})

    @property
    def _commits(self) -> dict[str, str]:
        """Commits of the Hub's repositories from which the feature's dictionaries were read, by their source."""
        sources = [node.sae for node in self.scorer.bound.feature.walk() if isinstance(node, Latent)]
        found = {source: commit_of(source) for source in sources if isinstance(source, str)}
        return {source: commit for source, commit in found.items() if commit is not None}

    @property
    def _others(self) -> list[HookedModel]:
        """Models that the feature reads besides the run's own two, in the order of the feature."""
        own = (self.scorer.model.base, self.scorer.fluency.base)
        return [model for model in dict.fromkeys(m.base for m in self.scorer.models) if model not in own]

    def _identity(self, model: HookedModel) -> dict[str, Any]:
        """Return JSON values that identify a model, computed once."""
        if model not in self._identities:
            names = {"tokenizer": model.vocabulary.digest, "n_layers": model.n_layers, "d_vocab": model.vocabulary.size}
            names |= {"dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type}
            self._identities[model] = {**names, "weights": model.weights_digest}
        return self._identities[model]

    def go_on_changed(self) -> None:
        """Accept the present precision and device: the history will have scores of more than one kind."""
        self.change, self.mixed = None, True

    def _change(self, saved: dict[str, Any]) -> str | None:
        """Return a sentence on how precision or device differ from the saved ones; None if they do not."""
        present, changes = self.identity, []
        for role, before, after in (
            ("model", saved, present),
            ("fluency model", saved.get("fluency") or {}, present["fluency"] or {}),
        ):
            names = ("dtype", "device")
            if any(name in before and name in after and before[name] != after[name] for name in names):
                old, new = (f"{identity.get('dtype')} on {identity.get('device')}" for identity in (before, after))
                changes.append(f"the {role} was in {old} when the run was made, and is in {new} now")
        if not changes:
            return None
        return (
            f"The run will not continue exactly as if it had never stopped: {'; '.join(changes)}. Scores differ in "
            "their last digits, so the search may choose other prompts."
        )

    def _tolerance(self, saved: dict[str, Any]) -> float:
        """Return the largest difference from the saved scores, relative to their scale, that one model can have.

        In one precision on one type of device, only the batches differ. In sixteen bits even that is visible: a logit
        near 20 has steps of 0.125 in bfloat16.
        """
        models = (self.scorer.model, self.scorer.fluency)
        has_others = any(model.base not in models for model in self.scorer.models)  # their precision is not saved
        wide = all(model.dtype.itemsize >= 4 for model in models)
        unchanged = "dtype" in saved and self.change is None and not self.mixed and not has_others
        return 1e-3 if unchanged and wide else 0.05

    def _check_same(self, record: RunRecord, saved: dict[str, Any]) -> None:
        """Check that the present models have the identity and the scores of those that the run was made with."""
        saved_name, name, identity = record.provenance.model, self.scorer.model.name, self.identity
        pairs = [("", name, saved_name, saved, identity)]
        if saved.get("fluency") and identity["fluency"]:
            former = str(record.fluency_name)
            pairs.append(("fluency ", self.scorer.fluency.name, former, saved["fluency"], identity["fluency"]))
        others = [before for before in saved.get("others") or () if isinstance(before, dict)]
        if len(others) == len(self._others):  # earlier versions saved none
            pairs += [
                (_OTHER, model.name, str(before.get("name")), before, after)
                for model, before, after in zip(self._others, others, identity.get("others", ()), strict=True)
            ]
        for role, present, former, before, after in pairs:
            what = "another model that its feature reads" if role == _OTHER else f"another {role}model"
            given = f"{'fluency_model=' if role else ''}model"
            remedy = (
                "Name that model as it was: load_run(path, feature=...)."
                if role == _OTHER
                else f"Give the {role}model of the run: load_run(path, {given})."
            )
            for key in ("tokenizer", "n_layers", "d_vocab"):
                if key in before and before[key] != after[key]:
                    raise RunFolderError(
                        f"The run was made on {former!r} with {key} {before[key]}, but {present!r} has {after[key]}: "
                        f"it is {what}. {remedy}"
                    )
            kept = all(before.get(key) == after[key] for key in ("dtype", "device"))
            if kept and have_changed(before.get("weights"), after["weights"]):
                raise RunFolderError(
                    f"The run belongs to {what}: it was made on {former!r} with other weights than "
                    f"{present!r} has now, as a fine-tuned model would have. {remedy}"
                )
        if record.provenance.prefix != self.scorer.prefix:
            raise RunFolderError(
                "The run cannot continue: the text of its template gives other tokens than when the run was made. An "
                "earlier version put a second BOS before a template that began with one. Its results can be read; for "
                "more, start a new run."
            )
        history = record.history
        rows = np.unique(np.linspace(0, len(history) - 1, SAMPLE).astype(int)) if len(history) else []
        if not len(rows):
            return
        parts = by_length(history.ids[rows].astype(np.int64))
        scores, order = [self.scorer.score(ids) for _, ids in parts], [which for which, _ in parts]
        tolerance = self._tolerance(saved)
        for present, former, quantity in (
            (in_order(order, [s.value for s in scores]), history.value[rows], "value"),
            (in_order(order, [s.cross_entropy for s in scores]), history.cross_entropy[rows], "cross-entropy"),
        ):
            allowed = tolerance * (float(np.abs(former).max()) + np.abs(former)) + 1e-4
            ratio = np.nan_to_num(np.abs(present - former) / allowed, nan=np.inf)
            # Where rounding differs, single scores may be far off, but not half of them.
            if (np.median(ratio) if tolerance > 1e-3 else ratio.max()) > 1:
                worst = int(np.argmax(ratio))
                self._check_commits(saved.get("dictionaries"))
                raise RunFolderError(
                    f"The run belongs to another model: the {quantity} of one of its prompts was {former[worst]:.6g} "
                    f"on {saved_name!r} when the run was saved, and is {present[worst]:.6g} on {name!r}. Give the "
                    "model of the run: load_run(path, model), and its fluency_model= and feature= if it had its own."
                )

    def _check_commits(self, saved: Any) -> None:
        """Raise RunFolderError if a dictionary is another one now than that of the saved scores."""
        for source, commit in self._commits.items():
            before = saved.get(source) if isinstance(saved, dict) else None
            if before not in (None, commit):
                raise RunFolderError(
                    f"The run belongs to another dictionary: {source} was at commit {before[:12]} when the run was "
                    f"made, and is at {commit[:12]} now. Name that commit: load_run(path, model, "
                    f'feature=dl.sae_latent("hf://owner/repository@{before}/folder", ...)).'
                )


def _give_fingerprints(scorer: Scorer, length: int) -> None:
    """Give a scorer the fingerprints of its prompts; raise FeatureError if its feature has none."""
    from dreamy_lens.analysis.contributions import fingerprints

    def fingerprinter(ids: np.ndarray) -> np.ndarray:
        return fingerprints(scorer, ids).unit_contributions().astype(np.float32)

    try:
        fingerprinter(np.full((1, length), int(np.flatnonzero(scorer.allowed)[0])))
    except FeatureError as error:
        raise FeatureError(f"diversity= needs upstream contributions, and there are none: {error}") from error
    scorer.fingerprinter = fingerprinter


def available(device: str | None) -> str | None:
    """Return a device type if this computer has such a device, else None.

    Args:
        device: Device type, such as "cuda"; None returns None.
    """
    if device is None or device == "cpu":  # which every computer has
        return device
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError):
        return None
    return device


def _feature(record: RunRecord) -> Feature:
    try:
        return parse(record.provenance.feature) if record.spec.feature is None else record.spec.feature
    except FeatureError as error:
        name = feature_names(record.provenance.feature)[0]
        raise RunFolderError(
            f"The run's feature, {name}, cannot be made from its text here, so the run cannot continue. Give "
            f"the feature: load_run(path, feature=...). {error}"
        ) from error


def _loaded(given: Any, name: str | None, keyword: str, saved: dict[str, Any]) -> HookedModel | None:
    """Load a model of a run: the given one, or the one that the run names, with the saved dtype and device."""
    if given is None and name is None:
        return None
    given = name if given is None else given
    if not isinstance(given, (str, Path)):
        return as_hooked(given)
    device, dtype = available(saved.get("device")), saved.get("dtype")
    try:
        shared = as_hooked(given) if str(given) == EMBEDDED_NAME else None
        if shared is not None and shared.device.type == (device or shared.device.type) and dtype in (None, "float32"):
            return shared
        return as_hooked(given, device=device, dtype=dtype)
    except ModelError as error:
        raise RunFolderError(
            f"The run's {keyword} cannot be loaded by its name, {str(given)!r}. If it was a model in memory, give that "
            f"model: load_run(path, {keyword}=...). {error}"
        ) from error
