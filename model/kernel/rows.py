"""One row of the table: a record of float32, in lanes. 128 bytes, which are two lines of the cache.

The 16 elements of the embedding are one vector, the weights another with what forgets, the variances a third: those of
the weights lie as the weights do.
"""

from __future__ import annotations

import numpy as np

from flexihash.model.kernel.experts import DIM, EXPERT_DIM, N_EXPERTS
from flexihash.model.kernel.vectors import shuffled

EMBEDDING = 0  # DIM elements, expert by expert
WEIGHT = EMBEDDING + DIM  # one an expert
QUICK = WEIGHT + N_EXPERTS  # the quick weight
QUICK_VARIANCE = QUICK + 1
LINEAR = QUICK_VARIANCE + 1  # of the classes' fifth member: a weight, and how much of its variance is gone; else 0
WEIGHT_VARIANCE = LINEAR + 2
EMBEDDING_VARIANCE = WEIGHT_VARIANCE + N_EXPERTS  # one an expert: its embedding's elements share it
RECORD_WIDTH = EMBEDDING_VARIANCE + N_EXPERTS

N_WEIGHTS = WEIGHT_VARIANCE - WEIGHT  # lanes of the weights, with the quick ones and the spare
N_VARIANCES = RECORD_WIDTH - WEIGHT_VARIANCE
EMBEDDING_BYTES, WEIGHT_BYTES, VARIANCE_BYTES = 4 * DIM, 4 * N_WEIGHTS, 4 * N_VARIANCES
# Bytes from the record's beginning.
WEIGHTS_AT, QUICK_AT, QUICK_VARIANCE_AT, VARIANCES_AT = 4 * WEIGHT, 4 * QUICK, 4 * QUICK_VARIANCE, 4 * WEIGHT_VARIANCE
LINEAR_AT, LINEAR_GONE_AT = 4 * LINEAR, 4 * (LINEAR + 1)
RECORD_BYTES = 4 * RECORD_WIDTH
LINE_BYTES = 64  # of the cache

# The expert to whose score each lane adds.
EXPERT_OF_ELEMENT = np.arange(DIM) // EXPERT_DIM
EXPERT_OF_VARIANCE = np.array([*range(N_EXPERTS), *range(N_EXPERTS)])

WEIGHTS = slice(WEIGHT, WEIGHT + N_EXPERTS)  # of a record, for everyone else
WEIGHT_VARIANCES = slice(WEIGHT_VARIANCE, WEIGHT_VARIANCE + N_EXPERTS)
EMBEDDING_VARIANCES = slice(EMBEDDING_VARIANCE, EMBEDDING_VARIANCE + N_EXPERTS)

spread_to_elements = shuffled([N_EXPERTS + k // EXPERT_DIM for k in range(DIM)], N_VARIANCES)
swap_neighbours = shuffled([k ^ 1 for k in range(DIM)], DIM)
swap_pairs = shuffled([k ^ 2 for k in range(DIM)], DIM)
first_of_experts = shuffled([EXPERT_DIM * (k % N_EXPERTS) for k in range(N_VARIANCES)], DIM)
join_halves = shuffled([k if k < N_EXPERTS else k + N_VARIANCES for k in range(N_VARIANCES)], N_VARIANCES)

BLOCK_BITS = 4
BLOCK_ROWS = 1 << BLOCK_BITS  # rows whose newest change is looked up at once, by whoever copies what changed
