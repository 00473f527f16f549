"""Cross-entropy of windows of a corpus by their length: what counts as fluent: `corpus_fluency`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dreamy_lens._host import silenced
from dreamy_lens.analysis.baselines import windows_of_corpus
from dreamy_lens.api.score import score
from dreamy_lens.corpus.sources import open_corpus
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.results.study import MEASURED, ChartSeries, StudyChart, StudyClaim, StudyResult
from dreamy_lens.scoring.prompts import uniform_prompts
from dreamy_lens.studies.claims import mean_text, verdict
from dreamy_lens.studies.execution import StudyExecution
from dreamy_lens.studies.settings import StudySettings, own_keywords, show_study_settings

WITHIN = 2.5
"""Number of deviations above the mean up to which a cross-entropy is said to be among those of text."""


@dataclass(frozen=True)
class FluencyStudy(StudySettings):
    """Settings of :func:`dreamy_lens.studies.corpus_fluency`. It makes no runs, so those of searches are refused.

    Attributes:
        corpus: Corpus, as :func:`dreamy_lens.corpus.open` takes it; None is the documentation of installed packages.
        lengths: Numbers of tokens of the windows.
        windows: Number of windows of each length, drawn at random from the beginning of the corpus.
        random: Number of random prompts of `length` tokens, for comparison.
        seed: Seed of the random choices.
    """

    corpus: Any = None
    lengths: Any = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    windows: int = 1024
    random: int = 256
    seed: int = 0

    quick: ClassVar[Mapping[str, Any]] = {"windows": 512}
    least: ClassVar[Mapping[str, int]] = {"windows": 2, "random": 2, "seed": 0}
    unused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("search", "iterations", "seconds", "constraints"), "it makes no runs, and scores windows of a corpus"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = list(self.lengths) if isinstance(self.lengths, (list, tuple, range)) else [self.lengths]
        if not given or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 for n in given):
            raise SettingsError(f"lengths is {quoted(self.lengths)}; it is numbers of tokens, such as [4, 12, 64].")
        object.__setattr__(self, "lengths", tuple(sorted({*map(int, given), int(self.length)})))


@silenced
def study_corpus_fluency(
    model: Any = None,
    *,
    out: Any = None,
    quick: bool = False,
    ray: Any = None,
    progress: bool | None = None,
    **settings: Any,
) -> StudyResult:
    """Measure the cross-entropy of windows of a corpus by their length, mean and deviation (Figure 5a).

    A cross-entropy of a prompt is fluent if text that people wrote has it too. Windows are scored by themselves, as
    prompts are.

    Args:
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        out: Folder of the study; None writes none.
        quick: Whether to make the quick version, with half as many windows.
        ray: Must be None: the study makes no runs, and takes about two minutes.
        progress: Whether to say what is done; None says it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.studies.fluency_study.FluencyStudy`.

    Returns:
        A :class:`~dreamy_lens.results.StudyResult`: `.table` has a row for each length.

    Raises:
        CorpusError: The corpus cannot be read, or is too small.
        RunFolderError: `out` holds something else or a study with other settings.
        SettingsError: A setting does not exist, or has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> texts = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found there."]
    >>> study = dl.studies.corpus_fluency(corpus=texts, lengths=[2, 4], length=4, windows=8, random=4, progress=False)
    >>> study.table["length"].tolist()
    [2, 4]
    """
    if ray is not None and ray is not False:
        raise SettingsError("corpus_fluency makes no runs that a Ray cluster could share; leave ray out.")
    chosen = FluencyStudy.chosen(quick, settings, own_keywords(study_corpus_fluency))
    title = "Cross-entropy of windows of a corpus"
    with StudyExecution("corpus_fluency", title, chosen, model, out, ray, progress) as work:
        return _result(work, chosen)


show_study_settings(study_corpus_fluency, FluencyStudy)


def window_cross_entropies(model: HookedModel, rows: np.ndarray) -> np.ndarray:
    """Return the finite cross-entropies of windows or prompts `[B, n]`, in nats per token."""
    found = score("mean_cross_entropy()", rows, model).cross_entropy.astype(np.float64)
    return found[np.isfinite(found)]


def _result(work: StudyExecution, chosen: FluencyStudy) -> StudyResult:
    import pandas as pd

    hooked = work.hooked
    room = None if hooked.n_ctx is None else hooked.n_ctx - len(hooked.bos(hooked.prepends_bos))
    corpus = open_corpus(chosen.corpus)
    work.check_origin("corpus", corpus.name, lambda: corpus.fingerprint)
    rows, name = [], corpus.name
    known: dict[int, np.ndarray] = {}
    for length in chosen.lengths:
        if room is not None and length > room:
            work.notes.append(f"Windows of {length} tokens do not fit into the model's context and are left out.")
            continue
        work.say(f"Scoring windows of {length} tokens ...")
        ids, _ = windows_of_corpus(chosen.corpus, hooked.vocabulary, chosen.windows, length, chosen.seed)
        found = known[length] = window_cross_entropies(hooked, ids)
        low, middle, high = np.quantile(found, [0.05, 0.5, 0.95]).tolist()
        rows.append(
            {
                "length": length,
                "windows": len(found),
                "mean": float(found.mean()),
                "deviation": float(found.std(ddof=1)),
            }
            | {"q5": low, "median": middle, "q95": high, "corpus": name}
        )
    random = uniform_prompts(hooked.vocabulary.allowed, chosen.random, chosen.length, chosen.seed)
    noise = window_cross_entropies(hooked, random)
    frame = pd.DataFrame(rows)
    return work.result({"lengths": frame}, _claims(chosen, known.get(chosen.length), noise), [_chart(frame, chosen)])


def _claims(chosen: FluencyStudy, own: np.ndarray | None, noise: np.ndarray) -> list[StudyClaim]:
    if own is None:
        return []
    z = (chosen.limit - float(own.mean())) / float(own.std(ddof=1))
    share = float(np.mean(own <= chosen.limit))
    return [
        StudyClaim(
            "fluency of text",
            f"What cross-entropy do windows of {chosen.length} tokens have?",
            "Pythia-12B on slices of 12 tokens of the Pile: 3.7 ± 1.1" if chosen.length == 12 else "",
            mean_text(own),
            MEASURED,
        ),
        StudyClaim(
            "the limit is among text",
            f"A cross-entropy of {chosen.limit:g} is still among those of text.",
            "two deviations above the mean are 5.9",
            f"{chosen.limit:g} is {z:.1f} deviations above the mean; {100 * share:.0f} % of windows are below it",
            verdict(abs(z) <= WITHIN),
            f"it is at most {WITHIN:g} deviations from the mean",
        ),
        StudyClaim(
            "random prompts",
            "Are random prompts above all of text?",
            "",
            f"random prompts have {mean_text(noise)}; {100 * float(np.mean(noise > own.max())):.0f} % are above every "
            "window",
            MEASURED,
        ),
    ]


def _chart(frame: Any, chosen: FluencyStudy) -> StudyChart:
    x, mean, deviation = (tuple(map(float, frame[c])) for c in ("length", "mean", "deviation"))
    low = tuple(m - d for m, d in zip(mean, deviation, strict=True))
    high = tuple(m + d for m, d in zip(mean, deviation, strict=True))
    ends = (min(x, default=0.0), max(x, default=1.0))
    series = (
        ChartSeries("mean ± deviation of windows", x, mean, "line", low, high),
        ChartSeries(f"limit {chosen.limit:g}", ends, (chosen.limit, chosen.limit), "line", colour=1),
    )
    title = "Fluency of a corpus (5a)"
    return StudyChart(title, "tokens in a window", "cross-entropy, nats per token", series, logarithmic=True)
