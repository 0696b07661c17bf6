"""Crosses: what names a pair, who sees it, and what becomes of too many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from river import metrics
from river.datasets import synth

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.files import learn_file
from flexihash.consumer.wire import EventFormat
from flexihash.model.checkpoint.checkpoint_errors import CheckpointMismatch
from flexihash.model.checkpoint.retention import Retention
from flexihash.model.config import ModelConfig
from flexihash.model.crosses import EVERY_PAIR, MOST_CROSSES, find_sides, parse_cross
from flexihash.model.estimators import FlexiHashClassifier
from flexihash.model.features import Feature, FeatureRules, hash_features
from flexihash.model.kernel import experts, rows
from flexihash.model.kernel.activation import mix_row
from flexihash.model.kernel.crossing import FIRST_TAG, MOST_PAIRS
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.online import OnlineModel
from flexihash.model.tables import METRICS_PREFIX, Tables
from flexihash.model.tasks import Task
from flexihash.service.service_errors import SettingsError
from flexihash.service.settings import load_settings

N_ROWS = 1 << 18
PLAIN = [expert.name for expert in experts.EXPERTS].index("plain")
PAIR = ("origin*dest",)


def make_model(crosses: tuple[str, ...], task: Task = Task.BINARY, n_rows: int = N_ROWS) -> OnlineModel:
    return OnlineModel(Tables.create(ModelConfig(task=task, n_rows=n_rows, crosses=crosses)))


def row_of(*event: Feature) -> list[int]:
    rows: list[int] = hash_features([event], N_ROWS).rows.tolist()
    return rows


def row_of_pair(one: int, two: int) -> int:
    return int(mix_row(min(one, two), FIRST_TAG + max(one, two), N_ROWS))


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("origin*dest", ("origin", "dest")),
        ("origin * dest", ("origin", "dest")),
        ("user.* * item_id", ("user.*", "item_id")),
        ("*_id * *", ("*_id", "*")),
        ("*", EVERY_PAIR),
        ("* * *", EVERY_PAIR),
    ],
)
def test_a_cross_is_two_patterns(text: str, pair: tuple[str, str]) -> None:
    assert parse_cross(text) == pair


@pytest.mark.parametrize("text", ["origin", "a*b*c", "*a", "a*", "a * b * c", " * ", "user.**item", ""])
def test_what_is_not_clear_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must be pairs such as origin\*dest, with spaces around the star"):
        ModelConfig(crosses=("a*b", text))


def test_more_crosses_than_a_word_holds_are_refused() -> None:
    crosses = tuple(f"a{k}*b{k}" for k in range(MOST_CROSSES + 1))
    assert find_sides(f"b{MOST_CROSSES - 1}", crosses[:-1]) == 2 << 2 * (MOST_CROSSES - 1)
    with pytest.raises(ConfigurationError, match="at most 24, not 25: use patterns"):
        ModelConfig(crosses=crosses)


def test_a_setting_is_read_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXIHASH_CROSSES", "origin*dest, user.* * item_id")
    settings = load_settings()
    assert settings.crosses == settings.model.crosses == settings.event_format.rules.crosses
    assert settings.crosses == ("origin*dest", "user.* * item_id")
    assert load_settings(crosses=["a*b"]).crosses == ("a*b",)  # as a checkpoint has them
    monkeypatch.setenv("FLEXIHASH_CROSSES", settings.to_environment()["FLEXIHASH_CROSSES"])
    assert load_settings() == settings
    monkeypatch.setenv("FLEXIHASH_CROSSES", "origin")
    with pytest.raises(
        SettingsError, match=r"^FLEXIHASH_CROSSES=origin: must be pairs such as origin\*dest, with .*'origin'$"
    ):
        load_settings()


def test_sides_are_those_of_the_names() -> None:
    crosses = "origin*dest", "[!x]* * user.*"
    assert [find_sides(name, crosses) for name in ("origin", "dest", "user.id", "x")] == [0b0101, 0b0110, 0b1100, 0]


def test_a_pair_has_a_row_that_plain_and_the_quick_weight_alone_see() -> None:
    model = make_model(PAIR)
    event = [("origin", "JFK"), ("carrier", "UA"), ("dest", "LAX")]
    before = model.tables.tensors["table"].clone()
    model.learn(hash_features([event], N_ROWS, PAIR), np.ones(1))
    origin, carrier, dest = row_of(*event)
    (pair,) = set(torch.nonzero(model.tables.tensors["touched"]).flatten().tolist()) - {origin, carrier, dest}
    assert pair == row_of_pair(origin, dest)
    moved = (model.tables.tensors["table"] - before)[pair]
    assert [e for e in range(experts.N_EXPERTS) if moved[rows.WEIGHTS][e]] == [PLAIN]
    assert set(np.flatnonzero(moved[: experts.DIM].numpy() != 0) // experts.EXPERT_DIM) == {PLAIN}
    assert moved[rows.QUICK]


def test_numbers_are_crossed_by_their_cells() -> None:
    """Two numbers that are close share a pair with a third; an integer's number and category are no pair."""
    crosses = ("*",)
    model = make_model(crosses)
    events = [[("x", float(x)), ("k", "a")] for x in np.random.default_rng(0).uniform(-5, 5, 99)] + [
        [("n", 3.0), ("n", "3")]
    ]
    model.learn(hash_features(events, N_ROWS, crosses), np.ones(len(events)))
    touched = model.tables.tensors["touched"]
    (x, k), (n, name) = row_of(("x", 0.0), ("k", "a")), row_of(("n", 3.0), ("n", "3"))
    cells = [int(mix_row(x, 1 + knot, N_ROWS)) for knot in range(9)]
    n_pairs = sum(bool(touched[row_of_pair(cell, k)]) for cell in cells)
    assert 3 <= n_pairs <= 7  # of 99 different numbers
    assert not any(touched[row_of_pair(int(mix_row(n, 1 + knot, N_ROWS)), name)] for knot in range(9))


