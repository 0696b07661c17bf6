"""The mixture: one score from the experts' scores, and what it learns about them."""

from __future__ import annotations

from flexihash.model.compiled import inlined
from flexihash.model.kernel.experts import N_EXPERTS
from flexihash.model.kernel.losses import doubt, limit_gradient, limit_score, moderate
from flexihash.model.kernel.slots import MIX, MIX_COVARIANCE
from flexihash.model.kernel.vectors import float64s

PRIOR_MIX, DRIFT_MIX = 0.1, 1e-6


@inlined
def mix(loss, state, scratch):  # type: ignore[no-untyped-def]
    """The mixture's score."""
    score, spread, moderated = float64s(scratch.score), float64s(scratch.spread), float64s(scratch.moderated)
    mixed = 0.0
    for e in range(N_EXPERTS):
        z = moderate(loss, score[e], spread[e])
        moderated[e] = z
        mixed += state[MIX + e] * z
    return limit_score(loss, mixed)


@inlined
def update_mix(loss, g, h, state, scratch):  # type: ignore[no-untyped-def]
    """Moves the mixing weights by a full (not diagonal) Kalman step."""
    moderated, cross, spreads = float64s(scratch.moderated), float64s(scratch.cross), float64s(scratch.spread)
    spread = 0.0
    of_experts = 0.0
    for e in range(N_EXPERTS):
        of_experts += spreads[e] / N_EXPERTS
        cross[e] = 0.0
        for k in range(N_EXPERTS):
            cross[e] += state[MIX_COVARIANCE + e * N_EXPERTS + k] * moderated[k]
        spread += moderated[e] * cross[e]
    gain = 1.0 / (1.0 + h * (spread + doubt(loss, of_experts)))
    g = limit_gradient(loss, g, gain, spread)
    for e in range(N_EXPERTS):
        state[MIX + e] -= cross[e] * g * gain
        for k in range(N_EXPERTS):
            state[MIX_COVARIANCE + e * N_EXPERTS + k] -= cross[e] * cross[k] * h * gain
        at = MIX_COVARIANCE + e * (N_EXPERTS + 1)
        if state[at] < PRIOR_MIX:  # where the experts agree nothing shrinks it: without a bound it would wind up
            state[at] += DRIFT_MIX
