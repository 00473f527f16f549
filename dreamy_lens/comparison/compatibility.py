"""Whether runs and examples are of the same thing, so that their numbers compare; sentences where they are not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.comparison.merged_runs import dreams_of
from dreamy_lens.errors import ExamplesError
from dreamy_lens.features.parser import parse
from dreamy_lens.html.words import values
from dreamy_lens.scan.examples import Examples
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.page import stopped

if TYPE_CHECKING:
    from dreamy_lens.corpus.corpus import Corpus
    from dreamy_lens.results.merged import Merged
    from dreamy_lens.scoring.scorer import Scorer

SAMPLE = 8
"""How many of the strongest windows are scored again, where the run's model is at hand."""


def examples_of(given: Any, merged: Merged) -> FeatureExamples:
    """The examples of the runs' feature.

    Args:
        given: examples of many features or of one, or the folder that has them.
        merged: the runs.

    Raises:
        ExamplesError: they are of another feature or were made in another way; it says which, and what to do.
    """
    examples = opened(given)
    origin, header = merged.runs[0].provenance, examples.header
    theirs = str(header.get("model", ""))
    if theirs != origin.model:
        raise ExamplesError(
            f"The dreams are of {origin.model!r} and the examples of {theirs!r}, so their values do not compare. Scan "
            f"{origin.model!r}, or dream on {theirs!r}; load both under one name if they are one model."
        )
    for run in dreams_of(merged):  # what was read back from a file of merged runs does not know
        digest = (run.identity or {}).get("tokenizer")
        if digest and header.get("tokenizer") and digest != header["tokenizer"]:
            raise ExamplesError(
                f"The dreams and the examples are both of {theirs!r}, but with different tokenizers ({digest} and "
                f"{header['tokenizer']}): the model has changed since. Scan again with the one the dreams are of."
            )
        check_same_fluency(run.fluency_name, header)
    bos = bool(header.get("prepend_bos"))
    if bos != origin.prepend_bos:
        mine, scanned = ("with" if with_bos else "without" for with_bos in (origin.prepend_bos, bos))
        raise ExamplesError(
            f"The dreams were scored {mine} a BOS before them and the windows {scanned} one, so their values and "
            f"cross-entropies do not compare. Scan with prepend_bos={origin.prepend_bos}, or dream with "
            f"prepend_bos={bos}."
        )
    if isinstance(examples, Examples):
        return examples.of(origin.feature)
    _same_feature(examples, origin.feature)
    return examples


def opened(given: Any) -> Examples | FeatureExamples:
    """Examples, of which the folder may be given.

    Raises:
        ExamplesError: that is no folder of examples.
    """
    if isinstance(given, (Examples, FeatureExamples)):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Examples.load(given)
    raise ExamplesError(
        f"Examples are what max_activating() returns, or the folder they are in; got {_short(repr(given))}."
    )


def check_same_fluency(dreams: str | None, header: Mapping[str, Any]) -> None:
    """Make sure that cross-entropies compare.

    Args:
        dreams: name of the fluency model of the dreams; None is the model itself.
        header: of the examples.

    Raises:
        ExamplesError: the windows' cross-entropy is of another model.
    """
    windows = header.get("fluency_model") or None
    if dreams == windows:
        return
    model = header.get("model", "")
    mine, theirs = (
        f"of {model!r} itself" if one is None else f"that of the fluency model {one!r}" for one in (dreams, windows)
    )
    if windows is None:
        do = "Dream without fluency_model, or scan with the same"
    elif dreams is None:
        do = "Scan without fluency_model, or dream with the same"
    else:
        do = "Dream and scan with the same fluency_model"
    raise ExamplesError(
        f"The dreams' cross-entropy is {mine}, and the windows' is {theirs}, so they do not compare. {do}."
    )


