"""Whether a learner is at work, as others see it: a word beside the group's offset of partition 0, again and again.

It is metadata of the offset that lag tools read, so it takes no right that committing does not take, and the offset
stays what it was. Clocks are not compared: whoever watches counts how long the word has not changed.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any
from uuid import uuid4

from kafka.structs import OffsetAndMetadata

from flexihash.consumer.consumer_errors import ConsumerError
from flexihash.consumer.kafka.client import Admin
from flexihash.consumer.kafka.topic import Topic

log = logging.getLogger(__name__)

LEASE_S = 30.0  # without a new word, after which a learner is taken for gone; one that works says one every 5 s
GONE = "gone"


class Lease:
    """The word of one learner, and its look at that of another. For one thread.

    Args:
        topic, group_id: what the learner learns, and under which name.
    """

    def __init__(self, topic: Topic, group_id: str) -> None:
        self._at = topic.partition(0)
        self._group_id = group_id
        self._admin = Admin(topic.connection)
        self._owner = f"flexihash {uuid4().hex[:12]}"
        self._n_words = 0
        self._heard: str | None = None  # the last word that was said or seen
        self._heard_at = 0.0

    def renew(self, position: int) -> None:
        """Says that this learner is at work; a failure is logged, not raised.

        Args:
            position: of partition 0, where none has been committed yet.
        """
        self._n_words += 1
        try:
            self._say(str(self._n_words), position)
        except ConsumerError as error:
            log.debug("the lease is not renewed: %s", error)

    def release(self) -> None:
        """Says that this learner has ended.

        Raises:
            ConsumerError: the broker does not answer, or refuses.
        """
        self._say(GONE, 0)

    def is_free(self) -> bool:
        """Whether the learner whose word is heard has ended: it said so, or has said nothing new for LEASE_S."""
        now = monotonic()
        try:
            word = self._read().metadata
        except ConsumerError as error:  # who cannot hear cannot tell that nobody speaks
            log.debug("the lease cannot be seen: %s", error)
            self._heard_at = now
            return False
        is_new = word != self._heard
        has_ended = is_new and self._heard is not None and word.endswith(f" {GONE}")
        if is_new:
            self._heard, self._heard_at = word, now
        return has_ended or now - self._heard_at >= LEASE_S

    def close(self) -> None:
        """Lets go of the connection."""
        self._admin.close()

    def _say(self, word: str, position: int) -> None:
        found = self._read()
        said = f"{self._owner} {word}"
        offset = found.offset if found.offset >= 0 else position
        offsets = {self._at: OffsetAndMetadata(offset, said, -1)}
        self._admin.ask(lambda admin: admin.alter_group_offsets(self._group_id, offsets))
        self._heard, self._heard_at = said, monotonic()

    def _read(self) -> Any:
        asked = {self._group_id: [self._at]}
        found = self._admin.ask(lambda admin: admin.list_group_offsets(asked))
        return found.get(self._group_id, {}).get(self._at, OffsetAndMetadata(-1, "", -1))
