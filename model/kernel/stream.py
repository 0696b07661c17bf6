"""Events one after the other: predicted and learned, or predicted only. All that Python calls."""

from __future__ import annotations

from flexihash.model.compiled import entry
from flexihash.model.kernel.activation import activate
from flexihash.model.kernel.experts import DIM
from flexihash.model.kernel.losses import link
from flexihash.model.kernel.mixture import mix
from flexihash.model.kernel.scoring import score
from flexihash.model.kernel.steps import learn_one
from flexihash.model.kernel.trees import read_numbers
from flexihash.model.kernel.vectors import float32s, float64s, int64s, uint8s


@entry
def learn(loss, begin, end, events, labels, weights, memory, scratch, predictions, is_learned):  # type: ignore[no-untyped-def]
    """Predicts, then learns, each of the events [begin, end) in turn.

    Args:
        loss, events, memory, scratch: as their classes say.
        labels, weights: addresses of (B,) float64.
        predictions: address of (B,) float64, gets what was predicted before learning.
        is_learned: address of (B,) uint8, gets whether the step was written.
    """
    offsets, state = int64s(events.offsets), float64s(memory.state)
    for b in range(begin, end):
        n, n_numbers = activate(offsets[b], offsets[b + 1], events, memory, scratch)
        score(n, memory, scratch)
        read_numbers(n_numbers, memory, scratch)
        mixed = mix(loss, memory, scratch)
        prediction, _ = link(loss, mixed, state)
        float64s(predictions)[b] = prediction
        label, weight = float64s(labels)[b], float64s(weights)[b]
        uint8s(is_learned)[b] = learn_one(loss, n, n_numbers, mixed, prediction, label, weight, memory, scratch)


@entry
def predict(loss, n_events, events, memory, scratch, predictions, scores, embeddings):  # type: ignore[no-untyped-def]
    """Predictions, scores and embeddings of all events, as `learn` would predict the next one; changes nothing.

    Args:
        predictions, scores: addresses of (B,) float64.
        embeddings: address of (B, DIM) float32.
    """
    offsets, state, total = int64s(events.offsets), float64s(memory.state), float32s(scratch.total)
    for b in range(n_events):
        n, n_numbers = activate(offsets[b], offsets[b + 1], events, memory, scratch)
        score(n, memory, scratch)
        read_numbers(n_numbers, memory, scratch)
        prediction, z = link(loss, mix(loss, memory, scratch), state)
        float64s(predictions)[b] = prediction
        float64s(scores)[b] = z
        for k in range(DIM):
            float32s(embeddings)[b * DIM + k] = total[k]
