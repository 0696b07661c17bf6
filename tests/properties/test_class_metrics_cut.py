"""What the metrics of classes, labels and targets know does not depend on how the stream was cut, and is never NaN."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexihash.model.class_metrics import ClassMetrics
from flexihash.model.label_metrics import LabelMetrics
from flexihash.model.metrics import Layout
from flexihash.model.sums import WINDOW
from flexihash.model.target_metrics import TargetMetrics

Events = tuple[NDArray[np.float64], ...]
N_CLASSES = 5
TARGETS = {"late": "binary", "delay": "regression", "stops": "counts"}
ANY_FLOAT = st.floats(width=64, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, 2.0, 0.5])


def draw_classes(rng: np.random.Generator, n: int) -> Events:
    labels = np.minimum(rng.integers(0, N_CLASSES, n), np.arange(n) // 50)
    return np.stack([rng.random(n), rng.integers(-1, N_CLASSES, n)], axis=1), labels.astype(float)


def draw_labels(rng: np.random.Generator, n: int) -> Events:
    labels = rng.random((n, N_CLASSES)) < 0.2
    labels &= np.arange(N_CLASSES) <= np.arange(n)[:, None] // 50
    return rng.random((n, N_CLASSES)), labels.astype(float)


def draw_targets(rng: np.random.Generator, n: int) -> Events:
    labels = np.where(rng.random((n, 3)) < 0.3, np.nan, rng.integers(0, 2, (n, 3)))
    return rng.random((n, 3)), labels


class Kind(NamedTuple):
    """One kind of metrics: its state, what is made of it, events, and the shape of one event's arrays."""

    layout: Layout
    make: Callable[[dict[str, torch.Tensor]], Any]
    draw: Callable[[np.random.Generator, int], Events]
    widths: tuple[int, ...]

    def report(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        metrics = self.make(tensors)
        names = [f"class {k}" for k in range(N_CLASSES)]
        report: dict[str, Any] = metrics.report(*([] if isinstance(metrics, TargetMetrics) else [names]))
        return report


KINDS = {
    "classes": Kind(
        ClassMetrics.layout(N_CLASSES), lambda tensors: ClassMetrics(N_CLASSES, tensors), draw_classes, (2, 0)
    ),
    "labels": Kind(
        LabelMetrics.layout(N_CLASSES), lambda tensors: LabelMetrics(N_CLASSES, tensors), draw_labels, (N_CLASSES,) * 2
    ),
    "targets": Kind(
        TargetMetrics.layout(TARGETS), lambda tensors: TargetMetrics(TARGETS, tensors), draw_targets, (3, 3)
    ),
}


def zeros(layout: Layout) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 1000),
    n=st.integers(0, 2 * WINDOW + 100),
    cuts=st.lists(st.floats(0.0, 1.0), max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_any_cut_leaves_the_same_bits(kind: str, seed: int, n: int, cuts: list[float]) -> None:
    layout, make, draw, _ = KINDS[kind]
    rng = np.random.default_rng(seed)
    events = (*draw(rng, n), rng.choice([0.0, 0.1, 1.0, 3.0], size=n))
    whole, pieces = zeros(layout), zeros(layout)
    make(whole).update(*events)
    edges = [0, *sorted(int(cut * n) for cut in cuts), n]
    for start, end in pairwise(edges):  # a new object each time: a restart between the polls
        make(pieces).update(*(array[start:end] for array in events))
    assert bits(whole) == bits(pieces)
    assert KINDS[kind].report(whole) == KINDS[kind].report(pieces)


def test_labels_that_a_later_event_brings_do_not_change_an_earlier_one() -> None:
    layout, make, draw, _ = KINDS["labels"]
    rng = np.random.default_rng(0)
    events = (*draw(rng, 400), np.ones(400))
    whole, pieces = zeros(layout), zeros(layout)
    make(whole).update(*events)
    for i, (probabilities, labels, weight) in enumerate(zip(*events, strict=True)):
        n_labels = 1 + int(np.flatnonzero(events[1][: i + 1].any(axis=0)).max(initial=-1))
        make(pieces).update(probabilities[None, :n_labels], labels[None, :n_labels], weight[None])
    assert bits(whole) == bits(pieces)


@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
@settings(max_examples=200, deadline=None)
def test_no_event_makes_a_report_that_is_not_json(kind: str, data: st.DataObject) -> None:
    layout, make, _, widths = KINDS[kind]
    n = data.draw(st.integers(0, 10))
    arrays = []
    for width in (*widths, 0):
        numbers = data.draw(st.lists(ANY_FLOAT, min_size=n * (width or 1), max_size=n * (width or 1)))
        arrays.append(np.array(numbers, np.float64).reshape((n, width) if width else (n,)))
    tensors = zeros(layout)
    make(tensors).update(*arrays)
    assert all(np.isfinite(tensor.numpy()).all() for tensor in tensors.values())
    report = KINDS[kind].report(tensors)
    assert report["events"] == n
    json.dumps(report, allow_nan=False)
