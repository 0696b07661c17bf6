"""Classes: probabilities from the heads' scores, and the Kalman step under a softmax's curvature.

With p the probabilities of an expert, y the label, w the event's weight, and s_k the variance of class k's score, the
exact step for the dense curvature w (diag(p) - p p') is, without any difference of numbers that are nearly equal,

    E_k = 1 + w p_k s_k      pi_k = (p_k / E_k) / sum_j (p_j / E_j)      g = p - y
    exact_k = w (g_k / E_k - pi_k sum_j g_j / E_j)

and that for its diagonal alone w g_k / (1 + w h_k s_k). The diagonal one moves the difference of two scores by up to
twice as much as is right, and diverges on some streams; the exact one is slower on others: a step is their mean.
"""

from __future__ import annotations

import math

from flexihash.model.compiled import inlined
from flexihash.model.kernel.calibration import calibrate, update_curve
from flexihash.model.kernel.experts import DIM
from flexihash.model.kernel.losses import CURVATURE_FLOOR, SCORE_LIMIT
from flexihash.model.kernel.mixture import DRIFT_MIX, PRIOR_MIX, weigh
from flexihash.model.kernel.scalars import clip, sigmoid
from flexihash.model.kernel.slots import N_MEMBERS, WIDE_COVARIANCE, WIDE_MIX
from flexihash.model.kernel.steps import STEP_LIMIT
from flexihash.model.kernel.vectors import float32s, float64s

INITIAL_MIX = 0.3  # of each member before the first event; together more than 1, since each is moderated
PROBABILITY_FLOOR = 1e-9  # where logits are taken of probabilities


@inlined
def normalize(n, scores, stride, chance):  # type: ignore[no-untyped-def]
    """The softmax of `n` scores that lie `stride` apart."""
    largest = scores[0]
    for k in range(1, n):
        largest = max(largest, scores[k * stride])
    total = 0.0
    for k in range(n):
        chance[k] = math.exp(scores[k * stride] - largest)
        total += chance[k]
    for k in range(n):
        chance[k] /= total


