"""Embeddings of whole instances: the vectors of their features, pooled as the library pools, or the task's factors."""

from __future__ import annotations

import io
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from flexi_hash_embedding.pooling import pool_vectors
from flexihash.model import contexts
from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch
from flexihash.model.model_errors import ConfigurationError, EmbeddingsOff
from flexihash.model.online import OnlineModel, count_each

Kind = Literal["context", "task"]
Pooling = Literal["sum", "mean", "sqrtn", "max"]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which embeddings are wanted.

    Args:
        kind: ``context``, what a feature's company says of it, or ``task``, the interaction factors that predict the
            label; None for contexts where the model learns them.
        pooling: of the features' vectors, each taken once, as `flexi_hash_embedding.pooling` defines it; factors are
            summed only.
        output: the class, label or target whose own factors are wanted; empty: the first one's.
        normalize: whether each embedding is divided by its length; zeros stay zeros.
    """

    kind: Kind | None = None
    pooling: Pooling = "sum"
    normalize: bool = False
    output: str = ""

    def over(self, other: Choice) -> Choice:
        """The other choice, but for what is not as by default in this one."""
        plain = Choice()
        mine = {name: getattr(self, name) for name in Choice.__struct_fields__}
        changed = {name: value for name, value in mine.items() if value != getattr(plain, name)}
        return msgspec.structs.replace(other, **changed)

    def resolve(self, config: ModelConfig) -> Kind:
        """The kind that a model of this configuration gives.

        Raises:
            EmbeddingsOff: contexts are wanted, and it learns none.
            ConfigurationError: factors are to be pooled otherwise than summed, or contexts are wanted of an output.
        """
        kind = self.kind or ("context" if config.embeddings and not self.output else "task")
        if kind == "context" and not config.embeddings:
            raise EmbeddingsOff("this model learns no context embeddings: they are turned off")
        if kind == "context" and self.output:
            raise ConfigurationError(f'output "{self.output}" is for the kind "task": contexts know no labels')
        if kind == "task" and self.pooling != "sum":
            raise ConfigurationError(f'pooling "{self.pooling}" is for the kind "context": the kind "task" is summed')
        return kind


class Embedded(NamedTuple):
    """Embeddings of B instances.

    Args:
        vectors: (B, D) float32; zeros for an instance without features.
        known: (B,) int64, how many of its features have been learned: of contexts, have a vector of their own.
        features: (B,) int64, how many it has.
    """

    vectors: NDArray[np.float32]
    known: NDArray[np.int64]
    features: NDArray[np.int64]


def embed(model: OnlineModel, batch: Batch, choice: Choice) -> Embedded:
    """Embeddings of B hashed instances; changes nothing.

    Raises:
        EmbeddingsOff, ConfigurationError: see `Choice.resolve`.
    """
    if choice.resolve(model.config) == "context":
        rows, table = model.find_rows(batch), model.tables.tensors[contexts.TABLE]
        ones = torch.ones(len(rows), dtype=torch.float64)  # a number's cell says what its value is
        vectors = pool_vectors(contexts.served(table, rows), torch.from_numpy(batch.offsets), ones, choice.pooling)
        known = count_each(contexts.are_learned(table, rows).numpy(), batch)
    else:
        vectors, known = model.embed(batch, choice.output), model.count_known(batch)
    return Embedded((normalize(vectors) if choice.normalize else vectors).numpy(), known, batch.sizes)


def write_head(n_instances: int, dim: int) -> bytes:
    """What stands in a NumPy file before the vectors; as long for any number of them, so it can be written last."""
    head = io.BytesIO()
    shape = n_instances, dim
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return head.getvalue()


def normalize(vectors: torch.Tensor) -> torch.Tensor:
    """Each of B vectors over its length, (B, D); zeros stay zeros."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True, dtype=torch.float64)
    units: torch.Tensor = vectors / lengths.masked_fill(lengths == 0.0, 1.0)
    return units.to(vectors.dtype)
