"""Prediction of which texts drive a feature, from their similarity to known ones; no language model is asked.

Known texts are dreams, or the strongest windows of a part of a corpus. A held-out window is scored by its similarity to
the most similar known text. If known texts say what drives the feature, windows that drive it come before others: the
area under the ROC curve is the share of pairs of an active and an inactive window that stand in this order, 0.5 by
chance.

Two similarities are computed, both with more weight on later tokens, because a feature is read at the last one:

* n-grams: cosine between the counts of 1- to 3-grams, each weighted by how rare it is among the windows;
* embeddings: cosine between weighted means of the model's token embeddings, after the mean embedding is subtracted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

HALF_LIFE = 2.0
"""Number of tokens from the end at which the weight of a token has halved."""

LONGEST_GRAM = 3

Ids = Sequence[int]


def token_weights(length: int) -> Float[np.ndarray, " n"]:
    """Return the weight of each token, the last one's being 1."""
    return 0.5 ** (np.arange(length)[::-1] / HALF_LIFE)


class GramSimilarity:
    """Similarity by n-grams.

    Args:
        texts: Texts among which the rarity of n-grams is counted, as token ids.
    """

    def __init__(self, texts: Sequence[Ids]) -> None:
        self._count = max(1, len(texts))
        self._documents = Counter(gram for text in texts for gram in set(_grams(text)))

    def vector(self, text: Ids) -> dict[tuple[int, ...], float]:
        """Return the weights of a text's n-grams, of length 1."""
        weight = token_weights(len(text))
        found: dict[tuple[int, ...], float] = {}
        for size in range(1, LONGEST_GRAM + 1):
            for end in range(size - 1, len(text)):
                gram = tuple(int(i) for i in text[end - size + 1 : end + 1])
                rarity = math.log((1 + self._count) / (1 + self._documents.get(gram, 0)))
                found[gram] = found.get(gram, 0.0) + float(weight[end]) * rarity
        norm = math.sqrt(sum(x * x for x in found.values()))
        return {gram: x / norm for gram, x in found.items()} if norm else {}

    def __call__(self, known: Sequence[Ids], windows: Sequence[Ids]) -> Float[np.ndarray, " N"]:
        """Return the similarity of each window to the most similar known text."""
        vectors = [self.vector(text) for text in known]
        scores = np.zeros(len(windows))
        for i, window in enumerate(windows):
            mine = self.vector(window)
            scores[i] = max((sum(x * v.get(g, 0.0) for g, x in mine.items()) for v in vectors), default=0.0)
        return scores


class EmbeddingSimilarity:
    """Similarity by the model's token embeddings.

    Args:
        table: Embeddings of all tokens.
    """

    def __init__(self, table: Float[np.ndarray, "d_vocab d_model"]) -> None:
        self._table = table - table.mean(axis=0)

    def vector(self, text: Ids) -> Float[np.ndarray, " d_model"]:
        """Return the weighted mean embedding of a text, of length 1."""
        mean = token_weights(len(text)) @ self._table[np.asarray(text, dtype=np.int64)]
        return mean / (np.linalg.norm(mean) or 1.0)

    def __call__(self, known: Sequence[Ids], windows: Sequence[Ids]) -> Float[np.ndarray, " N"]:
        """Return the similarity of each window to the most similar known text."""
        ours, theirs = np.stack([self.vector(t) for t in windows]), np.stack([self.vector(t) for t in known])
        return (ours @ theirs.T).max(axis=1)


def _grams(text: Ids) -> list[tuple[int, ...]]:
    ids = [int(i) for i in text]
    return [tuple(ids[i : i + n]) for n in range(1, LONGEST_GRAM + 1) for i in range(len(ids) - n + 1)]


def auroc(active: Float[np.ndarray, " A"], inactive: Float[np.ndarray, " B"]) -> float:
    """Return the area under the ROC curve: the share of pairs in which the active one is higher; ties count half.

    >>> auroc(np.array([3.0, 1.0]), np.array([2.0, 0.0])), auroc(np.ones(2), np.ones(3))
    (0.75, 0.5)
    """
    if not len(active) or not len(inactive):
        return math.nan
    order = np.sort(inactive)
    below, up_to = np.searchsorted(order, active, "left"), np.searchsorted(order, active, "right")
    return float((below + up_to).mean() / 2 / len(order))


def predict(
    known: Mapping[str, Sequence[Ids]],
    active: Sequence[Ids],
    inactive: Sequence[Ids],
    embeddings: Float[np.ndarray, "d_vocab d_model"],
) -> dict[str, dict[str, float]]:
    """Return the area under the ROC curve for each kind of known texts and each similarity.

    Args:
        known: Token ids of known texts, by their kind, such as "dreams".
        active: Token ids of held-out windows that drive the feature.
        inactive: Token ids of held-out windows that do not.
        embeddings: Embeddings of all tokens.

    Returns:
        Area by kind, and there by "n-grams" and "embeddings". Kinds without texts are left out.
    """
    windows = [*active, *inactive]
    similarities = {"n-grams": GramSimilarity(windows), "embeddings": EmbeddingSimilarity(embeddings)}
    found: dict[str, dict[str, float]] = {}
    for kind, texts in known.items():
        if not len(texts) or not windows:
            continue
        found[kind] = {}
        for name, similarity in similarities.items():
            scores = similarity(texts, windows)
            found[kind][name] = auroc(scores[: len(active)], scores[len(active) :])
    return found
