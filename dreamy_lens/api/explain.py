"""Explanation of a feature in words, with scores of it and of the dreams: `explain()`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dreamy_lens import _waiting
from dreamy_lens._host import working
from dreamy_lens.analysis.chat_endpoint import ChatEndpoint
from dreamy_lens.analysis.explanation_prompts import Examinee, ShownText, explanation_prompt, read_explanation
from dreamy_lens.analysis.explanation_scores import detection, fuzzing, simulation
from dreamy_lens.analysis.prediction import predict
from dreamy_lens.api.dream import load_run
from dreamy_lens.cluster.remote_scan import local_examples
from dreamy_lens.comparison.compatibility import examples_of, open_examples
from dreamy_lens.comparison.merged_runs import dreams_of, merge_runs, model_of, prompt_length
from dreamy_lens.comparison.overlap import token_difference
from dreamy_lens.errors import FeatureError, LLMError, PromptError, SettingsError, names_keywords, quoted, warn
from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import as_hooked
from dreamy_lens.models.transfer import to_host
from dreamy_lens.results.explanation import STORED, Explanation, Prediction
from dreamy_lens.results.merged import Merged
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.results.storage import write_json
from dreamy_lens.runs.call_code import call_code
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.window import Window
from dreamy_lens.scoring.per_position import at_every_position
from dreamy_lens.scoring.prompts import as_ids, uniform_prompts
from dreamy_lens.scoring.scorer import Scorer

SCORES = ("detection", "fuzzing", "simulation")
EVIDENCE = ("both", "dreams", "windows")
INACTIVE = 0.9
"""Quantile of the corpus below which a window counts as one that does not drive the feature."""
FLUENT = 9.0
"""Most cross-entropy, in nats per token, of the dreams that are shown, if there are such dreams."""
RANDOM = 128
"""Number of random prompts whose median value counts as 0."""
WRITTEN = 8
"""Number of texts that a language model is asked to write."""
LONGEST = 40
"""Most tokens of such a text at which the feature is read."""


@names_keywords
def explain(
    run: Any,
    examples: Any = None,
    llm: Callable[[str], str] | ChatEndpoint | str | None = None,
    model: Any = None,
    *,
    llm_model: str | None = None,
    evidence: str = "both",
    count: int = 10,
    scores: Sequence[str] | str = SCORES,
    timeout: float = 120.0,
    seed: int = 0,
    store: bool = True,
) -> Explanation:
    """Say in words what drives a feature, from its dreams and the strongest windows of a corpus, with scores.

    A language model is shown dreams and windows, and writes one sentence. It is then examined on windows that it was
    not shown (*detection*: which of them drive the feature? *fuzzing*: are the right tokens marked?), and its own texts
    are measured (*simulation*: how high do texts drive the feature that are written by the explanation alone?).

    One score needs no language model: *prediction* ranks held-out windows by their similarity to the dreams, and by
    their similarity to the strongest windows, so it says whether the dreams or the dataset tell more about the feature.

    Nothing is sent anywhere unless `llm` is given. The prompts hold the dreams and the windows' text.

    Args:
        run: A :class:`Dream`, several of one feature, merged runs, or the folder of a run.
        examples: Examples of the feature in a corpus, from :func:`dreamy_lens.max_activating`, or their folder. Without
            them there is neither detection, nor fuzzing, nor prediction.
        llm: Function that takes a prompt, a text, and returns the reply, a text; or the address of an API in the style
            of OpenAI, with `llm_model`; or a :class:`~dreamy_lens.analysis.ChatEndpoint`. None asks none: the result
            then has the prompt and the prediction.
        model: Model of the run, if the run does not have it in memory; None loads it by its name.
        llm_model: Name of the model at that address.
        evidence: What the language model is shown: "dreams", "windows" or "both".
        count: Number of dreams and of windows that it is shown, and of held-out windows of each kind.
        scores: Scores to compute by asking the language model, of "detection", "fuzzing" and "simulation".
        timeout: Most seconds to wait for one reply.
        seed: Seed of the choice and the order of windows.
        store: Whether the explanation is also written to the run's folder, if it has one; `run.explanation` reads it.

    Returns:
        An :class:`~dreamy_lens.results.Explanation`: `.text`, `.prompt`, `.detection`, `.fuzzing`, `.simulation`,
        `.prediction`, `.scores`.

    Raises:
        LLMError: The language model does not answer in time or as asked. Of the scores, one that fails is left out with
            a note.
        SettingsError: A setting has a value that it cannot have, or the runs are of several features.
        ExamplesError: The examples are damaged, or lack the feature.

    >>> import dreamy_lens as dl
    >>> run = dl.dream("L2.N17", iterations=2, length=6, wait=True, progress=False)
    >>> told = dl.explain(run, llm=lambda prompt: "EXPLANATION: numbers", scores=())
    >>> told.text, bool(dl.explain(run))
    ('numbers', False)
    """
    code = call_code("explanation", explain, locals(), ("store", "timeout"))
    chosen = _checked(evidence, count, scores, timeout, seed)
    examinee = _examinee(llm, llm_model, timeout)
    merged = merge_runs(load_run(run, model) if isinstance(run, (str, os.PathLike)) else run, "explain")
    if not len(merged.frontier):
        raise SettingsError("The run has no prompt with finite scores, so there is nothing to explain the feature by.")
    if examples is None and evidence == "windows":
        raise SettingsError('evidence="windows" shows windows of a corpus, and there are no examples. Give examples=.')
    windows = None if examples is None else examples_of(open_examples(local_examples(examples)), merged)
    held = _split(windows, count, seed) if windows is not None else None
    dreams = _distinct(merged.frontier.prompts, count)
    feature = parse(merged.runs[0].provenance.feature)
    measure = _Measure(merged, model)
    floor = measure.floor(seed)
    shown = [ShownText(p.text, p.value) for p in dreams] if evidence != "windows" else []
    strongest = held.known if held is not None and evidence != "dreams" else []
    prompt = explanation_prompt(shown, list(map(_evidence, strongest)), floor, at_every_position(feature) is not None)
    parts: dict[str, Any] = {}
    notes: list[str] = []
    if held is not None and windows is not None:
        notes += held.notes
        with working("Comparing held-out windows with dreams and windows"):
            parts["prediction"] = _prediction(held, dreams, measure.embeddings())
    text = ""
    if examinee is not None:
        text = examinee.ask(prompt, read_explanation)
        answers, problems = _examined(examinee, text, chosen, held, measure, merged, windows, floor, count, seed)
        parts |= answers
        notes += problems
    result = Explanation(
        feature=merged.runs[0].provenance.feature,
        model=merged.runs[0].provenance.model,
        seeds=tuple(run.provenance.seed for run in merged.runs),
        text=text,
        prompt=prompt,
        llm="" if examinee is None else examinee.name,
        dreams=tuple(e.text for e in shown),
        windows=tuple(w.text for w in strongest),
        notes=tuple(notes),
        code=code,
        **parts,
    )
    if store and text:
        _store(result, merged)
    return result


def _checked(evidence: Any, count: Any, scores: Any, timeout: Any, seed: Any) -> tuple[str, ...]:
    """Return the names of the scores, or raise SettingsError for a setting that cannot be."""
    if evidence not in EVIDENCE:
        raise SettingsError(f"evidence is {quoted(evidence)}; it is one of {', '.join(map(repr, EVIDENCE))}.")
    for name, value, least in (("count", count, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SettingsError(f"{name} is {quoted(value)}; it is a whole number of at least {least}.")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
        raise SettingsError(f"timeout is {quoted(timeout)}; it is a number of seconds, more than 0.")
    names = (scores,) if isinstance(scores, str) else tuple(scores)
    wrong = [name for name in names if name not in SCORES]
    if wrong:
        raise SettingsError(f"scores has {quoted(wrong[0])}; there are {', '.join(map(repr, SCORES))}.")
    return names


def _examinee(llm: Any, llm_model: str | None, timeout: float) -> Examinee | None:
    """Return the language model to ask, or None."""
    if llm is None:
        if llm_model is not None:
            raise SettingsError(
                "llm_model names a model at an address, and llm= has no address. Give llm='http://...'."
            )
        return None
    if isinstance(llm, str):
        llm = ChatEndpoint(llm, llm_model or "", timeout=timeout)
    elif llm_model is not None:
        raise SettingsError("llm_model belongs to an address, and llm= is a function or an endpoint. Leave it out.")
    if isinstance(llm, ChatEndpoint):
        return Examinee(llm, llm.name, _waiting.limit(max(timeout, llm.timeout * (llm.retries + 2))))
    if not callable(llm):
        raise SettingsError(
            f"llm is {quoted(llm)}; it is a function that takes a prompt and returns a reply, or the address of an API "
            "in the style of OpenAI."
        )
    return Examinee(llm, str(getattr(llm, "__name__", None) or type(llm).__name__), _waiting.limit(timeout))


def _distinct(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Return strong prompts that differ: at first those that share less than half of their tokens, then others.

    Very odd prompts are left out where there are others.
    """
    fluent = [p for p in prompts if p.cross_entropy <= FLUENT] or list(prompts)
    ranked = sorted(fluent, key=lambda p: -p.value)
    found: list[Prompt] = []
    for least in (0.5, 0.0):  # share of tokens in which two prompts differ at least, and always in two tokens
        for prompt in ranked:
            differ = [token_difference(prompt.ids, p.ids) for p in found]
            if len(found) < count and all(n > max(1, least * len(prompt)) for n in differ):
                found.append(prompt)
    return sorted(found, key=lambda p: -p.value)


