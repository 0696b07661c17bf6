"""What the routes of one API process work with, put together in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.publisher import Publisher
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.service.memory import Memory
from flexihash.service.monitoring import Metrics
from flexihash.service.problems import unavailable
from flexihash.service.settings import Settings

Result = TypeVar("Result")

MAX_PUBLISHING = 32  # requests that publish at once; while the broker is away each holds a body and a thread
CLOSE_S = 1.0  # for the connection to the broker: what was published is acknowledged already
SECRET_SETTINGS = {"api_token", "sasl_username", "sasl_password"}


class Parts:
    """The learner's memory, the topic, the checkpoints and the metrics, by the settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.memory = Memory(settings.memory)
        self.metrics = Metrics(self.memory)
        self.decoder = EventDecoder(settings.event_format, settings.task, settings.n_rows)
        self.checkpoints = CheckpointStore(settings.checkpoints, settings.retention)
        self.publisher = Publisher(settings.kafka_topic)
        self._threads = CapacityLimiter(MAX_PUBLISHING)
        self._n_publishing = 0

    async def publish(self, work: Callable[[], Result]) -> Result:
        """Runs `work`, which waits for the broker, in a thread.

        Raises:
            Problem: 503; too many others wait already.
        """
        if self._n_publishing == MAX_PUBLISHING:
            raise unavailable(f"{MAX_PUBLISHING} requests are waiting for the broker already", "busy")
        self._n_publishing += 1
        try:
            return await to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
        finally:
            self._n_publishing -= 1

    async def close(self) -> None:
        """Lets go of the tables and the broker; waits for neither."""
        self.memory.close()
        with move_on_after(CLOSE_S):
            await to_thread.run_sync(self.publisher.close, CLOSE_S, abandon_on_cancel=True)

    def describe_settings(self) -> dict[str, Any]:
        """The settings, without those that are secret."""
        return self.settings.model_dump(mode="json", exclude=SECRET_SETTINGS)
