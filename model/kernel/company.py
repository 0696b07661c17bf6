"""What a feature's company says of it: a vector a row, learned without labels.

An event's features tell one of themselves from others of its field. With q the target, drawn by a hash of the event's
number, and c the sum of the others' vectors over the square root of how many they are,

    z = b_q + <c, e_q>

is the logit of q being real; it is told from up to N_NEGATIVES values drawn from the last RECENT of q's field, so as
often as they come. Each vector has one variance, each bias one, and all move by the Kalman step of the rest of the
model. The others of the event move once, by the sum of what the real value and the drawn ones say. (Negative sampling:
Mikolov et al. 2013; one variance a vector instead of a rate is ours.)

A number takes part by its cell, the nearest knot of its coarse grid. An integer is a number and a category: neither
helps to tell the other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from flexihash.model.compiled import inlined, part
from flexihash.model.kernel.experts import COARSE, PLAIN
from flexihash.model.kernel.losses import CURVATURE_FLOOR, SCORE_LIMIT
from flexihash.model.kernel.rows import BLOCK_BITS
from flexihash.model.kernel.scalars import clip, sigmoid
from flexihash.model.kernel.vectors import (
    add_up8,
    float32s,
    float64s,
    int32s,
    int64s,
    load8,
    prefetch,
    splat8,
    store,
    uint8s,
)

LANES = 8
VARIANCE, BIAS, BIAS_VARIANCE, SPARE = 0, 1, 2, 3  # behind a row's vector
N_SCALARS = 4

N_FIELDS = 256  # rings of lately seen values; fields whose hashes meet share one
RECENT = 4096  # values that a ring keeps
OWNER, WRITTEN = 0, 1  # of a ring
MAX_PROBES = 16  # for a field's ring
N_NEGATIVES = 5

PRIOR_VECTOR, DRIFT_VECTOR, INITIAL_VECTOR = 0.3, 1e-6, 0.05  # variance, its gain a touch; deviation of the first ones
PRIOR_VECTOR_BIAS = 0.2
LOSS_FLOOR = 1e-6  # of a probability, in the loss that is reported
WINDOW_EVENTS = 10_000.0

# --- slots of `context_state`: float64 ------------------------------------------------------------------------------

CONTEXT_EVENTS = 0  # seen so far, labelled or not: the clock, and where the draws come from
TOLD, LOSS, CHANCE = 1, 2, 3  # real and drawn values told apart; the sum of their losses; of who knows but how many
WINDOW_TOLD, WINDOW_LOSS, WINDOW_CHANCE = 4, 5, 6  # the same, forgetting over WINDOW_EVENTS
CONTEXT_STATE_WIDTH = 8

MAX_DIM = 64


class ContextMemory(NamedTuple):
    """Where the memory of `model.contexts` begins; `dim` is 0 where there is none."""

    dim: int
    seed: int
    table: int  # (n_rows, dim + N_SCALARS) float32
    recent: int  # (N_FIELDS, RECENT) int32: rows
    rings: int  # (N_FIELDS, 2) int64: whose ring it is (0: nobody's), how many values were ever written
    state: int  # (CONTEXT_STATE_WIDTH,) float64
    blocks: int  # (n_rows / BLOCK_ROWS,) int64: the newest event that moved each block of rows


@part
def draw(seed, event, number):  # type: ignore[no-untyped-def]
    """64 bits from a hash (splitmix64's finalizer) of the seed, the event's number and the draw's number."""
    h = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(event) * np.uint64(0x9E3779B97F4A7C15)
    h += np.uint64(number) * np.uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@part
def below(bits, n):  # type: ignore[no-untyped-def]
    """A number from 0 to n - 1 out of the upper half of 64 bits."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@inlined
def find_members(begin, end, n, events, scratch):  # type: ignore[no-untyped-def]
    """The row by which each of an event's features takes part, from its activations."""
    rows, is_number = int64s(events.rows), uint8s(events.is_number)
    row, value, kind, member = (
        int64s(scratch.row), float32s(scratch.value), int64s(scratch.kind), int64s(scratch.member)
    )  # fmt: skip
    at = 0
    for j in range(begin, end):
        member[j - begin] = rows[j]
        if is_number[j]:
            is_upper = kind[at + 2] == COARSE and at + 2 < n and value[at + 2] > np.float32(0.5)
            member[j - begin] = row[at + 1 + is_upper]
            at += 1
            while at < n and kind[at] != PLAIN:
                at += 1
        else:
            at += 1


@inlined
def is_twin(j, other, fields, is_number):  # type: ignore[no-untyped-def]
    """Whether two features are the number and the category of one integer."""
    if fields[j] != fields[other]:
        return False
    return (other == j + 1 and is_number[j] and not is_number[other]) or (
        other == j - 1 and is_number[other] and not is_number[j]
    )


@inlined
def find_ring(j, fields, is_number, rings):  # type: ignore[no-untyped-def]
    """The ring of a feature's field.

    A field takes the first free ring from its hash on; where MAX_PROBES are others', it shares the last of them.
    """
    field = key_of_field(j, fields, is_number)
    ring = first_ring(field)
    for _ in range(MAX_PROBES):
        owner = rings[2 * ring + OWNER]
        if owner == field:
            return ring
        if owner == 0:
            rings[2 * ring + OWNER] = field
            return ring
        ring = (ring + 1) & (N_FIELDS - 1)
    return (ring - 1) & (N_FIELDS - 1)


@inlined
def foresee(begin, end, events, contexts):  # type: ignore[no-untyped-def]
    """Has what `learn_context` will read of the table fetched meanwhile, as far as it is known before the event is."""
    fields, is_number, rows = int64s(events.fields), uint8s(events.is_number), int64s(events.rows)
    for j in range(begin, end):
        if not is_number[j]:
            fetch_vector(rows[j], contexts)
    if end - begin < 2:
        return
    event = np.int64(float64s(contexts.state)[CONTEXT_EVENTS])
    target = draw_target(begin, end, event, contexts)
    ring = first_ring(key_of_field(target, fields, is_number))
    n_lately = count_lately(ring, contexts)
    for number in range(1, N_NEGATIVES + 1 if n_lately else 1):
        fetch_vector(draw_lately(ring, n_lately, event, number, contexts), contexts)


@inlined
def fetch_vector(row, contexts):  # type: ignore[no-untyped-def]
    """Has the two lines of the cache that a row's record may lie in fetched."""
    record = 4 * (contexts.dim + N_SCALARS)
    prefetch(contexts.table + record * row)
    prefetch(contexts.table + record * (row + 1) - 1)


@inlined
def draw_target(begin, end, event, contexts):  # type: ignore[no-untyped-def]
    """The feature that is told from others of its field."""
    return begin + below(draw(contexts.seed, event, 0), end - begin)


@inlined
def count_lately(ring, contexts):  # type: ignore[no-untyped-def]
    """How many values there are to draw from."""
    return min(int64s(contexts.rings)[2 * ring + WRITTEN], RECENT)


@inlined
def draw_lately(ring, n_lately, event, number, contexts):  # type: ignore[no-untyped-def]
    """The row of one of a ring's last values; `number` is the draw's, from 1 on."""
    return np.int64(int32s(contexts.recent)[ring * RECENT + below(draw(contexts.seed, event, number), n_lately)])


@inlined
def key_of_field(j, fields, is_number):  # type: ignore[no-untyped-def]
    """The key of a feature's field, above 0; an integer's number and its category have one each."""
    return 2 * fields[j] + 1 + np.int64(is_number[j])


@inlined
def first_ring(field):  # type: ignore[no-untyped-def]
    """Where the search for a field's ring begins."""
    return (field * np.int64(0x9E3779B1) >> np.int64(16)) & (N_FIELDS - 1)


@inlined
def learn_context(begin, end, n, events, contexts, scratch):  # type: ignore[no-untyped-def]
    """What the company of one event's features teaches; `n` activations lie in `scratch`."""
    state = float64s(contexts.state)
    fields, is_number, member = int64s(events.fields), uint8s(events.is_number), int64s(scratch.member)
    find_members(begin, end, n, events, scratch)
    if end - begin > 1:
        seen = np.int64(state[CONTEXT_EVENTS])
        tell_apart(begin, end, draw_target(begin, end, seen, contexts), events, contexts, scratch)
    state[CONTEXT_EVENTS] += 1.0
    recent, rings = int32s(contexts.recent), int64s(contexts.rings)
    rows, blocks = int64s(events.rows), int64s(contexts.blocks)
    for j in range(begin, end):
        if is_number[j]:  # its statistics have moved, whether it took part or not
            blocks[rows[j] >> BLOCK_BITS] = np.int64(state[CONTEXT_EVENTS])
        ring = find_ring(j, fields, is_number, rings)
        recent[ring * RECENT + (rings[2 * ring + WRITTEN] & (RECENT - 1))] = np.int32(member[j - begin])
        rings[2 * ring + WRITTEN] += 1


@inlined
def tell_apart(begin, end, target, events, contexts, scratch):  # type: ignore[no-untyped-def]
    """Feature `target` against values drawn from its field's ring, by the sum of the event's other vectors."""
    fields, is_number, member = int64s(events.fields), uint8s(events.is_number), int64s(scratch.member)
    rings, state = int64s(contexts.rings), float64s(contexts.state)
    n_others, others_variance = sum_others(begin, end, target, events, contexts, scratch)
    if n_others == 0:
        return
    scale = np.float32(1.0 / math.sqrt(float(n_others)))
    context = scale_context(scale, contexts, scratch), others_variance * scale * scale
    event = np.int64(state[CONTEXT_EVENTS])
    ring = find_ring(target, fields, is_number, rings)
    n_lately = count_lately(ring, contexts)
    real = member[target - begin]
    likelihood, curvature = tell(real, 1.0, context, event + 1, contexts, scratch)
    n_told = 1
    for number in range(1, N_NEGATIVES + 1 if n_lately else 1):
        row = draw_lately(ring, n_lately, event, number, contexts)
        if row != real:
            p, bent = tell(row, 0.0, context, event + 1, contexts, scratch)
            likelihood *= p
            curvature += bent
            n_told += 1
    move_others(
        begin, end, target, scale, curvature * scale * scale / np.float32(contexts.dim), events, contexts, scratch
    )
    if n_told > 1:
        add_loss(n_told, -math.log(likelihood), state)


@inlined
def sum_others(begin, end, target, events, contexts, scratch):  # type: ignore[no-untyped-def]
    """Sums the vectors of the features that help to tell `target`; (how many they are, the sum of their variances)."""
    fields, is_number, member = int64s(events.fields), uint8s(events.is_number), int64s(scratch.member)
    table = float32s(contexts.table)
    n_others = 0
    variance = np.float32(0.0)
    for k in range(0, contexts.dim, LANES):
        store(scratch.context + 4 * k, splat8(np.float32(0.0)))
        store(scratch.gradient + 4 * k, splat8(np.float32(0.0)))
    for j in range(begin, end):
        if j != target and not is_twin(j, target, fields, is_number):
            at = member[j - begin] * (contexts.dim + N_SCALARS)
            n_others += 1
            variance += table[at + contexts.dim + VARIANCE]
            for k in range(0, contexts.dim, LANES):
                store(scratch.context + 4 * k, load8(scratch.context + 4 * k) + load8(contexts.table + 4 * (at + k)))
    return n_others, variance


@inlined
def scale_context(scale, contexts, scratch):  # type: ignore[no-untyped-def]
    """Makes the sum the context; returns its square."""
    squares = splat8(np.float32(0.0))
    for k in range(0, contexts.dim, LANES):
        c = load8(scratch.context + 4 * k) * splat8(scale)
        store(scratch.context + 4 * k, c)
        squares = squares + c * c
    return add_up8(squares)


@inlined
def tell(row, y, context, clock, contexts, scratch):  # type: ignore[no-untyped-def]
    """One step of a row that is real (y = 1) or drawn (0), and its share of the gradient for the others.

    Returns:
        The probability of what is true, and the row's square by the curvature that remains of the step.
    """
    table, blocks = float32s(contexts.table), int64s(contexts.blocks)
    context_square, others_variance = context
    vector = row * (contexts.dim + N_SCALARS)
    scalars = vector + contexts.dim
    products = splat8(np.float32(0.0))
    squares = products
    for k in range(0, contexts.dim, LANES):
        e = load8(contexts.table + 4 * (vector + k))
        products = products + e * load8(scratch.context + 4 * k)
        squares = squares + e * e
    square = add_up8(squares)
    variance = drift(table[scalars + VARIANCE])
    bias_variance = table[scalars + BIAS_VARIANCE]
    p = sigmoid(clip(float(table[scalars + BIAS] + add_up8(products)), -SCORE_LIMIT, SCORE_LIMIT))
    h = max(p * (1.0 - p), CURVATURE_FLOOR)
    gain = 1.0 / (1.0 + h * float(variance * context_square + bias_variance + others_variance * square))
    step, shrink = np.float32((p - y) * gain), np.float32(h * gain)
    for k in range(0, contexts.dim, LANES):
        e = load8(contexts.table + 4 * (vector + k))
        store(scratch.gradient + 4 * k, load8(scratch.gradient + 4 * k) + splat8(step) * e)
        store(contexts.table + 4 * (vector + k), e - splat8(variance * step) * load8(scratch.context + 4 * k))
    table[scalars + VARIANCE] = variance - variance * variance * shrink * context_square / np.float32(contexts.dim)
    table[scalars + BIAS] -= bias_variance * step
    table[scalars + BIAS_VARIANCE] = bias_variance - bias_variance * bias_variance * shrink
    blocks[row >> BLOCK_BITS] = clock
    return max(p if y == 1.0 else 1.0 - p, LOSS_FLOOR), shrink * square


@inlined
def move_others(begin, end, target, scale, curvature, events, contexts, scratch):  # type: ignore[no-untyped-def]
    """Moves the features that helped to tell `target`, by the gradient that all told rows left."""
    fields, is_number, member = int64s(events.fields), uint8s(events.is_number), int64s(scratch.member)
    table, blocks = float32s(contexts.table), int64s(contexts.blocks)
    clock = np.int64(float64s(contexts.state)[CONTEXT_EVENTS]) + 1
    for j in range(begin, end):
        if j != target and not is_twin(j, target, fields, is_number):
            row = member[j - begin]
            vector = row * (contexts.dim + N_SCALARS)
            variance = drift(table[vector + contexts.dim + VARIANCE])
            gain = np.float32(1.0) / (np.float32(1.0) + variance * curvature)
            move = splat8(variance * scale * gain)
            for k in range(0, contexts.dim, LANES):
                place = contexts.table + 4 * (vector + k)
                store(place, load8(place) - move * load8(scratch.gradient + 4 * k))
            table[vector + contexts.dim + VARIANCE] = variance - variance * variance * curvature * gain
            blocks[row >> BLOCK_BITS] = clock


@inlined
def drift(variance):  # type: ignore[no-untyped-def]
    """A vector's variance as its next touch finds it."""
    return min(variance + np.float32(DRIFT_VECTOR), np.float32(PRIOR_VECTOR))


@inlined
def add_loss(n_told, loss, state):  # type: ignore[no-untyped-def]
    """Adds one event to the progressive loss, beside that of who knows but the share of the real ones."""
    share = 1.0 / n_told
    chance = -math.log(share) - (n_told - 1) * math.log(1.0 - share)
    forget = 1.0 - 1.0 / WINDOW_EVENTS
    state[TOLD] += n_told
    state[LOSS] += loss
    state[CHANCE] += chance
    state[WINDOW_TOLD] = state[WINDOW_TOLD] * forget + n_told
    state[WINDOW_LOSS] = state[WINDOW_LOSS] * forget + loss
    state[WINDOW_CHANCE] = state[WINDOW_CHANCE] * forget + chance
