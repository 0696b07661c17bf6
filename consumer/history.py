"""What a model has made of a log beside what it learned: where it began, what it was to pass, whose letters it knows.

A part of each checkpoint, so that it is of the same moment as the positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flexihash.consumer.letters import Letter
from flexihash.consumer.records import Fetch

MAX_LEARNERS = 100  # whose letters are known; letters of earlier ones count as another model's


class History(msgspec.Struct):
    """The history of one model. Places are ``topic:partition``.

    Args:
        beginnings: the first offset that was read at each place.
        skipped: ranges of offsets, the last one not among them, that were passed because somebody wished so.
        learners: by whom records were rejected in this history, and how many: the last of its letters.
    """

    beginnings: dict[str, int] = {}
    skipped: dict[str, list[tuple[int, int]]] = {}
    learners: dict[str, int] = {}

    def begin(self, place: str, fetch: Fetch) -> None:
        """Notes that a fetch is read."""
        first = fetch.offsets[0]
        if first < self.beginnings.get(place, first + 1):
            self.beginnings[place] = first

    def skip(self, place: str, position: int, fetch: Fetch) -> bool:
        """Notes that a fetch is passed, before which the position is this; whether a range begins with it."""
        ranges = self.skipped.setdefault(place, [])
        is_first = not ranges or ranges[-1][1] != position
        ranges.append((fetch.offsets[0] if is_first else ranges.pop()[0], fetch.position))
        return is_first

    def describe(self, written: Mapping[str, int]) -> dict[str, Any]:
        """Plain values, as `read_history` takes them.

        Args:
            written: letters of learners that are not in it yet.
        """
        learners = dict(list({**self.learners, **written}.items())[-MAX_LEARNERS:])
        plain: dict[str, Any] = msgspec.to_builtins(History(self.beginnings, self.skipped, learners))
        return plain

    def is_unlearned(self, letter: Letter, positions: Mapping[str, int]) -> bool:
        """Whether the model has passed the record of a letter without learning it, and will not meet it again.

        So it is where the letter is of this history, or the record lies before its beginning. A letter of another
        model, or of a learner that went on beyond the checkpoint and died, says nothing of this one: it has learned the
        record, has rejected it too and written a letter of its own, or will do one of these.
        """
        learner, _, number = letter.id.rpartition("/")
        if number.isdecimal() and int(number) <= self.learners.get(learner, 0):
            return True
        place = f"{letter.topic}:{letter.partition}"
        return letter.offset < self.beginnings.get(place, positions.get(place, 0))


def read_history(metrics: Mapping[str, Any]) -> History:
    """The history in the metrics of a manifest; an empty one where there is none.

    Raises:
        msgspec.ValidationError: it is none of ours.
    """
    return msgspec.convert(metrics.get("history", {}), History)