@inlined
def mix_classes(n, memory, scratch):  # type: ignore[no-untyped-def]
    """Each of `n` classes' probability, by the mixture and then calibrated; returns the most probable class."""
    state, score, spread = float64s(memory.state), float64s(scratch.score), float64s(scratch.spread)
    moderated, mixed, chance = float64s(scratch.moderated), float64s(scratch.mixed), float64s(scratch.chance)
    logit, likely = float64s(scratch.logit), float64s(scratch.likely)
    for k in range(n):
        for e in range(N_MEMBERS):
            of_expert = k * N_MEMBERS + e
            moderated[k * N_MEMBERS + e] = score[of_expert] / math.sqrt(1.0 + math.pi / 8.0 * spread[of_expert])
        own = float64s(scratch.moderated + 8 * N_MEMBERS * k)
        mixed[2 * k] = clip(weigh(N_MEMBERS, WIDE_MIX, state, own), -SCORE_LIMIT, SCORE_LIMIT)
    normalize(n, mixed, 2, chance)
    total = 0.0
    best = 0
    for k in range(n):
        p = clip(chance[k], PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
        logit[k] = math.log(p / (1.0 - p))
        calibrated, _, _ = calibrate(logit[k], state)
        likely[k] = sigmoid(calibrated)
        total += likely[k]
        if likely[k] > likely[best]:
            best = k
    for k in range(n):
        likely[k] /= total
    return best


@inlined
def find_class_steps(n, true, weight, crowd, scratch):  # type: ignore[no-untyped-def]
    """Each expert's step and shrinking for each of `n` classes; writes to `scratch` only.

    Returns:
        Whether no step is too long or not finite.
    """
    moderated, spread, largest = float64s(scratch.moderated), float64s(scratch.spread), float32s(scratch.largest)
    step, shrink, likely = float64s(scratch.step), float64s(scratch.shrink), float64s(scratch.likely)
    is_short = True
    for e in range(N_MEMBERS):
        normalize(n, float64s(scratch.moderated + 8 * e), N_MEMBERS, likely)
        total, lost = 0.0, 0.0
        for k in range(n):
            swell = 1.0 + weight * likely[k] * spread[k * N_MEMBERS + e] * crowd
            total += likely[k] / swell
            lost += (likely[k] - (k == true)) / swell
        for k in range(n):
            p, s = likely[k], spread[k * N_MEMBERS + e] * crowd
            swell = 1.0 + weight * p * s
            exact = (p - (k == true) - p / total * lost) / swell
            h = max(p * (1.0 - p), CURVATURE_FLOOR) * weight
            diagonal = (p - (k == true)) / (1.0 + h * s)
            step[k * N_MEMBERS + e] = 0.5 * weight * (exact + diagonal)
            shrink[k * N_MEMBERS + e] = h / (1.0 + h * s)
            is_short = is_short and abs(moderated[k * N_MEMBERS + e]) < STEP_LIMIT
            is_short = is_short and abs(step[k * N_MEMBERS + e]) < STEP_LIMIT and s < STEP_LIMIT * STEP_LIMIT
    for k in range(n * DIM):
        is_short = is_short and largest[k] < STEP_LIMIT * STEP_LIMIT
    return is_short


@inlined
def update_classes(n, true, weight, memory, scratch):  # type: ignore[no-untyped-def]
    """Moves what all of `n` classes share: the calibration curve, and the mixture."""
    state, logit = float64s(memory.state), float64s(scratch.logit)
    for k in range(n):
        calibrated, _, _ = calibrate(logit[k], state)
        p = sigmoid(calibrated)
        update_curve(logit[k], (p - (k == true)) * weight, max(p * (1.0 - p), CURVATURE_FLOOR) * weight, state)
    update_class_mix(n, true, weight, state, scratch)


@inlined
def update_class_mix(n, true, weight, state, scratch):  # type: ignore[no-untyped-def]
    """Moves the mixing weights by a full Kalman step: the curvature's terms one by one, then the gradient."""
    moderated, chance, cross = float64s(scratch.moderated), float64s(scratch.chance), float64s(scratch.cross)
    mean, gradient = float64s(scratch.reach), float64s(scratch.residual)
    for e in range(N_MEMBERS):
        mean[e], gradient[e] = 0.0, 0.0
        for k in range(n):
            z = moderated[k * N_MEMBERS + e]
            mean[e] += chance[k] * z
            gradient[e] += (chance[k] - (k == true)) * weight * z
    for k in range(n):
        shrink_mix(chance[k] * weight, float64s(scratch.moderated + 8 * N_MEMBERS * k), mean, cross, state)
    for e in range(N_MEMBERS):
        moved = 0.0
        for other in range(N_MEMBERS):
            moved += state[WIDE_COVARIANCE + e * N_MEMBERS + other] * gradient[other]
        cross[e] = moved
    for e in range(N_MEMBERS):
        state[WIDE_MIX + e] -= cross[e]
        at = WIDE_COVARIANCE + e * (N_MEMBERS + 1)
        if state[at] < PRIOR_MIX:
            state[at] += DRIFT_MIX


@inlined
def shrink_mix(h, moderated, mean, cross, state):  # type: ignore[no-untyped-def]
    """Takes a curvature `h` along the scores' distance from their mean off the mixing covariance."""
    spread = 0.0
    for e in range(N_MEMBERS):
        cross[e] = 0.0
        for other in range(N_MEMBERS):
            cross[e] += state[WIDE_COVARIANCE + e * N_MEMBERS + other] * (moderated[other] - mean[other])
        spread += (moderated[e] - mean[e]) * cross[e]
    gain = h / (1.0 + h * spread)
    for e in range(N_MEMBERS):
        for other in range(N_MEMBERS):
            state[WIDE_COVARIANCE + e * N_MEMBERS + other] -= cross[e] * cross[other] * gain
