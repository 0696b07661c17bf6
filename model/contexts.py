"""Context embeddings: what a feature's company says of it. Their memory, the vectors that are served, their quality.

`model.kernel.company` learns them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flexihash.model.config import ModelConfig
from flexihash.model.kernel import company
from flexihash.model.kernel.company import ContextMemory

TABLE = "contexts"  # the tensor of the vectors, for whoever copies it row by row
LOSSES = (  # names in a report, and the slots of their sum and of what that is to be divided by
    ("loss", company.LOSS, company.TOLD),
    ("chance_loss", company.CHANCE, company.TOLD),
    ("window_loss", company.WINDOW_LOSS, company.WINDOW_TOLD),
    ("window_chance_loss", company.WINDOW_CHANCE, company.WINDOW_TOLD),
)


def layout(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Names, shapes and types of the tensors; none where the embeddings are turned off.

    ``contexts`` (n_rows, embedding_dim + 4): of each row its vector, the variance of that, a bias, the bias's variance,
    and one spare. ``recent`` (N_FIELDS, RECENT): rings of the rows lately seen in a field. ``rings`` (N_FIELDS, 2):
    whose each ring is, and how many rows were written to it. ``context_state``: the clock, and sums of losses.
    """
    if not config.embeddings:
        return {}
    return {
        TABLE: ((config.n_rows, config.embedding_dim + company.N_SCALARS), torch.float32),
        "recent": ((company.N_FIELDS, company.RECENT), torch.int32),
        "rings": ((company.N_FIELDS, 2), torch.int64),
        "context_state": ((company.CONTEXT_STATE_WIDTH,), torch.float64),
    }


def initialize(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Writes what is known before the first event, over zeros."""
    if not config.embeddings:
        return
    table = tensors[TABLE].numpy()
    rng = np.random.default_rng((config.seed, 1))  # other numbers than the table's
    dim = config.embedding_dim
    table[:, :dim] = rng.standard_normal((config.n_rows, dim)) * company.INITIAL_VECTOR
    table[:, dim + company.VARIANCE] = company.PRIOR_VECTOR
    table[:, dim + company.BIAS_VARIANCE] = company.PRIOR_VECTOR_BIAS


def address(tensors: Mapping[str, torch.Tensor], config: ModelConfig, blocks: int) -> ContextMemory:
    """Where the tensors lie, for compiled code; `blocks` is where `Tables.context_blocks` lies."""
    if not config.embeddings:
        return ContextMemory(0, 0, 0, 0, 0, 0, 0)
    table, recent, rings, state = (tensors[name].data_ptr() for name in layout(config))
    return ContextMemory(config.embedding_dim, config.seed, table, recent, rings, state, blocks)


def served(table: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """The vectors of rows, (nnz, embedding_dim) float32; of all rows where none are named.

    A row's vector counts by how much of its first variance is gone: a row that nothing moved has zeros, one that little
    moved is short.
    """
    records = table if rows is None else table[rows]
    dim = table.shape[1] - company.N_SCALARS
    return records[:, :dim] * (1.0 - records[:, dim + company.VARIANCE, None] / company.PRIOR_VECTOR)


def are_learned(table: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Whether the vector of each row was ever moved, (nnz,) bool; of all rows where none are named."""
    variances = table[:, table.shape[1] - company.N_SCALARS + company.VARIANCE]
    return (variances if rows is None else variances[rows]) < company.PRIOR_VECTOR


def share_learned(table: torch.Tensor) -> float:
    """The share of rows whose vector was ever moved; takes milliseconds on a large table."""
    return float(are_learned(table).sum()) / len(table)


def report(state: torch.Tensor) -> dict[str, Any]:
    """How well real features are told from drawn ones, before each is learned.

    ``events`` seen; ``told``, real and drawn values; ``loss``, the mean log loss of one; ``chance_loss``, that of
    someone who knows only how many are real; both again over about the last 10,000 events. None before the first.
    """
    values = state.tolist()
    losses = {name: values[loss] / values[told] if values[told] else None for name, loss, told in LOSSES}
    return {"events": int(values[company.CONTEXT_EVENTS]), "told": int(values[company.TOLD]), **losses}
