"""Metrics of several labels at once, and of several targets, against scikit-learn, River and plain loops."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from river import metrics as river_metrics
from river.metrics import multioutput
from sklearn import metrics as sk

from flexihash.model.label_metrics import LabelMetrics
from flexihash.model.metrics import COUNTED, Layout, ProgressiveMetrics
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.rates import OF_A_CLASS
from flexihash.model.sums import WINDOW
from flexihash.model.target_metrics import TargetMetrics
from flexihash.model.tasks import OF_LABELS

Floats = NDArray[np.float64]
N_LABELS = 6
NAMES = [f"label {k}" for k in range(N_LABELS)]
NEVER_SAID = 4


def zeros(layout: Layout) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}


def fresh(max_labels: int = N_LABELS) -> LabelMetrics:
    return LabelMetrics(max_labels, zeros(LabelMetrics.layout(max_labels)))


def draw(n: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Predictions that know something; all labels come with the first event, and one is never said."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, N_LABELS)) * 2.0
    shares = 1.0 / (1.0 + np.exp(-0.7 * z - np.linspace(-3.0, 1.0, N_LABELS)))
    labels = (rng.random((n, N_LABELS)) < shares).astype(float)
    labels[0] = 1.0
    probabilities = 1.0 / (1.0 + np.exp(-z))
    probabilities[:, NEVER_SAID] *= 0.4
    weights = rng.choice([0.0, 0.3, 1.0, 2.5], size=n)
    weights[0] = 1.0
    return probabilities, labels, weights


def report_of(*events: Floats) -> dict[str, Any]:
    metrics = fresh()
    metrics.update(*events)
    return metrics.report(NAMES)


def baseline(labels: Floats, weights: Floats) -> Floats:
    """Each label's share of the events before, and half of one imagined event."""
    sums = np.cumsum(weights[:, None] * labels, axis=0) - weights[:, None] * labels
    return (sums + 0.5) / (np.cumsum(weights) - weights + 1.0)[:, None]


def expected(p: Floats, y: Floats, w: Floats) -> dict[str, float]:
    said = p >= 0.5
    occurs = (y > 0.5).any(axis=0) | said.any(axis=0)
    each = {"sample_weight": w, "zero_division": 0.0}
    q = np.clip(p, 1e-3, 1.0 - 1e-3)
    losses = [sk.log_loss(y[:, k], q[:, k], sample_weight=w, labels=[0.0, 1.0]) for k in range(y.shape[1])]
    return {
        "log_loss": float(np.mean(losses)),
        "hamming_loss": sk.hamming_loss(y, said, sample_weight=w),
        "subset_accuracy": sk.accuracy_score(y, said, sample_weight=w),
        "micro_f1": sk.f1_score(y, said, average="micro", **each),
        "macro_f1": sk.f1_score(y[:, occurs], said[:, occurs], average="macro", **each),
    }


def assert_labels(measured: dict[str, Any], p: Floats, y: Floats, w: Floats) -> None:
    each = sk.precision_recall_fscore_support(y, p >= 0.5, sample_weight=w, zero_division=np.nan, average=None)
    for k, (precision, recall, f1, _) in enumerate(zip(*each, strict=True)):
        of_label = measured[NAMES[k]]
        assert of_label["count"] == np.count_nonzero(y[:, k])
        for name, value in (("precision", precision), ("recall", recall), ("f1", f1)):
            assert of_label[name] == (None if math.isnan(value) else pytest.approx(value, rel=1e-9)), (name, k)


def test_whole_stream_and_window_equal_scikit_learn() -> None:
    events = draw(2 * WINDOW + 4321)
    report = report_of(*events)
    assert report["events"] == len(events[0])
    assert report["window"]["events"] == WINDOW
    kept = events[-1] > 0.0
    p, y, w = (array[kept] for array in events)
    q = baseline(y, w)
    for measured, part in ((report, slice(None)), (report["window"], slice(-np.count_nonzero(kept[-WINDOW:]), None))):
        wanted = expected(p[part], y[part], w[part])
        wanted |= {f"baseline_{name}": value for name, value in expected(q[part], y[part], w[part]).items()}
        assert set(wanted) == set(OF_LABELS)
        assert {name: measured[name] for name in wanted} == pytest.approx(wanted, rel=1e-9)
        assert measured["weight"] == pytest.approx(w[part].sum())
        assert_labels(measured["classes"], p[part], y[part], w[part])
    assert report["classes"][NAMES[NEVER_SAID]]["precision"] is None
    assert report["classes"][NAMES[NEVER_SAID]]["recall"] == 0.0