def warnings_of(merged: Merged, examples: FeatureExamples, corpus: Corpus | None = None) -> tuple[str, ...]:
    """What a reader must know who compares all the same.

    Args:
        merged: the runs.
        examples: of their feature.
        corpus: that was searched for the dreams' text, if one was.
    """
    found, header = [], examples.header
    dreams = sorted({len(p) for p in merged.frontier})
    length = header.get("settings", {}).get("length") or (len(examples.top[0]) if examples.top else None)
    if length and dreams and dreams != [length]:
        found.append(
            f"The dreams have {' or '.join(map(str, dreams))} tokens and the windows {length}: cross-entropy is a mean "
            "over the tokens, and longer prompts have more context, so the two compare only roughly."
        )
    origin = merged.runs[0].provenance
    if origin.prefix or origin.suffix:
        found.append(
            "The dreams stand in a template and the windows stand alone, so a difference may be the template's."
        )
    if not header.get("complete", True):
        found.append(stopped(header))
    other = header.get("fluency_model")
    if other and len(dreams_of(merged)) < len(merged.runs):
        found.append(
            f"The windows' cross-entropy is that of the fluency model {other!r}; of dreams that were read back from "
            "merged runs it is not known whose it is."
        )
    failed = header.get("failed_shards") or []
    if failed:
        names = ", ".join(str(one.get("name")) for one in failed[:3]) + (", …" if len(failed) > 3 else "")
        found.append(f"{len(failed)} of the corpus' shards could not be scanned ({names}); what is in them is missing.")
    scanned = header.get("corpus", {})
    if corpus is not None and scanned.get("fingerprint") not in (None, corpus.fingerprint):
        found.append(
            f"The corpus that was searched for the dreams' text, {corpus.name}, is not the one that was scanned, "
            f"{scanned.get('name')}."
        )
    if examples.non_finite:
        found.append(f"{examples.non_finite:,} windows had no finite value, and count nowhere.")
    return tuple(found)


def check_same_model(scorer: Scorer, examples: FeatureExamples) -> None:
    """Score the strongest windows again with the dreams' model: names can be the same of models that are not.

    Raises:
        ExamplesError: they come out otherwise.
    """
    few = examples.top[:SAMPLE]
    theirs = np.array([w.value for w in few])
    if not len(few) or scorer.vocabulary.size <= max(max(w.ids) for w in few):
        return
    ours = scorer.values(np.array([w.ids for w in few], dtype=np.int64))
    allowed = (0.05 if scorer.model.dtype.itemsize < 4 else 0.01) * np.abs(theirs).max() + 1e-3
    off = np.nan_to_num(np.abs(ours - theirs), nan=np.inf)
    if np.median(off) > allowed:  # half precision may throw single values far off, but not half of them
        worst = int(off.argmax())
        here, there = values(float(ours[worst]), float(theirs[worst]))
        raise ExamplesError(
            f"The examples belong to another model or another feature of the same name: a window whose value is "
            f"{there} in the examples has {here} on the dreams' model. Scan the corpus again with that model."
        )
    costs = np.array([np.nan if w.cross_entropy is None else w.cross_entropy for w in few])
    known = np.isfinite(costs)
    if scorer.fluency is scorer.model or not known.any():
        return
    off = np.abs(scorer.score(np.array([w.ids for w in few], dtype=np.int64)).cross_entropy - costs)[known]
    if np.median(np.nan_to_num(off, nan=np.inf)) > (0.3 if scorer.fluency.dtype.itemsize < 4 else 0.05):
        raise ExamplesError(
            f"The examples' cross-entropies are of another fluency model of the same name, {scorer.fluency.name!r}: "
            "they come out otherwise on that of the dreams. Scan the corpus again with that one."
        )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def _same_feature(examples: FeatureExamples, feature: str) -> None:
    if examples.label == feature:
        return
    try:
        same = str(parse(examples.label).absolute()) == str(parse(feature).absolute())
    except ValueError:  # a custom function has no text to be parsed
        same = False
    if not same:
        raise ExamplesError(
            f"The dreams are of {feature} and the examples of {examples.label}; give the examples of {feature}, or "
            "those of all features: they are looked up."
        )
