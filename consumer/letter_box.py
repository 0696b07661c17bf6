"""Dead letters: records that could not be learned from, kept as they were, with the reason, in ``<topic>.dlq``.

Where the broker does not take a letter, it goes to the local disk (`consumer.spill`), and from there to the broker
later, by itself (`consumer.redelivery`). So a flush ends in bounded time with every letter in one of the two places,
and learning goes on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from uuid import uuid4

from flexihash.consumer.consumer_errors import DeadLetterError, DeadLetterRefused, Describe
from flexihash.consumer.courier import Courier, Parcel, await_answer, is_of_topic, pack
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lesson import Letters
from flexihash.consumer.letters import make_letter
from flexihash.consumer.records import Record
from flexihash.consumer.redelivery import Redelivery
from flexihash.consumer.spill import Spill
from flexihash.consumer.status import DeadLettersStatus

log = logging.getLogger(__name__)

MAX_WAITING = 10_000  # letters in memory; with more than that no further fetch is learned from before a flush
MAX_WAITING_BYTES = 64 * 1024 * 1024  # the same for their bytes: letters may be large
PROBE_S = 2.0  # for the broker's answer to an attempt while it takes none, where letters cannot go to the disk


class DeadLetters(Letters):
    """Sends rejected records of `topic` to ``<topic>.dlq``, which is created if it is absent. For one thread.

    A letter has the record's key, value, headers and timestamp, byte for byte, and the headers
    ``__flexihash.errors.`` + ``id``, ``topic``, ``partition``, ``offset``, ``timestamp`` (ms), ``stage``, ``reason``
    and ``message``, as UTF-8 text. kafka-python cannot write a header with a null value: it is written empty, and
    ``__flexihash.errors.null_headers`` lists the places of such headers (``0,2``). One that is larger than
    MAX_LETTER_BYTES is shortened, and ``__flexihash.errors.cut`` says what of it.

    Args:
        spill_folder: where letters are kept that the broker does not take, in a folder named like their topic; None
            keeps them in memory only.
        describe: words for why the broker does not take them.

    Raises:
        SpillUnreadable: there are letters in the folder, and they cannot be read.
    """

    def __init__(self, topic: Topic, spill_folder: Path | None = None, describe: Describe = str) -> None:
        self.topic = topic.dead_letters
        self._courier = Courier(self.topic, describe)
        self._waiting: deque[Parcel] = deque()
        self._waiting_bytes = 0
        self._spill = Spill(spill_folder / self.topic.name) if spill_folder is not None else None
        self._redelivery = Redelivery(self._spill, self._courier) if self._spill is not None else None
        self._disk_failure: OSError | None = None
        self._learner = uuid4().hex[:12]
        self._n_written = 0

    @property
    def written(self) -> dict[str, int]:
        """How many letters were written by this learner, under its name."""
        return {self._learner: self._n_written} if self._n_written else {}

    @property
    def status(self) -> DeadLettersStatus:
        """Letters in memory and on the disk, and why the last one was not taken; None once all were."""
        return DeadLettersStatus(waiting=len(self._waiting), spilled=self._n_spilled, error=self._courier.error)

    def has_room(self) -> bool:
        """Whether fewer letters wait in memory than may."""
        return len(self._waiting) < MAX_WAITING and self._waiting_bytes < MAX_WAITING_BYTES

    def send(self, record: Record, stage: str, reason: str, message: str) -> None:
        """Send a letter, without waiting for the broker's answer. Never raises; look at `has_room` now and then.

        Args:
            stage: what failed, such as ``decode``.
            reason: a slug, for counting.
            message: for people.
        """
        self._n_written += 1
        parcel = pack(make_letter(record, stage, reason, message, f"{self._learner}/{self._n_written}"))
        self._waiting.append(parcel)
        self._waiting_bytes += parcel.letter.size_bytes
        self._forget_acknowledged()
        if self._courier.is_taking and self._courier.connect():
            self._courier.post(parcel)

    def flush(self, timeout_s: float) -> None:
        """Wait until every letter is safe: acknowledged by the broker or, where it is not within `timeout_s`, on disk.

        While the topic takes none, letters go to the disk at once.

        Raises:
            DeadLetterError: some are neither; the next flush goes on with them.
            DeadLetterRefused: there is no folder for letters, and the broker will not take one, now or later.
        """
        if self._spill is None:
            self._deliver(monotonic() + timeout_s)
        elif self._courier.is_taking:
            self._deliver(monotonic() + timeout_s)
            self._store(self._spill)
        elif not self._store(self._spill) and not self._courier.is_resting:
            self._deliver(monotonic() + min(timeout_s, PROBE_S))
        if self._waiting:
            self._complain()

    def tend(self) -> None:
        """Send what is on the disk, one segment after another, without waiting for the broker's answers.

        Where the broker does not answer this takes as long as an attempt to connect, once in REST_S.
        """
        self._forget_acknowledged()
        if self._redelivery is not None and not self._redelivery.tend():
            self._disconnect()

    def close(self) -> None:
        """Let go of the connection; letters that are not safe by then are lost to this object. Flush first."""
        self._disconnect()
        if self._redelivery is not None:
            self._redelivery.end()

    @property
    def _n_spilled(self) -> int:
        return len(self._spill) if self._spill is not None else 0

    def _forget_acknowledged(self) -> None:
        """Those in front, which is all of them where the topic has one partition, as is usual."""
        while self._waiting and self._waiting[0].is_acknowledged:
            self._waiting_bytes -= self._waiting.popleft().letter.size_bytes

    def _keep(self, parcels: Iterable[Parcel]) -> None:
        self._waiting = deque(parcels)
        self._waiting_bytes = sum(parcel.letter.size_bytes for parcel in self._waiting)

    def _keep_unacknowledged(self) -> None:
        self._keep(parcel for parcel in self._waiting if not parcel.is_acknowledged)

    def _disconnect(self) -> None:
        """Let go of the connection; what is not acknowledged by then is to be sent again."""
        self._courier.disconnect()
        for parcel in self._waiting:
            if not parcel.is_acknowledged:
                parcel.future = None

    def _deliver(self, deadline: float) -> None:
        """Have the broker take what waits; what it does not take stays, with the reason.

        Twice: the second time without what the broker minded. Where there was no answer, on a new connection then; but
        letters that may go to the disk go there, and the redelivery connects anew.
        """
        for share in (1, 1) if self._spill is not None else (2, 1):
            if not self._waiting:
                break
            if not self._courier.connect():
                return
            is_sound = self._attempt(deadline, share)
            if not is_sound and self._spill is not None:
                break
        self._courier.judge(self._waiting, self._n_spilled)

    def _attempt(self, deadline: float, share: int) -> bool:
        """Send what waits, and wait for a share of the time left; False where the connection was given up for it."""
        self._courier.post_all(parcel for parcel in self._waiting if parcel.future is None)
        until = monotonic() + (deadline - monotonic()) / share
        for parcel in self._waiting:
            await_answer(parcel, until)
        is_broken = any(parcel.is_under_way or is_of_topic(parcel.error) for parcel in self._waiting)
        if is_broken:
            self._disconnect()
        self._keep_unacknowledged()
        return not is_broken

    def _store(self, spill: Spill) -> bool:
        """Move what waits to the disk; False where that does not go."""
        if any(parcel.is_under_way for parcel in self._waiting):
            self._disconnect()
        self._keep_unacknowledged()
        n_letters = len(self._waiting)
        try:
            while self._waiting:
                for _ in range(spill.append(parcel.letter for parcel in self._waiting)):
                    self._waiting_bytes -= self._waiting.popleft().letter.size_bytes
        except OSError as error:
            self._disk_failure = error
            return False
        if n_letters:
            log.warning(
                "%d dead letters are kept in %s until %s takes them: %s",
                n_letters, spill.folder, self.topic, self._courier.error,
            )  # fmt: skip
        return True

    def _complain(self) -> None:
        """Raise for the letters that wait."""
        text = f"{len(self._waiting)} dead letters are not acknowledged by {self.topic}: {self._courier.error}"
        if self._spill is not None:
            raise DeadLetterError(
                f"{text}; nor can they be kept in {self._spill.folder}: {self._disk_failure}; make room"
            )
        if getattr(self._courier.failure, "retriable", True):
            raise DeadLetterError(text)
        raise DeadLetterRefused(f"{text}; change the topic's settings (max.message.bytes?) or rights")
