"""Envelopes: what others put around an event, and where the event lies in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from flexihash.consumer.consumer_errors import EventRejected, RowDeleted
from flexihash.consumer.paths import Path
from flexihash.consumer.quotation import describe

Envelope = Literal["", "debezium", "connect"]

PAYLOAD, AFTER = "payload", "after"
WAYS: dict[Envelope, tuple[Path, ...]] = {
    "": ((),),
    "debezium": ((PAYLOAD, AFTER), (AFTER,)),  # with the schema, and without
    "connect": ((PAYLOAD,),),
}
"""Where the event lies in an envelope."""

OF_A_CHANGE = frozenset(("before", AFTER, "op"))
HEADER_BYTES = 5  # Confluent's serializers begin with a byte 0, which no JSON does, and four of the schema's number


def strip_header(message: bytes) -> bytes:
    """A message without the header that Confluent's serializers put before it."""
    return message[HEADER_BYTES:] if message[0] == 0 and len(message) > HEADER_BYTES else message


def unwrap(event: Mapping[str, Any], envelope: Envelope) -> Mapping[str, Any]:
    """The event in an envelope.

    Raises:
        EventRejected: there is no such envelope.
        RowDeleted: it tells of a row that is gone.
    """
    if not envelope:
        return event
    if envelope == "connect" and PAYLOAD not in event:
        raise EventRejected("no_envelope", f'the message has no "{PAYLOAD}" (envelope=connect)', PAYLOAD)
    row = event.get(PAYLOAD, event)
    if row is not None and envelope == "debezium":
        row = _find_row(row)
    if row is None:
        raise RowDeleted("deleted", "the row was deleted: there is nothing to learn from")
    if not isinstance(row, Mapping):
        raise EventRejected("no_envelope", f"the row is {describe(row)}, not an object (envelope={envelope})")
    return row


def _find_row(change: Any) -> Any:
    """The row as a change left it; None where there is none any more."""
    if not isinstance(change, Mapping) or OF_A_CHANGE.isdisjoint(change):
        raise EventRejected("no_envelope", f'the message has no "{AFTER}" (envelope=debezium)', AFTER)
    return change.get(AFTER)


def is_wrapped(instance: Mapping[str, Any], envelope: Envelope) -> bool:
    """Whether an object is such an envelope of an object, since it has all that one has, or nothing else."""
    if envelope and isinstance(instance.get(PAYLOAD), Mapping):
        return instance.keys() <= {"schema", PAYLOAD}
    is_change = envelope == "debezium" and instance.keys() >= OF_A_CHANGE
    return is_change and any(isinstance(instance[row], Mapping) for row in OF_A_CHANGE)
