"""Trees over numbers: what they remember, how they grow, and what they are there for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch
from flexihash.model.kernel import growth, slots, trees, window
from flexihash.model.online import OnlineModel
from flexihash.model.tables import TREES_PREFIX, Tables
from flexihash.model.tasks import Task

N_NUMBERS = 3
Tensors = dict[str, NDArray[np.generic]]


def make_batch(x: NDArray[np.float64]) -> Batch:
    """Events of numbers, the j-th of them in row j; NaN where an event lacks one."""
    there = ~np.isnan(x)
    rows = np.broadcast_to(np.arange(x.shape[1]), x.shape)[there]
    offsets = np.concatenate([[0], there.sum(1).cumsum()])
    return Batch(rows.astype(np.int64), offsets.astype(np.int64), x[there], np.ones(len(rows), np.bool_), *rest(rows))


def rest(rows: NDArray[np.int64]) -> list[NDArray[np.generic]]:
    """Whatever else a batch has of each feature, which trees do not look at."""
    return [np.zeros(len(rows), np.int64) for _ in Batch.__struct_fields__[4:]]


def draw(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers, and labels by sharp thresholds in three of them at once."""
    x = np.random.default_rng(seed).uniform(size=(n, N_NUMBERS))
    return x, ((x[:, 0] > 0.3) ^ (x[:, 1] > 0.6) ^ (x[:, 2] > 0.5)).astype(np.float64)


def make_model(task: Task = Task.BINARY) -> OnlineModel:
    return OnlineModel(Tables.create(ModelConfig(task=task, n_rows=1 << 12)))


def of_trees(model: OnlineModel) -> Tensors:
    tensors = model.tables.tensors
    return {name: tensors[TREES_PREFIX + name].numpy() for name in trees.Trees._fields}


def find_leaves(found: Tensors, k: int, x: NDArray[np.float32]) -> NDArray[np.int64]:
    """The leaf of each event in tree `k`."""
    node = np.zeros(len(x), np.int64)
    for _ in range(trees.DEPTH):
        right = x[np.arange(len(x)), found["features"][k][node]] > found["cuts"][k][node]
        node = 2 * node + 1 + right
    return node - trees.N_NODES


def log_loss(p: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(-np.log(np.where(y == 1, p, 1 - p).clip(1e-3)).mean())


def test_thresholds_in_three_numbers_at_once_are_learned() -> None:
    """Without trees the loss of the last thousand is 0.69: products of two curves know nothing of three."""
    x, y = draw(12_000)
    model = make_model()
    p = model.learn(make_batch(x), y).predictions
    assert log_loss(p[-1000:], y[-1000:]) < 0.3
    assert model.tables.tensors["state"][slots.LEAD] > 5


@pytest.mark.parametrize("n_events", [200, trees.WINDOW + 300])
def test_the_window_holds_the_last_events(n_events: int) -> None:
    x, y = draw(n_events)
    x[3::7, 1] = np.nan
    model = make_model()
    weights = np.where(np.arange(n_events) % 5 == 0, 2.0, 1.0)
    model.learn(make_batch(x), y, weights)
    found = of_trees(model)
    last = np.arange(max(0, n_events - trees.WINDOW), n_events)
    at = last % trees.WINDOW
    expected = np.where(np.isnan(x), trees.MISSING, x).astype(np.float32)[last]
    kept = found["values"][at][:, :N_NUMBERS]
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(found["known"][trees.LABEL][at], y[last])
    np.testing.assert_array_equal(found["known"][trees.LABEL_WEIGHT][at], weights[last])
    for slot in range(N_NUMBERS):
        edges = found["edges"][slot]
        assert (np.diff(edges[edges < trees.BEYOND]) > 0).all()
        np.testing.assert_array_equal(found["bins"][at, slot], np.searchsorted(edges, kept[:, slot], "left"))
    leaves = np.stack([find_leaves(found, k, found["values"][at]) for k in range(trees.N_TREES)])
    np.testing.assert_array_equal(found["places"][:, at], leaves)
    score = np.take_along_axis(found["leaves"], leaves, 1).sum(0)
    np.testing.assert_allclose(found["known"][trees.SCORE][at], score, atol=1e-4)


@pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])
def test_a_tree_is_a_newton_step_on_what_the_others_leave(task: Task) -> None:
    """Up to the event that grows one; then that tree, by every split of every number, in float64."""
    x, y = draw(2_000)
    x = x.round(2)
    if task is Task.REGRESSION:
        y = y + x[:, 0]
    model = make_model(task)
    n, grown = 0, 0
    while grown < trees.N_TREES + 2:  # the second tree, anew
        before = of_trees(model)["counters"][trees.N_GROWN]
        model.learn(make_batch(x[n : n + 1]), y[n : n + 1])
        n += 1
        grown = int(of_trees(model)["counters"][trees.N_GROWN])
        assert grown - before in (0, 1)
    found = of_trees(model)
    k = (grown - 1) % trees.N_TREES
    leaf = found["places"][k, :n]
    left = found["known"][trees.SCORE, :n].astype(np.float64) - found["leaves"][k][leaf]
    label = found["known"][trees.LABEL, :n].astype(np.float64)
    p = 1 / (1 + np.exp(-left))
    g, h = (p - label, np.maximum(p * (1 - p), 1e-3)) if task is Task.BINARY else (left - label, np.ones(n))
    for i in range(trees.N_LEAVES):
        step = -growth.SHRINKAGE * g[leaf == i].sum() / (h[leaf == i].sum() + growth.PENALTY)
        assert found["leaves"][k, i] == pytest.approx(step, abs=1e-4)
    least = growth.LEAST_EVENTS * (0.25 if task is Task.BINARY else 1.0)
    best = max(
        gain(g, h, found["bins"][:n, slot] <= last, least) for slot in range(N_NUMBERS) for last in range(trees.N_BINS)
    )
    chosen = found["values"][:n, found["features"][k, 0]] <= found["cuts"][k, 0]
    assert gain(g, h, chosen, least) == pytest.approx(best, rel=1e-3)


