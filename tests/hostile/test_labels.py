"""Labels that are valid and nevertheless wrong: what one of them, or a lasting change, does to the model."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch, hash_features
from flexihash.model.kernel import slots
from flexihash.model.metrics import WINDOW
from flexihash.model.online import OnlineModel
from flexihash.model.tables import METRICS_PREFIX, Tables
from flexihash.model.tasks import Task

N_ROWS = 1 << 12
N_GOOD = 20_000  # labels of deviation 1.7 before the bad one
N_SOON = 1_000  # events within which one bad label must be forgotten
N_LATER = 50_000  # events within which a new scale must be learned
CLOSE = 1.2  # errors are as before up to this factor

Floats = NDArray[np.float64]
QUANTITIES = [Task.REGRESSION, Task.QUANTILE]
FAR = [1e6, -1e6, 1e12, 1e100, -1e100]


@cache
def make_stream(n: int, seed: int = 0) -> tuple[Batch, Floats]:
    """Events of two numbers and a category, and what those say of the label, of deviation 1.5."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=n), rng.normal(size=n), rng.integers(0, 8, n)
    events = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    batch = hash_features([[("a", x), ("b", y), ("c", str(z))] for x, y, z in events], N_ROWS)
    return batch, a - 0.5 * b + np.linspace(-1.5, 1.5, 8)[c]


def make_labels(task: Task, means: Floats) -> Floats:
    """Quantities about 5, of deviation 1.5 and noise 0.1; or counts about 3."""
    rng = np.random.default_rng(1)
    if task is Task.COUNTS:
        return rng.poisson(np.exp(1.0 + 0.4 * means)).astype(np.float64)
    return 5.0 + means + 0.1 * rng.normal(size=len(means))


class Learning:
    """A model that learns a stream piece by piece."""

    def __init__(self, task: Task, batch: Batch) -> None:
        self.model = OnlineModel(Tables.create(ModelConfig(task=task, n_rows=N_ROWS)))
        self.batch = batch
        self.at = 0

    def learn(self, labels: Floats, weights: Floats | None = None) -> float:
        """Learns the stream's next events with these labels; returns the root mean squared error."""
        begin, end = self.at, self.at + len(labels)
        offsets = self.batch.offsets[begin : end + 1]
        piece = slice(offsets[0], offsets[-1])
        rows, values, is_number, fields = (
            array[piece] for array in (self.batch.rows, self.batch.values, self.batch.is_number, self.batch.fields)
        )
        batch = Batch(rows, offsets - offsets[0], values, is_number, fields)
        self.at = end
        learned = self.model.learn(batch, labels, weights)
        assert learned.is_learned.all()
        errors = np.clip(learned.predictions - labels, -1e150, 1e150)
        return float(np.sqrt(np.square(errors).mean()))

    def assert_finite(self) -> None:
        for name, tensor in self.model.tables.tensors.items():
            if not name.startswith(METRICS_PREFIX):
                assert torch.isfinite(tensor.double()).all(), name


def learn_good(task: Task) -> tuple[Learning, Floats, float]:
    """A model after N_GOOD good events, the labels of those that come next, and the error of the last N_SOON."""
    batch, means = make_stream(N_GOOD + N_LATER + 1)
    labels = make_labels(task, means)
    learning = Learning(task, batch)
    learning.learn(labels[: N_GOOD - N_SOON])
    return learning, labels[N_GOOD:], learning.learn(labels[N_GOOD - N_SOON : N_GOOD])


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("task", [*QUANTITIES, Task.COUNTS])
def test_one_label_far_away_is_soon_forgotten(task: Task, far: float) -> None:
    learning, labels, before = learn_good(task)
    learning.learn(np.array([abs(far) if task is Task.COUNTS else far]))
    assert learning.learn(labels[1 : 1 + N_SOON]) < CLOSE * before
    learning.assert_finite()


@pytest.mark.parametrize("task", [*QUANTITIES, Task.COUNTS])
def test_one_label_far_away_that_counts_a_million_times_is_forgotten(task: Task) -> None:
    learning, labels, before = learn_good(task)
    learning.learn(np.array([1e100]), np.array([1e6]))
    learning.learn(labels[1 : 1 + 10 * N_SOON])
    assert learning.learn(labels[1 + 10 * N_SOON : 1 + 12 * N_SOON]) < CLOSE * before


@pytest.mark.parametrize("task", [*QUANTITIES, Task.COUNTS])
def test_a_third_label_far_away_is_forgotten(task: Task) -> None:
    """From the second one on a deviation is known."""
    learning, _, before = learn_good(task)
    labels = make_labels(task, make_stream(N_GOOD + N_LATER + 1)[1])
    early = Learning(task, learning.batch)
    early.learn(labels[:2])
    early.learn(np.array([1e100]))
    early.learn(labels[3 : N_GOOD - N_SOON])
    assert early.learn(labels[N_GOOD - N_SOON : N_GOOD]) < CLOSE * before