class _Split:
    """Windows that may be shown and windows that are held out, from different documents."""

    def __init__(self, known: list[Window], active: list[Window], inactive: list[Window]) -> None:
        self.known, self.active, self.inactive = known, active, inactive

    @property
    def notes(self) -> list[str]:
        """Sentences about windows that are missing."""
        if self.active and self.inactive:
            return []
        return [
            "The examples have too few windows of different documents to hold some out, so there is no prediction, "
            "detection or fuzzing. Scan more text, or keep more windows: max_activating(..., k=64)."
        ]


def _split(examples: FeatureExamples, count: int, seed: int) -> _Split:
    """Divide the strongest windows by document; the weak ones are drawn from the random sample."""
    documents = list(dict.fromkeys(w.document for w in examples.top))
    shown = set(documents[::2])
    known = [w for w in examples.top if w.document in shown]
    active = [w for w in examples.top if w.document not in shown]
    limit = examples.quantile_value(INACTIVE)
    weakest_active = min((w.value for w in active), default=limit)
    weak = [w for w in examples.sampled if w.value <= limit and w.value < weakest_active and w.document not in shown]
    order = np.random.default_rng(seed).permutation(len(weak)).tolist()
    return _Split(known[:count], active, [weak[i] for i in order])


def _prediction(held: _Split, dreams: Sequence[Prompt], embeddings: Any) -> Prediction | None:
    if not held.active or not held.inactive:
        return None
    number = min(len(dreams), len(held.known))
    ours, theirs = [p.ids for p in dreams[:number]], [w.ids for w in held.known[:number]]
    known = {"dreams": ours, "windows": theirs, "both": [*ours, *theirs]}
    active, inactive = [w.ids for w in held.active], [w.ids for w in held.inactive]
    return Prediction(predict(known, active, inactive, embeddings), len(active), len(inactive), number)


