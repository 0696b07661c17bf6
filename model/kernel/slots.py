"""The state beside the rows: one vector of float64, and what lies in which slot of it."""

from __future__ import annotations

from flexihash.model.kernel.experts import N_EXPERTS

N_KNOTS = 17  # of the calibration curve
N_MEMBERS = N_EXPERTS + 1  # of the wide mixture

EVENTS = 0  # learned so far; the clock of the quick weights
LABEL_COUNT, LABEL_WEIGHT, LABEL_MEAN, LABEL_VARIANCE = 1, 2, 3, 4
LABEL_REACH = 5  # a label farther than so many deviations from the mean counts as one that is so far
BIAS = 6
BIAS_VARIANCE = BIAS + N_EXPERTS
QUICK_BIAS = BIAS_VARIANCE + N_EXPERTS
QUICK_BIAS_VARIANCE = QUICK_BIAS + 1
RESIDUAL = QUICK_BIAS_VARIANCE + 1  # running squared error, or pinball loss, of each expert and of the mixture
LINEAR_BIAS, LINEAR_BIAS_GONE = RESIDUAL, RESIDUAL + 1  # of classes, which have no residuals: of their fifth member
REACH = RESIDUAL + N_EXPERTS + 1  # the same for errors: of each expert and of the mixture, in deviations of its errors
MIX = REACH + N_EXPERTS + 1  # mixing weights
MIX_COVARIANCE = MIX + N_EXPERTS  # (N_EXPERTS, N_EXPERTS), row by row
CURVE = MIX_COVARIANCE + N_EXPERTS * N_EXPERTS  # the calibration curve's values at its knots
CURVE_VARIANCE = CURVE + N_KNOTS
WIDE_MIX = CURVE_VARIANCE + N_KNOTS  # of a second mixture, of the experts and the trees; of classes the only one
WIDE_COVARIANCE = WIDE_MIX + N_MEMBERS
LEAD = WIDE_COVARIANCE + N_MEMBERS * N_MEMBERS  # how much less the second mixture has lost of late
STATE_WIDTH = LEAD + 1