def test_equals_river_on_the_same_events() -> None:
    p, y, w = draw(1000)
    report = report_of(p, y, w)
    exact = multioutput.ExactMatch()
    micro = multioutput.MicroAverage(river_metrics.F1())
    macro = multioutput.MacroAverage(river_metrics.F1())
    wrong = multioutput.MicroAverage(river_metrics.Accuracy())
    for said, labels, weight in zip((p >= 0.5).tolist(), (y > 0.5).tolist(), w.tolist(), strict=True):
        if weight:
            for metric in (exact, micro, macro, wrong):
                metric.update(dict(enumerate(labels)), dict(enumerate(said)), weight)
    assert report["subset_accuracy"] == pytest.approx(exact.get())
    assert report["micro_f1"] == pytest.approx(micro.get())
    assert report["macro_f1"] == pytest.approx(macro.get())
    assert report["hamming_loss"] == pytest.approx(1.0 - wrong.get())


def test_an_event_is_measured_by_the_labels_known_then() -> None:
    labels = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], float)
    probabilities = np.array([[0.9, 0.9, 0.9], [0.0, 0.9, 0.9], [0.2, 0.0, 0.9], [0.8, 0.3, 0.9], [0.7, 0.1, 0.6]])
    metrics = fresh()
    metrics.update(probabilities, labels, np.ones(5))
    report = metrics.report(["a", "b", "c"])
    by_event = [
        [],
        [0.001],
        [0.8, 0.001],
        [0.2, 0.7],
        [0.7, 0.9, 0.6],
    ]
    assert report["log_loss"] == pytest.approx(sum(np.mean(-np.log(event)) for event in by_event[1:]) / 5)
    assert report["hamming_loss"] == pytest.approx((0 + 1 + 1 / 2 + 1 / 2 + 0) / 5)
    assert report["subset_accuracy"] == pytest.approx(2 / 5)
    assert report["classes"]["b"] == {"count": 1, "precision": None, "recall": 0.0, "f1": 0.0}
    assert report["classes"]["c"] == {"count": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert report["micro_f1"] == pytest.approx(2 * 2 / (4 + 3))
    assert report["macro_f1"] == pytest.approx((2 / 4 + 0.0 + 1.0) / 3)


def test_a_label_that_an_event_brings_had_no_probability() -> None:
    labels = np.array([[1.0, 0.0], [0.0, 1.0]])
    report = report_of(np.array([[math.nan, math.nan], [0.2, math.nan]]), labels, np.ones(2))
    assert report == report_of(np.array([[0.0, 0.0], [0.2, 0.0]]), labels, np.ones(2))
    assert report["weight"] == 2.0


def test_a_label_that_left_the_window_has_no_share_in_its_mean() -> None:
    n = WINDOW + 1
    labels = np.zeros((n, 2))
    labels[:, 0], labels[0, 1] = 1.0, 1.0
    report = report_of(np.tile([0.9, 0.1], (n, 1)), labels, np.ones(n))
    assert report["macro_f1"] == 0.5
    assert report["window"]["macro_f1"] == 1.0
    assert report["window"]["classes"]["label 1"] == {"count": 0, "precision": None, "recall": None, "f1": None}


def test_a_window_that_is_not_full_holds_all_events() -> None:
    report = report_of(*draw(700))
    window = report.pop("window")
    assert window == report


def test_nothing_is_defined_before_the_first_event() -> None:
    report = fresh().report(["late"])
    window = report.pop("window")
    nothing = {"events": 0, "weight": 0.0, **dict.fromkeys(OF_LABELS)}
    assert report == window == nothing | {"classes": {"late": {"count": 0, **dict.fromkeys(OF_A_CLASS[1:])}}}


def test_an_event_without_weight_is_counted_and_nothing_else() -> None:
    events = draw(500)
    with_all, with_some = report_of(*events), report_of(*(array[events[-1] > 0.0] for array in events))
    assert with_all.pop("events") == with_all["window"].pop("events") == 500
    assert with_some.pop("events") == with_some["window"].pop("events") == np.count_nonzero(events[-1])
    assert with_all == with_some


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_a_broken_event_spoils_no_sum(bad: float) -> None:
    p, y, w = draw(100)
    with_bad_p, with_bad_y = (
        np.insert(array, [10, 20, 30], [[bad if i == j else 1.0] for j in range(3)], axis=0)
        for i, array in enumerate((p, y))
    )
    with_bad_w = np.insert(w, [10, 20, 30], [1.0, 1.0, bad])
    report, clean = report_of(with_bad_p, with_bad_y, with_bad_w), report_of(p, y, w)
    assert report.pop("events") == report["window"].pop("events") == 103
    del clean["events"], clean["window"]["events"]
    assert report == clean


def test_a_report_has_the_named_keys_and_is_json() -> None:
    report = report_of(*draw(50))
    assert tuple(report) == (*COUNTED, *OF_LABELS, "classes", "window")
    assert tuple(report["window"]) == (*COUNTED, *OF_LABELS, "classes")
    assert tuple(report["classes"]) == tuple(NAMES)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_state_lives_in_the_tensors_alone() -> None:
    events = draw(300)
    tensors = zeros(LabelMetrics.layout(N_LABELS))
    LabelMetrics(N_LABELS, tensors).update(*(array[:200] for array in events))
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    resumed = LabelMetrics(N_LABELS, copies)
    resumed.update(*(array[200:] for array in events))
    assert resumed.report(NAMES) == report_of(*events)
    assert LabelMetrics(N_LABELS, tensors).report(NAMES) == report_of(*(array[:200] for array in events))


def test_the_state_is_as_large_as_it_says() -> None:
    n_bytes = {k: sum(tensor.nbytes for tensor in zeros(LabelMetrics.layout(k)).values()) for k in (0, 100)}
    assert n_bytes[0] // 1024 == 312
    assert (n_bytes[100] - n_bytes[0]) // 1024 == 100 * 10_048 // 1024


def test_labels_are_refused_by_shape_and_number() -> None:
    with pytest.raises(ValueError, match=r"\(n, K\) and weights \(n,\), not \(2, 3\), \(2, 2\), \(2,\)"):
        fresh().update(np.zeros((2, 3)), np.zeros((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match=r"there can be 0 to 6 labels, not 7"):
        fresh().update(np.zeros((2, 7)), np.zeros((2, 7)), np.ones(2))
    metrics = fresh()
    metrics.update(*draw(5))
    with pytest.raises(ValueError, match=r"there can be 6 to 6 labels, not 5"):
        metrics.update(np.zeros((2, 5)), np.zeros((2, 5)), np.ones(2))


# --- several targets --------------------------------------------------------------------------------------------------

TARGETS = {"late": "binary", "delay": "regression", "stops": "counts"}


def draw_targets(n: int) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(0)
    predictions = rng.random((n, 3))
    labels = np.stack([rng.integers(0, 2, n), rng.normal(size=n), rng.poisson(1.0, n)], axis=1).astype(float)
    labels[rng.random((n, 3)) < 0.3] = math.nan
    return predictions, labels, rng.choice([0.0, 0.3, 1.0, 2.5], size=n)


def fresh_targets() -> TargetMetrics:
    return TargetMetrics(TARGETS, zeros(TargetMetrics.layout(TARGETS)))


def test_each_target_is_measured_alone_over_the_events_that_have_it() -> None:
    predictions, labels, weights = draw_targets(500)
    metrics = fresh_targets()
    metrics.update(predictions, labels, weights)
    report = metrics.report()
    assert report["events"] == 500
    assert report["weight"] == pytest.approx(weights[~np.isnan(labels).all(axis=1)].sum())
    assert list(report["targets"]) == list(TARGETS)
    for k, (name, task) in enumerate(TARGETS.items()):
        alone = ProgressiveMetrics(task, zeros(ProgressiveMetrics.layout(task)))
        kept = ~np.isnan(labels[:, k])
        alone.update(predictions[kept, k], labels[kept, k], weights[kept])
        assert report["targets"][name] == alone.report()
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_state_of_targets_lives_in_the_tensors_alone() -> None:
    events = draw_targets(300)
    whole, tensors = fresh_targets(), zeros(TargetMetrics.layout(TARGETS))
    whole.update(*events)
    for part in (slice(100), slice(100, 101), slice(101, None)):
        TargetMetrics(TARGETS, tensors).update(*(array[part] for array in events))
    assert TargetMetrics(TARGETS, tensors).report() == whole.report()


def test_targets_are_refused_by_shape_and_task() -> None:
    with pytest.raises(ValueError, match=r"must be \(n, 3\) and weights \(n,\), not \(2, 2\), \(2, 2\), \(2,\)"):
        fresh_targets().update(np.zeros((2, 2)), np.zeros((2, 2)), np.ones(2))
    with pytest.raises(ConfigurationError, match="not 'ranking'"):
        TargetMetrics.layout({"late": "ranking"})
