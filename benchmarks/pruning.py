"""Measure the most work that a search could save by dropping children before their pass is complete.

    python benchmarks/pruning.py [--features L0.N40 L3.N40 L5.N40] [--seeds 2] [--iterations 100] [--no-bos]

README.md beside this file describes the counts, and why they are an upper limit.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from measures import table


@dataclass
class Bound:
    """Facts about children that are known once the feature's layer has run.

    Attributes:
        value: Exact value of the feature `[K]`.
        cross_entropy: Final cross-entropy `[K]`, which a search does not know at this point.
        known: Part of the cross-entropy that the parent's pass has given `[K]`: the losses of the targets up to and
            including the mutated token, since nothing before that token differs. The missing part is not negative.
        rest: Tokens that still have to go through the deeper layers `[K]`: from the mutated token to the last token
            that predicts another.
    """

    value: np.ndarray
    cross_entropy: np.ndarray
    known: np.ndarray
    rest: np.ndarray

    def unselectable(self, best: np.ndarray, lambdas: np.ndarray) -> np.ndarray:
        """Find the children that cannot be the best in any slot `[K]`, given the best objective of each slot."""
        bound = self.value[None] - lambdas[:, None] * self.known[None]
        return (bound < best[:, None]).all(axis=0)

    def dominated(self, value: np.ndarray, cross_entropy: np.ndarray) -> np.ndarray:
        """Find the children that cannot join the frontier `[K]`, whose points ascend in both numbers."""
        at = np.searchsorted(cross_entropy, self.known, side="right") - 1
        return (at >= 0) & (value[np.maximum(at, 0)] > self.value)


class Study:
    """Search that is followed step by step.

    Args:
        model: TransformerLens bridge.
        feature: MLP neuron, or any other feature.
        settings: Settings of :func:`dreamy_lens.dream`.
    """

    def __init__(self, model: Any, feature: str, **settings: Any) -> None:
        import dreamy_lens as dl

        self.run = dl.dream(feature, model, search="epo", iterations=0, progress=False, **settings)
        self.model, self.bos = model, self.run.provenance.prepend_bos
        self.scores: dict[bytes, tuple[float, float]] = {}

    def follow(self, iterations: int) -> np.ndarray:
        """Run iterations and return one row for each iteration that had new children.

        A row has the number of new children, the shares of them that could be dropped (for the selection, and for
        selection and frontier), and the shares of the remaining work that dropping them would save.
        """
        from dreamy_lens.search import Staircase, epo

        make_children, last = epo.make_children, {}

        def recorded(operator: Any, members: np.ndarray, *args: Any) -> Any:
            pool, rejected = make_children(operator, members, *args)
            last.update(members=members.copy(), pool=pool.copy())
            return pool, rejected

        stairs, rows, first = Staircase(), [], self.run.history
        self._note(stairs, first.ids, first.value, first.cross_entropy)
        epo.make_children = recorded
        try:
            for step in self.run.steps(iterations):
                self.run.take(step)
                self._note(stairs, step.ids, step.value, step.cross_entropy)
                if len(step.ids):
                    rows.append(self._row(step, stairs, **last))
        finally:
            epo.make_children = make_children
        return np.array(rows)

    def _note(self, stairs: Any, ids: np.ndarray, value: np.ndarray, cross_entropy: np.ndarray) -> None:
        for row, v, c in zip(ids.astype(np.int64), value.tolist(), cross_entropy.tolist(), strict=True):
            self.scores[row.tobytes()] = v, c
            stairs.add(len(self.scores), v, c)

    def _row(self, step: Any, stairs: Any, members: np.ndarray, pool: np.ndarray) -> list[float]:
        lambdas = self.run.config.lambdas.astype(np.float64)
        pairs = np.array([self.scores[row.tobytes()] for row in pool if row.tobytes() in self.scores])
        best = (pairs[:, 0] - lambdas[:, None] * pairs[:, 1]).max(axis=1)
        bound = self._bound(step, members)
        selection = bound.unselectable(best, lambdas)
        both = selection & bound.dominated(np.array(stairs.value), np.array(stairs.cross_entropy))
        rest = max(1, bound.rest.sum())
        saved = [bound.rest[gone].sum() / rest for gone in (selection, both)]
        return [len(step.ids), selection.mean(), both.mean(), *saved]

    def _bound(self, step: Any, members: np.ndarray) -> Bound:
        """Bound the children that were scored in a step. Children that were scored before cost nothing."""
        ids = step.ids.astype(np.int64)
        parents = members[(ids[:, None] != members[None]).sum(axis=-1).argmin(axis=1)]
        mutated = (ids != parents).argmax(axis=1)
        losses = self._losses(ids)
        cross_entropy = losses.mean(axis=1)
        if not np.allclose(cross_entropy, step.cross_entropy, rtol=1e-3, atol=1e-3):
            raise SystemExit("The losses of the tokens do not add up to the cross-entropies of the search.")
        targets = np.arange(losses.shape[1]) + (0 if self.bos else 1)
        known = np.where(targets <= mutated[:, None], losses, 0).sum(axis=1) / losses.shape[1]
        exact = step.cross_entropy.astype(np.float64)
        rest = ids.shape[1] - 1 - mutated
        return Bound(step.value.astype(np.float64), exact, np.minimum(known, exact), rest)

    def _losses(self, ids: np.ndarray) -> np.ndarray:
        """Compute -log p of each predicted token `[K, terms]`: all tokens after a BOS, otherwise all but the first."""
        import torch

        rows = torch.from_numpy(ids)
        if self.bos:
            first = torch.full((len(rows), 1), int(self.model.tokenizer.bos_token_id))
            rows = torch.cat([first, rows], dim=1)
        with torch.no_grad():
            log_p = self.model(rows.to(self.model.cfg.device))[:, :-1].float().log_softmax(dim=-1).cpu()
        return -log_p.gather(-1, rows[:, 1:, None])[..., 0].double().numpy()


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--features", nargs="+", default=["L0.N40", "L3.N40", "L5.N40"], help="of the embedded model")
    p.add_argument("--seeds", type=int, default=2, help="seeds 0 to SEEDS - 1 (2)")
    p.add_argument("--iterations", type=int, default=100, help="iterations of each search (100)")
    p.add_argument("--no-bos", action="store_true", help="no BOS before prompts; default: the model's convention")
    p.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    return p


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    import torch

    import dreamy_lens as dl

    torch.set_num_threads(args.threads)
    model, rows = dl.load_model(device="cpu"), []
    for feature in args.features:
        settings = {"prepend_bos": False if args.no_bos else None}
        runs = [Study(model, feature, seed=seed, **settings).follow(args.iterations) for seed in range(args.seeds)]
        count, *shares = np.concatenate(runs).mean(axis=0)
        rows.append([feature, f"{count:.0f}", *(f"{100 * share:.1f}" for share in shares)])
    head = ["", "new children", "% dropped", "frontier kept", "% of the rest saved", "frontier kept"]
    print(f"Means over {args.iterations} iterations and {args.seeds} seeds:\n\n{table(head, rows)}")


if __name__ == "__main__":
    main()
