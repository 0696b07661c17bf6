"""The calibration curve: from the mixture's logit to one whose probability is as often right as it says.

Piecewise linear between knots, which learn as everything does.
"""

from __future__ import annotations

from flexihash.model.compiled import inlined
from flexihash.model.kernel.scalars import clip
from flexihash.model.kernel.slots import CURVE, CURVE_VARIANCE, N_KNOTS

CURVE_LOW, CURVE_STEP = -6.0, 0.75  # where the knots lie, in logits
PRIOR_CURVE, DRIFT_CURVE = 0.1, 1e-6


@inlined
def calibrate(mixed, state):  # type: ignore[no-untyped-def]
    """(calibrated logit, the knot below, share of the knot above): piecewise linear, and straight beyond the knots."""
    at = clip((mixed - CURVE_LOW) / CURVE_STEP, 0.0, N_KNOTS - 1.000001)
    knot = int(at)
    share = at - knot
    beyond = mixed - (CURVE_LOW + at * CURVE_STEP)
    return state[CURVE + knot] * (1.0 - share) + state[CURVE + knot + 1] * share + beyond, knot, share


@inlined
def update_curve(mixed, g, h, state):  # type: ignore[no-untyped-def]
    """Moves the two knots that enclose the mixed score, by the loss's gradient and curvature."""
    _, knot, share = calibrate(mixed, state)
    below = 1.0 - share
    v_below = state[CURVE_VARIANCE + knot]
    v_above = state[CURVE_VARIANCE + knot + 1]
    gain = 1.0 / (1.0 + h * (v_below * below * below + v_above * share * share))
    state[CURVE + knot] -= v_below * below * g * gain
    state[CURVE + knot + 1] -= v_above * share * g * gain
    shrunk = v_below - v_below * v_below * below * below * h * gain
    state[CURVE_VARIANCE + knot] = min(shrunk + DRIFT_CURVE, PRIOR_CURVE)
    shrunk = v_above - v_above * v_above * share * share * h * gain
    state[CURVE_VARIANCE + knot + 1] = min(shrunk + DRIFT_CURVE, PRIOR_CURVE)
