"""A new kind of leaf works everywhere with a class, a function that makes it, and a rule that computes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import FeatureRangeError, FeatureSyntaxError
from dreamy_lens.features import Compiler, compiles, constructors
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.node import FUNCTIONS
from tests.helpers.dreams import dream, same

IDS = np.random.default_rng(0).integers(1, 320, size=(4, 6))
TEXTS = ["The dog runs over the hill and the cat sleeps in the house.", "She said that the big red house was hers."]


@pytest.fixture
def entropy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The function `entropy(position)`: the entropy, in nats, of what the model predicts after a position."""

    # What would go into features/expressions.py.
    @dataclass(frozen=True, repr=False)
    class Entropy(ex.Leaf, functions={"entropy": ("position",)}):
        position: Any = -1

        def write(self, writer: ex.Writer) -> str:
            return f"entropy({writer.element(self.position)})"

        def named_positions(self) -> tuple[Any, ...]:
            return (self.position,)

        def at_every_position(self, place: Any) -> Any:
            return replace(self, position=ex.Span()) if self.position == place else None

    # What would go into features/constructors.py.
    def entropy(position: Any = -1) -> Entropy:
        return Entropy(ex.position(position))

    monkeypatch.setattr(constructors, "entropy", entropy, raising=False)

    # What would go into features/compile.py.
    @compiles(Entropy)
    def rule(compiler: Compiler, f: Entropy) -> Any:
        compiler.logits.add(compiler.model)

        def of(logits: torch.Tensor) -> torch.Tensor:
            return torch.distributions.Categorical(logits=logits).entropy()

        axes = compiler.at(f.position, f.label)
        return axes, lambda r: r[compiler.model].over_vocabulary(of, f.position, f.label)

    yield entropy
    del FUNCTIONS["entropy"]


def by_hand(raw: Any, ids: np.ndarray) -> np.ndarray:
    """Entropies after every token of prompts that follow a BOS."""
    rows = torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), torch.from_numpy(ids)], 1)
    with torch.no_grad():
        logits = raw(rows, use_cache=False).logits[:, 1:]
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).numpy()


def test_its_text_is_read_and_written(entropy):
    for feature in (entropy(), entropy(2), 0.5 * entropy(ex.Span(1, 3)).max() - dl.logit(" the")):
        assert dl.parse(str(feature)) == feature
    assert str(entropy()) == "entropy(-1)" and str(-entropy(slice(1, 3)).mean()) == "-entropy(1:3).mean()"
    with pytest.raises(FeatureSyntaxError, match=r"entropy\(\) takes \(position\), and this is one too many"):
        dl.parse("entropy(1, 2)")


def test_its_values_are_right_alone_and_inside_other_features(entropy, gpt2):
    expected = by_hand(gpt2.raw, IDS)
    np.testing.assert_allclose(dl.score(entropy(), IDS, gpt2.bridge).value, expected[:, -1], atol=1e-4)
    np.testing.assert_allclose(dl.score("entropy(:).max()", IDS, gpt2.bridge).value, expected.max(-1), atol=1e-4)
    found = dl.score("2 * entropy(1) - L1.N3", IDS, gpt2.bridge).value
    neuron = dl.score("L1.N3", IDS, gpt2.bridge).value
    np.testing.assert_allclose(found, 2 * expected[:, 1] - neuron, atol=1e-4)
    with pytest.raises(FeatureRangeError, match="there is no position 9"):
        dl.score("entropy(9)", IDS, gpt2.bridge)


def test_a_dream_of_it_is_saved_and_goes_on(entropy, gpt2, tmp_path):
    run = dream(gpt2.bridge, "entropy(-1)", iterations=2)
    again = dream(gpt2.bridge, entropy(), iterations=2)
    same(run.history, again.history)
    expected = [by_hand(gpt2.raw, np.array([prompt.ids]))[0, -1] for prompt in run.frontier]
    np.testing.assert_allclose([prompt.value for prompt in run.frontier], expected, atol=1e-4)
    run.save(tmp_path / "run")
    assert str(dl.load_run(tmp_path / "run", model=gpt2.bridge).feature) == "entropy(-1)"


def test_a_corpus_is_scanned_for_it_at_every_position(entropy, gpt2):
    found = dl.max_activating("entropy(-1)", gpt2.bridge, TEXTS, k=3, length=6, progress=False)
    top = found[0].top
    expected = by_hand(gpt2.raw, np.array([window.ids for window in top]))
    np.testing.assert_allclose([window.value for window in top], expected[:, -1], atol=1e-4)
    np.testing.assert_allclose([window.values for window in top], expected, atol=1e-2)  # kept in half precision
