"""Tables with fewer rows than an event has activations: what shares a row moves it several times a step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flexihash.model.config import SINGLE_TASKS, ModelConfig
from flexihash.model.features import Feature, hash_features
from flexihash.model.online import Learned, OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task

N_EVENTS = 2_000
FEW_ROWS = [2, 4, 8, 16]


def learn(task: Task, n_rows: int, events: list[list[Feature]], labels: Any, weights: Any = None) -> Learned:
    model = OnlineModel(Tables.create(ModelConfig(task=task, n_rows=n_rows)))
    learned = model.learn(hash_features(events, n_rows), np.array(labels, np.float64), weights)
    assert np.isfinite(learned.predictions).all()
    return learned


def make_events(n_features: int) -> tuple[list[list[Feature]], NDArray[np.float64]]:
    """Numbers of all magnitudes and categories by turns, and a sum of the numbers, of deviation 1."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(N_EVENTS, n_features))
    units = 10.0 ** rng.integers(-3, 4, n_features)
    texts = rng.integers(0, 5, (N_EVENTS, n_features))
    events: list[list[Feature]] = [
        [
            (f"f{j}", number * units[j] if j % 2 == 0 else str(text))
            for j, (number, text) in enumerate(zip(event.tolist(), words.tolist(), strict=True))
        ]
        for event, words in zip(numbers, texts, strict=True)
    ]
    return events, numbers[:, ::2].sum(1) / np.sqrt((n_features + 1) // 2)


@pytest.mark.parametrize("n_features", [10, 40])
@pytest.mark.parametrize("n_rows", FEW_ROWS)
@pytest.mark.parametrize("task", [Task.REGRESSION, Task.QUANTILE])
def test_predictions_stay_among_the_labels(task: Task, n_rows: int, n_features: int) -> None:
    events, labels = make_events(n_features)
    learned = learn(task, n_rows, events, labels)
    assert learned.is_learned.all()
    assert np.abs(learned.predictions).max() < 2.0 * np.abs(labels).max()


def make_value(rng: random.Random) -> str | float:
    return rng.choice([
        rng.choice("xyz"),
        rng.gauss(0.0, 1.0),
        rng.gauss(0.0, 1e6),
        rng.choice([1e300, -1e300, 0.0]),
        rng.random() * 10.0 ** rng.randint(-9, 9),
    ])  # fmt: skip


@pytest.mark.parametrize(("n_features", "n_events"), [(5, 1_000), (300, 300)])
@pytest.mark.parametrize("n_rows", FEW_ROWS)
@pytest.mark.parametrize("task", sorted(SINGLE_TASKS))
def test_no_event_is_rejected_whatever_it_holds(task: Task, n_rows: int, n_features: int, n_events: int) -> None:
    rng = random.Random(3)
    events: list[list[Feature]] = [
        [(f"f{j}", make_value(rng)) for j in range(n_features) if rng.random() < 0.8] for _ in range(n_events)
    ]
    choices = {Task.BINARY: [0.0, 1.0], Task.COUNTS: [0.0, 1.0, 5.0, 1e6, 1e100]}
    labels = [rng.choice(choices.get(task, [rng.gauss(0.0, 1.0)] * 5 + [1e6, -1e12, 1e100])) for _ in events]
    weights = np.array([rng.choice([1.0, 1.0, 1.0, 0.0, 1e-9, 1e6]) for _ in events])
    assert learn(task, n_rows, events, labels, weights).is_learned.all()
