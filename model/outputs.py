"""What a model learns to say of an event: one thing, a class, labels, or targets. Names, memory and metrics of it.

A class is named by its JSON text: ``"AA"``, ``3``, ``true``. It has the next number from its first event on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import torch

from flexihash.model.class_metrics import ClassMetrics
from flexihash.model.config import ModelConfig
from flexihash.model.kernel import mixture, slots, softmax
from flexihash.model.label_metrics import LabelMetrics
from flexihash.model.metrics import Layout, ProgressiveMetrics
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.target_metrics import TargetMetrics
from flexihash.model.tasks import TASKS, Task

KNOWN, NAMES = "heads", "class_names"  # tensors
MAX_NAME_BYTES = 200
NAME_BYTES = 208  # a name, and zeros
TOO_MANY, OTHER_TYPE = -1, -2  # instead of a class's number
TYPES = {str: "strings", bool: "booleans", int: "integers"}

Metrics: TypeAlias = ProgressiveMetrics | ClassMetrics | LabelMetrics | TargetMetrics


def layout(config: ModelConfig) -> Layout:
    """Names, shapes and types of the tensors; none where there is but one head.

    ``heads`` (1,): how many are in use. ``class_names`` (max_classes, NAME_BYTES): JSON texts, and zeros behind them.
    """
    shapes: Layout = {}
    if config.task.record.has_classes:
        shapes[NAMES] = ((config.max_classes, NAME_BYTES), torch.uint8)
    if shapes or config.targets:
        shapes[KNOWN] = ((1,), torch.int64)
    return shapes


def metrics_layout(config: ModelConfig) -> Layout:
    """The same of the progressive metrics."""
    match config.task:
        case Task.MULTICLASS:
            return ClassMetrics.layout(config.max_classes)
        case Task.MULTILABEL:
            return LabelMetrics.layout(config.max_classes)
        case Task.TARGETS:
            return TargetMetrics.layout(config.targets)
    return ProgressiveMetrics.layout(config.task)


def make_metrics(config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> Metrics:
    """The progressive metrics over these tensors."""
    match config.task:
        case Task.MULTICLASS:
            return ClassMetrics(config.max_classes, tensors)
        case Task.MULTILABEL:
            return LabelMetrics(config.max_classes, tensors)
        case Task.TARGETS:
            return TargetMetrics(config.targets, tensors, config.quantile)
    return ProgressiveMetrics(config.task, tensors, config.quantile)


def initialize(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Writes what is known before the first event, over zeros."""
    if config.targets:
        tensors[KNOWN].fill_(len(config.targets))
    if config.task is Task.MULTICLASS:
        states = tensors["state"].numpy().reshape(-1, slots.STATE_WIDTH)
        states[:, [slots.LINEAR_BIAS, slots.LINEAR_BIAS_GONE]] = 0.0
        states[:, slots.WIDE_MIX : slots.WIDE_COVARIANCE] = softmax.INITIAL_MIX
        diagonal = range(slots.WIDE_COVARIANCE, slots.LEAD, slots.N_MEMBERS + 1)
        states[:, diagonal] = mixture.PRIOR_MIX


def list_tasks(config: ModelConfig) -> list[int]:
    """The number of each head's task, in compiled code. (n_heads,)"""
    if config.task is Task.TARGETS:
        return [TASKS[task].number for task in config.targets.values()]
    return [TASKS[Task.BINARY if config.task is Task.MULTILABEL else config.task].number] * config.n_heads


def find_head(config: ModelConfig, classes: ClassNames | None, name: str) -> int:
    """The head of a target of this name, or of a class or label, which may be a number or a boolean.

    Raises:
        ConfigurationError: none is known.
    """
    known = list(config.targets) if classes is None else classes.texts()
    for text in (name, msgspec.json.encode(name).decode()):
        if text in known:
            return known.index(text)
    raise ConfigurationError(f'this model knows no class, label or target "{name}"')


class ClassNames:
    """The classes that a model knows, by number; kept in its tables."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._names = tensors[NAMES].numpy()
        self._known = tensors[KNOWN].numpy()
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        """How many are known: were learned from."""
        return int(self._known[0])

    def texts(self) -> list[str]:
        """Their JSON texts."""
        return [_read(name) for name in self._names[: len(self)]]

    def admit(self, names: Sequence[str]) -> list[int]:
        """The numbers of classes; a new one gets the next number, TOO_MANY, or OTHER_TYPE than that of the others.

        For the writer, in the order of the log.
        """
        if not self._numbers:
            self._numbers = {text: k for k, name in enumerate(self._names) if (text := _read(name))}
        return [self._admit(name) for name in names]

    def _admit(self, name: str) -> int:
        known = self._numbers
        if name in known:
            return known[name]
        if known and type_of(name) is not type_of(next(iter(known))):
            return OTHER_TYPE
        if len(known) == len(self._names):
            return TOO_MANY
        text = np.frombuffer(name.encode(), np.uint8)
        self._names[len(known), : len(text)] = text
        known[name] = len(known)
        return known[name]


def title_of(name: str) -> str:
    """What a class of this name is called where only strings can be: ``AA``, ``3``, ``true``."""
    return str(msgspec.json.decode(name)) if name.startswith('"') else name


def type_of(name: str) -> type:
    """The type of the class of this name: str, bool or int."""
    return type(msgspec.json.decode(name))


def _read(name: Any) -> str:
    return bytes(name).rstrip(b"\0").decode()


class Admitted(NamedTuple):
    """Labels as a model learns them, and what it does not learn.

    Args:
        labels: (B, ...) float64.
        refused: place among the B events, reason and message.
    """

    labels: Any
    refused: list[tuple[int, str, str]]


def admit(config: ModelConfig, names: ClassNames, labels: Any, classes: Sequence[str]) -> Admitted:
    """Labels by the model's own numbers of the `classes` that they index or are columns of."""
    numbers = np.array(names.admit(classes), np.int64)
    if config.task is Task.MULTICLASS:
        is_labelled = ~np.isnan(labels)
        mine = np.full(len(labels), np.nan)
        mine[is_labelled] = numbers[labels[is_labelled].astype(np.int64)]
        refused = [(int(b), int(labels[b])) for b in np.flatnonzero(mine < 0)]
    else:
        mine = np.zeros((len(labels), config.max_classes))
        mine[:, numbers[numbers >= 0]] = labels[:, numbers >= 0]
        mine[np.isnan(labels).any(axis=1)] = np.nan
        refused = [(int(b), int(k)) for k in np.flatnonzero(numbers < 0) for b in np.flatnonzero(labels[:, k] > 0)]
    return Admitted(mine, [(b, *_describe(config, names, classes[k], numbers[k])) for b, k in refused])


def _describe(config: ModelConfig, names: ClassNames, name: str, number: int) -> tuple[str, str]:
    if number == TOO_MANY:
        return "too_many_classes", f"{name} would be one class more than the {config.max_classes} of max_classes"
    others = TYPES[type_of(names.texts()[0])] if len(names) else "of another type"
    return "bad_label", f"label {name} is of another type than the classes so far: they are {others}"
