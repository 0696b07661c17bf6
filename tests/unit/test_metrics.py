"""Progressive metrics against scikit-learn, River and plain loops over the same events."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from river import datasets, linear_model, preprocessing
from river import metrics as river_metrics
from sklearn import metrics as sk

from flexihash.model.metrics import ProgressiveMetrics, metric_names
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.sums import CALIBRATION_BINS, WINDOW
from flexihash.model.tasks import find_task

TASKS = ("binary", "regression", "counts", "quantile")
Floats = NDArray[np.float64]


def fresh(task: str, quantile: float = 0.5) -> ProgressiveMetrics:
    layout = ProgressiveMetrics.layout(task)
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
    return ProgressiveMetrics(task, tensors, quantile)


def draw(task: str, n: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Predictions that know something, labels, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n) * 2.0
    weights = rng.choice([0.0, 0.3, 1.0, 2.5], size=n)
    if task == "binary":
        return 1.0 / (1.0 + np.exp(-z)), (rng.random(n) < 1.0 / (1.0 + np.exp(-0.7 * z - 0.5))).astype(float), weights
    if task == "counts":
        return np.exp(z / 3.0), rng.poisson(np.exp(z / 3.0 + 0.1)).astype(float), weights
    return z + 5.0, z + 4.0 + rng.normal(size=n), weights


def report_of(task: str, predictions: Floats, labels: Floats, weights: Floats, quantile: float = 0.5) -> dict[str, Any]:
    metrics = fresh(task, quantile)
    metrics.update(predictions, labels, weights)
    return metrics.report()


def means_so_far(labels: Floats, weights: Floats, prior_weight: float) -> Floats:
    """The weighted mean of the labels before each event, from an imagined event of label 0.5."""
    sums = np.concatenate([[0.0], np.cumsum(weights * labels)[:-1]]) + 0.5 * prior_weight
    totals = np.concatenate([[0.0], np.cumsum(weights)[:-1]]) + prior_weight
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0.0)


def means_of_late(labels: Floats, weights: Floats, prior_weight: float) -> Floats:
    """The same of about the last 1,000 labels, as the window has it: each fades by a thousandth with each one after it.

    From the eleventh on, one farther than eight deviations from the mean counts as no farther than that. That doubles
    each time, and falls back slowly.
    """
    total, mean, squares, reach, n_labels, means = 0.0, 0.0, 0.0, 8.0, 0, []
    for label, weight in zip(labels.tolist(), weights.tolist(), strict=True):
        means.append((total * mean + 0.5 * prior_weight) / (total + prior_weight) if total else 0.5 * prior_weight)
        if not weight:
            continue
        n_labels += 1
        surprise = label - mean
        if n_labels > 10:
            limit = reach * math.sqrt(max(squares / total, prior_weight))  # counts have a deviation of 1 or more
            reach = 2.0 * reach if abs(surprise) > limit else max(8.0, reach * 0.9999)
            surprise = min(max(surprise, -limit), limit)
        if n_labels > 1_000:
            total, squares = 0.999 * total, 0.999 * squares
        total += weight
        squares += weight * surprise * surprise * (1.0 - weight / total)
        mean += surprise * weight / total
    return np.array(means)


def expected_binary(p: Floats, y: Floats, w: Floats, baseline: Floats) -> dict[str, float]:
    bins = np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [abs(np.average((p - y)[bins == b], weights=w[bins == b])) for b in np.unique(bins)]
    shares = [w[bins == b].sum() / w.sum() for b in np.unique(bins)]
    return {
        "weight": w.sum(),
        "log_loss": sk.log_loss(y, np.clip(p, 1e-3, 1 - 1e-3), sample_weight=w),
        "auc": sk.roc_auc_score(y, p, sample_weight=w),
        "accuracy": sk.accuracy_score(y, p >= 0.5, sample_weight=w),
        "calibration_error": float(np.dot(gaps, shares)),
        "baseline_log_loss": sk.log_loss(y, np.clip(baseline, 1e-3, 1 - 1e-3), sample_weight=w),
        "baseline_accuracy": sk.accuracy_score(y, baseline >= 0.5, sample_weight=w),
    }


def expected_values(p: Floats, y: Floats, w: Floats, baseline: Floats) -> dict[str, float]:
    return {
        "weight": w.sum(),
        "mae": sk.mean_absolute_error(y, p, sample_weight=w),
        "rmse": sk.root_mean_squared_error(y, p, sample_weight=w),
        "r2": sk.r2_score(y, p, sample_weight=w),
        "baseline_mae": sk.mean_absolute_error(y, baseline, sample_weight=w),
        "baseline_rmse": sk.root_mean_squared_error(y, baseline, sample_weight=w),
    }


def expected(task: str, p: Floats, y: Floats, w: Floats, baseline: Floats) -> dict[str, float]:
    p, y, w, baseline = (a[w > 0.0] for a in (p, y, w, baseline))
    if task == "binary":
        return expected_binary(p, y, w, baseline)
    values = expected_values(p, y, w, baseline)
    if task == "counts":
        values["poisson_deviance"] = sk.mean_poisson_deviance(y, p, sample_weight=w)
        values["baseline_poisson_deviance"] = sk.mean_poisson_deviance(y, baseline, sample_weight=w)
    return values


def assert_close(measured: dict[str, Any], wanted: dict[str, float], auc_within: float) -> None:
    for name, value in wanted.items():
        assert measured[name] == pytest.approx(value, rel=1e-9, abs=auc_within if name == "auc" else 1e-12), name


@pytest.mark.parametrize("task", ["binary", "regression", "counts"])
def test_whole_stream_and_window_equal_scikit_learn(task: str) -> None:
    p, y, w = draw(task, 2 * WINDOW + 4321)
    report = report_of(task, p, y, w)
    baseline = means_so_far(y, w, prior_weight=0.0 if task == "regression" else 1.0)

    assert report["events"] == len(p)
    assert_close(report, expected(task, p, y, w, baseline), auc_within=1e-5)
    assert report["window"]["events"] == WINDOW
    if task != "binary":
        baseline = means_of_late(y, w, prior_weight=0.0 if task == "regression" else 1.0)
    last = slice(-WINDOW, None)
    assert_close(report["window"], expected(task, p[last], y[last], w[last], baseline[last]), auc_within=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_a_window_that_is_not_full_holds_all_events(task: str) -> None:
    report = report_of(task, *draw(task, 700), quantile=0.8)
    window = report.pop("window")
    assert window == {name: pytest.approx(value, rel=1e-12, abs=1e-5) for name, value in report.items()}


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.95])
def test_quantile_losses(quantile: float) -> None:
    p, y, w = draw("quantile", 3000)
    report = report_of("quantile", p, y, w, quantile)
    assert report["pinball_loss"] == pytest.approx(sk.mean_pinball_loss(y, p, sample_weight=w, alpha=quantile))
    assert report["coverage"] == pytest.approx(np.average(y <= p, weights=w))
    assert report["mae"] == pytest.approx(sk.mean_absolute_error(y, p, sample_weight=w))
    assert report["r2"] == pytest.approx(sk.r2_score(y, p, sample_weight=w))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("shape", ["normal far from 0", "log-normal", "few distinct values"])
def test_the_quantile_baseline_is_about_as_good_as_the_quantile_itself(quantile: float, shape: str) -> None:
    z = np.random.default_rng(3).normal(size=WINDOW + 10_000)
    y = {"normal far from 0": z + 1e6, "log-normal": np.exp(1.5 * z), "few distinct values": np.floor(3 * z)}[shape]
    window = report_of("quantile", y, y, np.ones(len(y)), quantile)["window"]
    best = sk.mean_pinball_loss(y[-WINDOW:], np.full(WINDOW, np.quantile(y, quantile)), alpha=quantile)
    assert best <= window["baseline_pinball_loss"] * 1.01
    assert window["baseline_pinball_loss"] <= best * 1.05


def river_means(names: list[str], p: Floats, y: Floats, w: Floats) -> dict[str, float]:
    measured: dict[str, Any] = {name: getattr(river_metrics, name)() for name in names}
    for prediction, label, weight in zip(p.tolist(), y.tolist(), w.tolist(), strict=True):
        for metric in measured.values():
            if weight:
                metric.update(label, prediction, weight)
    return {name: metric.get() for name, metric in measured.items()}


def test_equals_river_on_the_same_events() -> None:
    p, y, w = draw("binary", 2000)
    report = report_of("binary", p, y, w)
    assert report["log_loss"] == pytest.approx(river_means(["LogLoss"], np.clip(p, 1e-3, 1 - 1e-3), y, w)["LogLoss"])
    assert report["accuracy"] == pytest.approx(river_means(["Accuracy"], (p >= 0.5).astype(float), y, w)["Accuracy"])

    p, y, w = draw("regression", 2000)
    report, river = report_of("regression", p, y, w), river_means(["MAE", "RMSE"], p, y, w)
    assert report["mae"] == pytest.approx(river["MAE"])
    assert report["rmse"] == pytest.approx(river["RMSE"])


@pytest.mark.parametrize("dataset", ["Phishing", "Bananas"])
def test_auc_of_real_streams(dataset: str) -> None:
    learner = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    predictions, labels = [], []
    for features, label in getattr(datasets, dataset)():
        predictions.append(learner.predict_proba_one(features)[True])
        labels.append(float(label))
        learner.learn_one(features, label)
    p, y = np.array(predictions), np.array(labels)
    assert report_of("binary", p, y, np.ones(len(p)))["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-4)


@pytest.mark.parametrize("log_odds", [-9.0, -4.0, 0.0, 6.0])
def test_auc_wherever_the_scores_lie(log_odds: float) -> None:
    rng = np.random.default_rng(1)
    n = 50_000
    y = (rng.random(n) < 0.1).astype(float)
    p = 1.0 / (1.0 + np.exp(-(log_odds + 0.3 * rng.normal(size=n) + 0.2 * y)))
    assert report_of("binary", p, y, np.ones(n))["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-4)


def test_auc_counts_a_tie_as_half() -> None:
    p, y = np.array([0.2, 0.2, 0.7, 0.7]), np.array([0.0, 1.0, 1.0, 0.0])
    report = report_of("binary", p, y, np.ones(4))
    assert report["auc"] == report["window"]["auc"] == 0.5
    p, y = np.array([0.2, 0.7, 0.7]), np.array([0.0, 1.0, 0.0])
    assert report_of("binary", p, y, np.array([1.0, 2.0, 3.0]))["auc"] == (1.0 + 3.0 * 0.5) / 4.0


def test_certain_predictions_stay_within_bounds() -> None:
    report = report_of("binary", np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0]), np.ones(4))
    assert report["log_loss"] == pytest.approx(-(math.log(0.999) + math.log(0.001)) / 2)
    assert report["auc"] == 0.5
    assert report["accuracy"] == 0.5
    assert report["calibration_error"] == 0.5


def test_the_baseline_starts_without_knowledge() -> None:
    one = np.ones(1)
    assert report_of("binary", one, one, one)["baseline_log_loss"] == pytest.approx(math.log(2.0))
    assert report_of("regression", one, 3.0 * one, one)["baseline_mae"] == 3.0
    assert report_of("counts", one, 3.0 * one, one)["baseline_mae"] == 2.5
    assert report_of("quantile", one, 3.0 * one, one, 0.9)["baseline_pinball_loss"] == pytest.approx(2.7)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_defined_before_the_first_event(task: str) -> None:
    report = fresh(task).report()
    window = report.pop("window")
    assert report == window == {"events": 0, "weight": 0.0} | dict.fromkeys(metric_names(task)[2:])


def test_what_cannot_be_defined_is_none() -> None:
    report = report_of("binary", np.array([0.3, 0.6]), np.ones(2), np.ones(2))
    assert report["auc"] is None
    assert report["window"]["auc"] is None
    assert report["accuracy"] == 0.5
    report = report_of("regression", np.array([0.3, 0.6]), np.full(2, 0.1), np.ones(2))
    assert report["r2"] is None
    assert report["mae"] == pytest.approx(0.35)


@pytest.mark.parametrize("task", TASKS)
def test_an_event_without_weight_is_counted_and_nothing_else(task: str) -> None:
    p, y, w = draw(task, 500)
    with_all, with_some = report_of(task, p, y, w), report_of(task, p[w > 0], y[w > 0], w[w > 0])
    assert with_all.pop("events") == with_all["window"].pop("events") == 500
    assert with_some.pop("events") == with_some["window"].pop("events") == np.count_nonzero(w)
    assert with_all == with_some


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_a_broken_event_spoils_no_sum(task: str, bad: float) -> None:
    p, y, w = draw(task, 100)
    places = [10, 20, 30]
    with_bad_p, with_bad_y, with_bad_w = (
        np.insert(array, places, [bad if i == j else 0.5 for j in range(3)]) for i, array in enumerate((p, y, w))
    )
    report, clean = report_of(task, with_bad_p, with_bad_y, with_bad_w), report_of(task, p, y, w)
    assert report.pop("events") == report["window"].pop("events") == 103
    del clean["events"], clean["window"]["events"]
    assert report == clean


@pytest.mark.parametrize("task", TASKS)
def test_a_report_has_the_named_keys_and_is_json(task: str) -> None:
    report = report_of(task, *draw(task, 50))
    assert tuple(report) == (*metric_names(task), "window")
    assert tuple(report["window"]) == metric_names(task)
    assert {find_task(task).headline, f"baseline_{find_task(task).headline}"} < set(report)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_headlines() -> None:
    assert [find_task(task).headline for task in TASKS] == ["log_loss", "mae", "poisson_deviance", "pinball_loss"]


def test_state_lives_in_the_tensors_alone() -> None:
    p, y, w = draw("binary", 300)
    layout = ProgressiveMetrics.layout("binary")
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
    ProgressiveMetrics("binary", tensors).update(p[:200], y[:200], w[:200])
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    resumed = ProgressiveMetrics("binary", copies)
    resumed.update(p[200:], y[200:], w[200:])
    assert resumed.report() == report_of("binary", p, y, w)
    assert ProgressiveMetrics("binary", tensors).report() == report_of("binary", p[:200], y[:200], w[:200])


def test_refuses_what_it_cannot_use() -> None:
    for call in (metric_names, find_task, ProgressiveMetrics.layout):
        with pytest.raises(ConfigurationError, match=r"task must be one of binary, .*, not 'ranking'"):
            call("ranking")
    layout = ProgressiveMetrics.layout("regression")
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
    for broken in (torch.zeros(3, dtype=torch.float64), torch.zeros(2, 4), torch.zeros(4, 2, dtype=torch.float64).T):
        with pytest.raises(ValueError, match=r"'losses' must be contiguous torch.float64 of shape \(2, 4\)"):
            ProgressiveMetrics("regression", tensors | {"losses": broken})
    with pytest.raises(ValueError, match=r"\(n,\) each, not \(2,\), \(3,\), \(2,\)"):
        fresh("binary").update(np.zeros(2), np.zeros(3), np.zeros(2))
