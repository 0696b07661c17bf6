"""Labels: what an event's label may be, and what of it is learned."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec

from flexihash.consumer.quotation import quote
from flexihash.model.model_errors import ConfigurationError, LabelError
from flexihash.model.tasks import Task

Label = float | str | tuple[str, ...] | tuple[float, ...]
"""A number; the JSON of a class; that of each label of several; a number for each target, NaN where there is none."""

ReadLabel = Callable[[Any], Label]  # raises LabelError or OverflowError

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
MAX_CLASS_BYTES = 200
RULE = re.compile(rf"\s*(.+?)\s*({'|'.join(COMPARISONS)})\s*(.+?)\s*", re.DOTALL)


class LabelRule(NamedTuple):
    """A label that no event has as such: whether a field compares so with a value."""

    field: str
    comparison: str
    value: float | str

    def __str__(self) -> str:
        return f"{self.field} {self.comparison} {msgspec.json.encode(self.value).decode().removesuffix('.0')}"


def parse_rule(text: str) -> LabelRule:
    """A rule as ``arr_delay > 15`` or ``status == "late"``.

    Raises:
        ConfigurationError: it is none.
    """
    match = RULE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        field, comparison, value = match.groups()
        return LabelRule(field, comparison, _parse_value(value))
    except ValueError:
        raise ConfigurationError(
            f"must compare a field with a number or a string, by one of {' '.join(COMPARISONS)}, such as"
            f' arr_delay > 15 or status == "late", with the quotes'
        ) from None


def _parse_value(text: str) -> float | str:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    value: float | str = msgspec.json.decode(text, type=float | str)
    return value


def read_number(task: Task, label: Any) -> float:
    """A label that is a number, as the task learns it."""
    if not isinstance(label, bool | int | float):
        raise LabelError(f"label {quote(label)} is not a number (task={task})")
    return task.check_label(label)


def read_by_rule(rule: LabelRule, value: Any) -> float:
    """1 where the field's value compares so, 0 where it does not."""
    is_text = isinstance(rule.value, str)
    if isinstance(value, bool) or not isinstance(value, str if is_text else int | float):
        kind = "string" if is_text else "number"
        raise LabelError(f"{rule.field} {quote(value)} is not a {kind} (label_rule={rule})")
    return float(COMPARISONS[rule.comparison](value if is_text else float(value), rule.value))


def read_positive(positives: frozenset[str], label: Any) -> float:
    """1 for the texts that say yes, 0 for all others; a number or a boolean is what JSON writes."""
    if not isinstance(label, str | bool | int | float):
        raise LabelError(f"label {quote(label)} is not a string, a number or a boolean (positive_labels)")
    return float((label if isinstance(label, str) else quote(label)) in positives)


def name_class(task: Task, label: Any) -> str:
    """The JSON of a class."""
    if not isinstance(label, str | bool | int):
        raise LabelError(f"label {quote(label)} is not a string, a whole number or a boolean (task={task})")
    try:
        text = msgspec.json.encode(label)
    except ValueError as error:  # half of a surrogate pair, which JSON cannot hold, or digits without end
        raise LabelError(f"a label cannot be written: {error}") from error
    if len(text) > MAX_CLASS_BYTES:
        raise LabelError(f"label {quote(label)} has {len(text)} bytes, more than {MAX_CLASS_BYTES} (task={task})")
    return text.decode()


def name_classes(task: Task, labels: Any) -> tuple[str, ...]:
    """The JSON of each class of a list, each once, as they come."""
    if not isinstance(labels, list | tuple):
        raise LabelError(f"label {quote(labels)} is not a list (task={task})")
    return tuple(dict.fromkeys(name_class(task, label) for label in labels))


def make_reader(task: Task, positives: tuple[str, ...], rule: LabelRule | None) -> ReadLabel:
    """What reads the labels of a task."""
    if rule is not None:
        return partial(read_by_rule, rule)
    if positives:
        return partial(read_positive, frozenset(positives))
    if task.record.has_classes:
        return partial(name_classes if task is Task.MULTILABEL else name_class, task)
    return partial(read_number, task)


def are_texts(task: Task, positives: tuple[str, ...], rule: LabelRule | None) -> bool:
    """Whether labels are read as JSON, and are not numbers, or numbers in a rule."""
    if rule is not None:
        return isinstance(rule.value, str)
    return bool(positives) or task.record.has_classes
