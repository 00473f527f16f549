"""Values of a feature on random prompts and corpus windows, to compare dreams with: `baselines()`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dreamy_lens._host import working
from dreamy_lens.analysis.baselines import values_of, windows_of_corpus
from dreamy_lens.errors import SettingsError, names_keywords, quoted
from dreamy_lens.features.parser import parse
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.baselines import Baseline, Baselines
from dreamy_lens.runs.call_code import call_code
from dreamy_lens.runs.dream import Dream
from dreamy_lens.scoring.prompts import uniform_prompts
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.frames import scorer_around


@names_keywords
def baselines(
    feature: Any,
    model: Any = None,
    corpus: Any = None,
    *,
    length: int | None = None,
    prompts: int = 1024,
    windows: int = 1024,
    seed: int = 0,
    fluency_model: Any = None,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    contexts: Any = None,
    batch_size: int | None = None,
) -> Baselines:
    """Measure a feature on random prompts and on windows of a corpus, so that a dream's value has a scale.

    Args:
        feature: Expression, or its text such as ``"L2.N17"``. Or a run: then feature, model, length, BOS and template
            are the run's, and the run keeps the baselines as `run.baselines`; its tables and its panel show them.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        corpus: Anything that :func:`dreamy_lens.corpus.open` takes; None measures no windows.
        length: Number of tokens of a prompt and of a window, that of the dreams; None is the run's, or 12.
        prompts: Number of random prompts: each token is drawn uniformly from those that may stand in a prompt.
        windows: Number of windows, drawn at random from the beginning of the corpus, without replacement.
        seed: Seed of the random choices.
        fluency_model: Held-out model with the same tokenizer, whose cross-entropy :meth:`Baselines.of
            <dreamy_lens.results.Baselines.of>` computes for each prompt; it should not be one that the search used.
        prepend_bos: Whether a BOS token stands before every prompt; None is the model's convention.
        prefix: Token ids of a template before every prompt.
        suffix: Token ids of a template after every prompt.
        contexts: Template, chat or several contexts, from :mod:`dreamy_lens.constraints`, in place of `prefix` and
            `suffix`: those of the run.
        batch_size: Most prompts in one forward pass; None chooses the number.

    Returns:
        :class:`~dreamy_lens.results.Baselines`: `.random` and `.corpus` with `.mean`, `.deviation`, `.quantile(q)` and
        `.z(value)`; `.of(run.frontier)` is a table with the z-scores, the held-out cross-entropy and the repetition of
        each prompt.

    Raises:
        CorpusError: The corpus cannot be read, or has no window of this length.
        FeatureError: The feature does not fit the model, or the held-out model has another tokenizer.
        PromptError: Prompts of this length do not fit into the model's context.
        SettingsError: A setting has a value that it cannot have, or a keyword does not exist.

    >>> import dreamy_lens as dl
    >>> known = dl.baselines("L2.N17", prompts=64, length=6)
    >>> len(known.random), known.corpus is None
    (64, True)
    >>> known.random.z(known.random.mean + 2 * known.random.deviation)
    2.0
    """
    code = call_code("baselines", baselines, locals())
    if isinstance(feature, Dream):
        given = {"model": model, "length": length, "prepend_bos": prepend_bos, "contexts": contexts}
        given |= {"prefix": prefix or None, "suffix": suffix or None, "batch_size": batch_size}
        return _of_run(feature, corpus, prompts, windows, seed, fluency_model, given, code)
    length = 12 if length is None else length
    _check_numbers(length=length, prompts=prompts, windows=windows, seed=seed)
    hooked = as_hooked(model)
    held_out = None if fluency_model is None else as_hooked(fluency_model)
    scorer = scorer_around(
        contexts, parse(feature), hooked, prefix, suffix, prepend_bos=prepend_bos, batch_size=batch_size
    )
    return replace(_measure(scorer, corpus, int(length), prompts, windows, int(seed), held_out), code=code)


def _check_numbers(length: int, prompts: int, windows: int, seed: int) -> None:
    for name, value, least in (
        ("length", length, 1),
        ("prompts", prompts, 2),
        ("windows", windows, 2),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SettingsError(f"{name} is {quoted(value)}; it is a whole number of at least {least}.")


def _of_run(
    run: Dream,
    corpus: Any,
    prompts: int,
    windows: int,
    seed: int,
    fluency_model: Any,
    given: dict[str, Any],
    code: str,
) -> Baselines:
    """Measure a run's feature as the run does, and let the run keep the result."""
    named = [name for name, value in given.items() if value is not None]
    if named:
        texts = " Texts are given as corpus=." if "model" in named else ""
        raise SettingsError(
            f"The run has its own {' and '.join(named)}; leave it out, or give the feature's text.{texts}"
        )
    length = run.config.length
    _check_numbers(length=length, prompts=prompts, windows=windows, seed=seed)
    held_out = None if fluency_model is None else as_hooked(fluency_model)
    found = run.use_model(lambda: _measure(run.session.scorer, corpus, length, prompts, windows, int(seed), held_out))
    found.held_out(run.so_far.frontier)
    return run.keep_baselines(replace(found, code=code))


def _measure(
    scorer: Scorer,
    corpus: Any,
    length: int,
    prompts: int,
    windows: int,
    seed: int,
    held_out: HookedModel | None,
) -> Baselines:
    hooked = scorer.model
    if held_out is not None:
        hooked.check_same_tokenizer(held_out)
    scorer.check_length(length)
    with working(f"Scoring {prompts:,} random prompts"):
        random = values_of(scorer, uniform_prompts(scorer.allowed, prompts, length, seed))
    measured = None
    if corpus is not None:
        with working("Scoring windows of the corpus"):
            rows, source = windows_of_corpus(corpus, scorer.vocabulary, windows, length, seed)
            measured = Baseline("corpus windows", values_of(scorer, rows), source)
    return Baselines(
        feature=str(scorer.bound.feature),
        model=hooked.name,
        random=Baseline("random prompts", random),
        corpus=measured,
        length=length,
        seed=seed,
        fluency="" if held_out is None else held_out.name,
        _fluency_model=held_out,
    )
