"""Progressive metrics of several targets at once, each by its own task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flexihash.model.metrics import Layout, ProgressiveMetrics, open_state
from flexihash.model.sums import MAGNITUDE_LIMIT, Floats

_OWN: Layout = {"events": ((1,), torch.int64), "weight": ((1,), torch.float64)}


class TargetMetrics:
    """`ProgressiveMetrics` of each target, over the events that have it.

    Args:
        targets: name -> task of each, in their order.
        tensors: the state, as ``layout`` says; used in place, on the CPU. All zeros is a fresh start.
        quantile: that is predicted; read by targets of the quantile task only.

    Raises:
        ConfigurationError: there is no such task.
        ValueError: a tensor is not what ``layout`` says.
    """

    @staticmethod
    def layout(targets: Mapping[str, str]) -> Layout:
        """Name -> (shape, dtype) of the tensors that hold the whole state; a target's begin with its number.

        Raises:
            ConfigurationError: there is no such task.
        """
        layout = dict(_OWN)
        for number, task in enumerate(targets.values()):
            layout |= {f"{number}.{name}": field for name, field in ProgressiveMetrics.layout(task).items()}
        return layout

    def __init__(self, targets: Mapping[str, str], tensors: Mapping[str, torch.Tensor], quantile: float = 0.5) -> None:
        self._own = open_state(_OWN, tensors)
        self._targets = {}
        for number, (target, task) in enumerate(targets.items()):
            its_own = {name: tensors[f"{number}.{name}"] for name in ProgressiveMetrics.layout(task)}
            self._targets[target] = ProgressiveMetrics(task, its_own, quantile)

    def update(self, predictions: Floats, labels: Floats, weights: Floats) -> None:
        """Take events in the order in which they were predicted.

        Args:
            predictions: (n, T), of each target, made before the events were learned from.
            labels: (n, T), NaN where an event lacks a target.
            weights: (n,), not negative; an event of weight 0 is counted and nothing else.

        Raises:
            ValueError: they differ in shape.
        """
        if not predictions.shape == labels.shape == (len(weights), len(self._targets)) or weights.ndim != 1:
            raise ValueError(
                f"predictions and labels must be (n, {len(self._targets)}) and weights (n,),"
                f" not {predictions.shape}, {labels.shape}, {weights.shape}"
            )
        is_labelled = ~np.isnan(labels)
        with_share = is_labelled.any(axis=1) & (weights > 0.0) & (weights < MAGNITUDE_LIMIT)
        self._own["events"] += len(weights)
        # one by one, in order: what comes of it does not depend on how the stream was cut
        self._own["weight"][:] = np.add.accumulate(np.append(self._own["weight"], weights[with_share]))[-1]
        for target, metrics in enumerate(self._targets.values()):
            kept = is_labelled[:, target]
            metrics.update(predictions[kept, target], labels[kept, target], weights[kept])

    def report(self) -> dict[str, Any]:
        """``events``, their ``weight``, and under ``targets`` each target's own report, by its name."""
        return {
            "events": int(self._own["events"][0]),
            "weight": float(self._own["weight"][0]),
            "targets": {target: metrics.report() for target, metrics in self._targets.items()},
        }
