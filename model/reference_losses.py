"""What depends on the task, once more in plain Python: losses, labels, and the curve; see `model.reference`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexihash.model.config import ModelConfig
from flexihash.model.kernel import calibration, losses, slots
from flexihash.model.tasks import Task


class ReferenceLosses:
    """The losses of one model. `state` is the model's, and is moved in place."""

    def __init__(self, config: ModelConfig, state: Tensor) -> None:
        self.config = config
        self.state = state

    def link(self, mixed: float) -> float:
        """The prediction that a mixed score makes."""
        if self.config.task is Task.BINARY:
            return 1 / (1 + math.exp(-self._knots(mixed)[2]))
        if self.config.task is Task.COUNTS:
            return math.exp(mixed + self._log_rate())
        return float(self.state[slots.LABEL_MEAN]) + self._deviation() * mixed

    def standardize(self, label: float, weight: float) -> float:
        """The label as the task learns it, after the label statistics have seen it."""
        state = self.state
        is_count = self.config.task is Task.COUNTS
        if weight > 0:
            state[slots.LABEL_COUNT] += 1
            surprise = label - float(state[slots.LABEL_MEAN])
            if state[slots.LABEL_COUNT] > losses.N_FREE_LABELS:
                weight = min(weight, losses.WEIGHT_LIMIT * float(state[slots.LABEL_WEIGHT]))
                surprise = self._limit(slots.LABEL_REACH, surprise, self._deviation())
            if state[slots.LABEL_COUNT] > losses.LABEL_MEMORY and not is_count:
                state[slots.LABEL_WEIGHT] *= 1 - 1 / losses.LABEL_MEMORY
            state[slots.LABEL_WEIGHT] += weight
            share = weight / float(state[slots.LABEL_WEIGHT])
            state[slots.LABEL_MEAN] += surprise * share
            if share < 1:
                square = surprise**2 * (1 - share)
                state[slots.LABEL_VARIANCE] += (square - float(state[slots.LABEL_VARIANCE])) * share
        if self.config.task in (Task.BINARY, Task.COUNTS):
            return label
        y = (label - float(state[slots.LABEL_MEAN])) / self._deviation()
        return float(min(max(y, -losses.LABEL_LIMIT), losses.LABEL_LIMIT))

    def limit_label(self, e: int, z: float, y: float, weight: float, spread: float) -> float:
        """The label, or one nearer to the score where it is out of reach."""
        seen = float(self.state[slots.LABEL_COUNT])
        if self.config.task is Task.BINARY or weight == 0 or seen <= losses.N_FREE_LABELS:
            return y
        expected, residual = self._expect(z), float(self.state[slots.RESIDUAL + e])
        match self.config.task:
            case Task.COUNTS:
                variance = residual * (1 + expected) + expected**2 * spread
            case Task.QUANTILE:
                variance = (residual / (2 * self.config.quantile * (1 - self.config.quantile))) ** 2 + spread
            case _:
                variance = residual + spread
        return expected + self._limit(slots.REACH + e, y - expected, math.sqrt(variance))

    def differentiate(self, z: float, y: float, residual: float) -> tuple[float, float]:
        """Gradient and curvature of the task's loss at z."""
        quantile = self.config.quantile
        match self.config.task:
            case Task.BINARY:
                p = 1 / (1 + math.exp(-min(max(z, -losses.SCORE_LIMIT), losses.SCORE_LIMIT)))
                return p - y, max(p * (1 - p), losses.CURVATURE_FLOOR)
            case Task.COUNTS:
                rate = self._expect(z)
                return (rate - y) / residual, max(rate, losses.CURVATURE_FLOOR) / residual
            case Task.QUANTILE:
                return ((y < z) - quantile) / residual, quantile * (1 - quantile) / residual**2
            case _:
                return (z - y) / residual, 1 / residual

    def move_residual(self, e: int, z: float, y: float, weight: float, certainty: float) -> None:
        """The running error of expert `e`, or of the mixture behind them, with this label."""
        expected, quantile, floor = self._expect(z), self.config.quantile, losses.RESIDUAL_FLOOR
        error = expected - y
        match self.config.task:
            case Task.REGRESSION:
                size = error**2 / (1 + certainty)
            case Task.QUANTILE:
                size = max(-error * quantile, error * (1 - quantile))
            case Task.COUNTS:
                size, floor = error**2 / (1 + expected), 1.0
            case _:
                return
        at = slots.RESIDUAL + e
        moved = float(self.state[at]) + min(losses.RESIDUAL_RATE * weight, 1.0) * (size - float(self.state[at]))
        self.state[at] = max(moved, floor)

    def calibrate(self, mixed: float, y: float, weight: float) -> None:
        """One step of the two knots about the mixed score."""
        below, share, logit = self._knots(mixed)
        p = 1 / (1 + math.exp(-logit))
        knots = torch.tensor([below, below + 1])
        a = torch.tensor([1 - share, share], dtype=torch.float64)
        v = self.state[slots.CURVE_VARIANCE + knots]
        h = max(p * (1 - p), losses.CURVATURE_FLOOR) * weight
        f = 1 / (1 + h * float((v * a.square()).sum()))
        self.state[slots.CURVE + knots] -= v * a * (p - y) * weight * f
        shrunk = v - v.square() * a.square() * h * f + calibration.DRIFT_CURVE
        self.state[slots.CURVE_VARIANCE + knots] = shrunk.clamp(max=calibration.PRIOR_CURVE)

    def _expect(self, z: float) -> float:
        if self.config.task is not Task.COUNTS:
            return z
        return math.exp(min(max(z, -losses.SCORE_LIMIT), losses.SCORE_LIMIT) + self._log_rate())

    def _limit(self, slot: int, surprise: float, deviation: float) -> float:
        """The surprise within the reach that is in this slot, which moves."""
        reach = float(self.state[slot])
        limit = reach * deviation
        if abs(surprise) > limit:
            self.state[slot] = min(2 * reach, losses.MOST_REACH)
            return math.copysign(limit, surprise)
        self.state[slot] = max(reach * (1 - 1 / losses.REACH_MEMORY), losses.LEAST_REACH)
        return surprise

    def _deviation(self) -> float:
        mean, variance = float(self.state[slots.LABEL_MEAN]), float(self.state[slots.LABEL_VARIANCE])
        if self.config.task is Task.COUNTS:
            return math.sqrt(max(variance, 1.0))
        return max(math.sqrt(variance), losses.PRECISION * (1 + abs(mean)))

    def _log_rate(self) -> float:
        weight, mean = self.state[slots.LABEL_WEIGHT : slots.LABEL_VARIANCE].tolist()
        return math.log((mean * weight + 1) / (weight + 1))

    def _knots(self, mixed: float) -> tuple[int, float, float]:
        """The knot below, the share of the one above, and the calibrated logit."""
        at = (mixed - calibration.CURVE_LOW) / calibration.CURVE_STEP
        at = min(max(at, 0.0), slots.N_KNOTS - 1.000001)
        below = math.floor(at)
        curve = self.state[slots.CURVE : slots.CURVE_VARIANCE]
        beyond = mixed - (calibration.CURVE_LOW + at * calibration.CURVE_STEP)
        logit = float(torch.lerp(curve[below], curve[below + 1], at - below)) + beyond
        return below, at - below, logit
