"""For torch users: the vectors that are served, as the library's module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

import flexi_hash_embedding
from flexi_hash_embedding import FeatureRowError, FeatureValueError
from flexi_hash_embedding.hashing import FloatArray, IntArray
from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.wire import EventFormat, EventReader
from flexihash.model import contexts
from flexihash.model.features import hash_features
from flexihash.model.model_errors import EmbeddingsOff
from flexihash.model.online import OnlineModel
from flexihash.service.learned_model import open_checkpoint


class FlexiHashEmbedding(flexi_hash_embedding.FlexiHashEmbedding):
    """`flexi_hash_embedding.FlexiHashEmbedding`, which can also begin with what a model has learned.

    Made by `from_checkpoint`, it takes instances as `POST /v1/embeddings` does, and gives the same: nested objects,
    integers as number and category, numbers by their cell among those that the model has seen. It can be copied,
    pickled and trained as any module; what numbers are taken for stays as it was.

    >>> from flexihash import FlexiHashEmbedding
    >>> embed = FlexiHashEmbedding.from_checkpoint("checkpoints/flights")  # doctest: +SKIP
    >>> embed([{"dest": "IAH"}, {"carrier": "UA", "distance": 1400.0}]).shape  # doctest: +SKIP
    torch.Size([2, 16])
    """

    _finder: RowFinder | None = None

    @classmethod
    def from_checkpoint(cls, checkpoint: Path | str, pooling: str = "sum", freeze: bool = True) -> Self:
        """The context embeddings of a checkpoint, or of the newest in a folder of checkpoints.

        Args:
            pooling: "sum", "mean", "sqrtn" or "max".
            freeze: whether the vectors stay as they are; False to train them further.

        Raises:
            EmbeddingsOff: the model has learned none.
            SettingsError, CheckpointError: see `service.learned_model.open_checkpoint`.
            SettingError: there is no such pooling.
        """
        learned = open_checkpoint(Path(checkpoint))
        config, tensors = learned.model.config, learned.model.tables.tensors
        if not config.embeddings:
            raise EmbeddingsOff(
                f"{learned.path} has no context embeddings: it was learned without FLEXIHASH_EMBEDDINGS"
            )
        vectors = contexts.served(tensors[contexts.TABLE])
        module = cls(config.n_rows, config.embedding_dim, pooling, partial(_make_table, vectors, freeze))
        module._finder = RowFinder(learned.format, learned.model)
        return module

    def forward(self, X: Iterable[Mapping[str, Any]]) -> torch.Tensor:
        """Embed B instances as (B, D).

        Raises:
            FeatureRowError: X is not a list of dicts.
            FeatureValueError: an instance is not one that the service would take; names it, and what is wrong.
        """
        return self.pool(*self.find_rows(X)) if self._finder else super().forward(X)

    def find_rows(self, X: Iterable[Mapping[str, Any]]) -> tuple[IntArray, IntArray, FloatArray]:
        """Rows, offsets and values of B instances, for `pool`, so that a training set needs this only once."""
        return self._finder(X) if self._finder else flexi_hash_embedding.hash_rows(X, self.n_features)


class RowFinder:
    """The rows by which the features of instances keep company, as `flexi_hash_embedding.hash_rows` gives rows."""

    def __init__(self, format: EventFormat, model: OnlineModel) -> None:
        self._format = format
        self._model = model
        self._reader = EventReader(format, model.config.task)

    def __reduce__(self) -> tuple[type[RowFinder], tuple[EventFormat, OnlineModel]]:
        """Copies by what it was made of."""
        return RowFinder, (self._format, self._model)

    def __call__(self, X: Iterable[Mapping[str, Any]]) -> tuple[IntArray, IntArray, FloatArray]:
        """Rows (nnz,), offsets (B + 1,), values (nnz,), all 1: a number's row says what its value is."""
        flat = [self._read(i, instance) for i, instance in enumerate(X)]
        batch = hash_features(flat, self._model.config.n_rows, self._format.rules.crosses)
        rows: IntArray = self._model.find_rows(batch).numpy()
        return rows, batch.offsets, np.ones(len(rows))

    def _read(self, i: int, instance: Any) -> Any:
        if not isinstance(instance, Mapping):
            raise FeatureRowError(f"X[{i}] is a {type(instance).__name__}, not a dict; pass a list of dicts")
        try:
            return self._reader.read_instance(instance)
        except EventRejected as rejected:
            raise FeatureValueError(f"X[{i}]: {rejected}") from rejected


def _make_table(vectors: torch.Tensor, freeze: bool, n_features: int, dim: int) -> nn.Embedding:
    return nn.Embedding(n_features, dim, _weight=vectors).requires_grad_(not freeze)
