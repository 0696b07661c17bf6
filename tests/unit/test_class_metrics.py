"""Metrics of classes against scikit-learn, River and plain loops over the same events."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from river import metrics as river_metrics
from sklearn import metrics as sk

from flexihash.model.class_metrics import ClassMetrics
from flexihash.model.metrics import COUNTED
from flexihash.model.rates import OF_A_CLASS
from flexihash.model.sums import WINDOW
from flexihash.model.tasks import OF_CLASSES

Floats = NDArray[np.float64]
MAX_CLASSES = 12
NAMES = [f"class {k}" for k in range(MAX_CLASSES)]
NEVER_SAID = 3


def zeros(max_classes: int = MAX_CLASSES) -> dict[str, torch.Tensor]:
    layout = ClassMetrics.layout(max_classes)
    return {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}


def draw(n: int, seed: int = 0) -> tuple[Floats, Floats, Floats, Floats]:
    """Predictions that know something of classes that arrive on the way, one of which is never said."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.3, n) - 1, np.arange(n) * 7 // n)
    labels[rng.random(n) < 0.3] = labels[0]
    again = np.flatnonzero(rng.random(n) < 0.4)[1:]
    labels[again] = labels[again - 1]
    said = np.where(rng.random(n) < 0.6, labels, rng.integers(0, 9, n)).astype(float)
    said[said == NEVER_SAID] = 0.0
    likelihoods = rng.random(n)
    seen = np.maximum.accumulate(labels)
    is_new = np.concatenate([[True], labels[1:] > seen[:-1]])
    likelihoods[is_new], said[0] = 0.0, -1.0
    weights = rng.choice([0.0, 0.3, 1.0, 2.5], size=n)
    weights[0] = 1.0
    return likelihoods, said, labels.astype(float), weights


