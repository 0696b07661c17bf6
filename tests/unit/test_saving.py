"""The shadow from which checkpoints are written: the tables of one moment, however little of them is copied then."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from flexihash.model import saving
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.checkpoint.tensors import read
from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch, hash_features
from flexihash.model.online import OnlineModel
from flexihash.model.saving import Saver
from flexihash.model.tables import Tables

PATIENCE_S = 20.0
N_ROWS = 1 << 10


def users(first: int, n: int) -> Batch:
    return hash_features(
        [[("user", f"u{number}"), ("price", float(number))] for number in range(first, first + n)], N_ROWS
    )


def learn(model: OnlineModel, first: int, n: int) -> None:
    model.learn(users(first, n), np.arange(n) % 2.0)


def save(saver: Saver, model: OnlineModel) -> dict[str, torch.Tensor]:
    saver.begin(events=model.n_events, positions={}, configuration={}, metrics={})
    saved = saver.take_result(wait=True)
    assert saved is not None and saved.info is not None
    return read(saved.info.path)[0]


def prepare(saver: Saver) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not saver.prepare():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def never_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change counts as many, so that each save is prepared as one of a large table is."""
    monkeypatch.setattr(saving, "FEW_ROWS", 0)
    monkeypatch.setattr(saving, "FEW_EVENTS", 0)


@pytest.mark.usefixtures("never_few")
@pytest.mark.parametrize("is_prepared", [True, False])
def test_each_checkpoint_is_the_tables_of_its_moment(tmp_path: Path, is_prepared: bool) -> None:
    model = OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS)))
    saver = Saver(CheckpointStore(tmp_path, keep=9), model.tables)
    for number in range(4):
        learn(model, 50 * number, 60)
        if is_prepared:
            saver.prepare()  # copies while the next events are learned
        learn(model, 30 * number, 60)
        if is_prepared:
            prepare(saver)
            learn(model, 7 * number, 5)
        expected = {name: tensor.clone() for name, tensor in model.tables.tensors.items()}
        found = save(saver, model)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name
    saver.close()


@pytest.mark.usefixtures("never_few")
def test_a_prepared_save_copies_only_what_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    refresh = saving.Shadow.refresh
    monkeypatch.setattr(saving.Shadow, "refresh", lambda shadow: copied.append(refresh(shadow)))
    model = OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS)))
    saver = Saver(CheckpointStore(tmp_path, keep=9), model.tables)
    copied.clear()  # of the warm-up
    learn(model, 0, 100)
    prepare(saver)
    save(saver, model)
    prepare(saver)
    model.learn(hash_features([[("user", "u1")]], N_ROWS), np.ones(1))
    save(saver, model)
    assert copied == [0, 1]
    saver.close()


@pytest.mark.usefixtures("never_few")
def test_preparing_ends_where_learning_outruns_it(tmp_path: Path) -> None:
    model = OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS)))
    saver = Saver(CheckpointStore(tmp_path, keep=9), model.tables)
    n_calls = 0
    deadline = time.monotonic() + PATIENCE_S
    while not saver.prepare():
        assert time.monotonic() < deadline
        learn(model, 10 * n_calls, 10)
        n_calls += 1
    assert n_calls >= saving.MAX_PASSES
    assert torch.equal(save(saver, model)["table"], model.tables.tensors["table"])
    saver.close()


def test_a_small_table_needs_no_preparation(tmp_path: Path) -> None:
    model = OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS)))
    saver = Saver(CheckpointStore(tmp_path, keep=9), model.tables)
    learn(model, 0, 10)
    assert saver.prepare()
    saver.close()
