"""What becomes of records: they are decoded, learned or rejected, and passed. The same whoever reads them."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import msgspec
import numpy as np

from flexihash.consumer.admission import admit
from flexihash.consumer.consumer_errors import EventRejected, RowDeleted
from flexihash.consumer.decoding import Decoded, EventDecoder
from flexihash.consumer.guard import PoisonGuard
from flexihash.consumer.history import History, read_history
from flexihash.consumer.outcomes import Outcomes
from flexihash.consumer.records import Fetch, Record
from flexihash.consumer.status import DeadLettersStatus
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.online import Learned, OnlineModel

_logger = logging.getLogger(__name__)


class Letters(Protocol):
    """Where rejected records go. What inherits from it need only take and keep them."""

    @property
    def status(self) -> DeadLettersStatus:
        """How many are not where they belong."""
        return DeadLettersStatus()

    @property
    def written(self) -> dict[str, int]:
        """How many letters were written so far, by the name of who wrote them."""
        return {}

    def has_room(self) -> bool:
        """Whether another fetch's records may be sent; else a flush has to come first."""
        return True

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        """Takes one rejected record; never raises, whatever the broker does."""

    def tend(self) -> None:
        """Goes on with what failed before, where it is time to; called between fetches. Does not wait for answers."""
        return

    def flush(self, timeout_s: float) -> None:
        """Returns once all that were taken are safe.

        Raises:
            ConsumerError: they are not, yet.
        """


class NoLetters(Letters):
    """Keeps none: what is rejected is counted, and no more."""

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        """Lets go of it."""

    def flush(self, timeout_s: float) -> None:
        """There is nothing to wait for."""


