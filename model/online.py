"""The online model: predicts, is scored, learns; or only reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from flexihash.model import contexts, outputs
from flexihash.model.class_metrics import ClassMetrics
from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch
from flexihash.model.kernel import classes, losses, several, stream
from flexihash.model.kernel.addresses import Events, Memory, locate, locate_batch, make_scratch
from flexihash.model.kernel.crossing import MOST_PAIRS, MOST_PRODUCTS
from flexihash.model.kernel.experts import DIM
from flexihash.model.kernel.slots import EVENTS
from flexihash.model.kernel.trees import Trees
from flexihash.model.label_metrics import LabelMetrics
from flexihash.model.model_errors import EmbeddingsOff
from flexihash.model.tables import METRICS_PREFIX, TREES_PREFIX, Tables
from flexihash.model.tasks import Task

CHUNK_EVENTS = 128  # learned under one hold of the lock: 0.1 to 0.6 ms, and 2 more where a tree is grown
KERNELS = {Task.MULTICLASS: classes, Task.MULTILABEL: several, Task.TARGETS: several}  # of one score: stream
PREDICTED = {Task.MULTICLASS: (classes.N_PREDICTED,)}  # the shape of a prediction that is not that of its label
BATCH_DTYPES = tuple(map(np.dtype, ("int64", "int64", "float64", "bool", "int64", "int64")))  # of Batch's fields


class Predictions(NamedTuple):
    """Answers for B events, each (B,) float64: `values` after the task's link, `scores` before it.

    For several heads (B, n_known): of the classes or labels that are known, or of the targets.
    """

    values: NDArray[np.float64]
    scores: NDArray[np.float64]


class Learned(NamedTuple):
    """What became of B events.

    Args:
        predictions: (B,) float64, each made before its event was learned from; (B, 2) for classes, (B, n_heads) for
            labels and targets, as `kernel.classes` and `kernel.several` say.
        is_learned: (B,) bool; False where the step would not have stayed finite and nothing was written.
    """

    predictions: NDArray[np.float64]
    is_learned: NDArray[np.bool_]


class OnlineModel:
    """The model over its tables. One process learns; any process that attached to the tables predicts.

    `learn` takes the tables' lock chunk by chunk. `predict` and `embed` leave it to the caller, who may want to read
    more under the same hold.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        tensors = tables.tensors
        names = [name for name in tensors if name.startswith(METRICS_PREFIX)]
        of_metrics = {name.removeprefix(METRICS_PREFIX): tensors[name] for name in names}
        self.metrics = outputs.make_metrics(tables.config, of_metrics)
        self._loss = losses.Loss(tables.config.task.record.number, tables.config.quantile, True)
        self._kernel = KERNELS.get(tables.config.task, stream)
        self._has_heads = self._kernel is not stream
        self._tasks = np.array(outputs.list_tasks(tables.config), np.int64)
        self.classes = outputs.ClassNames(tensors) if tables.config.task.record.has_classes else None
        self._known = tensors[outputs.KNOWN].numpy() if outputs.KNOWN in tensors else np.ones(1, np.int64)
        self._memory = Memory(
            n_rows=tables.config.n_rows,
            table=tensors["table"].data_ptr(),
            touched=tensors["touched"].data_ptr(),
            numbers=tensors["numbers"].data_ptr(),
            state=tensors["state"].data_ptr(),
            blocks=tables.blocks.ctypes.data,
            trees=Trees(*(tensors[TREES_PREFIX + name].data_ptr() for name in Trees._fields)),
            has_crosses=bool(tables.config.crosses),
            n_heads=tables.config.n_heads,
            known=self._known.ctypes.data,
            tasks=self._tasks.ctypes.data,
        )
        self._contexts = contexts.address(tensors, tables.config, tables.context_blocks.ctypes.data)
        self._context_state = tensors.get("context_state")
        self._touched = tensors["touched"].numpy()
        self._state = tensors["state"].numpy()
        self._positions = tensors["positions"].numpy()
        self._digests = tensors["digests"].numpy()
        self._n_pairs = MOST_PAIRS if tables.config.crosses else MOST_PRODUCTS if self._has_heads else 0
        self._make_scratch(64, 1)

    def __reduce__(self) -> tuple[type[OnlineModel], tuple[Tables]]:
        """Copies by the tables alone: everything else looks into them."""
        return OnlineModel, (self.tables,)

    @property
    def config(self) -> ModelConfig:
        return self.tables.config

    @property
    def n_events(self) -> int:
        """Events learned so far."""
        return int(self._state[EVENTS])

    def occupancy(self) -> float:
        """Share of the table's rows that an event ever moved; takes milliseconds on a large table."""
        return float(np.count_nonzero(self._touched)) / len(self._touched)

    def learn(
        self,
        batch: Batch,
        labels: NDArray[np.float64],
        weights: NDArray[np.float64] | None = None,
        partition: int = 0,
        next_offsets: NDArray[np.int64] | None = None,
    ) -> Learned:
        """Learns B events in order; what is learned doesn't depend on how a stream is cut into batches.

        Args:
            labels: (B,), as `Task.check_label` passes them; NaN where an event has none and teaches contexts only.
                For classes, labels and targets as `outputs.admit` gives them.
            weights: (B,), at least 0; None for all 1.
            partition, next_offsets: where the events came from; the positions advance with each chunk, under its lock.
                The digest of the last record is not known then, until `advance` tells it.
        """
        weights = np.ones(len(batch)) if weights is None else np.ascontiguousarray(weights, np.float64)
        labels = np.ascontiguousarray(labels, np.float64)
        if not len(labels) == len(weights) == len(batch):
            raise ValueError(f"{len(batch)} events have {len(labels)} labels and {len(weights)} weights")
        is_labelled: NDArray[np.bool_] = np.any(~np.isnan(labels), axis=tuple(range(1, labels.ndim)))
        predictions = np.empty((len(batch), *PREDICTED.get(self.config.task, labels.shape[1:])))
        is_learned = np.empty(len(batch), np.bool_)
        events, scratch = self._address(batch), self._scratch_for(batch, self._count_heads(labels))
        to_learn = labels.ctypes.data, weights.ctypes.data
        found = predictions.ctypes.data, is_learned.ctypes.data
        for begin in range(0, len(batch), CHUNK_EVENTS):
            end = min(begin + CHUNK_EVENTS, len(batch))
            with self.tables.writing():
                self._kernel.learn(
                    self._loss, begin, end, events, *to_learn, self._memory, self._contexts, scratch, *found
                )
                kept = is_learned[begin:end] & is_labelled[begin:end]
                self.metrics.update(predictions[begin:end][kept], labels[begin:end][kept], weights[begin:end][kept])
                if next_offsets is not None:
                    self._positions[partition], self._digests[partition] = next_offsets[end - 1], 0
        return Learned(predictions, is_learned)

    def admit(self, labels: NDArray[np.float64], classes: Sequence[str]) -> outputs.Admitted:
        """Labels, which index `classes` or have a column of each, by the model's own numbers; see `model.outputs`."""
        assert self.classes is not None
        with self.tables.writing():
            return outputs.admit(self.config, self.classes, labels, classes)

    def advance(self, partition: int, position: int, digest: int = 0) -> None:
        """Moves a position past records that teach nothing, rejected or unlabelled ones; or past those just learned.

        Args:
            digest: of the last record before the position; 0 where it is not known.
        """
        with self.tables.writing():
            self._positions[partition], self._digests[partition] = position, digest

    def set_positions(self, positions: Mapping[int, int], unknown: Collection[int] = ()) -> None:
        """Replaces all positions. A digest stays where its position does, but for the partitions in `unknown`."""
        with self.tables.writing():
            digests = self.tables.digests()
            kept = [p for p in digests if positions.get(p) == self._positions[p] and p not in unknown]
            self._positions.fill(-1)
            self._digests.fill(0)
            for partition, position in positions.items():
                self._positions[partition] = position
            for partition in kept:
                self._digests[partition] = digests[partition]

    def predict(self, batch: Batch) -> Predictions:
        """Exactly what `learn` would predict for each event if it came next; changes nothing."""
        predictions, _ = self._read(batch)
        return predictions

    def look_up(self, batch: Batch) -> torch.Tensor:
        """(nnz, embedding_dim) float32: the context embedding of each feature; zeros for one that was never seen.

        Raises:
            EmbeddingsOff: context embeddings are turned off.
        """
        if not self.config.embeddings:
            raise EmbeddingsOff("this model learns no context embeddings: they are turned off")
        return contexts.served(self.tables.tensors[contexts.TABLE], self.find_rows(batch))

    def find_rows(self, batch: Batch) -> torch.Tensor:
        """(nnz,) int64: the row by which each feature keeps company, a number's being that of its cell."""
        rows = np.empty(len(batch.rows), np.int64)
        stream.look_up(len(batch), self._address(batch), self._memory, self._scratch_for(batch, 1), rows.ctypes.data)
        return torch.from_numpy(rows)

    def embed(self, batch: Batch) -> torch.Tensor:
        """(B, 16) float32: the sum of value * row vector over each event's activations; zeros without features."""
        _, embeddings = self._read(batch)
        return torch.from_numpy(embeddings)

    def count_known(self, batch: Batch) -> NDArray[np.int64]:
        """How many of each event's features have a row that an event ever moved. (B,)

        A feature that was never seen counts as known where it shares the row of one that was.
        """
        return count_each(self._touched.take(batch.rows), batch)

    def warm_up(self) -> None:
        """Compiles or loads the kernels, on tables of its own, so that the first event doesn't wait for them."""
        config = ModelConfig(task=self.config.task, n_rows=2, max_classes=2, targets=self.config.targets)
        model = OnlineModel(Tables.create(config))
        nothing = np.zeros(1, np.int64)
        batch = Batch(nothing, np.array([0, 1]), np.ones(1), np.ones(1, np.bool_), nothing)
        has_columns = self.config.task in (Task.MULTILABEL, Task.TARGETS)
        model.learn(batch, np.ones((1, config.n_heads) if has_columns else 1))
        model.predict(batch)
        model.report()

    def report(self) -> dict[str, Any]:
        """The progressive metrics; see `model.metrics`, and `model.contexts` for those of the embeddings."""
        return _report(self.metrics, self._list_titles(), self._context_state)

    def copy_report(self) -> Callable[[], dict[str, Any]]:
        """What makes the report of this moment, later: measuring takes longer than the copy, of about a megabyte."""
        return partial(_report, deepcopy(self.metrics), self._list_titles(), deepcopy(self._context_state))

    def class_names(self) -> list[str]:
        """JSON texts of the classes or labels that are known, by number."""
        return [] if self.classes is None else self.classes.texts()

    def _list_titles(self) -> list[str]:
        return list(map(outputs.title_of, self.class_names()))

    def _read(self, batch: Batch) -> tuple[Predictions, NDArray[np.float32]]:
        of_heads = (self.config.n_heads,) if self._has_heads else ()
        predictions = Predictions(*np.empty((2, len(batch), *of_heads)))
        embeddings = np.empty((len(batch), DIM), np.float32)
        found = locate(*predictions, embeddings)
        n_known = int(self._known[0])
        scratch = self._scratch_for(batch, n_known)
        self._kernel.predict(self._loss, len(batch), self._address(batch), self._memory, scratch, *found)
        if self._has_heads:
            predictions = Predictions(*(found[:, :n_known] for found in predictions))
        return predictions, embeddings

    def _count_heads(self, labels: NDArray[np.float64]) -> int:
        """How many heads will be in use when these labels are learned."""
        if not self._has_heads or not labels.size:
            return 1
        if labels.ndim > 1:
            return int(max(self._known[0], np.flatnonzero((labels > 0.0).any(axis=0)).max(initial=0) + 1))
        return int(max(self._known[0], np.nanmax(labels, initial=0.0) + 1))

    def _scratch_for(self, batch: Batch, n_heads: int) -> NDArray[np.int64]:
        n_features = self._n_features
        if len(batch.rows) > n_features:  # else no event has more, and there is no need to look at each
            n_features = max(n_features, int(batch.sizes.max(initial=0)))
        if n_features > self._n_features or n_heads > len(self._scratch):
            self._make_scratch(n_features, max(n_heads, len(self._scratch)))
        return self._scratch

    def _make_scratch(self, n_features: int, n_heads: int) -> None:
        self._n_features = n_features
        self._scratch, self._kept = make_scratch(n_features, self._n_pairs, n_heads)

    def _address(self, batch: Batch) -> Events:
        """Where the batch lies, for as long as it is kept; the kernel sees no more than that."""
        arrays = msgspec.structs.astuple(batch)
        for array, dtype in zip(arrays, BATCH_DTYPES, strict=True):
            if array.dtype != dtype or not array.flags.c_contiguous:
                wanted = ", ".join(map(str, BATCH_DTYPES))
                raise TypeError(f"a batch needs contiguous arrays of {wanted}, not of {array.dtype}")
        if self.config.crosses and len(batch.sides) != len(batch.rows):
            raise ValueError(f"the model crosses {', '.join(self.config.crosses)}: hash its batches with these crosses")
        return Events(*locate_batch(*arrays))


def _report(metrics: outputs.Metrics, titles: Sequence[str], context_state: torch.Tensor | None) -> dict[str, Any]:
    report = metrics.report(titles) if isinstance(metrics, ClassMetrics | LabelMetrics) else metrics.report()
    if context_state is not None:
        report["embeddings"] = contexts.report(context_state)
    return report


def count_each(of_features: NDArray[Any], batch: Batch) -> NDArray[np.int64]:
    """How many of each event's features are not 0 or False in an array of (nnz,). (B,)"""
    n_before = np.flatnonzero(of_features).searchsorted(batch.offsets)
    return n_before[1:] - n_before[:-1]
