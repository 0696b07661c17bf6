"""Events one after the other: predicted and learned, or predicted only. All that Python calls."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import entry
from flexihash.model.kernel.activation import activate
from flexihash.model.kernel.addresses import unpack
from flexihash.model.kernel.company import find_members, foresee, learn_context
from flexihash.model.kernel.crossing import cross
from flexihash.model.kernel.experts import DIM
from flexihash.model.kernel.losses import link
from flexihash.model.kernel.mixture import mix
from flexihash.model.kernel.scoring import score
from flexihash.model.kernel.steps import learn_one, update_numbers
from flexihash.model.kernel.trees import read_numbers
from flexihash.model.kernel.vectors import float32s, float64s, int64s, uint8s


@entry
def learn(loss, begin, end, events, labels, weights, memory, contexts, words, predictions, is_learned):  # type: ignore[no-untyped-def]
    """Predicts, then learns, each of the events [begin, end) in turn; one without a label teaches contexts only.

    Args:
        loss, events, memory, contexts: as their classes say.
        words: where to work: (n_heads, N_SCRATCH), for `unpack`.
        labels, weights: addresses of (B,) float64; a label is NaN where there is none.
        predictions: address of (B,) float64, gets what was predicted before learning; NaN without a label.
        is_learned: address of (B,) uint8, gets whether the steps were written.
    """
    scratch = unpack(words[0])
    offsets, state = int64s(events.offsets), float64s(memory.state)
    for b in range(begin, end):
        if contexts.dim:
            foresee(offsets[b], offsets[b + 1], events, contexts)
        n, n_numbers = activate(offsets[b], offsets[b + 1], events, memory, scratch)
        if memory.has_crosses:
            n = cross(offsets[b], offsets[b + 1], n, events, memory, scratch)
        label, weight = float64s(labels)[b], float64s(weights)[b]
        prediction = np.nan
        is_short = True
        if label == label:
            score(n, memory, scratch)
            read_numbers(n_numbers, memory, scratch)
            mixed = mix(loss, memory, scratch)
            prediction, _ = link(loss, mixed, state)
            is_short = learn_one(loss, n, n_numbers, mixed, prediction, label, weight, memory, scratch)
        else:
            update_numbers(n_numbers, memory, scratch)
        float64s(predictions)[b] = prediction
        uint8s(is_learned)[b] = is_short
        if contexts.dim and is_short:
            learn_context(offsets[b], offsets[b + 1], n, events, contexts, scratch)


@entry
def predict(loss, n_events, events, memory, words, predictions, scores, embeddings, head):  # type: ignore[no-untyped-def]
    """Predictions, scores and embeddings of all events, as `learn` would predict the next one; changes nothing.

    Args:
        predictions, scores: addresses of (B,) float64.
        embeddings: address of (B, DIM) float32.
        head: whose embeddings are wanted; there is but one here.
    """
    scratch = unpack(words[0])
    offsets, state, total = int64s(events.offsets), float64s(memory.state), float32s(scratch.total)
    for b in range(n_events):
        n, n_numbers = activate(offsets[b], offsets[b + 1], events, memory, scratch)
        if memory.has_crosses:
            n = cross(offsets[b], offsets[b + 1], n, events, memory, scratch)
        score(n, memory, scratch)
        read_numbers(n_numbers, memory, scratch)
        prediction, z = link(loss, mix(loss, memory, scratch), state)
        float64s(predictions)[b] = prediction
        float64s(scores)[b] = z
        for k in range(DIM):
            float32s(embeddings)[b * DIM + k] = total[k]


@entry
def look_up(n_events, events, memory, words, rows):  # type: ignore[no-untyped-def]
    """The row by which each feature of all events keeps company; changes nothing.

    Args:
        rows: address of (nnz,) int64.
    """
    scratch = unpack(words[0])
    offsets, member = int64s(events.offsets), int64s(scratch.member)
    for b in range(n_events):
        n, _ = activate(offsets[b], offsets[b + 1], events, memory, scratch)
        find_members(offsets[b], offsets[b + 1], n, events, scratch)
        for j in range(offsets[b], offsets[b + 1]):
            int64s(rows)[j] = member[j - offsets[b]]
