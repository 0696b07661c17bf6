"""The model once more, in plain torch: slow, and easy to read beside the formulas. Tests hold the kernel to it.

Derivatives come from autograd, everything is float64, and each step is written as DESIGN's formulas are:

    z = b + sum w_i x_i + (|S|^2 - sum |x_i e_i|^2) / 2,    S = sum x_i e_i
    f = 1 / (1 + h s)        t -= v a g f        v -= v^2 a^2 h f
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch
from flexihash.model.kernel import activation, aging, crossing, experts, losses, rows, slots
from flexihash.model.kernel.steps import ROOMY
from flexihash.model.reference_losses import ReferenceLosses
from flexihash.model.reference_mixture import Numbers, ReferenceMixture
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task


class Activations(NamedTuple):
    """Active rows of one event: (A,) rows, (A,) values, (A,) kinds, and the statistics that its numbers would leave."""

    rows: list[int]
    values: Tensor
    kinds: list[int]
    numbers: list[tuple[int, tuple[float, float, float]]]


class ReferenceModel(nn.Module):
    """One model, one event at a time.

    The parameters are copied from `tables`, so that a kernel over the same tables and this start equal.
    """

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.config: ModelConfig = tables.config
        table = tables.tensors["table"].double()
        self.embeddings = nn.Parameter(table[:, : experts.DIM].clone())
        self.weights = nn.Parameter(table[:, rows.WEIGHTS].clone())
        self.weight_variances = table[:, rows.WEIGHT_VARIANCES].clone()
        self.embedding_variances = table[:, rows.EMBEDDING_VARIANCES].clone()
        self.quick = table[:, rows.QUICK].clone()
        self.quick_variances = table[:, rows.QUICK_VARIANCE].clone()
        self.numbers = tables.tensors["numbers"].clone()
        self.touched = tables.tensors["touched"].clone()
        self.state = tables.tensors["state"].clone()
        self.losses = ReferenceLosses(tables.config, self.state)
        self.mixture = ReferenceMixture(tables, self.state, self.losses)

    def activate(self, batch: Batch, event: int) -> Activations:
        """The rows and values that one event of the batch activates."""
        rows: list[int] = []
        values: list[float] = []
        kinds: list[int] = []
        numbers = []
        cells: list[int] = []  # by which each feature is crossed

        def add(row: int, value: float, kind: int) -> None:
            rows.append(row)
            values.append(value)
            kinds.append(kind)

        for j in range(int(batch.offsets[event]), int(batch.offsets[event + 1])):
            row = int(batch.rows[j])
            if not batch.is_number[j]:
                add(row, 1.0, experts.PLAIN)
                cells.append(row)
                continue
            count, median, deviation = _move_statistics(float(batch.values[j]), *self.numbers[row].tolist())
            numbers.append((row, (count, median, deviation)))
            t = math.asinh((float(batch.values[j]) - median) / deviation) if deviation > 0 else 0.0
            t = min(max(t, -activation.NUMBER_LIMIT), activation.NUMBER_LIMIT)
            add(row, t / 2, experts.PLAIN)
            for kind, per_unit, first in activation.GRIDS:
                at = (t + activation.NUMBER_LIMIT) * per_unit
                below = math.floor(at)
                for knot, share in ((below, 1 - (at - below)), (below + 1, at - below)):
                    if share > 0:
                        add(activation.mix_row(row, first + knot, self.config.n_rows), share, kind)
            cells.append(self._find_cell(row, t))
        for row in self._cross(batch, event, cells):
            add(row, 1.0, experts.CROSSED)
        return Activations(rows, torch.tensor(values, dtype=torch.float64), kinds, numbers)

    def _find_cell(self, row: int, t: float) -> int:
        """The row of a number's nearest coarse knot; of two as near, the lower one."""
        at = t + activation.NUMBER_LIMIT
        is_upper = float(torch.tensor(at - math.floor(at)).float()) > 0.5
        _, _, first = activation.GRIDS[0]
        return int(activation.mix_row(row, first + math.floor(at) + is_upper, self.config.n_rows))

    def _cross(self, batch: Batch, event: int, cells: list[int]) -> list[int]:
        """The rows of the pairs that are crossed."""
        if not self.config.crosses:
            return []
        begin = int(batch.offsets[event])
        fields, is_number = batch.fields[begin:].tolist(), batch.is_number[begin:].tolist()
        sides = [{k for k in range(2 * len(self.config.crosses)) if s >> k & 1} for s in batch.sides[begin:].tolist()]
        pairs = [
            sorted((cells[j], cells[i]))
            for j in range(len(cells))
            for i in range(j)
            if any(k ^ 1 in sides[i] for k in sides[j])
            and not (i == j - 1 and fields[i] == fields[j] and is_number[i] != is_number[j])
        ]
        return [
            int(activation.mix_row(one, crossing.FIRST_TAG + two, self.config.n_rows))
            for one, two in pairs[: crossing.MOST_PAIRS]
        ]

    def forward(self, activations: Activations) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Each expert's score (N_EXPERTS,), the embedding (DIM,), and the leaves to differentiate by.

        The leaves are copies per activation, (A, DIM) and (A, N_EXPERTS): a row that is active twice moves twice.
        """
        rows = torch.tensor(activations.rows, dtype=torch.int64)
        sees = torch.from_numpy(experts.SEES).double()
        kinds = torch.tensor(activations.kinds, dtype=torch.int64)
        values = activations.values[:, None] * sees[:, kinds].T  # (A, N_EXPERTS)
        embeddings = self.embeddings[rows].detach().requires_grad_()
        weights = self.weights[rows].detach().requires_grad_()
        parts = embeddings.view(-1, experts.N_EXPERTS, experts.EXPERT_DIM) * values[:, :, None]
        total = parts.sum(0)  # (N_EXPERTS, EXPERT_DIM)
        z = self.state[slots.BIAS : slots.BIAS_VARIANCE] + (weights * values).sum(0)
        z = z + 0.5 * (total.square().sum(1) - parts.square().sum((0, 2)))
        quick = self._age(rows)[0] * activations.values
        is_quick = torch.zeros(experts.N_EXPERTS, dtype=torch.float64)
        is_quick[experts.QUICK_EXPERT] = 1.0
        z = z + is_quick * (quick.sum() + self.state[slots.QUICK_BIAS] * aging.FORGET_BIAS)
        return z, total.reshape(-1).detach(), (embeddings, weights)

    def learn(self, batch: Batch, event: int, label: float, weight: float = 1.0) -> float:
        """One step; returns the prediction made before it."""
        activations = self.activate(batch, event)
        rows = torch.tensor(activations.rows, dtype=torch.int64)
        z, _, leaves = self.forward(activations)
        slopes = [torch.autograd.grad(z[e], leaves, retain_graph=True) for e in range(experts.N_EXPERTS)]
        z = z.detach()
        variances = self._drift(rows)
        spread = self._spread(slopes, variances, activations, rows)
        binary = self.config.task is Task.BINARY
        moderated = z / (1 + math.pi / 8 * spread).sqrt() if binary else z
        numbers = _numbers_of(batch, event)
        mixed = self.mixture.mix(moderated, numbers)
        prediction = self.losses.link(mixed)
        for row, moved in activations.numbers:
            self.numbers[row] = torch.tensor(moved, dtype=torch.float64)
        y = self.losses.standardize(label, weight)
        residuals = self.state[slots.RESIDUAL : slots.REACH]
        residual = float(residuals[-1])
        nearest = self.losses.limit_label(experts.N_EXPERTS, mixed, y, weight, 0.0)
        self.losses.move_residual(experts.N_EXPERTS, mixed, nearest, weight, 0.0)
        if binary:
            self.losses.calibrate(mixed, y, weight)
        n = len(activations.rows)
        crowd = 1 + n / self.config.n_rows if n * ROOMY > self.config.n_rows else 1
        steps, shrinks = [], []
        for e in range(experts.N_EXPERTS):
            near = self.losses.limit_label(e, float(moderated[e]), y, weight, float(spread[e]))
            ge, he = self.losses.differentiate(float(moderated[e]), near, float(residuals[e]))
            self.losses.move_residual(e, float(moderated[e]), near, weight, he * float(spread[e]))
            ge, he = ge * weight, he * weight
            f = 1 / (1 + he * float(spread[e]) * crowd)
            if self.config.task is Task.COUNTS:
                bound = losses.COUNT_MOVE_LIMIT / (f * float(spread[e]) * crowd)
                ge = min(max(ge, -bound), bound)
            steps.append(ge * f)
            shrinks.append(he * f)
        self._move_biases(steps, shrinks)
        self._move_rows(rows, activations, slopes, variances, steps, shrinks)
        self.mixture.learn(nearest, residual, weight, float(spread.mean()), numbers)
        self.state[slots.EVENTS] += 1
        return prediction

    def _age(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Quick weights and their variances as of the next event: they fall back to zero and to the prior."""
        elapsed = self.state[slots.EVENTS] + 1 - self.touched[rows]
        forget = torch.exp(-elapsed / aging.QUICK_EVENTS)
        return self.quick[rows] * forget, aging.PRIOR_QUICK + (
            self.quick_variances[rows] - aging.PRIOR_QUICK
        ) * forget.square()

    def _drift(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Variances of embeddings and weights, (A, N_EXPERTS) each, grown by their drift up to the prior."""
        embeddings = self.embedding_variances[rows] + torch.from_numpy(experts.DRIFT_EMBEDDING).double()
        weights = self.weight_variances[rows] + torch.from_numpy(experts.DRIFT_WEIGHT).double()
        return (
            embeddings.minimum(torch.from_numpy(experts.PRIOR_EMBEDDING).double()),
            weights.minimum(torch.from_numpy(experts.PRIOR_WEIGHT).double()),
        )

    def _spread(
        self,
        slopes: list[tuple[Tensor, ...]],
        variances: tuple[Tensor, Tensor],
        activations: Activations,
        rows: Tensor,
    ) -> Tensor:
        """s = sum v a^2 for each expert."""
        spread = self.state[slots.BIAS_VARIANCE : slots.QUICK_BIAS] + aging.DRIFT_BIAS
        for e, (by_embedding, by_weight) in enumerate(slopes):
            spread[e] += (variances[0][:, e] * by_embedding.square().sum(1)).sum()
            spread[e] += (variances[1] * by_weight.square()).sum()
        spread[experts.QUICK_EXPERT] += (self._age(rows)[1] * activations.values.square()).sum()
        spread[experts.QUICK_EXPERT] += self._quick_bias_variance()
        return spread

    def _quick_bias_variance(self) -> float:
        grown = float(self.state[slots.QUICK_BIAS_VARIANCE]) - aging.PRIOR_QUICK_BIAS
        return aging.PRIOR_QUICK_BIAS + grown * aging.FORGET_BIAS**2

    def _move_biases(self, steps: list[float], shrinks: list[float]) -> None:
        for e in range(experts.N_EXPERTS):
            v = float(self.state[slots.BIAS_VARIANCE + e]) + aging.DRIFT_BIAS
            self.state[slots.BIAS + e] -= v * steps[e]
            self.state[slots.BIAS_VARIANCE + e] = v - v * v * shrinks[e]
        v = self._quick_bias_variance()
        quick = float(self.state[slots.QUICK_BIAS]) * aging.FORGET_BIAS
        self.state[slots.QUICK_BIAS] = quick - v * steps[experts.QUICK_EXPERT]
        self.state[slots.QUICK_BIAS_VARIANCE] = v - v * v * shrinks[experts.QUICK_EXPERT]

    @torch.no_grad()
    def _move_rows(
        self,
        rows: Tensor,
        activations: Activations,
        slopes: list[tuple[Tensor, ...]],
        variances: tuple[Tensor, Tensor],
        steps: list[float],
        shrinks: list[float],
    ) -> None:
        """One step for every parameter of every active row, in the order of the activations."""
        quick, quick_variances = self._age(rows)
        self.embedding_variances[rows], self.weight_variances[rows] = variances
        self.quick[rows], self.quick_variances[rows] = quick, quick_variances
        self.touched[rows] = int(self.state[slots.EVENTS]) + 1
        for j, row in enumerate(activations.rows):
            for e, (by_embedding, by_weight) in enumerate(slopes):
                elements = slice(e * experts.EXPERT_DIM, (e + 1) * experts.EXPERT_DIM)
                a = by_embedding[j, elements]
                v = float(self.embedding_variances[row, e])
                self.embeddings[row, elements] -= v * a * steps[e]
                self.embedding_variances[row, e] -= v * v * float(a.square().mean()) * shrinks[e]
                w = float(by_weight[j, e])
                v = float(self.weight_variances[row, e])
                self.weights[row, e] -= v * w * steps[e]
                self.weight_variances[row, e] -= v * v * w * w * shrinks[e]
            x = float(activations.values[j])
            v = float(self.quick_variances[row])
            self.quick[row] -= v * x * steps[experts.QUICK_EXPERT]
            self.quick_variances[row] -= v * v * x * x * shrinks[experts.QUICK_EXPERT]


def _numbers_of(batch: Batch, event: int) -> Numbers:
    features = range(int(batch.offsets[event]), int(batch.offsets[event + 1]))
    return [(int(batch.rows[j]), float(batch.values[j])) for j in features if batch.is_number[j]]


def _move_statistics(x: float, count: float, median: float, deviation: float) -> tuple[float, float, float]:
    """Running median and mean absolute deviation with one more value; exact means for the first ten."""
    count += 1
    delta = x - median
    if count == 1:
        return count, x, deviation
    rate = 1 / min(count, activation.NUMBER_MEMORY)
    if count <= 10:
        return count, median + delta / count, deviation + (abs(delta) - deviation) / count
    if deviation > 0:
        deviation += (min(abs(delta), 4 * deviation) - deviation) * rate
    else:
        deviation = abs(delta) * rate
    step = min(deviation * 2 * rate, abs(delta))
    return count, median + (step if delta > 0 else -step), deviation
