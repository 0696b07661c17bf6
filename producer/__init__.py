"""The test producer: streams of events to learn from, replayed into a topic or a file at a chosen rate.

A stream is an iterator of events (`flights`, `synthetic`); `encode` turns them into bytes, which `replay` sends, and
`write` puts in a file.
"""

from flexihash.producer.events import Event, encode
from flexihash.producer.flights import flights
from flexihash.producer.ndjson import write
from flexihash.producer.pacing import Replayed, replay
from flexihash.producer.producer_errors import EventFileError, FlightsMissingError, ProducerError, RateError
from flexihash.producer.synthetic import SyntheticStream, synthetic

__all__ = [
    "Event",
    "EventFileError",
    "FlightsMissingError",
    "ProducerError",
    "RateError",
    "Replayed",
    "SyntheticStream",
    "encode",
    "flights",
    "replay",
    "synthetic",
    "write",
]