class Lesson:
    """Teaches a model, fetch by fetch. The numbers are those of `consumer.loop`.

    Args:
        model: over tables that nobody else writes.
        letters: where rejected records go.
        guard: finds records that make the learner die; None where nobody would start it again.
        skip_until: records before these offsets are passed, by partition.

    Attributes:
        rejected: records rejected so far, by reason.
        unlabelled: valid events so far that had no label.
        history: what the model has made of the log beside that.
        outcomes: of the last records.
    """

    def __init__(
        self,
        model: OnlineModel,
        decoder: EventDecoder,
        letters: Letters,
        guard: PoisonGuard | None = None,
        skip_until: Mapping[int, int] | None = None,
    ) -> None:
        self.model = model
        self.letters = letters
        self.rejected: dict[str, int] = {}
        self.unlabelled = 0
        self.outcomes = Outcomes()
        self.configuration = describe_configuration(model.config, decoder.format)
        self._decoder = decoder
        self.history = History()
        self._guard = guard
        self._skip_until = skip_until or {}
        self._topic = ""

    def resume(self, metrics: Mapping[str, Any]) -> None:
        """Goes on counting from what `describe` gave."""
        self.rejected = dict(metrics.get("rejected", {}))
        self.unlabelled = int(metrics.get("unlabelled", 0))
        self.history = read_history(metrics)

    def begin(self, topic: str, topic_id: str | None) -> None:
        """Names the topic whose records come from here on; `topic_id` is None where a broker gives none."""
        self._topic = topic
        if self._guard is not None and (poison := self._guard.begin(topic_id or topic)):
            where = f"{topic}[{poison.partition}]@{poison.offset}"
            _logger.error("%s made the learner die again and again: from now on it is a dead letter", where)

    def split(self, fetch: Fetch) -> Iterable[Fetch]:
        """The fetch in parts, to be applied in turn."""
        return self._guard.split(fetch) if self._guard is not None else (fetch,)

    def needs_rest(self, part: Fetch) -> bool:
        """Whether something may have to pass before a part is applied: a learner was killed that applied it alone."""
        return self._guard is not None and self._guard.needs_rest(part)

    def apply(self, part: Fetch) -> None:
        """Learns from one part, but for what is to be skipped, and moves its partition's position past it."""
        self.history.begin(f"{self._topic}:{part.partition}", part)
        n_skipped = bisect_left(part.offsets, self._skip_until.get(part.partition, 0))
        if n_skipped:
            self._skip(part.cut(0, n_skipped))
        if n_skipped < len(part):
            self._apply(part.cut(n_skipped, len(part)) if n_skipped else part)

    def advance(self, fetch: Fetch) -> None:
        """Moves the position of a fetch's partition past it."""
        self.outcomes.pass_records(len(fetch))
        self.model.advance(fetch.partition, fetch.position, fetch.record(len(fetch) - 1).digest())

    def _skip(self, fetch: Fetch) -> None:
        position = self.model.tables.positions().get(fetch.partition, 0)
        if self.history.skip(f"{self._topic}:{fetch.partition}", position, fetch):
            place, until = f"{self._topic}[{fetch.partition}]", self._skip_until[fetch.partition]
            _logger.warning("%s@%d and all before %d are passed, as chosen", place, fetch.offsets[0], until)
        self.advance(fetch)

    def count(self, reason: str, n_records: int) -> None:
        """Adds to the rejected ones."""
        self.rejected[reason] = self.rejected.get(reason, 0) + n_records
        self.outcomes.count_rejected(reason, n_records)

    def describe(self) -> dict[str, Any]:
        """What a checkpoint's manifest says of the lesson so far: the model's metrics, and the counts."""
        return {
            **self.model.report(),
            "rejected": dict(self.rejected),  # a copy: the thread that writes it comes later than this moment
            "unlabelled": self.unlabelled,
            "poison": self._guard.positions() if self._guard else [],
            "history": self.history.describe(self.letters.written),
        }

    def _apply(self, fetch: Fetch) -> None:
        if self._guard is not None and self._guard.is_poison(fetch):
            message = "the learner died each time that it was about to learn from it"
            self._reject(fetch.record(0), "learn", "poison", message)
        else:
            self._teach(fetch)
        self.advance(fetch)

    def _teach(self, fetch: Fetch) -> None:
        with self._guard.applying(fetch) if self._guard is not None else nullcontext():
            decoded, learned = self._learn(fetch)
        # A letter may wait for the broker: whoever is killed meanwhile is not killed by a record.
        for index, rejected in decoded.rejections:  # 4
            self._pass_by(fetch.record(index), fetch.fault(index, rejected))
        for index in decoded.kept[~learned.is_learned]:
            message = "learning from it would leave the range of float32; nothing of it was learned"
            self._reject(fetch.record(int(index)), "learn", "not_finite", message)
        self.unlabelled += decoded.n_unlabelled
        self.outcomes.count_unlabelled(decoded.n_unlabelled)  # they taught embeddings at most

    def _learn(self, fetch: Fetch) -> tuple[Decoded, Learned]:
        decoded = self._decoder.decode(fetch.values)  # 2
        if self.model.classes is not None:
            decoded = admit(self.model, decoded)
        next_offsets = np.array(fetch.offsets, np.int64)[decoded.kept] + 1
        batch, labels, weights = decoded.batch, decoded.labels, decoded.weights
        return decoded, self.model.learn(batch, labels, weights, fetch.partition, next_offsets)  # 3

    def _pass_by(self, record: Record, rejected: EventRejected) -> None:
        """Rejects a record; one that only says that there is nothing any more is counted, and taken for learned."""
        if isinstance(rejected, RowDeleted):
            self.rejected[rejected.reason] = self.rejected.get(rejected.reason, 0) + 1
        else:
            self._reject(record, "decode", rejected.reason, str(rejected))

    def _reject(self, record: Record, stage: str, reason: str, message: str) -> None:
        self.count(reason, 1)
        _logger.debug("%s[%d]@%d: %s", record.topic, record.partition, record.offset, message)
        self.letters.send(record, stage, reason, message)


def describe_configuration(config: ModelConfig, format: EventFormat) -> dict[str, Any]:
    """What the tables depend on: all that must be equal for a checkpoint to be gone on from. Limits may change."""
    return {
        **msgspec.to_builtins(config),
        "label_field": format.label_field,
        "features_field": format.features_field,
        "weight_field": format.weight_field,
        "id_field": format.id_field,
        "envelope": format.envelope,
        "positive_labels": list(format.positive_labels),
        "label_rule": format.label_rule,
        "ignored_features": list(format.rules.ignored_features),
        "categorical_features": list(format.rules.categorical_features),
        "numeric_features": list(format.rules.numeric_features),
        "time_features": list(format.rules.time_features),
        "time_zone": format.rules.time_zone,
        "text_features": list(format.rules.text_features),
        "max_words": format.rules.max_words,
        "missing_features": list(format.rules.missing_features),
    }
