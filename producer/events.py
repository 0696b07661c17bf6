"""One event as the producer makes it, and its bytes."""

from collections.abc import Iterable, Iterator
from typing import TypedDict

import msgspec


class Event(TypedDict):
    """One message of a stream, in the wire format's default shape.

    A feature that is a string is a category, a float is a number, an integer is learned as both.
    """

    features: dict[str, str | float]
    label: float
    id: str
    timestamp: str


def encode(events: Iterable[Event]) -> Iterator[bytes]:
    """Encode events one by one, as compact JSON without a line end. Floats keep their `.0`, so they stay numbers."""
    encoder = msgspec.json.Encoder()
    return map(encoder.encode, events)
