"""Search for prompts: `dream()` starts a run, and `load_run()` opens one that was saved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, overload

from dreamy_lens.errors import SettingsError
from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import as_hooked
from dreamy_lens.runs import saving
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.dreams import Dreams
from dreamy_lens.runs.progress import advance
from dreamy_lens.runs.spec import RunSpec
from dreamy_lens.runs.start import new_run, side_by_side
from dreamy_lens.search.config import EPOConfig, configs_of_seeds
from dreamy_lens.search.constraints import Constraint


@overload
def dream(
    feature: list[Any] | tuple[Any, ...], model: Any = None, *, seeds: Iterable[int] | None = None, **settings: Any
) -> Dreams: ...
@overload
def dream(feature: Any, model: Any = None, *, seeds: Iterable[int], **settings: Any) -> Dreams: ...
@overload
def dream(feature: Any, model: Any = None, *, seeds: None = None, **settings: Any) -> Dream: ...
def dream(
    feature: Any,
    model: Any = None,
    *,
    start: Any = None,
    constraints: Sequence[Constraint] | Constraint = (),
    fluency_model: Any = None,
    config: EPOConfig | None = None,
    save_to: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    wait: bool | None = None,
    seeds: Iterable[int] | None = None,
    **settings: Any,
) -> Dream | Dreams:
    """Find prompts that drive a feature while they still read as language, by EPO (Section 2 of the paper).

    In a notebook this returns at once: the run goes on in the background, its panel shows it, and whatever reads its
    results waits for the end. Elsewhere it returns when the run is done.

    Args:
        feature: an expression, or its text such as ``"blocks.2.mlp.hook_post[-1, 17]"`` or ``"L2.N17"``. A list of
            several starts a run for each, side by side.
        model: a TransformerBridge, a Hugging Face id or folder; None is the embedded model.
        start: initial prompts: a text, ids `[n]` or `[P, n]`, or a list of either; any number, which is repeated or
            subsampled to the population. None draws random tokens.
        constraints: from :mod:`dreamy_lens.constraints`.
        fluency_model: whose cross-entropy counts as fluency; None is the model itself. It must share the tokenizer.
        config: settings; the default is the paper's Table 1.
        save_to: a folder to save the run in, every half minute and at the end; several runs have folders of their own
            in it. Relative paths in the feature are saved as absolute ones, if they exist.
        progress: whether to show a panel or a bar; None shows a panel in notebooks, a bar in terminals.
        wait: whether to return at the end only; None waits except in notebooks.
        seeds: run each feature once with each of these seeds, side by side, in the place of `seed`.
        **settings: fields of :class:`EPOConfig`, such as `seed=1` or `iterations=100`.

    Returns:
        A Dream; or Dreams, a sequence of them, if there is a list of features or `seeds`: feature by feature, and seed
        by seed within each. Each is the run that it would be alone; prompts of all runs are scored in the same passes.
        Interrupt (Ctrl-C; in a notebook the panel's Stop, or the stop button while a cell waits) ends a run early and
        keeps everything found so far; so does an error, whose `run` attribute is the Dream or Dreams.

    Raises:
        FeatureError: the feature does not fit the model; nothing has been searched yet.
        PromptError: a start is empty, too long, or not made of the model's tokens.
        ConstraintError: constraints leave nothing to search, or a start breaks one.
        SettingsError: a setting is outside its range.
        RunFolderError: `save_to` is there already, or cannot be created.

    >>> import dreamy_lens as dl
    >>> run = dl.dream("L2.N17", iterations=2, population=2, children=4, length=6)
    >>> run
    Dream(blocks.2.mlp.hook_post[-1, 17] on embedded, 2 of 2 iterations, ...)
    >>> bool(run.frontier.best().value == run.history.value.max())
    True
    >>> runs = dl.dream(["L2.N17", 'logit(" the")'], seeds=[0, 1], iterations=1, population=2, children=4, length=6)
    >>> [(run.feature_label, run.config.seed) for run in runs][1:3]
    [('blocks.2.mlp.hook_post[-1, 17]', 1), ('logit(" the")', 0)]
    """
    config = EPOConfig.from_settings(config, settings)
    listed = isinstance(feature, (list, tuple))
    configs = configs_of_seeds(config, seeds, settings)
    several = listed or seeds is not None
    if listed and not feature:
        raise SettingsError("There is no feature: the list is empty.")
    if save_to is not None and not several:
        saving.check_free(save_to)
    features = [parse(one) for one in (feature if listed else [feature])]
    hooked = as_hooked(model)
    options: dict[str, Any] = {
        "start": start,
        "constraints": constraints,
        "fluency_model": None if fluency_model is None else as_hooked(fluency_model),
        "named": set(settings),
    }
    if several:
        run = side_by_side(features, hooked, configs, **options)
        for folder in [] if save_to is None else run.run_folders(save_to):
            saving.check_free(folder)
        advance(run, run[0].config.iterations, progress, save_to, wait)
        return run
    run = new_run(RunSpec.of(features[0], hooked, config, **options))
    advance(run, run.config.iterations, progress, save_to, wait)
    return run


def load_run(
    path: str | os.PathLike[str], model: Any = None, *, fluency_model: Any = None, feature: Any = None
) -> Dream:
    """Open a saved run. No model is loaded until something needs one.

    Args:
        path: the folder.
        model: to go on with; None is the one whose name the run was saved with, loaded when it is needed. A name is
            loaded in the precision that the run was made in, and on the same kind of device if there is one.
        fluency_model: fluency model to go on with, if the run had one; None is the one of its name.
        feature: the run's feature, where its text alone does not make it again: because it holds an object (a sparse
            autoencoder, a model, a function of your own), or because a file of it was moved.

    Raises:
        RunFolderError: the folder is missing, damaged, not a run, or of a newer format; or the feature is another one.

    >>> import tempfile, dreamy_lens as dl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = dl.dream("L2.N17", iterations=1, population=2, children=4, length=6, save_to=f"{folder}/run")
    ...     again = dl.load_run(f"{folder}/run").resume(1)
    >>> again.iteration
    2
    """
    return Dream.load(path, model, fluency_model, None if feature is None else parse(feature))
