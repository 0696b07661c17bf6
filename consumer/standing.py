"""Where a model stands in a log: its positions, and which cluster and topics they are of."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from flexihash.consumer.consumer_errors import Describe, IdentityChanged, RecordChanged, TopicsForeign
from flexihash.consumer.records import LOST, Identity, Source
from flexihash.model.checkpoint.manifest import Manifest
from flexihash.model.online import OnlineModel

OnChangedIdentity = Literal["stop", "lose", "keep"]

_logger = logging.getLogger(__name__)


class Standing:
    """The positions of a model in the topic of one source, and those that it has in others.

    Args:
        model: over tables that nobody else writes.
        on_changed_identity: what `begin` does where the positions are of another cluster or topic, or the record before
            one is another: raise (stop), hand them to the source as lost (lose), or go on with them all the same
            (keep).
        describe: words for an error that goes into the log.
    """

    def __init__(
        self,
        model: OnlineModel,
        source: Source,
        on_changed_identity: OnChangedIdentity = "stop",
        describe: Describe = str,
    ) -> None:
        self.source = source
        self.cluster_id: str | None = None
        self.topic_ids: dict[str, str] = {}
        self._model = model
        self._on_changed_identity = on_changed_identity
        self._describe = describe
        self._foreign: dict[str, int] = {}  # positions in other topics that this model has learned from

    def resume(self, manifest: Manifest) -> None:
        """Takes over the positions of a checkpoint whose tensors the tables already hold."""
        own, self._foreign = self._divide(manifest.positions)
        # The digests are of the topic that was learned last, and which of several that was is not known.
        self._model.set_positions(own, unknown=own if self._foreign else ())
        self.topic_ids = dict(manifest.topic_ids)
        self.cluster_id = manifest.cluster_id

    def begin(self) -> Identity:
        """Has the source begin at the tables' positions, or where it begins a cold start. May be called again.

        Returns:
            What was found there.

        Raises:
            ConsumerError: a `retriable` one may be tried again.
            PositionsLost: the log is another one, or does not go on where the tables stand.
        """
        topic, identity = self.source.topic, self.source.identity()
        positions = self._model.tables.positions()
        checked = self._check(identity, positions)
        changed = self._find_changed(checked)
        started = self.source.start({**checked, **changed})
        self._tell_jumps(positions, started)
        self._model.set_positions(started, unknown=changed)
        self.cluster_id = identity.cluster_id or self.cluster_id
        if identity.topic_id:
            self.topic_ids[topic] = identity.topic_id
        return identity

    def check_records(self) -> None:
        """Compares the last record of each partition with the log, which may have become another one meanwhile.

        Raises:
            RecordChanged: one differs.
            ConsumerError: a `retriable` one may be tried again.
        """
        for _, changed in self._compare_records(self._model.tables.positions()):
            raise changed

    def refresh(self) -> None:
        """Takes in partitions that are new.

        Raises:
            ConsumerError: as `Source.refresh`.
        """
        for partition, position in self.source.refresh().items():
            _logger.info("%s[%d] is new: learning from %d on", self.source.topic, partition, position)
            self._model.advance(partition, position)

    def version(self) -> tuple[int, Mapping[int, int]]:
        """What tells two moments of the model apart."""
        return self._model.n_events, self._model.tables.positions()

    def positions(self) -> dict[str, int]:
        """Next offsets by ``topic:partition``."""
        return {**self._foreign, **self._name(self._model.tables.positions())}

    def end_positions(self) -> dict[str, int]:
        """The log's ends by ``topic:partition``, as far as the source has heard."""
        return self._name(self.source.end_positions())

    def commit(self, positions: Mapping[str, int]) -> None:
        """Tells the log how far a checkpoint is."""
        self.source.commit(self._divide(positions)[0])

    def _name(self, positions: Mapping[int, int]) -> dict[str, int]:
        return {f"{self.source.topic}:{partition}": position for partition, position in positions.items()}

    def _divide(self, positions: Mapping[str, int]) -> tuple[dict[int, int], dict[str, int]]:
        """This source's positions by partition, and the others as they are."""
        own, foreign = {}, {}
        for key, position in positions.items():
            topic, _, partition = key.rpartition(":")
            if topic == self.source.topic:
                own[int(partition)] = position
            else:
                foreign[key] = position
        return own, foreign

    def _check(self, identity: Identity, positions: dict[int, int]) -> dict[int, int]:
        """The positions, where they are of this cluster and topic; else what was chosen for that case."""
        topic = self.source.topic
        try:
            if positions:
                check_identity(topic, self.cluster_id, self.topic_ids.get(topic), identity)
        except IdentityChanged as changed:
            if self._on_changed_identity == "stop":
                raise
            _logger.warning("%s; going on as chosen", self._describe(changed))
            return positions if self._on_changed_identity == "keep" else dict.fromkeys(positions, LOST)
        return positions

    def _find_changed(self, positions: Mapping[int, int]) -> dict[int, int]:
        """What was chosen for those partitions whose last record is another one now."""
        found = {}
        for partition, changed in self._compare_records(positions):
            if self._on_changed_identity == "stop":
                raise changed
            _logger.warning("%s; going on as chosen", self._describe(changed))
            found[partition] = positions[partition] if self._on_changed_identity == "keep" else LOST
        return found

    def _compare_records(self, positions: Mapping[int, int]) -> Iterator[tuple[int, RecordChanged]]:
        """The partitions whose last record is another one now. One that is gone, as by retention, says nothing."""
        digests = self._model.tables.digests()
        last = {partition: positions[partition] - 1 for partition in digests if positions.get(partition, LOST) > 0}
        for partition, record in sorted(self.source.read(last).items() if last else ()):
            if record.digest() != digests[partition]:
                yield partition, RecordChanged(self.source.topic, partition, record.offset)

    def _tell_jumps(self, before: Mapping[int, int], after: Mapping[int, int]) -> None:
        for partition in sorted(before.keys() | after.keys()) if before else ():
            place = f"{self.source.topic}[{partition}]"
            left, begun = before.get(partition), after.get(partition)
            if left is None:
                _logger.info("%s is new: learning from %s on", place, begun)
            elif left != begun:
                _logger.warning("%s goes on at %s instead of %s, as chosen", place, begun, left)


def check_topics(path: Path, positions: Mapping[str, int], topic: str) -> None:
    """Looks whether a checkpoint with such positions has learned from a topic, or from nothing at all.

    Raises:
        TopicsForeign: it has learned from others only.
    """
    topics = {key.rpartition(":")[0] for key in positions}
    if topics and topic not in topics:
        raise TopicsForeign(path, sorted(topics), topic)


def check_identity(topic: str, cluster_id: str | None, topic_id: str | None, found: Identity) -> None:
    """Compares the ids that positions belong to with those found; None on either side is not known, and passes.

    Raises:
        IdentityChanged: they differ.
    """
    for kind, expected, there in (("cluster", cluster_id, found.cluster_id), ("topic", topic_id, found.topic_id)):
        if expected and there and expected != there:
            raise IdentityChanged(kind, topic, expected, there)
