"""What a model reports of itself where its label is one of many classes, several labels, or several targets."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.config import ModelConfig
from flexihash.model.features import hash_features
from flexihash.model.online import Learned, OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.service.commands.inspect import inspect_checkpoint

N_EVENTS = 400
N_ROWS = 1 << 12
RNG = np.random.default_rng(0)
SIDES = RNG.integers(0, 3, N_EVENTS)
WEIGHTS = RNG.choice([0.5, 1.0, 2.0], N_EVENTS)
CUTS = (0, 1, 130, 131, 390, N_EVENTS)


def learn(model: OnlineModel, labels: NDArray[np.float64], classes: tuple[str, ...] = ()) -> Learned:
    """Learns the events in pieces, as polls cut them."""
    learned = []
    for begin, end in pairwise(CUTS):
        batch = hash_features([[("side", str(side))] for side in SIDES[begin:end]], N_ROWS)
        of_model = model.admit(labels[begin:end], classes).labels if classes else labels[begin:end]
        learned.append(model.learn(batch, of_model, WEIGHTS[begin:end]))
    return Learned(*(np.concatenate(parts) for parts in zip(*learned, strict=True)))


def make_model(**config: Any) -> OnlineModel:
    return OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS, **config)))


@pytest.mark.parametrize(
    ("classes", "titles"), [(('"AA"', '"3"', '"x y"'), ["AA", "3", "x y"]), (("3", "-7", "0"), ["3", "-7", "0"])]
)
def test_of_classes(classes: tuple[str, ...], titles: list[str]) -> None:
    model = make_model(task=Task.MULTICLASS)
    learned = learn(model, SIDES.astype(float), classes)
    report = model.report()
    likelihoods, said = learned.predictions.T
    assert report["events"] == N_EVENTS
    assert report["log_loss"] == pytest.approx(np.average(-np.log(np.clip(likelihoods, 1e-3, 0.999)), weights=WEIGHTS))
    assert 0.9 < report["accuracy"] < 1.0
    admitted = model.admit(SIDES.astype(float), classes).labels
    assert report["accuracy"] == pytest.approx(np.average(said == admitted, weights=WEIGHTS))
    counts = {name: of_class["count"] for name, of_class in report["classes"].items()}
    assert counts == {title: np.count_nonzero(k == SIDES) for k, title in enumerate(titles)}
    assert model.copy_report()() == report


def test_of_labels() -> None:
    labels = np.stack([SIDES == 0, SIDES > 0, SIDES == 2], axis=1).astype(float)
    model = make_model(task=Task.MULTILABEL, max_classes=5)
    learn(model, labels, ('"none"', '"some"', '"two"'))
    report = model.report()
    assert (report["events"], report["weight"]) == (N_EVENTS, WEIGHTS.sum())
    assert report["hamming_loss"] < 0.05 < report["baseline_hamming_loss"]
    assert report["log_loss"] < 0.3 * report["baseline_log_loss"]
    counts = {name: of_label["count"] for name, of_label in report["classes"].items()}
    assert counts == {"none": np.count_nonzero(SIDES == 0), "some": np.count_nonzero(SIDES), "two": (SIDES == 2).sum()}


def test_of_targets() -> None:
    labels = np.stack([SIDES == 0, 5.0 * SIDES], axis=1).astype(float)
    labels[::7, 0] = np.nan
    model = make_model(task=Task.TARGETS, targets={"late": Task.BINARY, "delay": Task.REGRESSION})
    learned = learn(model, labels)
    report = model.report()
    late, delay = report["targets"]["late"], report["targets"]["delay"]
    assert (report["events"], report["weight"]) == (N_EVENTS, WEIGHTS.sum())
    assert (late["events"], delay["events"]) == (np.count_nonzero(~np.isnan(labels[:, 0])), N_EVENTS)
    errors = np.abs(learned.predictions[:, 1] - labels[:, 1])
    assert delay["mae"] == pytest.approx(np.average(errors, weights=WEIGHTS))
    assert late["log_loss"] < 0.3 * late["baseline_log_loss"]
    assert delay["mae"] < 0.3 * delay["baseline_mae"]


def test_a_checkpoint_is_shown_with_its_classes(tmp_path: Path) -> None:
    model = make_model(task=Task.MULTICLASS)
    learn(model, SIDES.astype(float), ('"AA"', '"UA"', '"B6"'))
    lines = show_checkpoint(model, tmp_path)
    counts = sorted(zip(np.bincount(SIDES).tolist(), ("AA", "UA", "B6"), strict=True), reverse=True)
    assert [line for line in lines if line.startswith("class ")] == [f"class {name}: {n} events" for n, name in counts]
    assert f"kappa {model.report()['kappa']:.4f}" in lines


def test_a_checkpoint_is_shown_with_its_targets(tmp_path: Path) -> None:
    model = make_model(task=Task.TARGETS, targets={"late": Task.BINARY, "delay": Task.REGRESSION})
    learn(model, np.stack([SIDES == 0, 5.0 * SIDES], axis=1).astype(float))
    report = model.report()
    assert f"late: log loss {report['targets']['late']['log_loss']:.4f}" in show_checkpoint(model, tmp_path)
    assert f"delay: mae {report['targets']['delay']['mae']:.4f}" in show_checkpoint(model, tmp_path)


def show_checkpoint(model: OnlineModel, folder: Path) -> list[str]:
    """The lines of `inspect` for a checkpoint of the model as it is."""
    store = CheckpointStore(folder, 3)
    store.save(model.tables.tensors, events=N_EVENTS, positions={}, configuration={}, metrics=model.report())
    console = Console(width=100)
    with console.capture() as capture:
        inspect_checkpoint(max(folder.iterdir())).show(console)
    return [" ".join(line.split()) for line in capture.get().splitlines()]
