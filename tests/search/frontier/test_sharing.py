"""Searches side by side that share prompts: what one tries, the others learn, and every score is right."""

from __future__ import annotations

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.models import as_hooked
from dreamy_lens.runs import Dreams
from dreamy_lens.scoring import Scorer, SharingScorer
from dreamy_lens.search import FrontierSearch
from tests.helpers import models

SMALL = FrontierSearch(iterations=5, length=6, children=24, parents=2, samples=24, share_prompts=True)
FEATURES = ["L1.N3", 'logit(" the")', "blocks.0.hook_resid_post[:, 3].max()", "L1.N7", "L0.N1"]


@pytest.mark.parametrize("name", ["gpt2", "neox"])
@pytest.mark.parametrize("share_prefixes", [None, False])
def test_every_shared_score_is_the_score_of_its_own_feature(name, share_prefixes):
    model = models.family(name).bridge
    runs = dl.dream(FEATURES, model, search=SMALL, share_prefixes=share_prefixes, progress=False)
    for run, feature in zip(runs, FEATURES, strict=True):
        scores = dl.score(feature, run.history.ids, model)
        np.testing.assert_allclose(scores.value, run.history.value, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(scores.cross_entropy, run.history.cross_entropy, atol=1e-4, rtol=1e-4)
        assert len(np.unique(run.history.ids, axis=0)) == len(run.history)


def test_what_one_search_tried_reaches_the_frontiers_of_the_others(gpt2):
    runs = dl.dream(FEATURES, gpt2.bridge, search=SMALL, progress=False)
    tried = [{tuple(row) for row in run.history.ids.tolist()} for run in runs]
    for number, run in enumerate(runs):
        others = set().union(*(one for other, one in enumerate(tried) if other != number))
        own_frontier = {tuple(prompt.ids) for prompt in run.frontier}
        everything = np.array(sorted(others | tried[number]))
        scores = dl.score(FEATURES[number], everything, gpt2.bridge)
        # The last iteration's prompts of the others have not been offered yet.
        last = [set(map(tuple, o.history.ids[o.history.iteration == 5].tolist())) for o in runs]
        late = set().union(*last) - tried[number]
        order = np.argsort(scores.cross_entropy, kind="stable")
        best, frontier = -np.inf, set()
        for row in order.tolist():
            if tuple(everything[row].tolist()) not in late and scores.value[row] > best + 1e-4:
                best = scores.value[row]
                frontier.add(tuple(everything[row].tolist()))
        assert frontier <= own_frontier


def test_prompts_go_through_the_model_once_for_all_features(gpt2):
    scorers = [Scorer(dl.parse(feature), as_hooked(gpt2.bridge)) for feature in FEATURES[:2]]
    joint = SharingScorer(scorers)
    ids = np.arange(12).reshape(2, 6) + 5
    found = joint.scores({0: ids, 1: ids})
    work = sum(scorer.work.token_layers for scorer in scorers)
    for number, feature in enumerate(FEATURES[:2]):
        expected = dl.score(feature, ids, gpt2.bridge)
        np.testing.assert_allclose(found[number].value, expected.value, atol=1e-5)
    alone = Scorer(scorers[0].bound)
    alone.score(ids)
    assert work == alone.work.token_layers
    offer = joint.offer(1)
    assert offer is not None and len(offer.ids) == 2 and joint.offer(1) is None


def test_alone_a_search_shares_with_nobody(gpt2):
    shared = dl.dream("L1.N3", gpt2.bridge, search=SMALL, progress=False)
    alone = dl.dream("L1.N3", gpt2.bridge, search=SMALL, share_prompts=False, progress=False)
    np.testing.assert_array_equal(shared.history.ids, alone.history.ids)


def test_no_run_takes_over_a_prompt_that_breaks_its_own_constraints(gpt2):
    free = dl.dream("L1.N3", gpt2.bridge, search=SMALL, iterations=0, progress=False)
    rules = [rules_of.forbid_tokens(*range(5, 150)), rules_of.fix({0: 200}), rules_of.varied()]
    bound = dl.dream("L1.N3", gpt2.bridge, search=SMALL, iterations=0, seed=1, constraints=rules, progress=False)
    Dreams([free, bound]).resume(5, progress=False)
    constraints, ids = bound.session.constraint_set, bound.history.ids
    assert constraints.check(ids).all() and (ids[:, 0] == 200).all()
    assert constraints.allowed[ids[:, constraints.free_positions]].all()
