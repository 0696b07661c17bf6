"""Functions of one number, for compiled code."""

from __future__ import annotations

import math

from flexihash.model.compiled import inlined


@inlined
def sigmoid(z):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + math.exp(-z))


@inlined
def clip(x, low, high):  # type: ignore[no-untyped-def]
    return min(max(x, low), high)