@pytest.mark.parametrize("task", QUANTITIES)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_lasting_change_of_scale_is_learned(task: Task, scale: float) -> None:
    learning, labels, before = learn_good(task)
    learning.learn(labels[: N_LATER - N_SOON] * scale)
    assert learning.learn(labels[N_LATER - N_SOON : N_LATER] * scale) / scale < CLOSE * before
    learning.assert_finite()


def test_counts_that_grow_for_good_are_learned() -> None:
    """Relative errors are smaller then than they were, as those of counts are when they grow."""
    batch, means = make_stream(N_GOOD + N_LATER + 1)
    learning = Learning(Task.COUNTS, batch)
    learning.learn(make_labels(Task.COUNTS, means)[:N_GOOD])
    rates = 1e6 * np.exp(1.0 + 0.4 * means[N_GOOD:])
    counts = np.random.default_rng(2).poisson(rates).astype(np.float64)
    learning.learn(counts[: N_LATER - 2 * N_SOON])
    assert learning.learn(counts[N_LATER - 2 * N_SOON : N_LATER]) < 0.2 * counts.std()
    learning.assert_finite()


def test_counts_in_millions_are_learned_from_the_first_one_on() -> None:
    batch, means = make_stream(N_GOOD)
    counts = np.random.default_rng(2).poisson(1e6 * np.exp(1.0 + 0.4 * means)).astype(np.float64)
    learning = Learning(Task.COUNTS, batch)
    assert learning.learn(counts[:N_SOON]) < counts.std()
    assert learning.learn(counts[N_SOON:]) < 0.1 * counts.std()


@pytest.mark.parametrize("rarity", [0.01, 0.001])
def test_what_is_rare_and_comes_again_is_believed(rarity: float) -> None:
    """Of labels that are mostly 0 the mean is learned, though each other one is 10 to 30 deviations away."""
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(3 * N_GOOD) < rarity, 50.0, 0.0)
    learning = Learning(Task.REGRESSION, hash_features([[("a", "x")]] * len(labels), N_ROWS))
    learning.learn(labels)
    state = learning.model.tables.tensors["state"].numpy()
    assert state[slots.LABEL_MEAN] == pytest.approx(labels[-5 * N_SOON :].mean(), rel=0.6)
    predicted = learning.model.predict(hash_features([[("a", "x")]], N_ROWS)).values[0]
    assert 0.4 * 50.0 * rarity < predicted < 2.5 * 50.0 * rarity


@pytest.mark.parametrize("task", [*QUANTITIES, Task.COUNTS])
def test_labels_of_weight_0_teach_nothing(task: Task) -> None:
    learning, _, _ = learn_good(task)
    state = learning.model.tables.tensors["state"].numpy()
    labels = slice(slots.LABEL_COUNT, slots.LABEL_REACH + 1)
    errors_and_mixture = slice(slots.RESIDUAL, slots.MIX_COVARIANCE)
    before = state[labels].tolist(), state[errors_and_mixture].tolist()
    learning.learn(np.full(100, 1e6), np.zeros(100))
    assert (state[labels].tolist(), state[errors_and_mixture].tolist()) == before


@pytest.mark.parametrize("weight", [1e-6, 1e4])
@pytest.mark.parametrize("task", QUANTITIES)
def test_the_scale_does_not_hang_on_the_weights_unit(task: Task, weight: float) -> None:
    """Mean and deviation of labels that all count alike are those of labels that count once."""
    labels = make_labels(task, make_stream(5 * N_SOON)[1])

    def scale_of(weights: Floats | None) -> Any:
        learning = Learning(task, make_stream(5 * N_SOON)[0])
        learning.learn(labels, weights)
        return learning.model.tables.tensors["state"].numpy()[[slots.LABEL_MEAN, slots.LABEL_VARIANCE]]

    assert scale_of(np.full(len(labels), weight)) == pytest.approx(scale_of(None), rel=1e-9)


@pytest.mark.parametrize("far", [1e6, 1e70, 1e100])
@pytest.mark.parametrize("task", [*QUANTITIES, Task.COUNTS])
def test_the_windows_metrics_recover(task: Task, far: float) -> None:
    learning, labels, _ = learn_good(task)
    before = learning.model.report()["window"]
    learning.learn(np.array([far]))
    learning.learn(labels[1 : WINDOW + 1])
    report = learning.model.report()
    assert np.isfinite([value for value in report.values() if isinstance(value, float)]).all()
    for name in ("mae", "rmse", learning.model.config.task.record.headline):
        for whose in ("", "baseline_"):
            assert report["window"][whose + name] < CLOSE * before[whose + name], whose + name
    assert report["window"]["r2"] > 0.9 * before["r2"]


@pytest.mark.parametrize("task", QUANTITIES)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_windows_baseline_learns_a_lasting_change_of_scale(task: Task, scale: float) -> None:
    learning, labels, _ = learn_good(task)
    before = learning.model.report()["window"]
    learning.learn(labels[:N_LATER] * scale)
    window = learning.model.report()["window"]
    for name in ("baseline_mae", "baseline_rmse"):
        assert window[name] < CLOSE * before[name] * scale, name