def _evidence(window: Window) -> ShownText:
    return ShownText(window.text, window.value, window.tokens, window.values)


def _examined(
    examinee: Examinee,
    text: str,
    chosen: tuple[str, ...],
    held: _Split | None,
    measure: _Measure,
    merged: Merged,
    windows: FeatureExamples | None,
    floor: float,
    count: int,
    seed: int,
) -> tuple[dict[str, Any], list[str]]:
    """Return the scores of an explanation by name, and sentences about those that are missing."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    number = 0 if held is None else min(len(held.active), len(held.inactive), count)
    active = [] if held is None else list(map(_evidence, held.active[:number]))
    inactive = [] if held is None else list(map(_evidence, held.inactive[:number]))
    best = max(p.value for p in merged.frontier.prompts)
    top = windows.top[0].value if windows is not None and windows.top else None
    questions: dict[str, Callable[[], Any]] = {
        "detection": lambda: detection(examinee, text, active, inactive, seed) if number else None,
        "fuzzing": lambda: fuzzing(examinee, text, active, seed) if number else None,
        "simulation": lambda: simulation(examinee, text, measure.highest, WRITTEN, floor, best, top),
    }
    for name in chosen:
        try:
            found[name] = questions[name]()
        except LLMError as error:
            notes.append(f"No {name}: {error}")
            warn(f"The explanation is there, but not the score of {name}: {error}", RuntimeWarning)
    if held is None and {"detection", "fuzzing"} & set(chosen):
        notes.append("Detection and fuzzing need windows of a corpus: explain(run, examples).")
    elif "fuzzing" in found and found["fuzzing"] is None and number:
        notes.append("No fuzzing: the windows have no values at single tokens.")
    return found, notes


class _Measure:
    """Values of the feature on any text, with the run's scorer or one like it."""

    def __init__(self, merged: Merged, model: Any) -> None:
        self.merged, self.model = merged, model
        runs = dreams_of(merged)
        self.run = runs[0] if runs else None
        self._scorer: Scorer | None = None

    def _use(self, work: Callable[[Scorer], Any]) -> Any:
        """Call a function with the scorer, on the thread that owns the model of the run."""
        run = self.run
        if run is not None:
            return run.use_model(lambda: work(run.session.scorer))
        if self._scorer is None:
            origin = self.merged.runs[0].provenance
            if origin.contexts:
                raise SettingsError(
                    f"The run's prompts were scored in several contexts ({origin.contexts}). Open the run: "
                    "explain(load_run(folder, model))."
                )
            hooked = as_hooked(self.model) if self.model is not None else model_of(self.merged)
            around = {"prefix": origin.prefix, "suffix": origin.suffix, "prepend_bos": origin.prepend_bos}
            self._scorer = Scorer(parse(origin.feature), hooked, **around)
        return work(self._scorer)

    def floor(self, seed: int) -> float:
        """Return the median value of random prompts of the dreams' length."""
        length = prompt_length(self.merged)
        values = self._use(lambda scorer: scorer.values(uniform_prompts(scorer.allowed, RANDOM, length, seed)))
        return float(np.nanmedian(np.where(np.isfinite(values), values, np.nan)))

    def embeddings(self) -> np.ndarray:
        """Return the embeddings of all tokens."""
        (table,) = self._use(lambda scorer: to_host(scorer.model.embedding_table.detach().float()))
        return table

    def highest(self, texts: Sequence[str]) -> list[float]:
        """Return the highest value of each text, of all places at which it could end; -inf for one without a value."""
        return self._use(lambda scorer: [self._best(scorer, text) for text in texts])

    def _best(self, scorer: Scorer, text: str) -> float:
        values = [-np.inf]
        try:
            (ids,) = as_ids(text, scorer.vocabulary, scorer.frame.bos)
        except PromptError:  # a text of the BOS alone, for example
            return -np.inf
        for end in range(1, min(len(ids), LONGEST) + 1):
            with contextlib.suppress(PromptError, FeatureError):  # a feature may need more tokens
                values.append(float(scorer.values(np.asarray(ids[:end])[None])[0]))
        return max((v for v in values if not np.isnan(v)), default=-np.inf)


def _store(explanation: Explanation, merged: Merged) -> None:
    """Write an explanation to the folder of its run, if it is of one run that has a folder."""
    runs = dreams_of(merged)
    folder = runs[0].folder if len(merged.runs) == 1 and runs else None
    if folder is not None and folder.is_dir():
        write_json(folder / STORED, explanation.to_dict())
