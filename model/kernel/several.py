"""Events one after the other, where several scores are learned, each with a loss of its own: labels, or targets."""

from __future__ import annotations

import numpy as np

from flexihash.model.compiled import entry, inlined, part
from flexihash.model.kernel.addresses import unpack
from flexihash.model.kernel.company import foresee, learn_context
from flexihash.model.kernel.experts import DIM, N_EXPERTS
from flexihash.model.kernel.heads import begin_heads, derive_rows, find_activations, find_state, head_memory, set_clocks
from flexihash.model.kernel.losses import Loss, link
from flexihash.model.kernel.mixture import NARROW, mix
from flexihash.model.kernel.scoring import score
from flexihash.model.kernel.slots import EVENTS
from flexihash.model.kernel.steps import (
    crowding,
    find_steps,
    take_steps,
    update_biases,
    update_numbers,
    update_rows,
)
from flexihash.model.kernel.vectors import float32s, float64s, int64s, uint8s


@inlined
def loss_of(head, loss, memory):  # type: ignore[no-untyped-def]
    """The loss of a head's task."""
    return Loss(int64s(memory.tasks)[head], loss.quantile, False)


@part
def mix_heads(first, end, n, loss, memory, words):  # type: ignore[no-untyped-def]
    """The mixed scores of heads [first, end) for `n` activations, which the first head's scratch has."""
    scratch = unpack(words[0])
    for head in range(first, end):
        own = unpack(words[head])
        of_head = head_memory(head, memory)
        derive_rows(head, n, memory, scratch, own)
        score(n, of_head, own)
        mix(loss_of(head, loss, memory), of_head, own)


@inlined
def link_head(head, loss, memory, words):  # type: ignore[no-untyped-def]
    """(prediction, score) of a head, after `mix_heads`."""
    mixed = float64s(unpack(words[head]).mixed)[NARROW]
    return link(loss_of(head, loss, memory), mixed, float64s(find_state(head, memory)))


@entry
def learn(loss, begin, end, events, labels, weights, memory, contexts, words, predictions, is_learned):  # type: ignore[no-untyped-def]
    """Predicts, then learns, each of the events [begin, end) in turn; one without any label teaches contexts only.

    Args:
        labels: address of (B, n_heads) float64, NaN where a head has no label. A head beyond those that are known
            comes into use by a label that is not 0.
        predictions: address of (B, n_heads) float64: each head's, NaN of those that were not known.
        loss, events, weights, memory, contexts, words, is_learned: as for `stream.learn`.
    """
    scratch = unpack(words[0])
    offsets, known = int64s(events.offsets), int64s(memory.known)
    for b in range(begin, end):
        if contexts.dim:
            foresee(offsets[b], offsets[b + 1], events, contexts)
        n, n_numbers = find_activations(offsets[b], offsets[b + 1], events, memory, scratch)
        label, weight = float64s(labels + 8 * memory.n_heads * b), float64s(weights)[b]
        found = float64s(predictions + 8 * memory.n_heads * b)
        n_known = known[0]
        mix_heads(0, max(n_known, 1), n, loss, memory, words)
        for head in range(memory.n_heads):
            found[head] = np.nan
            if head < n_known:
                found[head], _ = link_head(head, loss, memory, words)
        is_short = learn_one(label, n, n_numbers, loss, weight, memory, words)
        uint8s(is_learned)[b] = is_short
        if contexts.dim and is_short:
            learn_context(offsets[b], offsets[b + 1], n, events, contexts, scratch)


@inlined
def learn_one(label, n, n_numbers, loss, weight, memory, words):  # type: ignore[no-untyped-def]
    """One step of all heads that have a label; returns False, with nothing written, if one would not stay finite."""
    known, n_events = int64s(memory.known), float64s(memory.state)[EVENTS]
    n_heads, is_labelled = count_heads(label, memory)
    if not is_labelled:
        update_numbers(n_numbers, memory, unpack(words[0]))
        return True
    if n_heads > known[0]:
        begin_heads(known[0], n_heads, n_events, memory)
        mix_heads(known[0], n_heads, n, loss, memory, words)
    crowd = crowding(n * n_heads, memory.n_rows)
    for head in range(n_heads):
        own, of_head, own_loss = unpack(words[head]), head_memory(head, memory), loss_of(head, loss, memory)
        if label[head] == label[head]:
            mixed = float64s(own.mixed)[NARROW]
            if not find_steps(own_loss, mixed, label[head], weight, crowd, of_head, own):
                return False
    update_numbers(n_numbers, memory, unpack(words[0]))
    for head in range(n_heads):
        own, of_head, own_loss = unpack(words[head]), head_memory(head, memory), loss_of(head, loss, memory)
        if label[head] == label[head]:
            mixed, (prediction, _) = float64s(own.mixed)[NARROW], link_head(head, loss, memory, words)
            take_steps(own_loss, n, mixed, prediction, label[head], weight, of_head, own)
        else:
            rest(n, of_head, own)
    if n_heads == 0:  # an event of no label before any is known
        rest(n, memory, unpack(words[0]))
    known[0] = n_heads
    set_clocks(max(n_heads, 1), n_events + 1.0, memory)
    return True


@inlined
def rest(n, memory, scratch):  # type: ignore[no-untyped-def]
    """Has a head that has no label grow older by the event, as all others do."""
    state, step, shrink = float64s(memory.state), float64s(scratch.step), float64s(scratch.shrink)
    for e in range(N_EXPERTS):
        step[e], shrink[e] = 0.0, 0.0
    state[EVENTS] += 1.0
    update_biases(state, scratch)
    update_rows(n, memory, scratch)


@inlined
def count_heads(label, memory):  # type: ignore[no-untyped-def]
    """How many heads are in use once an event's labels are known, and whether it has any."""
    n_heads, is_labelled = int64s(memory.known)[0], False
    for head in range(memory.n_heads):
        is_labelled = is_labelled or label[head] == label[head]
        if head >= n_heads and label[head] > 0.0:
            n_heads = head + 1
    return n_heads, is_labelled


@entry
def predict(loss, n_events, events, memory, words, predictions, scores, embeddings, head):  # type: ignore[no-untyped-def]
    """Predictions, scores and embeddings of all events, as `learn` would predict the next one; changes nothing.

    Args:
        predictions, scores: addresses of (B, n_heads) float64; of heads that are not known NaN.
        embeddings: address of (B, DIM) float32: those of `head`, which is the first or one that is known.
    """
    scratch = unpack(words[0])
    offsets, total = int64s(events.offsets), float32s(unpack(words[head]).total)
    n_known = int64s(memory.known)[0]
    for b in range(n_events):
        n, _ = find_activations(offsets[b], offsets[b + 1], events, memory, scratch)
        mix_heads(0, max(n_known, 1), n, loss, memory, words)
        for head in range(memory.n_heads):
            prediction, z = np.nan, np.nan
            if head < n_known:
                prediction, z = link_head(head, loss, memory, words)
            float64s(predictions)[b * memory.n_heads + head] = prediction
            float64s(scores)[b * memory.n_heads + head] = z
        for k in range(DIM):
            float32s(embeddings)[b * DIM + k] = total[k]
