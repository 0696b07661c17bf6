"""Progressive metrics of a label that is one of many classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from flexihash.model.class_sums import (
    BASELINE_LOSS,
    HIT,
    LOSS,
    N_CHOICES,
    N_STANDING,
    N_TALLIES,
    N_TOTALS,
    N_WINDOW,
    SAME,
    WEIGHT,
    ClassSums,
    sum_window,
    update,
)
from flexihash.model.metrics import COUNTED, Layout, open_state
from flexihash.model.rates import divide, rate_all, rate_classes, report_both
from flexihash.model.sums import WINDOW, Floats
from flexihash.model.tasks import OF_CLASSES


class ClassMetrics:
    """Metrics of a stream of predicted classes, over all events and over the last 10,000.

    Args:
        max_classes: how many classes there can be.
        tensors: the state, as ``layout`` says; used in place, on the CPU. All zeros is a fresh start.

    Classes are numbered from 0. An event's weight multiplies its share in every metric. The baseline knows the labels
    so far: its probabilities are the classes' shares of all events, with half an event of each class that has come, and
    it says the most frequent class, of several the one that was so first. Both give 0 to a class that never came.
    ``no_change_accuracy`` is that of who says the last event's class again, and ``kappa_temporal`` how much of the way
    from there to 1 the accuracy has come (Bifet et al. 2013).

    An event with a number that is not finite, or a class out of range, is only counted, like one of weight 0.

    Raises:
        ValueError: a tensor is not what ``layout`` says.

    >>> layout = ClassMetrics.layout(max_classes=100)
    >>> tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
    >>> metrics = ClassMetrics(100, tensors)
    >>> metrics.update(np.array([[0.0, -1.0], [0.9, 0.0], [0.6, 1.0]]), np.array([0.0, 0.0, 1.0]), np.ones(3))
    >>> report = metrics.report(["AA", "UA"])
    >>> report["events"], round(report["accuracy"], 4), report["classes"]["AA"]["recall"]
    (3, 0.6667, 0.5)
    """

    @staticmethod
    def layout(max_classes: int) -> Layout:
        """Name -> (shape, dtype) of the tensors that hold the whole state: 391 KiB, and 48 bytes a class."""
        return {
            "events": ((1,), torch.int64),
            "counts": ((max_classes,), torch.int64),
            "tallies": ((N_TALLIES, max_classes), torch.float64),
            "totals": ((N_TOTALS,), torch.float64),
            "standing": ((N_STANDING,), torch.int64),
            "window": ((WINDOW, N_WINDOW), torch.float64),
            "choices": ((WINDOW, N_CHOICES), torch.int32),
        }

    def __init__(self, max_classes: int, tensors: Mapping[str, torch.Tensor]) -> None:
        self._arrays = open_state(self.layout(max_classes), tensors)
        self._names = (*COUNTED, *OF_CLASSES)

    def update(self, predictions: Floats, labels: Floats, weights: Floats) -> None:
        """Take events in the order in which they were predicted.

        Args:
            predictions: (n, 2), made before the events were learned from: the probability given to the class that came,
                0 where it never had before; and the number of the most probable class, -1 where none was known.
            labels: (n,), the number of the event's class.
            weights: (n,), not negative; an event of weight 0 is counted and nothing else.

        Raises:
            ValueError: they differ in shape.
        """
        if predictions.shape != (len(weights), 2) or labels.shape != weights.shape or weights.ndim != 1:
            raise ValueError(
                "predictions must be (n, 2), and labels and weights (n,),"
                f" not {predictions.shape}, {labels.shape}, {weights.shape}"
            )
        # the kernel is compiled for whole arrays, not again for part of one
        update(*self._arrays.values(), *map(np.ascontiguousarray, (predictions, labels, weights)))

    def report(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """The metrics of all events, and under ``window`` those of the last 10,000, by the same names.

        Args:
            names: of the classes, by their numbers; those beyond them are not reported one by one.

        Returns:
            ``events``, ``weight`` and `tasks.OF_CLASSES` -> int or float, or None where a metric is undefined; and
            under ``classes``, for each name, what `rates.rate_classes` says. Macro-F1 is the mean over the classes that
            came or were said, balanced accuracy over those that came. Kappa is None where one class came and was said
            alone, its temporal form where all were of the class of the one before.
        """
        return report_both(self._arrays, partial(self._measure, names), sum_window, "choices")

    def _measure(self, names: Sequence[str], n_events: int, sums: ClassSums) -> dict[str, Any]:
        weight, same = float(sums.totals[WEIGHT]), float(sums.totals[SAME])
        measured = rate_all(sums.tallies, weight) | {
            "events": n_events,
            "weight": weight,
            "log_loss": divide(float(sums.totals[LOSS]), weight),
            "baseline_log_loss": divide(float(sums.totals[BASELINE_LOSS]), weight),
            "no_change_accuracy": divide(same, weight),
            "kappa_temporal": divide(float(sums.tallies[HIT].sum()) - same, weight - same),
        }
        report: dict[str, Any] = {name: measured[name] for name in self._names}
        report["classes"] = rate_classes(sums.counts, sums.tallies, names)
        return report