def gain(g: NDArray[np.float64], h: NDArray[np.float64], is_left: NDArray[np.bool_], least: float) -> float:
    sides = (is_left, ~is_left)
    if min(h[side].sum() for side in sides) < least:
        return 0.0
    return float(sum(g[side].sum() ** 2 / (h[side].sum() + growth.PENALTY) for side in sides))


def test_predict_foretells_learn_and_cuts_do_not_matter_once_trees_grow() -> None:
    x, y = draw(1_500)
    whole, cut = make_model(), make_model()
    at_once = whole.learn(make_batch(x), y).predictions
    for begin in range(0, len(y), 77):
        some = make_batch(x[begin : begin + 77])
        foretold = cut.predict(some).values[0]
        learned = cut.learn(some, y[begin : begin + 77]).predictions
        assert learned[0] == foretold
        np.testing.assert_array_equal(learned, at_once[begin : begin + 77])
    for name, tensor in whole.tables.tensors.items():
        assert tensor.numpy().tobytes() == cut.tables.tensors[name].numpy().tobytes(), name
    assert of_trees(whole)["counters"][trees.N_GROWN] > trees.N_TREES


@pytest.mark.parametrize(
    ("task", "n_numbers"), [(Task.BINARY, 1), (Task.QUANTILE, N_NUMBERS), (Task.COUNTS, N_NUMBERS)]
)
def test_without_two_numbers_or_a_task_that_they_help_with_there_are_none(task: Task, n_numbers: int) -> None:
    x, y = draw(200)
    model = make_model(task)
    model.learn(make_batch(x[:, :n_numbers]), y)
    found = of_trees(model)
    assert found["counters"][trees.SEEN] == found["counters"][trees.N_GROWN] == 0
    assert not found["values"][:, 0].any() or (found["values"][:, 0] == trees.MISSING).all()
    assert not model.tables.tensors["state"][slots.WIDE_MIX :].any()


def test_numbers_beyond_the_slots_are_left_out_and_a_late_one_gets_the_next() -> None:
    x = np.random.default_rng(0).uniform(size=(300, trees.N_SLOTS + 4))
    x[:100, 1] = np.nan
    model = make_model()
    model.learn(make_batch(x), (x[:, 0] > 0.5).astype(np.float64))
    found = of_trees(model)
    first = [0, *range(2, trees.N_SLOTS + 1)]
    assert found["slots"].tolist() == first
    np.testing.assert_array_equal(found["values"][:300], x[:, first].astype(np.float32))

    late = make_model()
    x = x[:, :3]
    x[:200, 2] = np.nan
    late.learn(make_batch(x), (x[:, 0] > 0.5).astype(np.float64))
    found = of_trees(late)
    assert found["slots"][:3].tolist() == [0, 1, 2]
    assert found["counters"][trees.SEEN] == 200  # since there are two numbers
    assert (found["values"][:100, 2] == trees.MISSING).all()
    np.testing.assert_array_equal(found["values"][100:200, 2], x[200:, 2].astype(np.float32))


def test_sorting_and_quantiles() -> None:
    """Edges lie half way between values that differ, at the quantiles; few values have an edge each."""
    x = np.tile(np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 5.0]]), (16, 1))
    model = make_model()
    model.learn(make_batch(x), np.arange(64) % 2.0)
    edges = of_trees(model)["edges"]
    assert window.FIRST_EVENTS <= 64
    assert edges[0][edges[0] < trees.BEYOND].tolist() == [1.5, 2.5]
    assert edges[1][edges[1] < trees.BEYOND].tolist() == [2.5]


def test_a_checkpoint_brings_the_trees_back(tmp_path: Path) -> None:
    x, y = draw(600)
    model, other = make_model(), make_model()
    model.learn(make_batch(x[:400]), y[:400])
    store = CheckpointStore(tmp_path, 1)
    store.save(model.tables.tensors, events=400, positions={}, configuration={}, metrics={})
    assert store.load_newest({}, other.tables.tensors) is not None
    assert of_trees(other)["counters"][trees.N_GROWN] > 0
    expected = model.learn(make_batch(x[400:]), y[400:]).predictions
    np.testing.assert_array_equal(other.learn(make_batch(x[400:]), y[400:]).predictions, expected)
