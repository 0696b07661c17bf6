"""The mixture: one score from the experts' scores, and what it learns about them.

There are two: the narrow one of the experts, and the wide one with the trees' score too. The wide one counts as far as
it has lost less than the narrow one; where there are no trees, it does not exist.
"""

from __future__ import annotations

import math

from flexihash.model.compiled import inlined, part
from flexihash.model.kernel.experts import N_EXPERTS
from flexihash.model.kernel.losses import (
    differentiate,
    doubt,
    limit_gradient,
    limit_score,
    measure_loss,
    moderate,
    takes_trees,
)
from flexihash.model.kernel.scalars import clip, sigmoid
from flexihash.model.kernel.slots import LEAD, MIX, MIX_COVARIANCE, N_MEMBERS, WIDE_COVARIANCE, WIDE_MIX
from flexihash.model.kernel.trees import LEAST_SLOTS, TAKEN, ask_trees
from flexihash.model.kernel.vectors import float64s, int64s

PRIOR_MIX, DRIFT_MIX = 0.1, 1e-6
TREES_LIMIT = 8.0  # of the trees' score
LEAD_MEMORY, LEAD_LIMIT = 2000.0, 10.0  # events, of about which the lead is; nats
LEAD_NEEDED = 3.0  # for half the share
NARROW, WIDE = 0, 1


@inlined
def has_trees(loss, memory):  # type: ignore[no-untyped-def]
    """Whether there are trees: two numbers have been seen, and the task is one that they help with."""
    return takes_trees(loss) and int64s(memory.trees.counters)[TAKEN] >= LEAST_SLOTS


@inlined
def mix(loss, memory, scratch):  # type: ignore[no-untyped-def]
    """The score of both mixtures together; each one's own is in `scratch`."""
    state, score, spread = float64s(memory.state), float64s(scratch.score), float64s(scratch.spread)
    moderated, mixed = float64s(scratch.moderated), float64s(scratch.mixed)
    for e in range(N_EXPERTS):
        moderated[e] = moderate(loss, score[e], spread[e])
    mixed[NARROW] = limit_score(loss, weigh(N_EXPERTS, MIX, state, moderated))
    if not has_trees(loss, memory):
        return mixed[NARROW]
    moderated[N_EXPERTS] = clip(ask_trees(memory, scratch), -TREES_LIMIT, TREES_LIMIT)
    mixed[WIDE] = limit_score(loss, weigh(N_MEMBERS, WIDE_MIX, state, moderated))
    return mixed[NARROW] + sigmoid(state[LEAD] - LEAD_NEEDED) * (mixed[WIDE] - mixed[NARROW])


@inlined
def weigh(n, weights, state, moderated):  # type: ignore[no-untyped-def]
    """The weighted sum of the first `n` scores."""
    mixed = 0.0
    for e in range(n):
        mixed += state[weights + e] * moderated[e]
    return mixed


@inlined
def find_pulls(loss, near, residual, offset, weight, memory, scratch):  # type: ignore[no-untyped-def]
    """The loss's gradient and curvature at each mixture's score, and what the trees gain, for a label within reach.

    Writes to `scratch` only; returns whether they are finite.
    """
    mixed, gain = float64s(scratch.mixed), float64s(scratch.gain)
    gradient, curvature = float64s(scratch.mix_gradient), float64s(scratch.mix_curvature)
    float64s(scratch.near)[0] = near
    n_mixtures = 2 if has_trees(loss, memory) else 1
    is_finite = True
    for m in range(n_mixtures):
        g, h = differentiate(loss, mixed[m], near, residual, offset)
        gradient[m] = g * weight
        curvature[m] = h * weight
        is_finite = is_finite and math.isfinite(gradient[m]) and math.isfinite(curvature[m])
    if n_mixtures == 2:
        gain[0] = measure_loss(loss, mixed[NARROW], near, residual) - measure_loss(loss, mixed[WIDE], near, residual)
        gain[0] *= min(weight, 1.0)
    return is_finite


@inlined
def update_mixtures(loss, memory, scratch):  # type: ignore[no-untyped-def]
    """Moves the weights of both, and the lead."""
    state = float64s(memory.state)
    update_mix(loss, N_EXPERTS, MIX, MIX_COVARIANCE, NARROW, state, scratch)
    if has_trees(loss, memory):
        update_mix(loss, N_MEMBERS, WIDE_MIX, WIDE_COVARIANCE, WIDE, state, scratch)
        lead = state[LEAD] - state[LEAD] / LEAD_MEMORY + float64s(scratch.gain)[0]
        state[LEAD] = clip(lead, -LEAD_LIMIT, LEAD_LIMIT)


@part
def update_mix(loss, n, weights, covariance, mixture, state, scratch):  # type: ignore[no-untyped-def]
    """Moves the mixing weights of one by a full (not diagonal) Kalman step."""
    moderated, cross, spreads = float64s(scratch.moderated), float64s(scratch.cross), float64s(scratch.spread)
    g, h = float64s(scratch.mix_gradient)[mixture], float64s(scratch.mix_curvature)[mixture]
    of_experts = 0.0
    for e in range(N_EXPERTS):
        of_experts += spreads[e] / N_EXPERTS
    spread = 0.0
    for e in range(n):
        cross[e] = 0.0
        for k in range(n):
            cross[e] += state[covariance + e * n + k] * moderated[k]
        spread += moderated[e] * cross[e]
    gain = 1.0 / (1.0 + h * (spread + doubt(loss, of_experts)))
    g = limit_gradient(loss, g, gain, spread)
    for e in range(n):
        state[weights + e] -= cross[e] * g * gain
        for k in range(n):
            state[covariance + e * n + k] -= cross[e] * cross[k] * h * gain
        at = covariance + e * (n + 1)
        if state[at] < PRIOR_MIX:  # where the experts agree nothing shrinks it: without a bound it would wind up
            state[at] += DRIFT_MIX


@inlined
def widen(state):  # type: ignore[no-untyped-def]
    """Begins the wide mixture: as the narrow one is, and nothing of the trees."""
    for e in range(N_MEMBERS):
        for k in range(N_MEMBERS):
            state[WIDE_COVARIANCE + e * N_MEMBERS + k] = 0.0
    for e in range(N_EXPERTS):
        state[WIDE_MIX + e] = state[MIX + e]
        for k in range(N_EXPERTS):
            state[WIDE_COVARIANCE + e * N_MEMBERS + k] = state[MIX_COVARIANCE + e * N_EXPERTS + k]
    state[WIDE_MIX + N_EXPERTS] = 0.0
    state[WIDE_COVARIANCE + N_EXPERTS * (N_MEMBERS + 1)] = PRIOR_MIX
