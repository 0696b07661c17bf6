"""One row of the table: a record of float32, in lanes.

First the 16 parameters, then the variances that they share: those of the weights lie as the weights do.
"""

from __future__ import annotations

import numpy as np

from flexihash.model.kernel.experts import DIM, EXPERT_DIM, N_EXPERTS, QUICK_EXPERT
from flexihash.model.kernel.vectors import lane, shuffled, with_lane

EMBEDDING = 0  # DIM elements, expert by expert
WEIGHT = EMBEDDING + DIM  # one an expert
QUICK = WEIGHT + N_EXPERTS  # the quick weight
N_PARAMETERS = QUICK + 1
WEIGHT_VARIANCE = N_PARAMETERS
QUICK_VARIANCE = WEIGHT_VARIANCE + N_EXPERTS
EMBEDDING_VARIANCE = QUICK_VARIANCE + 1  # one an expert: its embedding's elements share it
N_VARIANCES = EMBEDDING_VARIANCE + N_EXPERTS + 1 - WEIGHT_VARIANCE  # one lane is spare
RECORD_WIDTH = N_PARAMETERS + N_VARIANCES
PARAMETER_BYTES, VARIANCE_BYTES = 4 * N_PARAMETERS, 4 * N_VARIANCES
RECORD_BYTES = 4 * RECORD_WIDTH

# Of each parameter's lane: the lane of its variance, and the expert to whose score it adds.
VARIANCE_OF = [EMBEDDING_VARIANCE - WEIGHT_VARIANCE + k // EXPERT_DIM for k in range(DIM)] + list(range(N_EXPERTS + 1))
EXPERT_OF_PARAMETER = np.array([*(k // EXPERT_DIM for k in range(DIM)), *range(N_EXPERTS), QUICK_EXPERT])
EXPERT_OF_VARIANCE = np.array([*range(N_EXPERTS), QUICK_EXPERT, *range(N_EXPERTS), 0])

WEIGHTS = slice(WEIGHT, WEIGHT + N_EXPERTS)  # of a record, for everyone else
WEIGHT_VARIANCES = slice(WEIGHT_VARIANCE, WEIGHT_VARIANCE + N_EXPERTS)
EMBEDDING_VARIANCES = slice(EMBEDDING_VARIANCE, EMBEDDING_VARIANCE + N_EXPERTS)

spread_variances = shuffled(VARIANCE_OF, N_VARIANCES)
swap_neighbours = shuffled([k ^ 1 for k in range(N_PARAMETERS)], N_PARAMETERS)
swap_pairs = shuffled([k ^ 2 for k in range(N_PARAMETERS)], N_PARAMETERS)
take_embedding = shuffled([k if k < DIM else k + N_PARAMETERS for k in range(N_PARAMETERS)], N_PARAMETERS)
gather_squares = shuffled(  # weights' lanes of the first vector, the first lane of each expert of the second one
    [*range(WEIGHT, N_PARAMETERS), *(N_PARAMETERS + e * EXPERT_DIM for e in range(N_EXPERTS)), QUICK], N_PARAMETERS
)
with_quick = with_lane(QUICK)
with_quick_variance = with_lane(QUICK_VARIANCE - WEIGHT_VARIANCE)
get_quick = lane(QUICK)
get_quick_variance = lane(QUICK_VARIANCE - WEIGHT_VARIANCE)

BLOCK_BITS = 4
BLOCK_ROWS = 1 << BLOCK_BITS  # rows whose newest change is looked up at once, by whoever copies what changed
