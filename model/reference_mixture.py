"""Both mixtures once more, in plain Python: the experts' alone, and the one with trees; see `model.reference`.

The trees are asked as they are in the tables; how they grow is no matter of formulas, and tested by itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexihash.model.kernel import experts, losses, mixture, slots, trees
from flexihash.model.reference_losses import ReferenceLosses
from flexihash.model.tables import TREES_PREFIX, Tables
from flexihash.model.tasks import Task

Numbers = list[tuple[int, float]]  # an event's: row and value


class ReferenceMixture:
    """The mixtures of one model. `state` is the model's, and is moved in place."""

    def __init__(self, tables: Tables, state: Tensor, of_task: ReferenceLosses) -> None:
        self.config = tables.config
        self.state = state
        self.losses = of_task
        self.trees = {name: tables.tensors[TREES_PREFIX + name].clone() for name in trees.Trees._fields}
        self._members = torch.empty(0)
        self._mixed: list[float] = []

    @property
    def has_trees(self) -> bool:
        """Whether two numbers have been seen, in a task that trees help with."""
        takes = self.config.task in (Task.BINARY, Task.REGRESSION)
        return takes and int(self.trees["counters"][trees.TAKEN]) >= trees.LEAST_SLOTS

    def mix(self, moderated: Tensor, numbers: Numbers) -> float:
        """The score of both together."""
        self._members = torch.cat([moderated, torch.tensor([self._ask_trees(numbers)], dtype=torch.float64)])
        narrow = float(self.state[slots.MIX : slots.MIX_COVARIANCE] @ moderated)
        wide = float(self.state[slots.WIDE_MIX : slots.WIDE_COVARIANCE] @ self._members)
        self._mixed = [self._limit(narrow), self._limit(wide)]
        if not self.has_trees:
            return self._mixed[0]
        share = 1 / (1 + math.exp(mixture.LEAD_NEEDED - float(self.state[slots.LEAD])))
        return (1 - share) * self._mixed[0] + share * self._mixed[1]

    def _limit(self, z: float) -> float:
        if self.config.task not in (Task.BINARY, Task.COUNTS):
            return z
        return min(max(z, -losses.SCORE_LIMIT), losses.SCORE_LIMIT)

    def _ask_trees(self, numbers: Numbers) -> float:
        known = self.trees["slots"][: int(self.trees["counters"][trees.TAKEN])].tolist()
        x = [float(trees.MISSING)] * trees.N_SLOTS
        for row, value in numbers:
            if row in known:
                x[known.index(row)] = min(max(value, -float(trees.LARGEST)), float(trees.LARGEST))
        score = 0.0
        for features, cuts, leaves in zip(*(self.trees[name] for name in ("features", "cuts", "leaves")), strict=True):
            node = 0
            for _ in range(trees.DEPTH):
                node = 2 * node + (2 if x[int(features[node])] > float(cuts[node]) else 1)
            score += float(leaves[node - trees.N_NODES])
        return min(max(score, -mixture.TREES_LIMIT), mixture.TREES_LIMIT)

    def learn(self, near: float, residual: float, weight: float, of_experts: float, numbers: Numbers) -> None:
        """Moves both after an event, and begins the wide one with the second number."""
        n = experts.N_EXPERTS
        steps = [self.losses.differentiate(mixed, near, residual) for mixed in self._mixed]
        g, h = steps[mixture.NARROW]
        self._move(slots.MIX, n, g * weight, h * weight, of_experts)
        if self.has_trees:
            g, h = steps[mixture.WIDE]
            self._move(slots.WIDE_MIX, n + 1, g * weight, h * weight, of_experts)
            narrow, wide = (self._measure(mixed, near, residual) for mixed in self._mixed)
            lead = float(self.state[slots.LEAD]) * (1 - 1 / mixture.LEAD_MEMORY) + min(weight, 1.0) * (narrow - wide)
            self.state[slots.LEAD] = min(max(lead, -mixture.LEAD_LIMIT), mixture.LEAD_LIMIT)
        elif self._takes_second(numbers):
            self._widen()

    def _takes_second(self, numbers: Numbers) -> bool:
        known = self.trees["slots"][: int(self.trees["counters"][trees.TAKEN])].tolist()
        takes = self.config.task in (Task.BINARY, Task.REGRESSION)
        return takes and len({*known, *(row for row, _ in numbers)}) >= trees.LEAST_SLOTS

    def _measure(self, z: float, y: float, residual: float) -> float:
        limit = losses.COST_LIMIT
        if self.config.task is Task.BINARY:
            z = min(max(z, -limit), limit)
            return math.log1p(math.exp(-z if y > 0.5 else z))
        return min((z - y) ** 2 / (2 * residual), limit)

    def _covariance(self, at: int, n: int) -> Tensor:
        return self.state[at : at + n * n].view(n, n)

    def _move(self, at: int, n: int, g: float, h: float, of_experts: float) -> None:
        covariance, moderated = self._covariance(at + n, n), self._members[:n]
        cross = covariance @ moderated
        spread = float(moderated @ cross)
        if self.config.task is Task.COUNTS:
            f = 1 / (1 + h * (spread + of_experts))
            bound = losses.COUNT_MOVE_LIMIT / (f * spread) if spread > 0 else math.inf
            g = min(max(g, -bound), bound)
        else:
            f = 1 / (1 + h * spread)
        self.state[at : at + n] -= cross * g * f
        covariance -= torch.outer(cross, cross) * h * f
        drifting = covariance.diagonal() < mixture.PRIOR_MIX
        covariance.diagonal()[drifting] += mixture.DRIFT_MIX

    def _widen(self) -> None:
        n = experts.N_EXPERTS
        self.state[slots.WIDE_MIX : slots.WIDE_MIX + n] = self.state[slots.MIX : slots.MIX_COVARIANCE]
        covariance = self._covariance(slots.WIDE_COVARIANCE, n + 1)
        covariance[:n, :n] = self._covariance(slots.MIX_COVARIANCE, n)
        covariance[n, n] = mixture.PRIOR_MIX
