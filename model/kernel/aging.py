"""What passing events do: variances drift up, and quick weights fall back to zero and to their prior."""

from __future__ import annotations

import math

import numpy as np

from flexihash.model.compiled import inlined
from flexihash.model.kernel.rows import VARIANCE_BYTES
from flexihash.model.kernel.vectors import load8, smaller

PRIOR_BIAS, DRIFT_BIAS = 1.0, 1e-6
PRIOR_QUICK, QUICK_EVENTS = 0.3, 1000.0  # a quick weight forgets within about so many events (Ornstein-Uhlenbeck)
PRIOR_QUICK_BIAS, QUICK_BIAS_EVENTS = 0.1, 100.0
FORGET_BIAS = math.exp(-1.0 / QUICK_BIAS_EVENTS)

# Forgetting over an age of events without an exp() for each row: exp(-age / QUICK_EVENTS) is a product of two of these.
FINE_BITS = 8
FORGET_FINE = np.exp(-np.arange(1 << FINE_BITS) / QUICK_EVENTS).astype(np.float32)
FORGET_COARSE = np.exp(-np.arange(512) * (1 << FINE_BITS) / QUICK_EVENTS).astype(np.float32)
FORGET_COARSE[FORGET_COARSE < 1e-37] = 0.0  # numbers so small are slow


@inlined
def get_forget(elapsed):  # type: ignore[no-untyped-def]
    """What is left of a quick weight after `elapsed` events."""
    coarse = min(elapsed >> FINE_BITS, len(FORGET_COARSE) - 1)
    return FORGET_COARSE[coarse] * FORGET_FINE[elapsed & ((1 << FINE_BITS) - 1)]


@inlined
def age(variances, aging):  # type: ignore[no-untyped-def]
    """A row's variances as its next event finds them: grown by their drift."""
    return smaller(variances + load8(aging), load8(aging + VARIANCE_BYTES))


@inlined
def age_quick(variance, forget):  # type: ignore[no-untyped-def]
    """The variance of a row's quick weight as its next event finds it: back towards its prior."""
    prior = np.float32(PRIOR_QUICK)
    return prior + (variance - prior) * forget * forget


@inlined
def age_quick_bias(variance):  # type: ignore[no-untyped-def]
    """The quick bias's variance as the next event finds it."""
    return PRIOR_QUICK_BIAS + (variance - PRIOR_QUICK_BIAS) * FORGET_BIAS * FORGET_BIAS
