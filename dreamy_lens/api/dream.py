"""Search for prompts: `dream()` starts a run, and `load_run()` opens a saved run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, overload

from dreamy_lens._host import silenced, working
from dreamy_lens.api.signatures import search_settings, show_settings
from dreamy_lens.errors import SettingsError, keywords_of, names_keywords
from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import as_hooked
from dreamy_lens.runs import saving
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.dreams import Dreams, folders_of
from dreamy_lens.runs.progress import advance
from dreamy_lens.runs.spec import RunSpec
from dreamy_lens.search.config import SearchConfig, configs_of_seeds
from dreamy_lens.search.constraint_kinds import Constraint
from dreamy_lens.search.optimizers import as_settings


@overload
def dream(
    feature: list[Any] | tuple[Any, ...],
    model: Any = None,
    *,
    seeds: Iterable[int] | int | None = None,
    **settings: Any,
) -> Dreams: ...
@overload
def dream(feature: Any, model: Any = None, *, seeds: Iterable[int] | int, **settings: Any) -> Dreams: ...
@overload
def dream(feature: Any, model: Any = None, *, seeds: None = None, **settings: Any) -> Dream: ...
@silenced
def dream(
    feature: Any,
    model: Any = None,
    *,
    start: Any = None,
    constraints: Sequence[Constraint] | Constraint = (),
    fluency_model: Any = None,
    search: SearchConfig | str | None = None,
    save_to: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    wait: bool | None = None,
    seeds: Iterable[int] | int | None = None,
    **settings: Any,
) -> Dream | Dreams:
    """Search for fluent prompts that drive a feature to high values.

    In a notebook, `dream` returns at once: the run continues in the background, a panel shows its progress, and code
    that reads its results waits for its end. Everywhere else, `dream` returns when the run is done.

    Args:
        feature: Expression, or its text such as ``"blocks.2.mlp.hook_post[-1, 17]"`` or ``"L2.N17"``. A list of
            features starts one run for each, side by side.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        start: Initial prompts: a text, token ids `[n]` or `[P, n]`, or a list of texts or of ids. A BOS that they begin
            with, and that stands before every prompt anyway, is taken once. Their number may differ from the
            population: they are repeated or subsampled. None lets the search draw them.
        constraints: One constraint or several, such as `dl.constraints.round_trip()`.
        fluency_model: Model whose cross-entropy measures fluency, with the same tokenizer; None is `model`.
        search: Settings of a search: `dl.EPO(...)`, `dl.GCG(...)`, `dl.FrontierSearch(...)` or `dl.RandomSearch(...)`;
            or its name: "epo", "gcg", "frontier" or "random". None is the frontier search, or EPO (Section 2 of the
            paper) if `settings` has a setting that only EPO has, such as `population`. `dl.EPO()` has the settings of
            the paper's Table 1.
        save_to: Folder to save the run in, every half minute and at the end. Several runs get one folder each inside
            it. Relative paths in the feature's text are saved as absolute paths, if they exist.
        progress: Whether to show a panel or a progress bar; None shows a panel in notebooks and a bar in terminals.
        wait: Whether to return only when the run is done; None waits everywhere but in notebooks.
        seeds: Seeds to run each feature with, side by side, instead of the setting `seed`; or their number, such as 2
            for the seeds 0 and 1.
        **settings: Settings that replace those of `search`, such as `seed=1`, `iterations=100` or `seconds=60`.

    Returns:
        A :class:`Dream`. A list of features or `seeds` gives :class:`Dreams`, a sequence of them: feature by feature,
        and seed by seed within each feature. Every run has the same history as it would have alone; prompts of all
        runs are scored in the same forward passes.

        An interrupt ends a run early and keeps everything that it has found: Ctrl-C in a terminal; in a notebook the
        panel's Stop, or the stop button while a cell waits. An error keeps it too: the attribute `run` of the
        exception is the :class:`Dream` or :class:`Dreams`.

    Raises:
        FeatureError: The feature does not fit the model. No search has begun.
        PromptError: An initial prompt is empty, too long, or not made of the model's tokens.
        ConstraintError: The constraints exclude every prompt, or an initial prompt violates one.
        SettingsError: A setting is unknown or outside its range.
        RunFolderError: `save_to` exists already, or cannot be created.

    >>> import dreamy_lens as dl
    >>> run = dl.dream("L2.N17", iterations=2, population=2, children=4, length=6)
    >>> run
    Dream(L2.N17 on embedded, 2 of 2 iterations, ...)
    >>> bool(run.frontier.best().value == run.history.value.max())
    True
    >>> runs = dl.dream(["L2.N17", 'logit(" the")'], seeds=[0, 1], iterations=1, population=2, children=4, length=6)
    >>> [(run.feature_label, run.config.seed) for run in runs][1:3]
    [('L2.N17', 1), ('logit(" the")', 0)]
    """
    config = as_settings(search, settings, _KEYWORDS)
    is_list = isinstance(feature, (list, tuple))
    configs = configs_of_seeds(config, seeds, settings)
    several = is_list or seeds is not None
    if is_list and not feature:
        raise SettingsError("The list of features is empty; give at least one feature.")
    features = [parse(one) for one in (feature if is_list else [feature])]
    if save_to is not None:
        for folder in folders_of(save_to, len(features) * len(configs)) if several else [save_to]:
            saving.check_free(folder)
    hooked = as_hooked(model)
    from dreamy_lens.runs.start import new_run, side_by_side  # needs torch, which takes seconds to import

    options: dict[str, Any] = {
        "start": start,
        "constraints": constraints,
        "fluency_model": None if fluency_model is None else as_hooked(fluency_model),
        "named": set(settings),
    }
    if several:
        with working("Preparing the runs", progress):
            run = side_by_side(features, hooked, configs, **options)
        advance(run, run[0].config.iterations, progress, save_to, wait)
        return run
    with working("Preparing the run", progress):
        run = new_run(RunSpec.of(features[0], hooked, config, **options))
    advance(run, run.config.iterations, progress, save_to, wait)
    return run


_KEYWORDS = keywords_of(dream)
"""Arguments of `dream` that are not settings of a search."""

show_settings(dream, search_settings())


@names_keywords
def load_run(
    path: str | os.PathLike[str],
    model: Any = None,
    *,
    fluency_model: Any = None,
    feature: Any = None,
) -> Dream:
    """Open a saved run. Models are loaded only when they are needed.

    Args:
        path: Folder of the run.
        model: Model to continue the run with. None loads the model of the saved name when it is needed. A model given
            by name is loaded in the precision of the saved run, and on the same kind of device if there is one.
        fluency_model: Fluency model to continue the run with, if the run has one; None loads the one of the saved
            name.
        feature: Feature of the run, needed where its text alone cannot rebuild it: because it holds an object (a
            sparse autoencoder, a model, a function of your own), or because a file that it names was moved.

    Returns:
        The run, as it was when it was saved: read its results, or continue it with `.resume()`.

    Raises:
        RunFolderError: The folder is missing or damaged, is not a run or has a newer format, or `feature` is another
            feature than the run's.

    >>> import tempfile, dreamy_lens as dl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = dl.dream("L2.N17", iterations=1, population=2, children=4, length=6, save_to=f"{folder}/run")
    ...     again = dl.load_run(f"{folder}/run").resume(1)
    >>> again.iteration
    2
    """
    return Dream.load(path, model, fluency_model, None if feature is None else parse(feature))
