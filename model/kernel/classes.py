"""Events one after the other, where the label is one of many classes; as `stream` has them for one score."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import entry, inlined, part
from flexihash.model.kernel.addresses import unpack
from flexihash.model.kernel.company import foresee, learn_context
from flexihash.model.kernel.experts import DIM
from flexihash.model.kernel.heads import (
    begin_heads,
    derive_rows,
    expect_rarely,
    find_activations,
    find_state,
    head_memory,
    set_clocks,
)
from flexihash.model.kernel.linear import score_linear, update_linear
from flexihash.model.kernel.scoring import score
from flexihash.model.kernel.slots import EVENTS, LABEL_COUNT, LABEL_WEIGHT, LINEAR_BIAS
from flexihash.model.kernel.softmax import find_class_steps, mix_classes, update_classes
from flexihash.model.kernel.steps import crowding, update_biases, update_numbers, update_rows
from flexihash.model.kernel.vectors import float32s, float64s, int64s, uint8s

LIKELIHOOD, PREDICTED = 0, 1  # of a prediction
N_PREDICTED = 2


@part
def score_heads(first, end, n, memory, words):  # type: ignore[no-untyped-def]
    """The scores of heads [first, end) for `n` activations, which the first head's scratch has."""
    scratch = unpack(words[0])
    for head in range(first, end):
        own = unpack(words[head])
        derive_rows(head, n, memory, scratch, own)
        of_head = head_memory(head, memory)
        score(n, of_head, own)
        score_linear(n, of_head, own)


@entry
def learn(loss, begin, end, events, labels, weights, memory, contexts, words, predictions, is_learned):  # type: ignore[no-untyped-def]
    """Predicts, then learns, each of the events [begin, end) in turn; one without a label teaches contexts only.

    Args:
        labels: address of (B,) float64: the class's number, NaN where there is none. The first class that is not
            known yet has the next number.
        predictions: address of (B, N_PREDICTED) float64: the probability that the class was given before it was
            learned, 0 for one that was not known; and the class that was the most probable, -1 for none.
        loss, events, weights, memory, contexts, words, is_learned: as for `stream.learn`.
    """
    scratch = unpack(words[0])
    offsets, found = int64s(events.offsets), float64s(predictions)
    for b in range(begin, end):
        if contexts.dim:
            foresee(offsets[b], offsets[b + 1], events, contexts)
        n, n_numbers = find_activations(offsets[b], offsets[b + 1], events, memory, scratch)
        label, weight = float64s(labels)[b], float64s(weights)[b]
        likelihood, best = np.nan, np.nan
        is_short = True
        if label == label:
            likelihood, best = predict_one(np.int64(label), n, memory, words)
            is_short = learn_one(np.int64(label), n, n_numbers, weight, memory, words)
        else:
            update_numbers(n_numbers, memory, scratch)
        found[b * N_PREDICTED + LIKELIHOOD], found[b * N_PREDICTED + PREDICTED] = likelihood, best
        uint8s(is_learned)[b] = is_short
        if contexts.dim and is_short:
            learn_context(offsets[b], offsets[b + 1], n, events, contexts, scratch)


@inlined
def predict_one(true, n, memory, words):  # type: ignore[no-untyped-def]
    """The true class's probability, and the most probable class."""
    n_classes = int64s(memory.known)[0]
    if n_classes == 0:
        return 0.0, -1.0
    scratch = unpack(words[0])
    score_heads(0, n_classes, n, memory, words)
    best = mix_classes(n_classes, memory, scratch)
    return (float64s(scratch.likely)[true] if true < n_classes else 0.0), np.float64(best)


@inlined
def learn_one(true, n, n_numbers, weight, memory, words):  # type: ignore[no-untyped-def]
    """One step after `predict_one`; returns False, with nothing written, where a step would not stay finite."""
    known = int64s(memory.known)
    n_classes = max(known[0], true + 1)
    scratch = unpack(words[0])
    n_events = float64s(memory.state)[EVENTS]
    if n_classes > known[0]:
        begin_heads(known[0], n_classes, n_events, memory)
        for head in range(known[0], n_classes):
            float64s(find_state(head, memory))[LINEAR_BIAS] = expect_rarely(n_events)
        score_heads(known[0], n_classes, n, memory, words)
        mix_classes(n_classes, memory, scratch)
    if not find_class_steps(n_classes, true, weight, crowding(n * n_classes, memory.n_rows), scratch):
        return False
    known[0] = n_classes
    update_numbers(n_numbers, memory, scratch)
    set_clocks(n_classes, n_events + 1.0, memory)
    update_classes(n_classes, true, weight, memory, scratch)
    for head in range(n_classes):
        own = unpack(words[head])
        of_head = head_memory(head, memory)
        update_biases(float64s(of_head.state), own)
        update_rows(n, of_head, own)
        update_linear(n, of_head, own)
    state = float64s(find_state(true, memory))
    state[LABEL_COUNT] += 1.0
    state[LABEL_WEIGHT] += weight
    return True


@entry
def predict(loss, n_events, events, memory, words, predictions, scores, embeddings, head):  # type: ignore[no-untyped-def]
    """Probabilities, scores and embeddings of all events, as `learn` would predict the next one; changes nothing.

    Args:
        predictions, scores: addresses of (B, n_heads) float64: each class's probability, and the logit by which it
            was calibrated; of classes that are not known NaN.
        embeddings: address of (B, DIM) float32: those of `head`, which is the first or one that is known.
    """
    scratch = unpack(words[0])
    offsets, total = int64s(events.offsets), float32s(unpack(words[head]).total)
    likely, logit = float64s(scratch.likely), float64s(scratch.logit)
    n_classes = int64s(memory.known)[0]
    for b in range(n_events):
        n, _ = find_activations(offsets[b], offsets[b + 1], events, memory, scratch)
        score_heads(0, max(n_classes, 1), n, memory, words)
        if n_classes:
            mix_classes(n_classes, memory, scratch)
        for k in range(memory.n_heads):
            float64s(predictions)[b * memory.n_heads + k] = likely[k] if k < n_classes else np.nan
            float64s(scores)[b * memory.n_heads + k] = logit[k] if k < n_classes else np.nan
        for k in range(DIM):
            float32s(embeddings)[b * DIM + k] = total[k]
