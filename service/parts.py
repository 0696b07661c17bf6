"""What the routes of one API process work with, put together in one place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.publisher import Publisher
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.service import bulk
from flexihash.service.doors import ANSWER_BYTES, Doors
from flexihash.service.memory import Memory
from flexihash.service.monitoring import Metrics
from flexihash.service.problems import unavailable
from flexihash.service.settings import Settings

Result = TypeVar("Result")

MAX_PUBLISHING = 32  # requests that publish at once; while the broker is away each holds a body and a thread
MAX_SAVING = 32  # requests that wait for a checkpoint, each of which looks for it many times a second
MAX_LARGE = 8  # answers to many instances that are made at once: each holds some megabytes until it is whole
CLOSE_S = 1.0  # for the connection to the broker: what was published is acknowledged already
SECRET_SETTINGS = {"api_token", "sasl_username", "sasl_password"}


class Waiting:
    """Requests that wait for something slow, in a `with` block each.

    Args:
        most: how many may.
        what: they wait for.

    Raises:
        Problem: 503; too many others wait already.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._n_now = 0

    def __enter__(self) -> None:
        if self._n_now == self._most:
            raise unavailable(f"{self._most} requests are waiting for {self._what} already", "busy")
        self._n_now += 1

    def __exit__(self, *_: object) -> None:
        self._n_now -= 1


class Parts:
    """The learner's memory, the topic, the checkpoints and the metrics, by the settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.memory = Memory(settings.memory, settings.model)
        self.metrics = Metrics(self.memory)
        bulk_bytes = bulk.TIMES * settings.max_instances * (bulk.VECTOR_BYTES + 4 * settings.embedding_dim)
        largest_bytes = max(settings.max_body_bytes, ANSWER_BYTES * settings.max_instances, bulk_bytes)
        self.doors = Doors(largest_bytes, self.metrics.count_closed)
        self.decoder = EventDecoder(settings.event_format, settings.task, settings.n_rows)
        self.checkpoints = CheckpointStore(settings.checkpoints, settings.retention)
        self.publisher = Publisher(settings.kafka_topic)
        self.saving = Waiting(MAX_SAVING, "a checkpoint")
        self._publishing = Waiting(MAX_PUBLISHING, "the broker")
        self.large = asyncio.Semaphore(MAX_LARGE)
        self.splitting = threading.Lock()  # what is made of a body may be fifty times as large, so one at a time
        self._threads = CapacityLimiter(MAX_PUBLISHING)

    async def publish(self, work: Callable[[], Result]) -> Result:
        """Runs `work`, which waits for the broker, in a thread.

        Raises:
            Problem: 503; too many others wait already.
        """
        with self._publishing:
            return await to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)

    async def close(self) -> None:
        """Lets go of the tables and the broker; waits for neither."""
        self.memory.close()
        with move_on_after(CLOSE_S):
            await to_thread.run_sync(self.publisher.close, CLOSE_S, abandon_on_cancel=True)

    def describe_settings(self) -> dict[str, Any]:
        """The settings, without those that are secret."""
        return self.settings.model_dump(mode="json", exclude=SECRET_SETTINGS)
