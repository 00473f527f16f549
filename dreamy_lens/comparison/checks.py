"""Whether runs and examples are of the same thing, so that their numbers compare; sentences where they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.comparison.people import values
from dreamy_lens.dataset.examples import Examples
from dreamy_lens.dataset.feature_examples import FeatureExamples
from dreamy_lens.errors import ExamplesError

if TYPE_CHECKING:
    from dreamy_lens.dataset.corpora import Corpus
    from dreamy_lens.results.merge import Merged
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
    examples = given if isinstance(given, (Examples, FeatureExamples)) else Examples.load(given)
    origin, header = merged.runs[0].provenance, examples.header
    theirs = str(header.get("model", ""))
    if theirs != origin.model:
        raise ExamplesError(
            f"The dreams are of {origin.model!r} and the examples of {theirs!r}, so their values do not compare. Scan "
            f"{origin.model!r}, or dream on {theirs!r}; load both under one name if they are one model."
        )
    for run in merged.runs:
        digest = (getattr(run, "_identity", None) or {}).get("tokenizer")
        if digest and header.get("tokenizer") and digest != header["tokenizer"]:
            raise ExamplesError(
                f"The dreams and the examples are both of {theirs!r}, but with different tokenizers ({digest} and "
                f"{header['tokenizer']}): the model has changed since. Scan again with the one the dreams are of."
            )
        other = getattr(run, "_fluency_name", None)
        if other:
            raise ExamplesError(
                f"The dreams' cross-entropy is that of the fluency model {other!r}, and the windows' is that of "
                f"{theirs!r} itself, so they do not compare. Dream without fluency_model."
            )
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


def _same_feature(examples: FeatureExamples, feature: str) -> None:
    from dreamy_lens.features.grammar import parse
    from dreamy_lens.results.places import absolute

    if examples.label == feature:
        return
    try:
        same = str(absolute(parse(examples.label))) == str(absolute(parse(feature)))
    except ValueError:  # a custom function has no text to be parsed
        same = False
    if not same:
        raise ExamplesError(
            f"The dreams are of {feature} and the examples of {examples.label}; give the examples of {feature}, or "
            "those of all features: they are looked up."
        )
