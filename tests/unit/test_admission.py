"""Events of a class that the model does not take: dead letters, and what stands beside them is learned."""

from __future__ import annotations

import pytest

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.lesson import Lesson, Letters
from flexihash.consumer.records import Fetch, Record
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task


class Kept(Letters):
    """Keeps letters as (offset, stage, reason)."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str, str]] = []

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        self.sent.append((record.offset, stage, reason))

    def flush(self, timeout_s: float) -> None:
        """They are kept already."""


def teach(task: Task, labels: list[str]) -> tuple[OnlineModel, Lesson, Kept]:
    """A model of at most two classes, after one fetch of events of these labels."""
    model = OnlineModel(Tables.create(ModelConfig(task=task, n_rows=1 << 10, max_classes=2)))
    letters = Kept()
    lesson = Lesson(model, EventDecoder(EventFormat(), task, model.config.n_rows), letters)
    lesson.begin("t", None)
    values: list[bytes | None] = [
        b'{"features": {"k": "v%d", "x": 1.5}, "label": %s}' % (k, label.encode()) for k, label in enumerate(labels)
    ]
    offsets = list(range(len(values)))
    lesson.apply(Fetch(0, offsets, values, lambda index: Record("t", 0, index, -1, None, values[index], ())))
    return model, lesson, letters


@pytest.mark.parametrize(
    ("labels", "refused", "known"),
    [
        (['"a"', '"b"', '"c"', '"a"'], [(2, "decode", "too_many_classes")], ['"a"', '"b"']),
        (['"a"', "1", '"b"', "true"], [(1, "decode", "bad_label"), (3, "decode", "bad_label")], ['"a"', '"b"']),
        (["1.5", "3", "null", "4"], [(0, "decode", "bad_label")], ["3", "4"]),
        (['"c"', '{"a": 1}', '"c"'], [(1, "decode", "bad_label")], ['"c"']),
    ],
)
def test_a_class_that_is_not_taken_is_a_dead_letter(
    labels: list[str], refused: list[tuple[int, str, str]], known: list[str]
) -> None:
    model, lesson, letters = teach(Task.MULTICLASS, labels)
    assert letters.sent == refused
    assert sum(lesson.rejected.values()) == len(refused)
    assert model.classes is not None
    assert model.classes.texts() == known
    assert model.n_events == len(labels) - len(refused) - labels.count("null")
    assert model.tables.positions() == {0: len(labels)}


def test_one_label_too_many_refuses_the_event() -> None:
    model, _, letters = teach(Task.MULTILABEL, ['["a"]', "[]", '["b", "a"]', '["a", "c"]', '["b"]'])
    assert letters.sent == [(3, "decode", "too_many_classes")]
    assert model.n_events == 4
