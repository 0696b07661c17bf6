"""What the metrics of classes are made of: sums that a compiled loop keeps, event by event."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexihash.model.compiled import entry, part
from flexihash.model.sums import PRIOR_LABEL, PROBABILITY_CLIP, WINDOW, Floats, has_share

Counts = NDArray[np.int64]

# tallies: one row each, one column per class; of labels in `model.label_sums` too
TRUE, SAID, HIT, BASELINE_SAID, BASELINE_HIT = range(5)
N_TALLIES = 5
# totals: the weight of all events, their losses, and the weight of those that were of the class of the one before
WEIGHT, LOSS, BASELINE_LOSS, SAME = range(4)
N_TOTALS = 4
# standing: the most frequent class and the last one, plus 1 each so that 0 is none; and how many have come
LEADER, LAST, N_KNOWN = range(3)
N_STANDING = 3
# a prediction: what the class that came was given, and the most probable class
P_LIKELIHOOD, P_SAID = range(2)
# window and choices: one row per event
W_WEIGHT, W_LIKELIHOOD, W_BASELINE = range(3)
N_WINDOW = 3
C_LABEL, C_SAID, C_BASELINE, C_BEFORE = range(4)  # -1 is no class
N_CHOICES = 4

_entry = partial(entry, error_model="numpy")
_part = partial(part, error_model="numpy")


class ClassSums(NamedTuple):
    """What every metric of classes is made of: ``counts`` (K,) events, ``tallies`` (5, K) and ``totals`` weights."""

    counts: Counts
    tallies: Floats
    totals: Floats


@_part
def surprise(likelihood: float) -> float:
    """The log loss of what was given this probability."""
    return -math.log(min(max(likelihood, PROBABILITY_CLIP), 1.0 - PROBABILITY_CLIP))


@_part
def _predict_baseline(counts: Counts, tallies: Floats, totals: Floats, n_known: int, label: int) -> float:
    """The class's share of all events, with half an event of each class that has come; 0 for one that has not."""
    if counts[label] == 0:
        return 0.0
    return float((tallies[TRUE, label] + PRIOR_LABEL) / (totals[WEIGHT] + PRIOR_LABEL * n_known))


@_part
def _add_choice(tallies: Floats, said_row: int, hit_row: int, said: int, label: int, weight: float) -> None:
    if said >= 0:
        tallies[said_row, said] += weight
    if said == label:
        tallies[hit_row, label] += weight


@_part
def _add_event(
    counts: Counts, tallies: Floats, totals: Floats, window: Floats, choices: NDArray[np.int32], i: int
) -> None:
    """Adds row `i` of the window."""
    weight, label = window[i, W_WEIGHT], choices[i, C_LABEL]
    counts[label] += 1
    tallies[TRUE, label] += weight
    _add_choice(tallies, SAID, HIT, choices[i, C_SAID], label, weight)
    _add_choice(tallies, BASELINE_SAID, BASELINE_HIT, choices[i, C_BASELINE], label, weight)
    totals[WEIGHT] += weight
    totals[LOSS] += weight * surprise(window[i, W_LIKELIHOOD])
    totals[BASELINE_LOSS] += weight * surprise(window[i, W_BASELINE])
    if choices[i, C_BEFORE] == label:
        totals[SAME] += weight


@_entry
def update(
    events: Counts,
    counts: Counts,
    tallies: Floats,
    totals: Floats,
    standing: Counts,
    window: Floats,
    choices: NDArray[np.int32],
    predictions: Floats,
    labels: Floats,
    weights: Floats,
) -> None:
    """Take events in order."""
    n_classes = len(counts)
    for i in range(len(labels)):
        likelihood, said = predictions[i, P_LIKELIHOOD], predictions[i, P_SAID]
        slot = events[0] % WINDOW
        events[0] += 1
        is_class = 0.0 <= labels[i] < n_classes and -1.0 <= said < n_classes
        if not (is_class and has_share(likelihood, labels[i], weights[i])):
            window[slot, :] = 0.0
            continue
        label = int(labels[i])
        window[slot, W_WEIGHT] = weights[i]
        window[slot, W_LIKELIHOOD] = likelihood
        window[slot, W_BASELINE] = _predict_baseline(counts, tallies, totals, standing[N_KNOWN], label)
        choices[slot, C_LABEL] = label
        choices[slot, C_SAID] = int(said)
        choices[slot, C_BASELINE] = standing[LEADER] - 1
        choices[slot, C_BEFORE] = standing[LAST] - 1
        standing[N_KNOWN] += counts[label] == 0
        _add_event(counts, tallies, totals, window, choices, slot)
        if standing[LEADER] == 0 or tallies[TRUE, label] > tallies[TRUE, standing[LEADER] - 1]:
            standing[LEADER] = label + 1
        standing[LAST] = label + 1


@_entry
def sum_window(counts: Counts, tallies: Floats, totals: Floats, window: Floats, choices: NDArray[np.int32]) -> None:
    """The same sums over the window's rows alone, with the baselines as they were when each event came."""
    for i in range(len(window)):
        if window[i, W_WEIGHT] > 0.0:
            _add_event(counts, tallies, totals, window, choices, i)
