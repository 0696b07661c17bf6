"""Dead letters from the local disk to their topic, once it takes letters again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from flexihash.consumer.courier import DELIVERY_TIMEOUT_MS, Courier, Parcel, await_answer, is_of_topic, pack
from flexihash.consumer.spill import Spill

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Load:
    """One segment of the spill on its way: each line, and its parcel where it holds a letter."""

    segment: Path
    lines: list[tuple[bytes, Parcel | None]]
    deadline: float  # for a client that neither delivers nor gives up
    is_second: bool = False  # attempt

    @property
    def parcels(self) -> list[Parcel]:
        return [parcel for _, parcel in self.lines if parcel is not None]


class Redelivery:
    """Sends what is in `spill`, one segment after another, and takes off the disk what the topic took."""

    def __init__(self, spill: Spill, courier: Courier) -> None:
        self._spill = spill
        self._courier = courier
        self._load: _Load | None = None
        self._tried: Path | None = None  # the segment that was sent last

    def tend(self) -> bool:
        """Go on where it is time to, without waiting for answers; False where the connection is of no more use."""
        load = self._load
        if load is not None and any(parcel.is_under_way for parcel in load.parcels):
            return monotonic() <= load.deadline
        if self._courier.is_resting:
            return True
        if load is not None:
            return self._go_on(load)
        if len(self._spill):
            self._begin()
        return True

    def end(self) -> None:
        """Take off the disk what the topic took until now."""
        if self._load is not None:
            self._end(self._load)

    def _begin(self) -> None:
        segment = self._spill.next_segment(self._tried)
        if segment is None:  # all have been tried: once more from the oldest on
            self._tried = None
            self._courier.rest()
        elif self._courier.connect():
            self._tried = segment
            self._send(segment)

    def _send(self, segment: Path) -> None:
        try:
            lines = self._spill.read(segment)
        except OSError as error:
            log.error("the dead letters in %s cannot be read: %s", segment, error)
            self._courier.rest()
            return
        parcels = [(line, pack(letter) if letter else None) for line, letter in lines]
        self._load = _Load(segment, parcels, monotonic() + 2 * DELIVERY_TIMEOUT_MS / 1000)
        self._courier.post_all(self._load.parcels)

    def _go_on(self, load: _Load) -> bool:
        """Once more without what the broker minded, and for those that were beside it in a batch; then the end."""
        for parcel in load.parcels:
            await_answer(parcel, 0.0)
        refused = [parcel for parcel in load.parcels if parcel.error and not is_of_topic(parcel.error)]
        if not refused or load.is_second or not self._courier.is_connected:
            return self._end(load)
        load.is_second = True
        self._courier.post_all(refused)
        return True

    def _end(self, load: _Load) -> bool:
        """Take the letters that were acknowledged off the disk; where that fails it is tried again, not they."""
        lines = [line for line, parcel in load.lines if parcel is None or not parcel.is_acknowledged]
        n_taken = len(load.lines) - len(lines)
        try:
            if n_taken or not lines:
                self._spill.replace(load.segment, lines)
        except OSError as error:
            log.error("%s cannot be written: %s; %d letters in it were sent", load.segment, error, n_taken)
            self._courier.rest()
            return True
        self._load = None
        self._courier.judge(load.parcels, len(self._spill))
        if not self._courier.is_taking:
            self._tried = None
        elif lines:
            self._courier.rest()
        self._tell(n_taken)
        return self._courier.is_taking

    def _tell(self, n_taken: int) -> None:
        text = "%s took %d dead letters that were kept in %s; %d stay"
        log.info(text, self._courier.topic, n_taken, self._spill.folder, len(self._spill))
