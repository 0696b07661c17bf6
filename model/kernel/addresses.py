"""Where the memory lies that compiled code works on: tuples of addresses.

Whoever makes one keeps the arrays alive for as long as it is in use.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexihash.model.kernel.activation import MAX_PER_FEATURE, N_NUMBER_FIELDS, SEES
from flexihash.model.kernel.company import MAX_DIM as MAX_CONTEXT_DIM
from flexihash.model.kernel.experts import (
    DRIFT_EMBEDDING,
    DRIFT_WEIGHT,
    N_EXPERTS,
    PRIOR_EMBEDDING,
    PRIOR_WEIGHT,
)
from flexihash.model.kernel.rows import (
    EMBEDDING_VARIANCE,
    EXPERT_OF_PARAMETER,
    N_PARAMETERS,
    N_VARIANCES,
    QUICK,
    WEIGHT_VARIANCE,
)


class Memory(NamedTuple):
    """Where the memory of `model.tables` begins, and how many rows it has."""

    n_rows: int
    table: int
    touched: int
    numbers: int
    state: int
    blocks: int  # (n_rows / BLOCK_ROWS,) int64: the newest `touched` of each block of rows


class Events(NamedTuple):
    """Where the arrays of a `model.features.Batch` begin."""

    rows: int  # (nnz,) int64
    offsets: int  # (B + 1,) int64
    values: int  # (nnz,) float64
    is_number: int  # (nnz,) uint8
    fields: int  # (nnz,) int64


class Scratch(NamedTuple):
    """Where one event with up to A activations is worked on; nothing in it outlives the event."""

    row: int  # (A,) int64
    value: int  # (A,) float32
    kind: int  # (A,) int64
    forget: int  # (A,) float32: what is left of the row's quick weight
    part: int  # (A, 16) float32: parameters times value
    slope: int  # (A, 16) float32: dz/dt of each parameter t
    square: int  # (A, 8) float32: its square, as each variance sees it
    number_row: int  # (A,) int64: rows of `numbers` that this event moves, and to what
    number: int  # (A, 3) float64
    total: int  # (16,) float32: sum of the parts; the embedding S is its beginning
    pairs: int  # (16,) float32: S^2 less the parts' own squares
    spreads: int  # (16,) float32: s by parameter
    largest: int  # (16,) float32: sum of the slopes' squares
    steps: int  # (16,) float32: g f by parameter
    shrinks: int  # (8,) float32: h f by variance
    score: int  # (N_EXPERTS,) float64: z
    spread: int  # (N_EXPERTS,) float64: s, the variance of z
    moderated: int  # (N_EXPERTS,) float64: z as it is mixed
    residual: int  # (N_EXPERTS + 1,) float64
    step: int  # (N_EXPERTS,) float64: g f
    shrink: int  # (N_EXPERTS,) float64: h f
    cross: int  # (N_EXPERTS,) float64: mixing covariance times moderated scores
    sees: int  # (3, 16) float32: SEES by kind and parameter
    aging: int  # (2, 8) float32: drift and prior of each variance
    member: int  # (F,) int64: the row by which each of F features keeps company
    context: int  # (MAX_CONTEXT_DIM,) float32: what the others say of one of them
    gradient: int  # (MAX_CONTEXT_DIM,) float32: what it says of them


def make_scratch(n_features: int) -> tuple[Scratch, list[NDArray[Any]]]:
    """Working memory for events of at most `n_features` features, and what must be kept as long as it is used."""
    n = max(1, n_features * MAX_PER_FEATURE)
    sees = SEES.T[:, EXPERT_OF_PARAMETER].copy()
    sees[:, QUICK] = 1.0
    aging = np.zeros((2, N_VARIANCES), np.float32)
    for row, weight, embedding in ((0, DRIFT_WEIGHT, DRIFT_EMBEDDING), (1, PRIOR_WEIGHT, PRIOR_EMBEDDING)):
        aging[row, :N_EXPERTS] = weight
        aging[row, EMBEDDING_VARIANCE - WEIGHT_VARIANCE :][:N_EXPERTS] = embedding
    kept = [sees, aging]

    def take(dtype: Any, *shape: int) -> int:
        kept.append(np.zeros(shape, dtype))
        return kept[-1].ctypes.data

    scratch = Scratch(
        row=take(np.int64, n),
        value=take(np.float32, n),
        kind=take(np.int64, n),
        forget=take(np.float32, n),
        part=take(np.float32, n, N_PARAMETERS),
        slope=take(np.float32, n, N_PARAMETERS),
        square=take(np.float32, n, N_VARIANCES),
        number_row=take(np.int64, n),
        number=take(np.float64, n, N_NUMBER_FIELDS),
        total=take(np.float32, N_PARAMETERS),
        pairs=take(np.float32, N_PARAMETERS),
        spreads=take(np.float32, N_PARAMETERS),
        largest=take(np.float32, N_PARAMETERS),
        steps=take(np.float32, N_PARAMETERS),
        shrinks=take(np.float32, N_VARIANCES),
        score=take(np.float64, N_EXPERTS),
        spread=take(np.float64, N_EXPERTS),
        moderated=take(np.float64, N_EXPERTS),
        residual=take(np.float64, N_EXPERTS + 1),
        step=take(np.float64, N_EXPERTS),
        shrink=take(np.float64, N_EXPERTS),
        cross=take(np.float64, N_EXPERTS),
        sees=sees.ctypes.data,
        aging=aging.ctypes.data,
        member=take(np.int64, n_features + 1),
        context=take(np.float32, MAX_CONTEXT_DIM),
        gradient=take(np.float32, MAX_CONTEXT_DIM),
    )
    return scratch, kept
