"""What the metrics know does not depend on how the stream was cut, and is never NaN."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexihash.model.metrics import ProgressiveMetrics
from flexihash.model.sums import WINDOW

TASKS = st.sampled_from(["binary", "regression", "counts", "quantile"])
ANY_FLOAT = st.floats(width=64, allow_nan=True, allow_infinity=True)


def zeros(task: str) -> dict[str, torch.Tensor]:
    layout = ProgressiveMetrics.layout(task)
    return {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@given(
    task=TASKS,
    seed=st.integers(0, 1000),
    n=st.integers(0, 2 * WINDOW + 100),
    cuts=st.lists(st.floats(0.0, 1.0), max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_any_cut_leaves_the_same_bits(task: str, seed: int, n: int, cuts: list[float]) -> None:
    rng = np.random.default_rng(seed)
    predictions = rng.random(n)
    labels = (rng.random(n) < predictions).astype(np.float64) if task == "binary" else rng.gamma(1.0, size=n)
    weights = rng.choice([0.0, 0.1, 1.0, 3.0], size=n)

    whole, pieces = zeros(task), zeros(task)
    metrics = ProgressiveMetrics(task, whole, 0.9)
    metrics.update(predictions, labels, weights)
    edges = [0, *sorted(int(cut * n) for cut in cuts), n]
    for start, end in pairwise(edges):  # a new object each time: a restart between the polls
        ProgressiveMetrics(task, pieces, 0.9).update(predictions[start:end], labels[start:end], weights[start:end])
    assert bits(whole) == bits(pieces)
    assert metrics.report() == ProgressiveMetrics(task, pieces, 0.9).report()


@example(task="counts", events=[(2.0, 5e-324, 1.0)])  # label / prediction underflows to 0
@given(task=TASKS, events=st.lists(st.tuples(ANY_FLOAT, ANY_FLOAT, ANY_FLOAT), max_size=30))
@settings(max_examples=200, deadline=None)
def test_no_event_makes_a_report_that_is_not_json(task: str, events: list[tuple[float, float, float]]) -> None:
    tensors = zeros(task)
    metrics = ProgressiveMetrics(task, tensors, 0.3)
    predictions, labels, weights = np.array(events, dtype=np.float64).reshape(-1, 3).T.copy()
    metrics.update(predictions, labels, weights)
    assert all(np.isfinite(tensor.numpy()).all() for tensor in tensors.values())
    report = metrics.report()
    assert report["events"] == len(events)
    json.dumps(report, allow_nan=False)