def test_the_first_pairs_are_learned_where_there_are_too_many() -> None:
    event: list[Feature] = [(f"k{j}", "x") for j in range(80)]  # 3,160 pairs
    model = make_model(("*",))
    model.learn(hash_features([event], N_ROWS, ("*",)), np.ones(1))
    of_features = row_of(*event)
    pairs = [row_of_pair(of_features[i], of_features[j]) for j in range(80) for i in range(j)]
    touched = set(torch.nonzero(model.tables.tensors["touched"]).flatten().tolist())
    assert touched == {*of_features, *pairs[:MOST_PAIRS]}


def test_crosses_that_nothing_matches_leave_the_bits() -> None:
    crosses = ("origin*nothing",)
    rng = np.random.default_rng(0)
    events = [
        [("origin", str(o)), ("x", float(x))] for o, x in zip(rng.integers(9, size=500), rng.random(500), strict=True)
    ]
    labels = np.float64(rng.random(500) > 0.5)
    with_them, without = make_model(crosses), make_model(())
    with_them.learn(hash_features(events, N_ROWS, crosses), labels)
    without.learn(hash_features(events, N_ROWS), labels)
    for name, tensor in without.tables.tensors.items():
        assert torch.equal(tensor, with_them.tables.tensors[name]), name


def test_a_batch_without_its_crosses_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the model crosses origin\*dest: hash its batches with these"):
        make_model(PAIR).learn(hash_features([[("origin", "JFK")]], N_ROWS), np.ones(1))


def drifting_digits() -> Iterator[tuple[list[Feature], float]]:
    """River's LEDDrift, which the prototype of crosses did not survive: 24 integers, so 48 features, 1,104 pairs."""
    for x, y in synth.LEDDrift(seed=112, noise_percentage=0.28, irrelevant_features=True, n_drift_features=4).take(
        3000
    ):
        flat: list[Feature] = []
        for name, value in x.items():
            flat += [(str(name), float(value)), (str(name), str(value))]
        yield flat, float(y)


@pytest.mark.parametrize(("task", "n_rows"), [(Task.BINARY, N_ROWS), (Task.REGRESSION, 1 << 10), (Task.COUNTS, N_ROWS)])
def test_every_pair_of_drifting_digits_stays_finite(task: Task, n_rows: int) -> None:
    events, digits = zip(*drifting_digits(), strict=True)
    labels = np.array(digits)
    labels = np.float64(labels % 2) if task is Task.BINARY else labels
    model = make_model(("*",), task, n_rows)
    learned = model.learn(hash_features(events, n_rows, ("*",)), labels)
    assert learned.is_learned.all()
    assert np.isfinite(learned.predictions).all()
    for name, tensor in model.tables.tensors.items():
        if not name.startswith(METRICS_PREFIX):
            assert torch.isfinite(tensor.double()).all(), name


def test_a_checkpoint_of_other_crosses_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text(
        "".join(json.dumps({"features": {"origin": "JFK", "dest": "LAX"}, "label": 1}) + "\n" for _ in "ab")
    )

    def learn(*crosses: str) -> Any:
        config, rules = ModelConfig(n_rows=2, crosses=crosses), FeatureRules(crosses=crosses)
        return learn_file(file, config, EventFormat(rules=rules), tmp_path / "kept", Retention(1, 0, 0))

    learn("origin*dest")
    with pytest.raises(CheckpointMismatch, match=r"crosses = .*origin\*dest.* but .*carrier\*dest") as refused:
        learn("carrier*dest")
    assert [difference.field for difference in refused.value.differences] == ["crosses"]


def test_what_only_a_pair_tells_is_learned_sooner() -> None:
    """Each of 900 pairs has a label of its own, which says nothing about its two parts."""
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=(30, 30))
    pairs = rng.integers(30, size=(6000, 2))
    scores = []
    for crosses in (None, ["a*b"]):
        model = FlexiHashClassifier(n_rows=1 << 14, crosses=crosses)
        score = metrics.Accuracy()
        for a, b in pairs:
            x, y = {"a": f"a{a}", "b": f"b{b}"}, bool(labels[a, b])
            score.update(y, model.predict_one(x))
            model.learn_one(x, y)
        scores.append(score.get())
    assert scores[1] > scores[0] + 0.1, scores


def test_all_pairs_are_combinations() -> None:
    decoder = EventDecoder(EventFormat(rules=FeatureRules(crosses=("*",))), Task.BINARY, N_ROWS)
    batch = decoder.decode([b'{"features":{"a":"x","b":"y","c":"z"},"label":1}'] * 2).batch
    model = make_model(("*",))
    model.learn(batch, np.ones(2))
    a, b, c = batch.rows[:3].tolist()
    expected = {a, b, c, *(row_of_pair(*pair) for pair in combinations((a, b, c), 2))}
    assert set(torch.nonzero(model.tables.tensors["touched"]).flatten().tolist()) == expected
