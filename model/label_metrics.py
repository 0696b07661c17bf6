"""Progressive metrics of a label that is several at once, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from flexihash.model.class_sums import BASELINE_LOSS, LOSS, N_TALLIES, WEIGHT, ClassSums
from flexihash.model.label_sums import (
    BASELINE_EXACT,
    BASELINE_HAMMING,
    EXACT,
    HAMMING,
    N_TOTALS,
    N_WINDOW,
    sum_window,
    update,
)
from flexihash.model.metrics import COUNTED, Layout, open_state
from flexihash.model.rates import divide, rate_all, rate_classes, report_both
from flexihash.model.sums import WINDOW, Floats
from flexihash.model.tasks import OF_LABELS

_TOTALS = {
    "log_loss": LOSS,
    "hamming_loss": HAMMING,
    "subset_accuracy": EXACT,
    "baseline_log_loss": BASELINE_LOSS,
    "baseline_hamming_loss": BASELINE_HAMMING,
    "baseline_subset_accuracy": BASELINE_EXACT,
}


class LabelMetrics:
    """Metrics of a stream of predicted sets of labels, over all events and over the last 10,000.

    Args:
        max_labels: how many labels there can be.
        tensors: the state, as ``layout`` says; used in place, on the CPU. All zeros is a fresh start.

    Labels are numbered from 0 as they come: one is known from the first event on that has it, and an event is measured
    by the labels known then. It counts as said at a probability of 0.5 or more. The log loss of an event is the mean
    over its labels, the Hamming loss the share of the wrong ones; both are 0 before any label is known. The weight
    of an event multiplies its share in every metric. The baseline knows each label's share of the events so far, and
    half of one imagined event.

    An event with a number that is not finite, or a label that is not 0 or 1, is only counted, like one of weight 0.

    Raises:
        ValueError: a tensor is not what ``layout`` says.

    >>> layout = LabelMetrics.layout(max_labels=100)
    >>> tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
    >>> metrics = LabelMetrics(100, tensors)
    >>> metrics.update(np.array([[0.9, 0.2], [0.6, 0.1]]), np.array([[1.0, 0.0], [1.0, 1.0]]), np.ones(2))
    >>> report = metrics.report(["late", "full"])
    >>> report["hamming_loss"], report["subset_accuracy"], report["classes"]["full"]["recall"]
    (0.25, 0.5, 0.0)
    """

    @staticmethod
    def layout(max_labels: int) -> Layout:
        """Name -> (shape, dtype) of the tensors that hold the whole state: 313 KiB, and 10 KiB a label."""
        return {
            "events": ((1,), torch.int64),
            "known": ((1,), torch.int64),
            "counts": ((max_labels,), torch.int64),
            "tallies": ((N_TALLIES, max_labels), torch.float64),
            "totals": ((N_TOTALS,), torch.float64),
            "window": ((WINDOW, N_WINDOW), torch.float64),
            "flags": ((WINDOW, max_labels), torch.uint8),
        }

    def __init__(self, max_labels: int, tensors: Mapping[str, torch.Tensor]) -> None:
        self._max_labels = max_labels
        self._arrays = open_state(self.layout(max_labels), tensors)
        self._names = (*COUNTED, *OF_LABELS)

    def update(self, probabilities: Floats, labels: Floats, weights: Floats) -> None:
        """Take events in the order in which they were predicted.

        Args:
            probabilities: (n, K), of each label, made before the events were learned from; of a label that an event
                brings NaN counts as 0.
            labels: (n, K), 0 or 1; K labels are known by the last event, and no fewer than before.
            weights: (n,), not negative; an event of weight 0 is counted and nothing else.

        Raises:
            ValueError: they differ in shape, or K is out of range.
        """
        n_labels = probabilities.shape[-1]
        if not probabilities.shape == labels.shape == (len(weights), n_labels) or weights.ndim != 1:
            raise ValueError(
                "probabilities and labels must be (n, K) and weights (n,),"
                f" not {probabilities.shape}, {labels.shape}, {weights.shape}"
            )
        n_known = int(self._arrays["known"][0])
        if not n_known <= n_labels <= self._max_labels:
            raise ValueError(f"there can be {n_known} to {self._max_labels} labels, not {n_labels}")
        # the kernel is compiled for whole arrays, not again for part of one
        update(*self._arrays.values(), *map(np.ascontiguousarray, (probabilities, labels, weights)))

    def report(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """The metrics of all events, and under ``window`` those of the last 10,000, by the same names.

        Args:
            names: of the labels, by their numbers; those beyond them are not reported one by one.

        Returns:
            ``events``, ``weight`` and `tasks.OF_LABELS` -> int or float, or None where a metric is undefined; and under
            ``classes``, for each name, what `rates.rate_classes` says. Macro-F1 is the mean over the labels that came
            or were said.
        """
        return report_both(self._arrays, partial(self._measure, names), sum_window, "flags")

    def _measure(self, names: Sequence[str], n_events: int, sums: ClassSums) -> dict[str, Any]:
        weight = float(sums.totals[WEIGHT])
        measured = rate_all(sums.tallies, weight) | {"events": n_events, "weight": weight}
        measured |= {name: divide(float(sums.totals[column]), weight) for name, column in _TOTALS.items()}
        report: dict[str, Any] = {name: measured[name] for name in self._names}
        report["classes"] = rate_classes(sums.counts, sums.tallies, names)
        return report
