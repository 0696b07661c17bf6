"""How good predictions of classes are, from the weights of what was said, what was true, and what was both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexihash.model.class_sums import BASELINE_HIT, BASELINE_SAID, HIT, SAID, TRUE, ClassSums, Counts
from flexihash.model.sums import WINDOW, Floats

N_SHOWN = 20  # classes one by one, where not all have room
OF_A_CLASS = ("count", "precision", "recall", "f1")


def divide(numerator: float, denominator: float) -> float | None:
    """The quotient, or None where it is not defined or not finite."""
    quotient = numerator / denominator if denominator > 0.0 else math.inf
    return quotient if math.isfinite(quotient) else None


def rate_classes(counts: Counts, tallies: Floats, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`OF_A_CLASS` of each class, by its name.

    Returns:
        ``count`` how many events of it had a weight; ``precision`` None where it was never said, ``recall`` None where
        it never came, ``f1`` None where neither was.
    """
    return {
        name: {
            "count": int(counts[k]),
            "precision": divide(hit, said),
            "recall": divide(hit, true),
            "f1": divide(2.0 * hit, true + said),
        }
        for k, (name, (true, said, hit)) in enumerate(zip(names, tallies[[TRUE, SAID, HIT]].T.tolist(), strict=False))
    }


def most_frequent(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the `N_SHOWN` classes with the most events, the most frequent first, without those that never came.

    Args:
        classes: what `rate_classes` gave.
    """
    names = [name for name in classes if classes[name]["count"]]
    return sorted(names, key=lambda name: -classes[name]["count"])[:N_SHOWN]


def rate_all(tallies: Floats, weight: float) -> dict[str, float | None]:
    """Accuracy, macro-F1 and the like of the model and, after ``baseline_``, of the baseline."""
    of_model = _rate(tallies[[TRUE, SAID, HIT]], weight, "")
    return of_model | _rate(tallies[[TRUE, BASELINE_SAID, BASELINE_HIT]], weight, "baseline_")


def _rate(tallies: Floats, weight: float, prefix: str) -> dict[str, float | None]:
    true, said, hits = tallies
    chance, n_hits = float(true @ said), float(hits.sum())
    rates = {
        "accuracy": divide(n_hits, weight),
        "kappa": divide(weight * n_hits - chance, weight * weight - chance),
        "macro_f1": _mean(2.0 * hits, true + said),
        "micro_f1": divide(2.0 * n_hits, float((true + said).sum())),
        "balanced_accuracy": _mean(hits, true),
    }
    return {prefix + name: rate for name, rate in rates.items()}


def _mean(numerators: Floats, denominators: Floats) -> float | None:
    """The mean of the quotients that are defined."""
    is_defined = denominators > 0.0
    if not is_defined.any():
        return None
    mean = float(np.mean(numerators[is_defined] / denominators[is_defined]))
    return mean if math.isfinite(mean) else None


def report_both(
    arrays: Mapping[str, NDArray[Any]],
    measure: Callable[[int, ClassSums], dict[str, Any]],
    sum_window: Callable[..., None],
    choices: str,
) -> dict[str, Any]:
    """What is measured of all events, and under ``window`` of the last ones.

    Args:
        arrays: the state; with ``window`` and `choices` it has a row for each of the last events.
        sum_window: adds such rows to sums.
    """
    n_events = int(arrays["events"][0])
    n_window = min(n_events, WINDOW)
    sums = ClassSums(*(arrays[name] for name in ClassSums._fields))
    sums_of_window = ClassSums(*(np.zeros_like(arrays[name]) for name in ClassSums._fields))
    sum_window(*sums_of_window, arrays["window"][:n_window], arrays[choices][:n_window])
    return measure(n_events, sums) | {"window": measure(n_window, sums_of_window)}