def as_given(likelihoods: Floats, said: Floats, labels: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    return np.stack([likelihoods, said], axis=1), labels, weights


def report_of(*events: Floats) -> dict[str, Any]:
    metrics = ClassMetrics(MAX_CLASSES, zeros())
    metrics.update(*as_given(*events))
    return metrics.report(NAMES)


def without_weightless(*events: Floats) -> tuple[Floats, ...]:
    return tuple(array[events[-1] > 0.0] for array in events)


def baseline(labels: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Who knows the classes so far: the probability of the one that comes, the most frequent; and the last."""
    totals: dict[float, float] = {}
    likelihoods, most_frequent, last = [], [], []
    leader = before = -1.0
    for label, weight in zip(labels.tolist(), weights.tolist(), strict=True):
        share = (totals.get(label, 0.0) + 0.5) / (sum(totals.values()) + 0.5 * len(totals)) if label in totals else 0.0
        likelihoods.append(share)
        most_frequent.append(leader)
        last.append(before)
        totals[label] = totals.get(label, 0.0) + weight
        if leader < 0.0 or totals[label] > totals[leader]:
            leader = label
        before = label
    return np.array(likelihoods), np.array(most_frequent), np.array(last)


def mean_loss(likelihoods: Floats, weights: Floats) -> float:
    return float(np.average(-np.log(np.clip(likelihoods, 1e-3, 1.0 - 1e-3)), weights=weights))


def rates(said: Floats, labels: Floats, weights: Floats) -> dict[str, float]:
    either = sorted({*labels, *said} - {-1.0})
    each = {"sample_weight": weights, "zero_division": 0.0}
    return {
        "accuracy": sk.accuracy_score(labels, said, sample_weight=weights),
        "kappa": sk.cohen_kappa_score(labels, said, sample_weight=weights),
        "macro_f1": sk.f1_score(labels, said, labels=either, average="macro", **each),
        "balanced_accuracy": sk.recall_score(labels, said, labels=sorted({*labels}), average="macro", **each),
    }


def expected(
    likelihoods: Floats, said: Floats, labels: Floats, weights: Floats, known: tuple[Floats, Floats, Floats]
) -> dict[str, float]:
    baseline_likelihoods, most_frequent, last = known
    by_baseline = rates(most_frequent, labels, weights)
    of_last = sk.accuracy_score(labels, last, sample_weight=weights)
    values = rates(said, labels, weights)
    return {
        "weight": weights.sum(),
        "log_loss": mean_loss(likelihoods, weights),
        "kappa_temporal": (values["accuracy"] - of_last) / (1.0 - of_last),
        "no_change_accuracy": of_last,
        "baseline_log_loss": mean_loss(baseline_likelihoods, weights),
        **values,
        **{f"baseline_{name}": value for name, value in by_baseline.items()},
    }


def assert_classes(measured: dict[str, Any], said: Floats, labels: Floats, weights: Floats) -> None:
    numbers = np.arange(MAX_CLASSES)
    each = sk.precision_recall_fscore_support(
        labels, said, labels=numbers, sample_weight=weights, zero_division=np.nan, average=None
    )
    for k, (precision, recall, f1, _) in enumerate(zip(*each, strict=True)):
        of_class = measured[NAMES[k]]
        assert of_class["count"] == np.count_nonzero(labels == k)
        for name, value in (("precision", precision), ("recall", recall), ("f1", f1)):
            assert of_class[name] == (None if math.isnan(value) else pytest.approx(value, rel=1e-9)), (name, k)


def test_whole_stream_and_window_equal_scikit_learn() -> None:
    events = draw(2 * WINDOW + 4321)
    report = report_of(*events)
    assert report["events"] == len(events[0])
    assert report["window"]["events"] == WINDOW
    kept = without_weightless(*events)
    known = baseline(*kept[2:])
    n_window = np.count_nonzero(events[-1][-WINDOW:])
    for measured, part in ((report, slice(None)), (report["window"], slice(-n_window, None))):
        events_of_part = tuple(array[part] for array in kept)
        wanted = expected(*events_of_part, tuple(array[part] for array in known))
        assert set(wanted) == {*OF_CLASSES, "weight"}
        assert {name: measured[name] for name in wanted} == pytest.approx(wanted, rel=1e-9)
        assert_classes(measured["classes"], *events_of_part[1:])
    assert report["classes"][NAMES[NEVER_SAID]]["precision"] is None
    assert report["classes"][NAMES[NEVER_SAID]]["recall"] == report["classes"][NAMES[NEVER_SAID]]["f1"] == 0.0


def test_equals_river_on_the_same_events() -> None:
    events = draw(3000)
    report = report_of(*events)
    by_name = {
        "accuracy": river_metrics.Accuracy(),
        "kappa": river_metrics.CohenKappa(),
        "balanced_accuracy": river_metrics.BalancedAccuracy(),
    }
    of_said = {"macro_f1": river_metrics.MacroF1()}  # River takes "none" for a class more
    for _, said, label, weight in zip(*map(np.ndarray.tolist, without_weightless(*events)), strict=True):
        for metric in by_name.values():
            metric.update(label, said, weight)
        if said >= 0.0:
            of_said["macro_f1"].update(label, said, weight)
    for name, metric in by_name.items():
        assert report[name] == pytest.approx(metric.get(), rel=1e-9), name
    likelihoods, said, labels, weights = (array[1:] for array in without_weightless(*events))
    assert report_of(likelihoods, said, labels, weights)["macro_f1"] == pytest.approx(of_said["macro_f1"].get())


def test_log_loss_is_that_of_whole_distributions() -> None:
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.full(5, 2.0), size=2000).clip(0.002, 0.998)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = rng.integers(0, 5, 2000)
    likelihoods, said = probabilities[np.arange(2000), labels], probabilities.argmax(axis=1).astype(float)
    weights = rng.random(2000)
    report = report_of(likelihoods, said, labels.astype(float), weights)
    assert report["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities, sample_weight=weights))
    river = river_metrics.CrossEntropy()
    for label, row, weight in zip(labels.tolist(), probabilities.tolist(), weights.tolist(), strict=True):
        river.update(label, dict(enumerate(row)), weight)
    assert report["log_loss"] == pytest.approx(river.get())


def test_a_window_that_is_not_full_holds_all_events() -> None:
    report = report_of(*draw(700))
    window = report.pop("window")
    assert window.pop("classes") == report.pop("classes")
    assert window == report


def test_one_class_only() -> None:
    n = WINDOW + 10
    said = np.zeros(n)
    said[0] = -1.0
    report = report_of(np.append(0.0, np.ones(n - 1)), said, np.zeros(n), np.ones(n))
    assert report["accuracy"] == report["no_change_accuracy"] == report["baseline_accuracy"] == (n - 1) / n
    assert report["kappa"] == report["baseline_kappa"] == report["kappa_temporal"] == 0.0
    assert report["log_loss"] == pytest.approx((-math.log(0.001) - (n - 1) * math.log(0.999)) / n)
    assert report["baseline_log_loss"] == report["log_loss"]
    window = report["window"]
    assert window["accuracy"] == window["balanced_accuracy"] == window["macro_f1"] == 1.0
    assert window["kappa"] is window["baseline_kappa"] is window["kappa_temporal"] is None
    assert window["classes"]["class 0"] == {"count": WINDOW, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert window["classes"]["class 1"] == {"count": 0, "precision": None, "recall": None, "f1": None}


def test_the_last_class_again_beats_everybody_where_classes_come_in_runs() -> None:
    labels = np.repeat(np.arange(100) % 3, 50).astype(float)
    said = np.roll(labels, 5)
    report = report_of(np.full(5000, 0.9), said, labels, np.ones(5000))
    assert report["no_change_accuracy"] == (5000 - 100) / 5000
    assert report["accuracy"] < report["no_change_accuracy"]
    assert report["kappa"] > 0.8
    assert report["kappa_temporal"] == pytest.approx(1.0 - (1.0 - report["accuracy"]) / (100 / 5000))


def test_of_equals_the_baseline_says_the_one_that_was_first_the_most_frequent() -> None:
    labels = np.array([2.0, 1.0, 1.0, 2.0, 2.0])  # said: none, 2, 2, 1, 1
    report = report_of(np.full(5, 0.5), labels, labels, np.ones(5))
    assert report["baseline_accuracy"] == 0.0
    assert report_of(np.full(4, 0.5), np.zeros(4), np.array([2.0, 1.0, 2.0, 1.0]), np.ones(4))[
        "baseline_accuracy"
    ] == pytest.approx(0.25)


def test_nothing_is_defined_before_the_first_event() -> None:
    report = ClassMetrics(MAX_CLASSES, zeros()).report(["AA"])
    window = report.pop("window")
    nothing = {"events": 0, "weight": 0.0, **dict.fromkeys(OF_CLASSES)}
    assert report == window == nothing | {"classes": {"AA": {"count": 0, **dict.fromkeys(OF_A_CLASS[1:])}}}


def test_an_event_without_weight_is_counted_and_nothing_else() -> None:
    events = draw(500)
    with_all, with_some = report_of(*events), report_of(*without_weightless(*events))
    assert with_all.pop("events") == with_all["window"].pop("events") == 500
    assert with_some.pop("events") == with_some["window"].pop("events") == np.count_nonzero(events[-1])
    assert with_all == with_some


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_a_broken_event_spoils_no_sum(bad: float) -> None:
    events = draw(100)
    places = [10, 20, 30, 40]
    with_bad = (np.insert(array, places, [bad if i == j else 0.5 for j in range(4)]) for i, array in enumerate(events))
    report, clean = report_of(*with_bad), report_of(*events)
    assert report.pop("events") == report["window"].pop("events") == 104
    del clean["events"], clean["window"]["events"]
    assert report == clean


@pytest.mark.parametrize(("said", "label"), [(0.0, -1.0), (0.0, 12.0), (12.0, 0.0), (-2.0, 0.0)])
def test_a_class_out_of_range_is_only_counted(said: float, label: float) -> None:
    report = report_of(np.full(1, 0.5), np.full(1, said), np.full(1, label), np.ones(1))
    assert (report["events"], report["weight"], report["accuracy"]) == (1, 0.0, None)


def test_a_report_has_the_named_keys_and_is_json() -> None:
    report = report_of(*draw(50))
    assert tuple(report) == (*COUNTED, *OF_CLASSES, "classes", "window")
    assert tuple(report["window"]) == (*COUNTED, *OF_CLASSES, "classes")
    assert tuple(report["classes"]) == tuple(NAMES)
    assert tuple(report["classes"]["class 0"]) == OF_A_CLASS
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_classes_without_a_name_are_not_reported_one_by_one() -> None:
    metrics = ClassMetrics(MAX_CLASSES, zeros())
    metrics.update(*as_given(*draw(50)))
    assert metrics.report()["classes"] == {}
    assert list(metrics.report(["AA", "UA"])["classes"]) == ["AA", "UA"]


def test_state_lives_in_the_tensors_alone() -> None:
    events = draw(300)
    tensors = zeros()
    ClassMetrics(MAX_CLASSES, tensors).update(*as_given(*(array[:200] for array in events)))
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    resumed = ClassMetrics(MAX_CLASSES, copies)
    resumed.update(*as_given(*(array[200:] for array in events)))
    assert resumed.report(NAMES) == report_of(*events)
    assert ClassMetrics(MAX_CLASSES, tensors).report(NAMES) == report_of(*(array[:200] for array in events))


def test_the_state_is_as_large_as_it_says() -> None:
    n_bytes = {k: sum(tensor.nbytes for tensor in zeros(k).values()) for k in (100, 101)}
    assert n_bytes[101] - n_bytes[100] == 48
    assert n_bytes[100] // 1024 == 391 + 48 * 100 // 1024


def test_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match=r"'counts' must be contiguous torch.int64 of shape \(12,\)"):
        ClassMetrics(MAX_CLASSES, zeros(11))
    with pytest.raises(
        ValueError, match=r"must be \(n, 2\), and labels and weights \(n,\), not \(2,\), \(3,\), \(2,\)"
    ):
        ClassMetrics(MAX_CLASSES, zeros()).update(np.zeros(2), np.zeros(3), np.zeros(2))
