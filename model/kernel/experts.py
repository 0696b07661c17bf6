"""The experts of the mixture: factorization machines that differ in what they expect, see, and how fast they drift."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Kinds of activation: a category or a number's own row; a knot of either grid of a number; a pair of features.
PLAIN, COARSE, FINE, CROSSED = 0, 1, 2, 3


class Expert(NamedTuple):
    """One factorization machine of the mixture.

    Args:
        prior_weight, prior_embedding: prior variance of a weight, of an embedding's element; variances start here.
        drift_weight, drift_embedding: variance gained at every touch, up to the prior.
        mix: its weight in the mixture before the first event.
        sees: the kinds of activation that reach it.
        is_quick: whether the rows' quick weights, which forget, add to its score; true of exactly one.
    """

    name: str
    prior_weight: float
    prior_embedding: float
    drift_weight: float
    drift_embedding: float
    mix: float
    sees: tuple[int, ...]
    is_quick: bool = False


EXPERTS = (
    Expert("steady", 0.2, 0.2, 1e-5, 0.0, 1 / 3, sees=(PLAIN, COARSE)),  # expects little, drifts little
    Expert("bold", 0.2, 0.4, 1e-5, 1e-6, 1 / 3, sees=(PLAIN, COARSE, FINE)),  # large priors: curves, few data
    Expert("agile", 0.1, 0.03, 1e-5, 1e-5, 1 / 3, sees=(PLAIN, COARSE, FINE), is_quick=True),  # follows what changes
    Expert("plain", 0.2, 0.2, 1e-5, 0.0, 0.0, sees=(PLAIN, CROSSED)),  # slopes only: many numbers that act together
)
N_EXPERTS = len(EXPERTS)
EXPERT_DIM = 4  # elements of each expert's embedding; one number, so that the compiler unrolls the loops over it
DIM = N_EXPERTS * EXPERT_DIM  # of the embedding that is served
QUICK_EXPERT = [expert.is_quick for expert in EXPERTS].index(True)
SEES = np.array([[kind in expert.sees for kind in (PLAIN, COARSE, FINE, CROSSED)] for expert in EXPERTS], np.float32)

PRIOR_WEIGHT = np.array([expert.prior_weight for expert in EXPERTS], np.float32)
PRIOR_EMBEDDING = np.array([expert.prior_embedding for expert in EXPERTS], np.float32)
DRIFT_WEIGHT = np.array([expert.drift_weight for expert in EXPERTS], np.float32)
DRIFT_EMBEDDING = np.array([expert.drift_embedding for expert in EXPERTS], np.float32)

INITIAL_MIX = np.array([expert.mix for expert in EXPERTS])
INITIAL_DEVIATION = 0.05  # of the first embeddings' elements
