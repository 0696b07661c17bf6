"""What a model is made of: everything that must be equal for two tables to be comparable."""

from __future__ import annotations

import msgspec

from flexihash.model.crosses import check_crosses
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.tasks import Task

EMBEDDING_DIMS = (8, 16, 32, 64)
MOST_CLASSES, MOST_TARGETS = 1000, 16
SINGLE_TASKS = frozenset({Task.BINARY, Task.REGRESSION, Task.COUNTS, Task.QUANTILE})
MAX_PARTITIONS = 4096  # slots for positions; a topic with more partitions is refused


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration of a model.

    Args:
        task: what is predicted.
        quantile: the wanted quantile in (0, 1); read by the quantile task only.
        n_rows: rows of the table, a power of two of at least 2; one row takes 160 bytes, and what its embedding takes.
        seed: of the first embeddings.
        embeddings: whether context embeddings are learned; see `model.contexts`.
        embedding_dim: their size: 8, 16, 32 or 64.
        crosses: which features are also learned in pairs, as ``origin*dest``; see `model.crosses`.
        max_classes: of the multiclass task classes, of the multilabel task labels that are learned; at most 1,000.
        targets: of the targets task, the names of the targets and the task of each, in the order of their columns.

    Raises:
        ConfigurationError: a value is outside its range.
    """

    task: Task = Task.BINARY
    quantile: float = 0.5
    n_rows: int = 1 << 18
    seed: int = 0
    embeddings: bool = False
    embedding_dim: int = 16
    crosses: tuple[str, ...] = ()
    max_classes: int = 100
    targets: dict[str, Task] = {}

    @property
    def n_heads(self) -> int:
        """How many scores of an event the model can learn."""
        if self.task.record.has_classes:
            return self.max_classes
        return len(self.targets) if self.task is Task.TARGETS else 1

    def __post_init__(self) -> None:
        if self.n_rows < 2 or self.n_rows & (self.n_rows - 1) or self.n_rows > 1 << 30:
            raise ConfigurationError(f"n_rows must be a power of two from 2 to 2^30, not {self.n_rows}")
        if not 0.0 < self.quantile < 1.0:
            raise ConfigurationError(f"quantile must be between 0 and 1, not {self.quantile}")
        if self.embedding_dim not in EMBEDDING_DIMS:
            raise ConfigurationError(f"embedding_dim must be 8, 16, 32 or 64, not {self.embedding_dim}")
        check_crosses(self.crosses)
        if not 2 <= self.max_classes <= MOST_CLASSES:
            raise ConfigurationError(f"max_classes must be from 2 to {MOST_CLASSES}, not {self.max_classes}")
        if (self.task is Task.TARGETS) != bool(self.targets):
            raise ConfigurationError("targets must be named for the targets task, and for no other")
        if len(self.targets) > MOST_TARGETS or not SINGLE_TASKS.issuperset(self.targets.values()):
            tasks = ", ".join(sorted(SINGLE_TASKS))
            raise ConfigurationError(f"targets must be at most {MOST_TARGETS}, each of a task of {tasks}")
