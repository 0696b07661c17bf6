"""What the metrics of several labels at once are made of: sums that a compiled loop keeps, event by event."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from flexihash.model.class_sums import (
    BASELINE_HIT,
    BASELINE_LOSS,
    BASELINE_SAID,
    HIT,
    LOSS,
    SAID,
    TRUE,
    WEIGHT,
    Counts,
    surprise,
)
from flexihash.model.compiled import entry, part
from flexihash.model.sums import PRIOR_LABEL, WINDOW, Floats, has_share

THRESHOLD = 0.5  # a label counts as said from this probability on
# totals: after the weight and the losses, the weighted shares of wrong labels, and the weights of events that were
# right in every label
HAMMING, BASELINE_HAMMING, EXACT, BASELINE_EXACT = range(3, 7)
N_TOTALS = 7
# window: one row per event; flags: one byte per event and label
W_WEIGHT, W_LOSS, W_BASELINE, W_KNOWN = range(4)
N_WINDOW = 4
F_TRUE, F_SAID, F_BASELINE = 1, 2, 4

_entry = partial(entry, error_model="numpy")
_part = partial(part, error_model="numpy")
Flags = NDArray[np.uint8]


@_part
def _count_known(n_known: int, labels: Floats, i: int) -> int:
    """How many labels have come, with those of event `i`; they are numbered as they come."""
    for k in range(labels.shape[1] - 1, n_known - 1, -1):
        if labels[i, k] > THRESHOLD:
            return k + 1
    return n_known


@_part
def _read(probability: float, k: int, n_before: int) -> float:
    """The probability of label `k`; 0 where there is none, as of a label that the event brings."""
    return 0.0 if k >= n_before and probability != probability else probability


@_part
def _is_whole(probabilities: Floats, labels: Floats, weight: float, i: int, n_before: int, n_known: int) -> bool:
    """Whether event `i` has a share in the metrics, in each of its labels."""
    is_whole: bool = has_share(0.0, 0.0, weight)
    for k in range(n_known):
        said = _read(probabilities[i, k], k, n_before)
        is_label = labels[i, k] == 0.0 or labels[i, k] == 1.0
        is_whole &= is_label and has_share(said, labels[i, k], 1.0)
    return is_whole


@_part
def _write_event(
    tallies: Floats,
    totals: Floats,
    window: Floats,
    flags: Flags,
    slot: int,
    probabilities: Floats,
    labels: Floats,
    i: int,
    n_before: int,
    n_known: int,
) -> None:
    """Row `slot` of the window: what was said of each label, what the baseline says, and what both lose by it."""
    loss = baseline_loss = 0.0
    for k in range(n_known):
        is_true = labels[i, k] > THRESHOLD
        said = _read(probabilities[i, k], k, n_before)
        baseline = (tallies[TRUE, k] + PRIOR_LABEL) / (totals[WEIGHT] + 1.0)
        loss += surprise(said if is_true else 1.0 - said)
        baseline_loss += surprise(baseline if is_true else 1.0 - baseline)
        flags[slot, k] = F_TRUE * is_true + F_SAID * (said >= THRESHOLD) + F_BASELINE * (baseline >= THRESHOLD)
    n_labels = max(n_known, 1)
    window[slot, W_LOSS], window[slot, W_BASELINE] = loss / n_labels, baseline_loss / n_labels
    window[slot, W_KNOWN] = n_known


@_part
def _add_event(counts: Counts, tallies: Floats, totals: Floats, window: Floats, flags: Flags, i: int) -> None:
    """Adds row `i` of the window."""
    weight, n_known = window[i, W_WEIGHT], int(window[i, W_KNOWN])
    n_wrong = n_baseline_wrong = 0
    for k in range(n_known):
        is_true, said, baseline = flags[i, k] & F_TRUE != 0, flags[i, k] & F_SAID != 0, flags[i, k] & F_BASELINE != 0
        counts[k] += is_true
        tallies[TRUE, k] += weight * is_true
        tallies[SAID, k] += weight * said
        tallies[HIT, k] += weight * (said and is_true)
        tallies[BASELINE_SAID, k] += weight * baseline
        tallies[BASELINE_HIT, k] += weight * (baseline and is_true)
        n_wrong += said != is_true
        n_baseline_wrong += baseline != is_true
    totals[WEIGHT] += weight
    totals[LOSS] += weight * window[i, W_LOSS]
    totals[BASELINE_LOSS] += weight * window[i, W_BASELINE]
    totals[HAMMING] += weight * n_wrong / max(n_known, 1)
    totals[BASELINE_HAMMING] += weight * n_baseline_wrong / max(n_known, 1)
    totals[EXACT] += weight * (n_wrong == 0)
    totals[BASELINE_EXACT] += weight * (n_baseline_wrong == 0)


@_entry
def update(
    events: Counts,
    known: Counts,
    counts: Counts,
    tallies: Floats,
    totals: Floats,
    window: Floats,
    flags: Flags,
    probabilities: Floats,
    labels: Floats,
    weights: Floats,
) -> None:
    """Take events in order."""
    for i in range(len(weights)):
        slot = events[0] % WINDOW
        events[0] += 1
        n_before, n_known = known[0], _count_known(known[0], labels, i)
        if not _is_whole(probabilities, labels, weights[i], i, n_before, n_known):
            window[slot, :] = 0.0
            continue
        known[0] = n_known
        window[slot, W_WEIGHT] = weights[i]
        _write_event(tallies, totals, window, flags, slot, probabilities, labels, i, n_before, n_known)
        _add_event(counts, tallies, totals, window, flags, slot)


@_entry
def sum_window(counts: Counts, tallies: Floats, totals: Floats, window: Floats, flags: Flags) -> None:
    """The same sums over the window's rows alone, with the baseline as it was when each event came."""
    for i in range(len(window)):
        if window[i, W_WEIGHT] > 0.0:
            _add_event(counts, tallies, totals, window, flags, i)
