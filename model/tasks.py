"""What a label can be: one record a task, which all read who treat labels, losses or metrics by their kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flexihash.model.model_errors import ConfigurationError, LabelError

LABEL_LIMIT = 1e100  # squares of labels must stay finite in float64


class Task(StrEnum):
    """What the label is: yes or no, a quantity, a count, a quantity whose quantile is wanted; or more than one of them.

    One of many classes, any of many labels, or several targets at once, each with a task of the first four.
    """

    BINARY = "binary"
    REGRESSION = "regression"
    COUNTS = "counts"
    QUANTILE = "quantile"
    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    TARGETS = "targets"

    @property
    def record(self) -> TaskRecord:
        """What is to be known of it."""
        return TASKS[self]

    def check_label(self, label: float) -> float:
        """`label` as the task learns it.

        Raises:
            LabelError: it isn't 0 or 1 (binary), is negative (counts), or is not finite or beyond 1e100.
        """
        value = float(label)
        record = self.record
        if record.is_binary:
            if value != 0.0 and value != 1.0:
                raise LabelError(f"label {label!r} is not 0 or 1 (task={self})")
        elif not abs(value) <= LABEL_LIMIT:
            raise LabelError(f"label {label!r} is not a finite number of at most {LABEL_LIMIT:g} (task={self})")
        elif value < record.lowest:
            raise LabelError(f"label {label!r} is negative (task={self})")
        return value


@dataclass(frozen=True)
class TaskRecord:
    """One kind of label.

    Args:
        number: of the task, in compiled code.
        is_binary: labels are 0 or 1, false or true.
        has_classes: labels are names, each known from its first event on.
        lowest, highest: other labels are from here to there.
        metrics: names of the progressive metrics, in the order to show them; `baseline_` before a name is the same of
            one who knows only the labels so far.
    """

    number: int
    metrics: tuple[str, ...]
    is_binary: bool = False
    has_classes: bool = False
    lowest: float = -LABEL_LIMIT
    highest: float = LABEL_LIMIT

    @property
    def headline(self) -> str:
        """The loss that sums up the task; less is better."""
        return self.metrics[0]

    @property
    def label_schema(self) -> dict[str, Any]:
        """The JSON schema of a label in an event; null is an event without one."""
        if self.is_binary:
            return {"type": ["integer", "boolean", "null"], "minimum": 0, "maximum": 1}
        return {"type": ["number", "boolean", "null"], "maximum": self.highest, "minimum": self.lowest}


OF_QUANTITIES = ("mae", "rmse", "r2")
BASELINES_OF_QUANTITIES = ("baseline_mae", "baseline_rmse")
OF_CLASSES = (
    *("log_loss", "accuracy", "kappa", "kappa_temporal", "no_change_accuracy", "macro_f1", "balanced_accuracy"),
    *("baseline_log_loss", "baseline_accuracy", "baseline_kappa", "baseline_macro_f1", "baseline_balanced_accuracy"),
)
OF_LABELS = (
    *("log_loss", "hamming_loss", "subset_accuracy", "micro_f1", "macro_f1"),
    *("baseline_log_loss", "baseline_hamming_loss", "baseline_subset_accuracy"),
    *("baseline_micro_f1", "baseline_macro_f1"),
)

TASKS = {
    Task.BINARY: TaskRecord(
        number=0,
        metrics=("log_loss", "auc", "accuracy", "calibration_error", "baseline_log_loss", "baseline_accuracy"),
        is_binary=True,
    ),
    Task.REGRESSION: TaskRecord(number=1, metrics=(*OF_QUANTITIES, *BASELINES_OF_QUANTITIES)),
    Task.COUNTS: TaskRecord(
        number=2,
        metrics=("poisson_deviance", *OF_QUANTITIES, "baseline_poisson_deviance", *BASELINES_OF_QUANTITIES),
        lowest=0.0,
    ),
    Task.QUANTILE: TaskRecord(
        number=3,
        metrics=("pinball_loss", "coverage", *OF_QUANTITIES, "baseline_pinball_loss", *BASELINES_OF_QUANTITIES),
    ),
    Task.MULTICLASS: TaskRecord(number=4, metrics=OF_CLASSES, has_classes=True),
    Task.MULTILABEL: TaskRecord(number=5, metrics=OF_LABELS, has_classes=True),
    Task.TARGETS: TaskRecord(number=6, metrics=()),  # each target has those of its own task
}


def find_task(name: str) -> TaskRecord:
    """The record of the task of this name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in TASKS:
        raise ConfigurationError(f"task must be one of {', '.join(TASKS)}, not {str(name)!r}")
    return TASKS[Task(name)]
