"""Corpora of random words, and scans of them."""

from __future__ import annotations

import numpy as np

import dreamy_lens as dl

WORDS = "the dog runs over hill and a cat sleeps in house friends bark she said that big red sun".split()


def texts(count: int = 12, length: int = 60, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=length)) + f" {i}." for i in range(count)]


def scan(features, family, corpus, **settings):
    return dl.max_activating(features, family.bridge, corpus, **{"k": 4, "length": 6, "progress": False, **settings})
