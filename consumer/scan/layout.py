"""The layout of an event: the objects on the way to its fields, and what the names in them mean.

For the compiled loop it lies in one block of memory. Of each object:

    object     where the object around it begins, what its other names are (`Others`), where the entry of its own name
               is, and a bit for each name that means something, by `mark_name`, 8 bytes each
    names      of each its length, its role, its bits, where its own object begins (0: it has none), and the number of
               its target, 8 bytes each; its UTF-8; 8 bytes 0
    end        the length -1
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.envelopes import WAYS, Envelope
from flexihash.consumer.fields import Fields
from flexihash.consumer.paths import Path, Place, Tree
from flexihash.model.compiled import part
from flexihash.model.words import PADDING, is_same, signed64


class Role(IntFlag):
    """What a name means; several, because settings may give one name two of them."""

    LABEL = 1  # a number
    WEIGHT = 2
    FEATURES = 4  # the object that holds them
    IGNORED = 8  # no feature
    NEEDED = 32  # an object: without it there are no features
    TEXT = 64  # a label that Python reads


class Others(IntEnum):
    """What names are that mean nothing else."""

    SKIPPED = 0
    FEATURES = 1
    NESTED = 2  # features in an object among the features


LABEL, WEIGHT, FEATURES, IGNORED, NEEDED, TEXT = map(int, Role)
SKIPPED, AMONG_FEATURES, NESTED = map(int, Others)

QUOTED = b'"'  # what stands behind an empty name
HEAD_BYTES, ENTRY_BYTES = 32, 40

# An event that has one of these bits twice is left. Objects share some of them where there are many.
WEIGHT_BIT, FEATURES_BIT, FIRST_OBJECT_BIT, N_OBJECT_BITS, ENVELOPE_BIT = 16, 17, 18, 44, 62


class Entry:
    """A name in an object; `inside` is its own object."""

    def __init__(self) -> None:
        self.role = 0
        self.bits = 0
        self.target = 0
        self.inside: Object | None = None

    def mean(self, role: int, bit: int) -> None:
        """Adds a meaning."""
        self.role |= role
        self.bits |= 1 << bit


class Object:
    """An object, with those of its names that mean something."""

    def __init__(self, others: int) -> None:
        self.others = others
        self.entries: dict[str, Entry] = {}

    def entry(self, name: str) -> Entry:
        """The entry of a name."""
        return self.entries.setdefault(name, Entry())

    def enter(self, path: Path, role: int = 0) -> Object:
        """The object at the end of a path, each on the way being of this role."""
        found = self
        for name in path:
            entry = found.entry(name)
            entry.role |= role
            if entry.inside is None:
                entry.inside = Object(NESTED if found.others else SKIPPED)
            found = entry.inside
        return found

    def hold_features(self, left_out: Tree) -> None:
        """Has the object be that of the features."""
        self.others = AMONG_FEATURES
        self._leave_out(left_out)

    def _leave_out(self, tree: Tree) -> None:
        for name, branch in tree.items():
            if branch is None:
                self.entry(name).role |= IGNORED
            else:
                self.enter((name,))._leave_out(branch)


def lay_out_event(fields: Fields, envelope: Envelope, has_texts: bool) -> NDArray[np.uint8]:
    """The layout of the events of one format; `has_texts`: their labels are read by Python."""
    message = Object(SKIPPED)
    for way in WAYS[envelope]:
        event = message.enter(way, NEEDED)
        if way:
            message.entry(way[0]).mean(NEEDED, ENVELOPE_BIT)
        if fields.features is None:
            event.hold_features(fields.left_out)
            if way:
                message.enter(way[:-1]).entry(way[-1]).mean(FEATURES, FEATURES_BIT)
        else:
            for path in fields.features.ways:
                event.enter(path[:-1], NEEDED).entry(path[-1]).mean(FEATURES | NEEDED, FEATURES_BIT)
                event.enter(path).hold_features(fields.left_out)
        for target, place in enumerate(fields.labels):
            _mark(event, place, TEXT if has_texts else LABEL, target, target)
        if fields.weight is not None:
            _mark(event, fields.weight, WEIGHT, WEIGHT_BIT, 0)
    return _pack(message)


def lay_out_instance(fields: Fields) -> NDArray[np.uint8]:
    """The layout of instances, which are features alone."""
    instance = Object(SKIPPED)
    instance.hold_features(fields.left_out)
    return _pack(instance)


def _mark(event: Object, place: Place, role: int, bit: int, target: int) -> None:
    for path in place.ways:
        entry = event.enter(path[:-1]).entry(path[-1])
        entry.mean(role, bit)
        entry.target = max(entry.target, target)


def _pack(outermost: Object) -> NDArray[np.uint8]:
    objects, around, owners, begins = [outermost], [0], [0], [0]
    for number, one in enumerate(objects):  # those that are in it come behind
        end = begins[-1] + HEAD_BYTES
        for name, entry in one.entries.items():
            if entry.inside is not None:
                objects.append(entry.inside)
                around.append(number)
                owners.append(end)
            end += ENTRY_BYTES + len(_encode(name)) + len(PADDING)
        begins.append(end + len(END))
    numbers = {id(one): number for number, one in enumerate(objects)}
    packed = b""
    for number, one in enumerate(objects):
        marks = {_mark_name(len(text), (text or QUOTED)[0]) for text in map(_encode, one.entries)}
        packed += _pack_numbers(begins[around[number]], one.others, owners[number]) + _pack_bits(marks)
        for name, entry in one.entries.items():
            inner = numbers.get(id(entry.inside), 0)
            bits = entry.bits | (1 << FIRST_OBJECT_BIT + inner % N_OBJECT_BITS if inner else 0)
            text = _encode(name)
            packed += _pack_numbers(len(text), entry.role, bits, begins[inner], entry.target) + text + PADDING
        packed += END
    return np.frombuffer(packed, np.uint8)


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _pack_numbers(*numbers: int) -> bytes:
    return np.array(numbers, np.int64).tobytes()


def _pack_bits(bits: Iterable[int]) -> bytes:
    return np.array([sum(1 << bit for bit in bits)], np.uint64).tobytes()


END = _pack_numbers(-1)


def _mark_name(n_name: int, first: int) -> int:
    return (n_name ^ first) & 63


mark_name = part(_mark_name)


@part
def find_entry(name, n_name, inside):  # type: ignore[no-untyped-def]
    """Where the entry of a name in the object at `inside` is; 0: nowhere."""
    entry = inside + HEAD_BYTES
    while True:
        n = signed64(entry)
        if n < 0:
            return 0
        if n == n_name and is_same(name, entry + ENTRY_BYTES, n):
            return entry
        entry += ENTRY_BYTES + n + 8
