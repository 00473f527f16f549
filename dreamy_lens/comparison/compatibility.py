"""Checks that runs and examples are comparable: same feature, model, tokenizer and fluency model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.comparison.merged_runs import dreams_of
from dreamy_lens.errors import ExamplesError
from dreamy_lens.features.parser import feature_names, parse
from dreamy_lens.html.words import format_values
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.page import stop_notice

if TYPE_CHECKING:
    from dreamy_lens.corpus.corpus import Corpus
    from dreamy_lens.results.merged import Merged
    from dreamy_lens.scoring.scorer import Scorer

SAMPLE = 8
"""Number of strongest windows that are scored again, if the model of a run is in memory."""


def examples_of(source: Any, merged: Merged) -> FeatureExamples:
    """Return the examples of the runs' feature.

    Args:
        source: Examples of one feature or of several, or the folder that has them.
        merged: Runs of one feature.

    Raises:
        ExamplesError: The examples are for another feature, or were scored in another way. The message says which, and
            what to do.
    """
    examples = open_examples(source)
    origin, header = merged.runs[0].provenance, examples.header
    scanned_model = str(header.get("model", ""))
    if scanned_model != origin.model:
        raise ExamplesError(
            f"The dreams are of {origin.model!r} and the examples of {scanned_model!r}, so their values are not "
            f"comparable. Scan {origin.model!r}, or dream on {scanned_model!r}; if both are one model, load it under "
            "one name."
        )
    for run in dreams_of(merged):  # runs from a file of merged runs do not know their tokenizer
        digest = (run.identity or {}).get("tokenizer")
        if digest and header.get("tokenizer") and digest != header["tokenizer"]:
            raise ExamplesError(
                f"The dreams and the examples are both of {scanned_model!r}, but with different tokenizers ({digest} "
                f"and {header['tokenizer']}): the model has changed since the scan. Scan again with the dreams' model."
            )
        check_same_fluency(run.fluency_name, header)
    bos = bool(header.get("prepend_bos"))
    if bos != origin.prepend_bos:
        dreamt, scanned = ("with" if with_bos else "without" for with_bos in (origin.prepend_bos, bos))
        raise ExamplesError(
            f"The dreams were scored {dreamt} a BOS before them and the windows {scanned} one, so their values and "
            f"cross-entropies are not comparable. Scan with prepend_bos={origin.prepend_bos}, or dream with "
            f"prepend_bos={bos}."
        )
    if isinstance(examples, Examples):
        return examples.of(origin.feature)
    _check_same_feature(examples, origin.feature)
    return examples


def open_examples(source: Any) -> Examples | FeatureExamples:
    """Return examples, which are read from disk if `source` is a folder.

    Raises:
        ExamplesError: `source` is neither examples nor a folder of examples.
    """
    if isinstance(source, (Examples, FeatureExamples)):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Examples.load(source)
    raise ExamplesError(
        f"Examples are the result of max_activating(), or a folder that holds it; got {_short(repr(source))}."
    )


def check_same_fluency(dreams: str | None, header: Mapping[str, Any]) -> None:
    """Check that dreams and windows have their cross-entropy from the same model.

    Args:
        dreams: Name of the fluency model of the dreams; None is the model of the feature itself.
        header: Header of the examples.

    Raises:
        ExamplesError: The cross-entropies are from different models.
    """
    windows = header.get("fluency_model") or None
    if dreams == windows:
        return
    model = header.get("model", "")
    of_dreams, of_windows = (
        f"of {model!r} itself" if name is None else f"that of the fluency model {name!r}" for name in (dreams, windows)
    )
    if windows is None:
        advice = "Dream without fluency_model, or scan with the fluency_model of the dreams"
    elif dreams is None:
        advice = "Scan without fluency_model, or dream with the fluency_model of the scan"
    else:
        advice = "Dream and scan with the same fluency_model"
    raise ExamplesError(
        f"The dreams' cross-entropy is {of_dreams}, and the windows' is {of_windows}, so they are not comparable. "
        f"{advice}."
    )


def warnings_of(merged: Merged, examples: FeatureExamples, corpus: Corpus | None = None) -> tuple[str, ...]:
    """Return warnings about differences that make a comparison less exact, but not impossible.

    Args:
        merged: Runs of one feature.
        examples: Examples of this feature.
        corpus: Corpus in which the text of the dreams was searched; None if none was searched.
    """
    warnings, header = [], examples.header
    dreams = sorted({len(p) for p in merged.frontier})
    length = header.get("settings", {}).get("length") or (len(examples.top[0]) if examples.top else None)
    if length and dreams and dreams != [length]:
        span = f"{dreams[0]} to {dreams[-1]}" if len(dreams) > 2 else " or ".join(map(str, dreams))
        warnings.append(
            f"The dreams have {span} tokens and the windows {length}: cross-entropy is a mean "
            "over the tokens, and longer prompts have more context, so the two are only roughly comparable."
        )
    origin = merged.runs[0].provenance
    if origin.contexts:
        warnings.append(
            f"The dreams were scored in several contexts ({origin.contexts}) and the windows were not, so a difference "
            "may come from the contexts."
        )
    elif origin.prefix or origin.suffix:
        warnings.append(
            "The dreams stand in a template and the windows do not, so a difference may come from the template."
        )
    if not header.get("complete", True):
        warnings.append(stop_notice(header))
    other = header.get("fluency_model")
    if other and len(dreams_of(merged)) < len(merged.runs):
        warnings.append(
            f"The windows' cross-entropy is that of the fluency model {other!r}. Some dreams come from a file of "
            "merged runs, which does not say which model their cross-entropy is from."
        )
    failed = header.get("failed_shards") or []
    if failed:
        names = ", ".join(str(shard.get("name")) for shard in failed[:3]) + (", …" if len(failed) > 3 else "")
        warnings.append(
            f"{len(failed)} shard{'s' * (len(failed) != 1)} of the corpus could not be scanned completely ({names}); "
            "the windows behind the failure are missing."
        )
    scanned = header.get("corpus", {})
    if corpus is not None and scanned.get("fingerprint") not in (None, corpus.fingerprint):
        warnings.append(
            f"The corpus that was searched for the dreams' text, {corpus.name}, is not the scanned corpus, "
            f"{scanned.get('name')}."
        )
    if examples.non_finite:
        warnings.append(f"{examples.non_finite:,} of the windows had no finite value; they are ignored.")
    return tuple(warnings)


def check_same_model(scorer: Scorer, examples: FeatureExamples) -> None:
    """Score the strongest windows again with the dreams' model, because different models can have the same name.

    Args:
        scorer: Scorer with the dreams' model, without a template.
        examples: Examples to check.

    Raises:
        ExamplesError: The windows have other values or other cross-entropies on the dreams' model.
    """
    strongest = examples.top[:SAMPLE]
    scanned_values = np.array([w.value for w in strongest])
    if not len(strongest) or scorer.vocabulary.size <= max(max(w.ids) for w in strongest):
        return
    own_values = scorer.values(np.array([w.ids for w in strongest], dtype=np.int64))
    allowed = (0.05 if scorer.model.dtype.itemsize < 4 else 0.01) * np.abs(scanned_values).max() + 1e-3
    off = np.nan_to_num(np.abs(own_values - scanned_values), nan=np.inf)
    if np.median(off) > allowed:  # half precision may change single values a lot, but not half of them
        worst = int(off.argmax())
        own, scanned = format_values(float(own_values[worst]), float(scanned_values[worst]))
        raise ExamplesError(
            f"The examples belong to another model or another feature of the same name: a window whose value is "
            f"{scanned} in the examples has {own} on the dreams' model. Scan the corpus again with that model."
        )
    costs = np.array([np.nan if w.cross_entropy is None else w.cross_entropy for w in strongest])
    known = np.isfinite(costs)
    if scorer.fluency is scorer.model or not known.any():
        return
    off = np.abs(scorer.score(np.array([w.ids for w in strongest], dtype=np.int64)).cross_entropy - costs)[known]
    if np.median(np.nan_to_num(off, nan=np.inf)) > (0.3 if scorer.fluency.dtype.itemsize < 4 else 0.05):
        raise ExamplesError(
            f"The examples' cross-entropies are from another fluency model of the same name, {scorer.fluency.name!r}: "
            "the fluency model of the dreams gives other numbers. Scan the corpus again with that model."
        )


def _short(text: str) -> str:
    """Return a text cut to 80 characters, for a message."""
    return text if len(text) <= 80 else f"{text[:79]}…"


def _check_same_feature(examples: FeatureExamples, feature: str) -> None:
    """Raise an error unless examples are for a feature, in whichever form its text is."""
    if examples.label == feature:
        return
    try:
        same = str(parse(examples.label).absolute()) == str(parse(feature).absolute())
    except ValueError:  # the label of a custom function cannot be parsed
        same = False
    if not same:
        dreams = feature_names(feature)[0]
        raise ExamplesError(
            f"The dreams are of {dreams} and the examples of {examples.title}; give the examples of {dreams}, or the "
            "examples of all features, which include them."
        )
