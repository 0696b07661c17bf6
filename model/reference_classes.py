"""Many classes once more, in plain torch: each head by `model.reference`, and a dense solve where the kernel has none.

With H the weighted curvature diag(p) - p p' of a softmax, g its gradient, and S the diagonal of the scores' variances,
the exact step is (I + H S)^-1 g; `model.kernel.softmax` says what is taken of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexihash.model.features import Batch
from flexihash.model.kernel import aging, calibration, crossing, experts, heads, linear, losses, mixture, rows, slots
from flexihash.model.kernel.activation import mix_row
from flexihash.model.kernel.steps import ROOMY
from flexihash.model.outputs import KNOWN
from flexihash.model.reference import Activations, ReferenceModel
from flexihash.model.tables import Tables


class ReferenceClasses(ReferenceModel):
    """One model of many classes, one event at a time; `state` is that of the head at hand."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.states = tables.tensors["state"].clone().view(-1, slots.STATE_WIDTH)
        self.linear = tables.tensors["table"][:, rows.LINEAR].double()
        self.linear_gone = tables.tensors["table"][:, rows.LINEAR + 1].double()
        self.known = int(tables.tensors[KNOWN][0])

    def learn(self, batch: Batch, event: int, label: float, weight: float = 1.0) -> float:
        """One step; returns the probability that the class was given before it, 0 for a new one."""
        true, n = int(label), max(self.known, int(label) + 1)
        base = self._multiply(self.activate(batch, event))
        probability = self._predict(self._score(base, self.known))[true] if true < self.known else 0.0
        for head in range(self.known, n):
            biases = [*range(slots.BIAS, slots.BIAS_VARIANCE), slots.LINEAR_BIAS]
            self.states[head, biases] = -math.log(float(self.states[0, slots.EVENTS]) + 1)
            self.states[head, slots.EVENTS] = self.states[0, slots.EVENTS]
        scored = self._score(base, n)
        moderated = torch.stack([z for _, z, _, _ in scored])  # (n, N_MEMBERS)
        spread = torch.stack([s for _, _, s, _ in scored])
        self._predict(scored)
        y = torch.zeros(n, dtype=torch.float64)
        y[true] = 1.0
        n_active = len(base.rows) * n
        crowd = 1 + n_active / self.config.n_rows if n_active * ROOMY > self.config.n_rows else 1.0
        moves = [self._step(z, s * crowd, y, weight) for z, s in zip(moderated.T, spread.T, strict=True)]
        for row, moved in base.numbers:
            self.numbers[row] = torch.tensor(moved, dtype=torch.float64)
        self._learn_shared(moderated, y, weight)
        for head, (active, _, _, slopes) in enumerate(scored):
            self.state = self.states[head]
            steps, shrinks = [float(step[head]) for step, _ in moves], [float(shrink[head]) for _, shrink in moves]
            self._move_head(active, slopes, steps, shrinks)
        self.states[:n, slots.EVENTS] += 1
        self.states[true, slots.LABEL_COUNT] += 1
        self.states[true, slots.LABEL_WEIGHT] += weight
        self.known = n
        return float(probability)

    def _multiply(self, base: Activations) -> Activations:
        if self.config.crosses:
            return base
        plain = [j for j, kind in enumerate(base.kinds) if kind == experts.PLAIN]
        pairs = [(i, j) for at, i in enumerate(plain) for j in plain[at + 1 :]]
        if len(plain) > crossing.MOST_FACTORS or not pairs:
            return base
        crossed = []
        for i, j in pairs:
            one, two = sorted((base.rows[i], base.rows[j]))
            crossed.append(int(mix_row(one, crossing.FIRST_TAG + two, self.config.n_rows)))
        single = base.values.float()  # as the kernel multiplies
        products = torch.stack([single[i] * single[j] for i, j in pairs]).double()
        kinds = [*base.kinds, *[experts.CROSSED] * len(pairs)]
        return Activations([*base.rows, *crossed], torch.cat([base.values, products]), kinds, base.numbers)

    def _score(self, base: Activations, n: int) -> list[tuple[Activations, Tensor, Tensor, list[tuple[Tensor, ...]]]]:
        """Of each head its activations, its members' moderated scores, their variances, and the slopes."""
        scored = []
        for head in range(n):
            self.state = self.states[head]
            active = base._replace(rows=[self._head_row(row, head) for row in base.rows])
            rows = torch.tensor(active.rows, dtype=torch.int64)
            z, _, leaves = self.forward(active)
            slopes = [torch.autograd.grad(z[e], leaves, retain_graph=True) for e in range(experts.N_EXPERTS)]
            spread = self._spread(slopes, self._drift(rows), active, rows)
            x = self._plain_values(active)
            v = self._linear_variances(rows)
            bias_variance = aging.PRIOR_BIAS - self.state[slots.LINEAR_BIAS_GONE] + aging.DRIFT_BIAS
            alone = self.state[slots.LINEAR_BIAS] + (self.linear[rows] * x).sum()
            z = torch.cat([z.detach(), alone[None]])
            spread = torch.cat([spread, (bias_variance + (v * x * x).sum())[None]])
            scored.append((active, z / (1 + math.pi / 8 * spread).sqrt(), spread, slopes))
        return scored

    def _head_row(self, row: int, head: int) -> int:
        block, side = divmod(head, 1 << heads.SIDE_BITS)
        first = int(mix_row(row, heads.FIRST_TAG + block, self.config.n_rows)) if block else row
        return (first ^ side) & (self.config.n_rows - 1)

    def _plain_values(self, active: Activations) -> Tensor:
        return active.values * (torch.tensor(active.kinds) == experts.PLAIN)

    def _linear_variances(self, rows: Tensor) -> Tensor:
        grown = float(linear.PRIOR_LINEAR) - self.linear_gone[rows] + float(linear.DRIFT_LINEAR)
        return grown.clamp(max=float(linear.PRIOR_LINEAR))

    def _predict(self, scored: list[tuple[Activations, Tensor, Tensor, list[tuple[Tensor, ...]]]]) -> Tensor:
        """(n,) calibrated probabilities; keeps those of the mixture, and their logits."""
        if not scored:
            return torch.zeros(0)
        mixing = self.states[0, slots.WIDE_MIX : slots.WIDE_COVARIANCE]
        mixed = torch.stack([(z * mixing).sum() for _, z, _, _ in scored])
        self._chance = mixed.clamp(-losses.SCORE_LIMIT, losses.SCORE_LIMIT).softmax(0)
        self._logits = self._chance.clamp(1e-9, 1 - 1e-9).logit()
        p = torch.tensor([self._calibrate(float(logit))[0] for logit in self._logits], dtype=torch.float64).sigmoid()
        return p / p.sum()

    def _step(self, z: Tensor, s: Tensor, y: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """A member's step and shrinking for each head: the mean of the exact step and that by the diagonal alone."""
        p = z.softmax(0)
        curvature = weight * (p.diag() - torch.outer(p, p))
        exact = torch.linalg.solve(torch.eye(len(p), dtype=torch.float64) + curvature * s, weight * (p - y))
        h = (p * (1 - p)).clamp(min=losses.CURVATURE_FLOOR) * weight
        return (exact + weight * (p - y) / (1 + h * s)) / 2, h / (1 + h * s)

    def _learn_shared(self, moderated: Tensor, y: Tensor, weight: float) -> None:
        """The curve by each class in turn, and the mixture by the softmax's curvature."""
        self.state = self.states[0]
        for logit, label in zip(self._logits.tolist(), y.tolist(), strict=True):
            self._move_curve(logit, label, weight)
        p, n = self._chance, slots.N_MEMBERS
        covariance = self.state[slots.WIDE_COVARIANCE : slots.LEAD].view(n, n)
        curvature = weight * moderated.T @ (p.diag() - torch.outer(p, p)) @ moderated
        covariance.copy_(covariance @ torch.linalg.inv(torch.eye(n, dtype=torch.float64) + curvature @ covariance))
        self.state[slots.WIDE_MIX : slots.WIDE_COVARIANCE] -= covariance @ (moderated.T @ (p - y)) * weight
        drifting = covariance.diagonal() < mixture.PRIOR_MIX
        covariance.diagonal()[drifting] += mixture.DRIFT_MIX

    def _move_curve(self, logit: float, label: float, weight: float) -> None:
        z, knot, share = self._calibrate(logit)
        p = 1 / (1 + math.exp(-z))
        h = max(p * (1 - p), losses.CURVATURE_FLOOR) * weight
        parts = torch.tensor([1 - share, share], dtype=torch.float64)
        values = self.state[slots.CURVE + knot : slots.CURVE + knot + 2]
        variances = self.state[slots.CURVE_VARIANCE + knot : slots.CURVE_VARIANCE + knot + 2]
        gain = 1 / (1 + h * float((variances * parts * parts).sum()))
        values -= variances * parts * ((p - label) * weight * gain)
        shrunk = variances - (variances * parts) ** 2 * (h * gain) + calibration.DRIFT_CURVE
        variances.copy_(shrunk.clamp(max=calibration.PRIOR_CURVE))

    def _calibrate(self, logit: float) -> tuple[float, int, float]:
        state = self.states[0]
        at = min(max((logit - calibration.CURVE_LOW) / calibration.CURVE_STEP, 0.0), slots.N_KNOTS - 1.000001)
        knot, share = int(at), at - int(at)
        low, high = state[slots.CURVE + knot : slots.CURVE + knot + 2].tolist()
        beyond = logit - (calibration.CURVE_LOW + at * calibration.CURVE_STEP)
        return low * (1 - share) + high * share + beyond, knot, share

    @torch.no_grad()
    def _move_head(
        self, active: Activations, slopes: list[tuple[Tensor, ...]], steps: list[float], shrinks: list[float]
    ) -> None:
        rows = torch.tensor(active.rows, dtype=torch.int64)
        is_first = self.touched[rows] != int(self.state[slots.EVENTS]) + 1
        of_embeddings, of_weights = self._drift(rows)
        of_embeddings = torch.where(is_first[:, None], of_embeddings, self.embedding_variances[rows])
        of_weights = torch.where(is_first[:, None], of_weights, self.weight_variances[rows])
        self._move_biases(steps, shrinks)
        self._move_rows(rows, active, slopes, (of_embeddings, of_weights), steps, shrinks)
        v = aging.PRIOR_BIAS - float(self.state[slots.LINEAR_BIAS_GONE]) + aging.DRIFT_BIAS
        self.state[slots.LINEAR_BIAS] -= v * steps[-1]
        self.state[slots.LINEAR_BIAS_GONE] = aging.PRIOR_BIAS - (v - v * v * shrinks[-1])
        for row, x, kind in zip(active.rows, active.values.tolist(), active.kinds, strict=True):
            if kind == experts.PLAIN:
                w = float(self._linear_variances(torch.tensor(row)))
                self.linear[row] -= w * x * steps[-1]
                self.linear_gone[row] = float(linear.PRIOR_LINEAR) - (w - w * w * x * x * shrinks[-1])
