"""Where the memory lies that compiled code works on: tuples of addresses.

Whoever makes one keeps the arrays alive for as long as it is in use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple
from numpy.typing import NDArray

from flexihash.model.compiled import entry, part
from flexihash.model.kernel.activation import MAX_PER_FEATURE, N_NUMBER_FIELDS
from flexihash.model.kernel.company import MAX_DIM as MAX_CONTEXT_DIM
from flexihash.model.kernel.experts import (
    DIM,
    DRIFT_EMBEDDING,
    DRIFT_WEIGHT,
    N_EXPERTS,
    PRIOR_EMBEDDING,
    PRIOR_WEIGHT,
    SEES,
)
from flexihash.model.kernel.growth import HISTOGRAM
from flexihash.model.kernel.rows import EXPERT_OF_ELEMENT, N_VARIANCES, N_WEIGHTS
from flexihash.model.kernel.slots import N_MEMBERS
from flexihash.model.kernel.trees import N_LEAVES, N_SLOTS, N_TREES, WINDOW, Trees


class Memory(NamedTuple):
    """Where the memory of `model.tables` begins, and how many rows it has."""

    n_rows: int
    table: int
    touched: int
    numbers: int
    state: int
    blocks: int  # (n_rows / BLOCK_ROWS,) int64: the newest `touched` of each block of rows
    trees: Trees
    has_crosses: bool
    n_heads: int
    known: int  # (1,) int64: heads in use; 0 where there is but one
    tasks: int  # (n_heads,) int64: of each head, where heads are independent


class Events(NamedTuple):
    """Where the arrays of a `model.features.Batch` begin."""

    rows: int  # (nnz,) int64
    offsets: int  # (B + 1,) int64
    values: int  # (nnz,) float64
    is_number: int  # (nnz,) uint8
    fields: int  # (nnz,) int64
    sides: int  # (nnz,) int64


class Scratch(NamedTuple):
    """Where one event with up to A activations is worked on; nothing in it outlives the event.

    With H heads each has one of these. Fields of N_MEMBERS or 2 numbers lie head by head, so that the
    first head's is where those of all begin; what heads share lies once.
    """

    row: int  # (A,) int64
    value: int  # (A,) float32
    kind: int  # (A,) int64
    forget: int  # (A,) float32: what is left of the row's quick weight
    part: int  # (A, 16) float32: elements times value
    slope: int  # (A, 16) float32: dz/dt of each element t
    square: int  # (A, 8) float32: a slope's square, as each variance sees it
    number_row: int  # (A,) int64: rows of `numbers` that this event moves, and to what
    number: int  # (A, 3) float64
    number_value: int  # (A,) float32: the numbers themselves
    total: int  # (16,) float32: the embedding S, the sum of the parts
    pairs: int  # (16,) float32: S^2 less the parts' own squares
    spreads: int  # (16,) float32: s by element
    largest: int  # (16,) float32: sum of the slopes' squares
    weighted: int  # (8,) float32: sum of weights times value
    weight_spreads: int  # (8,) float32: s by weight
    steps: int  # (16,) float32: g f by element
    weight_steps: int  # (8,) float32: g f by weight
    shrinks: int  # (8,) float32: h f by variance
    score: int  # (N_MEMBERS,) float64: z; the last one of classes only
    spread: int  # (N_MEMBERS,) float64: s, the variance of z
    moderated: int  # (N_MEMBERS,) float64: z as it is mixed, and the trees'
    mixed: int  # (2,) float64: each mixture's score
    near: int  # (1,) float64: the label, within reach of what was expected
    gain: int  # (1,) float64: how much less the second mixture lost
    mix_gradient: int  # (2,) float64
    mix_curvature: int  # (2,) float64
    residual: int  # (N_EXPERTS + 1,) float64
    reach: int  # (N_EXPERTS + 1,) float64
    step: int  # (N_MEMBERS,) float64: g f; the last one of classes only
    shrink: int  # (N_MEMBERS,) float64: h f
    cross: int  # (N_MEMBERS,) float64: mixing covariance times moderated scores
    chance: int  # (H,) float64: each class's probability, by the mixture
    logit: int  # (H,) float64: the logit of that
    likely: int  # (H,) float64: each class's probability, calibrated
    slot_value: int  # (N_SLOTS,) float32: the event's numbers, as trees see them
    leaf: int  # (N_TREES,) uint8: where the event is
    tree_score: int  # (1,) float32
    order: int  # (WINDOW,) int64: the window's events, node by node
    spare: int  # (WINDOW,) int64
    begins: int  # (N_LEAVES + 1,) int64: where the nodes begin in it
    sums: int  # (N_LEAVES, 2) float32: gradient and curvature of a node
    pull: int  # (WINDOW,) float32: gradient of each event
    bend: int  # (WINDOW,) float32: curvature
    histograms: int  # (2, N_LEAVES / 2, N_SLOTS, N_BINS, 2) float32: of this level's nodes and of the next one's
    sees: int  # (4, 16) float32: SEES by kind and element
    weight_sees: int  # (4, 8) float32: SEES by kind and weight
    aging: int  # (2, 8) float32: drift and prior of each variance
    member: int  # (F,) int64: the row by which each of F features keeps company
    context: int  # (MAX_CONTEXT_DIM,) float32: what the others say of one of them
    gradient: int  # (MAX_CONTEXT_DIM,) float32: what it says of them


N_SCRATCH = len(Scratch._fields)


@part
def unpack(words):  # type: ignore[no-untyped-def]
    """A `Scratch` from (N_SCRATCH,) int64: to hand over a tuple of so many takes longer than to predict an event."""
    return Scratch(*to_fixed_tuple(words, N_SCRATCH))  # type: ignore[call-arg]


@entry
def locate_batch(rows, offsets, values, is_number, fields, sides):  # type: ignore[no-untyped-def]
    """Where each array begins, which `ndarray.ctypes` says in eight times the time; they are those of `Events`."""
    return (
        rows.ctypes.data, offsets.ctypes.data, values.ctypes.data, is_number.ctypes.data, fields.ctypes.data,
        sides.ctypes.data,
    )  # fmt: skip


@entry
def locate(values, scores, embeddings):  # type: ignore[no-untyped-def]
    """The same for what a prediction fills."""
    return values.ctypes.data, scores.ctypes.data, embeddings.ctypes.data


def make_scratch(n_features: int, n_pairs: int, n_heads: int = 1) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """Working memory for events of at most so many features and pairs.

    Returns:
        (n_heads, N_SCRATCH): of each head a `Scratch` for `unpack`; and what must be kept as long as it is used.
    """
    n = max(1, n_features * MAX_PER_FEATURE + n_pairs)
    sees, weight_sees, aging = kept = _make_constants()

    def take(dtype: Any, *shape: int) -> int:
        kept.append(np.zeros(shape, dtype))
        return kept[-1].ctypes.data

    def take_each(dtype: Any, *shape: int) -> Any:
        """Where each head's lies. (n_heads,)"""
        return take(dtype, n_heads, *shape) + np.arange(n_heads) * (np.dtype(dtype).itemsize * int(np.prod(shape)))

    scratch = Scratch(
        row=take_each(np.int64, n),
        value=take(np.float32, n),
        kind=take(np.int64, n),
        forget=take_each(np.float32, n),
        part=take_each(np.float32, n, DIM),
        slope=take_each(np.float32, n, DIM),
        square=take_each(np.float32, n, N_VARIANCES),
        number_row=take(np.int64, n),
        number=take(np.float64, n, N_NUMBER_FIELDS),
        number_value=take(np.float32, n),
        total=take_each(np.float32, DIM),
        pairs=take_each(np.float32, DIM),
        spreads=take_each(np.float32, DIM),
        largest=take_each(np.float32, DIM),
        weighted=take_each(np.float32, N_WEIGHTS),
        weight_spreads=take_each(np.float32, N_WEIGHTS),
        steps=take_each(np.float32, DIM),
        weight_steps=take_each(np.float32, N_WEIGHTS),
        shrinks=take_each(np.float32, N_VARIANCES),
        score=take_each(np.float64, N_MEMBERS),
        spread=take_each(np.float64, N_MEMBERS),
        moderated=take_each(np.float64, N_MEMBERS),
        mixed=take_each(np.float64, 2),
        near=take_each(np.float64, 1),
        gain=take_each(np.float64, 1),
        mix_gradient=take_each(np.float64, 2),
        mix_curvature=take_each(np.float64, 2),
        residual=take_each(np.float64, N_EXPERTS + 1),
        reach=take_each(np.float64, N_EXPERTS + 1),
        step=take_each(np.float64, N_MEMBERS),
        shrink=take_each(np.float64, N_MEMBERS),
        cross=take(np.float64, N_MEMBERS),
        chance=take(np.float64, n_heads),
        logit=take(np.float64, n_heads),
        likely=take(np.float64, n_heads),
        **_take_for_trees(take),
        sees=sees.ctypes.data,
        weight_sees=weight_sees.ctypes.data,
        aging=aging.ctypes.data,
        member=take(np.int64, n_features + 1),
        context=take(np.float32, MAX_CONTEXT_DIM),
        gradient=take(np.float32, MAX_CONTEXT_DIM),
    )
    return np.stack([np.broadcast_to(where, n_heads) for where in scratch], 1), kept


def _make_constants() -> list[NDArray[Any]]:
    """`sees`, `weight_sees` and `aging` of a `Scratch`."""
    sees = SEES.T[:, EXPERT_OF_ELEMENT].copy()
    weight_sees = np.zeros((len(sees), N_WEIGHTS), np.float32)
    weight_sees[:, :N_EXPERTS] = SEES.T
    aging = np.array([[*DRIFT_WEIGHT, *DRIFT_EMBEDDING], [*PRIOR_WEIGHT, *PRIOR_EMBEDDING]], np.float32)
    return [sees, weight_sees, aging]


def _take_for_trees(take: Callable[..., int]) -> dict[str, int]:
    return {
        "slot_value": take(np.float32, N_SLOTS),
        "leaf": take(np.uint8, N_TREES),
        "tree_score": take(np.float32, 1),
        "order": take(np.int64, WINDOW),
        "spare": take(np.int64, WINDOW),
        "begins": take(np.int64, N_LEAVES + 1),
        "sums": take(np.float32, N_LEAVES, 2),
        "pull": take(np.float32, WINDOW),
        "bend": take(np.float32, WINDOW),
        "histograms": take(np.float32, N_LEAVES, HISTOGRAM),
    }
