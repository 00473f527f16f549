"""Several features that are moved at one hook point, so that all of them end where they should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.analysis.interventions import Intervention, Shift


@dataclass
class JointShift:
    """Shifts whose coordinates are read at one hook point.

    A vector that is added for one feature changes the coordinates of all others whose vectors are not orthogonal to it.
    The amounts of units and directions are therefore the solution of one linear system. The coordinates of all latents
    are read before anything is moved: they are what the latents contribute to the untouched activation.

    Attributes:
        shifts: Shifts that read one hook point. Placebos are moved as far as the features that they stand for.
    """

    shifts: tuple[Shift, ...]
    _amounts: list[Tensor] | None = field(default=None, repr=False)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Hook points that the shifts read or change."""
        return tuple(dict.fromkeys(name for shift in self.shifts for name in shift.hooks))

    def edit(self, name: str, x: Float[Tensor, "rows ..."]) -> Tensor | None:
        """Return the changed activation of some rows at a hook point, or None to leave it."""
        if name == self.shifts[0].vector.reads:
            self._amounts = self._solved(x)
        changed = None
        for shift, amount in zip(self.shifts, self._amounts or [None] * len(self.shifts), strict=True):
            if name in shift.vector.writes:
                changed = shift.moved(name, x if changed is None else changed, amount)
        return changed

    def _solved(self, x: Float[Tensor, "rows ..."]) -> list[Tensor]:
        """Return the factor of each vector at every position, `[rows, pos]` each, for an untouched activation."""
        amounts = [shift.amount(shift.vector.coordinate(x).float()) for shift in self.shifts]
        linear = [i for i, shift in enumerate(self.shifts) if shift.vector.kind != "latent"]
        if not linear:
            return amounts
        here = [shift.vector.reads in shift.vector.writes for shift in self.shifts]
        effects = torch.zeros(len(linear), len(self.shifts), dtype=torch.float64)  # of each shift on each coordinate
        for row, i in enumerate(linear):
            for column, (shift, is_here) in enumerate(zip(self.shifts, here, strict=True)):
                if is_here:
                    effects[row, column] = _overlap(self.shifts[i], shift)
        wanted = torch.stack([amounts[i] * self.shifts[i].vector.gain for i in linear]).double().cpu()
        latents = [i for i in range(len(self.shifts)) if i not in linear]
        if latents:
            moved = torch.stack([amounts[i] for i in latents]).double().cpu()
            wanted = wanted - torch.einsum("cl,lrp->crp", effects[:, latents], moved)
        solution = torch.einsum("ic,crp->irp", torch.linalg.pinv(effects[:, linear]), wanted)
        for row, i in enumerate(linear):
            amounts[i] = solution[row].to(amounts[i])
        return amounts


def _overlap(reader: Shift, mover: Shift) -> float:
    """Return how much the coordinate of one feature changes when the vector of another is added with the factor 1."""
    vector = mover.vector
    row = vector.rows[vector.writes.index(vector.reads)]
    dot = (reader.vector.rows[0].double().cpu().flatten() * row.double().cpu().flatten()).sum()
    return reader.vector.sign * vector.sign * float(dot)


def joined(interventions: Sequence[Intervention]) -> tuple[Intervention, ...]:
    """Return interventions in which all shifts that read one hook point are one."""
    groups: dict[str, list[Shift]] = {}
    for each in interventions:
        if isinstance(each, Shift):
            groups.setdefault(each.vector.reads, []).append(each)
    found: list[Intervention] = []
    for each in interventions:
        group = groups.get(each.vector.reads, []) if isinstance(each, Shift) else []
        if len(group) < 2:
            found.append(each)
        elif each is group[0]:
            found.append(JointShift(tuple(group)))
    return tuple(found)
