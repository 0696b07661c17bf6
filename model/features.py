"""From JSON features of any shape to rows of the table: flattening and hashing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flexihash.model.crosses import find_sides
from flexihash.model.kinds import AS_IT_IS, CATEGORY, NUMBER, TEXT, TIME, find_kind, is_exact, is_one_of
from flexihash.model.model_errors import FeatureError
from flexihash.model.murmur import hash_texts
from flexihash.model.texts import find_words
from flexihash.model.times import SHORTEST, Time, find_epoch, find_time, may_be_time, zone_address
from flexihash.model.words import PADDING
from flexihash.model.zones import UTC

# A flat feature: a number, or a category whose value is the string.
Feature = tuple[str, str | float]

MAX_MAGNITUDE = 1e300  # numbers beyond are treated as this: differences of two must stay finite in float64
ZERO = 5e-324  # numbers no larger than the smallest there is are zero, of one sign
MISSING = "missing"  # the category of what is null, where that means something
MAX_WORDS = 256


class FeatureRules(msgspec.Struct, frozen=True, kw_only=True):
    """How features are flattened, and what is too much.

    Args:
        categorical_features: glob patterns of flat names whose numbers are names only, such as ``*_id``.
        numeric_features: glob patterns of flat names that are quantities only, such as ``year``; a string that
            reads as a number is taken as one.
        max_features: flat features in one event.
        max_depth: levels of nesting.
        max_key_length: characters of a flat name.
        ignored_features: names and glob patterns of what is left out, with all that is in it: ``row``, ``debug*``,
            ``user.address``. Names of nested things are flat ones.
        crosses: which features are also learned in pairs; see `model.crosses`.
        time_features: patterns of names whose numbers are times too, in seconds or smaller units; see `model.times`.
        time_zone: whose clock tells hour and weekday, and what a time without an offset is.
        text_features: patterns of names whose strings are texts, of which each word is a category.
        max_words: of one text; those behind are passed over.
        missing_features: patterns of names whose null, or text without words, is a category. So it is where an event
            lacks a name that stands there in full.

    Of a name that several patterns match, the first of categorical, numeric, time and text counts.
    """

    categorical_features: tuple[str, ...] = ()
    numeric_features: tuple[str, ...] = ()
    max_features: int = 1_000
    max_depth: int = 16
    max_key_length: int = 512
    ignored_features: tuple[str, ...] = ()
    crosses: tuple[str, ...] = ()
    time_features: tuple[str, ...] = ()
    time_zone: str = UTC
    text_features: tuple[str, ...] = ()
    max_words: int = MAX_WORDS
    missing_features: tuple[str, ...] = ()

    @property
    def has_kinds(self) -> bool:
        """Whether what a value becomes may depend on its name."""
        return bool(self.categorical_features or self.numeric_features or self.time_features or self.text_features)

    @property
    def zone(self) -> int:
        """The address of the zone, as `model.times` reads it."""
        return zone_address(self.time_zone)

    @property
    def expected_names(self) -> tuple[str, ...]:
        """The names that mean something where an event lacks them."""
        names = dict.fromkeys(filter(is_exact, self.missing_features))
        return tuple(name for name in names if not self.ignores(name))

    def ignores(self, name: str) -> bool:
        """Whether what has this flat name is left out."""
        return bool(self.ignored_features) and is_one_of(name, self.ignored_features)

    def misses(self, name: str) -> bool:
        """Whether it means something that what has this flat name is null."""
        return bool(self.missing_features) and is_one_of(name, self.missing_features)

    def kind_of(self, name: str) -> int:
        """What a value of this flat name is taken for; see `model.kinds`."""
        if not self.has_kinds:
            return AS_IT_IS
        patterns = self.categorical_features, self.numeric_features, self.time_features, self.text_features
        return find_kind(name, *patterns)


class Batch(msgspec.Struct, frozen=True):
    """Hashed features of B events, nnz features in all, ready for the kernel.

    Args:
        rows: (nnz,) int64, each feature's row.
        offsets: (B + 1,) int64; event b owns ``rows[offsets[b]:offsets[b + 1]]``.
        values: (nnz,) float64; 1 for a category.
        is_number: (nnz,) bool.
        fields: (nnz,) int64, a hash of each feature's name, whatever its value: from 0 to 2^31 - 1.
        sides: (nnz,) int64, where each stands in the crosses, as `find_sides` has it; (0,) without crosses.
    """

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    values: NDArray[np.float64]
    is_number: NDArray[np.bool_]
    fields: NDArray[np.int64]
    sides: NDArray[np.int64] = msgspec.field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many features each event has. (B,)"""
        return self.offsets[1:] - self.offsets[:-1]

    def pick(self, is_picked: NDArray[np.bool_]) -> Batch:
        """The events that are picked. (B,)"""
        sizes = self.sizes
        of_features = np.repeat(is_picked, sizes)
        return Batch(
            self.rows[of_features],
            np.concatenate([[0], np.cumsum(sizes[is_picked])]),
            self.values[of_features],
            self.is_number[of_features],
            self.fields[of_features],
            self.sides[of_features] if len(self.sides) else self.sides,
        )


def flatten(features: Mapping[str, Any], rules: FeatureRules) -> list[Feature]:
    """Flat features of one event: nested objects joined with ``.``, integers as number and category, null as nothing.

    Raises:
        FeatureError: a number is not finite, a type is unknown, or a limit of `rules` is passed.
    """
    flat: list[Feature] = []
    _flatten_object(features, "", rules, 1, flat)
    if rules.missing_features:
        flat.extend((name, MISSING) for name in rules.expected_names if not _has(features, name))
    if len(flat) > rules.max_features:
        raise FeatureError("", "too_many_features", f"{len(flat)} features, more than {rules.max_features}")
    return flat


def _has(features: Mapping[str, Any], name: str) -> bool:
    """Whether there is anything of this flat name, also null, in objects at any depth."""
    if name in features:
        return True
    ends = (place for place, character in enumerate(name) if character == ".")
    inner = ((features.get(name[:end]), name[end + 1 :]) for end in ends)
    return any(isinstance(value, Mapping) and _has(value, rest) for value, rest in inner)


def _flatten_object(
    features: Mapping[str, Any], prefix: str, rules: FeatureRules, depth: int, flat: list[Feature]
) -> None:
    has_kinds, has_ignored = rules.has_kinds, bool(rules.ignored_features)
    for key, value in features.items():
        name = prefix + key
        if has_ignored and rules.ignores(name):
            continue
        if len(name) > rules.max_key_length:
            raise FeatureError(
                name[:80],
                "key_too_long",
                f'"{name[:80]}..." has {len(name)} characters, more than {rules.max_key_length}',
            )
        if type(value) is str and not has_kinds and (len(value) < SHORTEST or not may_be_time(value)):
            flat.append((name, value))
        else:
            _flatten_value(name, value, rules, depth, flat)


def _flatten_value(name: str, value: Any, rules: FeatureRules, depth: int, flat: list[Feature]) -> None:
    if value is None:
        if rules.misses(name):
            flat.append((name, MISSING))
    elif isinstance(value, str):
        _flatten_string(name, value, rules, flat)
    elif isinstance(value, bool | np.bool_):
        flat.append((name, "true" if value else "false"))
    elif isinstance(value, int | float | np.integer | np.floating):
        _flatten_number(name, value, rules, flat)
    elif isinstance(value, Mapping | list | tuple):
        if depth >= rules.max_depth:
            raise FeatureError(name, "too_deep", f'"{name}" is nested deeper than {rules.max_depth} levels')
        if isinstance(value, Mapping):
            _flatten_object(value, f"{name}.", rules, depth + 1, flat)
        else:
            _flatten_list(name, value, rules, depth, flat)
    else:
        raise FeatureError(name, "unknown_type", f'"{name}" is a {type(value).__name__}, which JSON does not have')
    if len(flat) > rules.max_features:
        raise FeatureError(name, "too_many_features", f"more than {rules.max_features} features")


def _flatten_list(name: str, values: Sequence[Any], rules: FeatureRules, depth: int, flat: list[Feature]) -> None:
    for index, value in enumerate(values):
        at = name if isinstance(value, str | bool) else f"{name}.{index}"
        if not rules.ignores(at):
            _flatten_value(at, value, rules, depth + 1, flat)


def _flatten_string(name: str, text: str, rules: FeatureRules, flat: list[Feature]) -> None:
    kind = rules.kind_of(name)
    if kind == TEXT:
        words = find_words(text, rules.max_words)
        flat.extend((name, word) for word in words)
        if not words and rules.misses(name):
            flat.append((name, MISSING))
        return
    if kind in (AS_IT_IS, TIME) and may_be_time(text) and (time := find_time(text, rules.zone)):
        _flatten_time(name, time, rules, flat)
        return
    number = _as_number(text) if kind in (NUMBER, TIME) else None
    if kind == TIME and number is not None and (time := find_epoch(number, rules.zone)):
        _flatten_time(name, time, rules, flat)
    else:
        flat.append((name, text if kind == TIME or number is None else number))


def _flatten_time(name: str, time: Time, rules: FeatureRules, flat: list[Feature]) -> None:
    flat.append((name, time.seconds))
    parts = ((f"{name}.{part}", label) for part, label in time.parts)
    flat.extend((part, label) for part, label in parts if not rules.ignores(part))


def _flatten_number(name: str, value: Any, rules: FeatureRules, flat: list[Feature]) -> None:
    is_integer = isinstance(value, int | np.integer)
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise FeatureError(name, "non_finite_number", f'"{name}" is not a finite number')
    kind = rules.kind_of(name)
    if kind == TIME and (time := find_epoch(number, rules.zone)):
        _flatten_time(name, time, rules, flat)
        return
    if kind != CATEGORY:
        flat.append((name, number))
    if kind == CATEGORY or (is_integer and kind != NUMBER):
        flat.append((name, str(value)))


def _as_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def hash_features(events: Iterable[Sequence[Feature]], n_rows: int, crosses: tuple[str, ...] = ()) -> Batch:
    """Rows and values of flat events, as scikit-learn's ``FeatureHasher(n_rows, alternate_sign=False)`` gives them.

    Differs from the class in two points: a zero is kept, and features that share a row stay apart.

    Args:
        n_rows: a power of two.
        crosses: those of the model that is to learn them.

    Raises:
        FeatureError: a name cannot be written in UTF-8 (a lone surrogate).
    """
    offsets = [0]
    flat: list[Feature] = []
    for event in events:
        flat.extend(event)
        offsets.append(len(flat))
    names = [name for name, _ in flat]
    hashes = _hash_texts([f"{name}={value}" if isinstance(value, str) else name for name, value in flat] + names)
    return Batch(
        rows=hashes[: len(flat)] & (n_rows - 1),
        offsets=np.array(offsets, np.int64),
        values=np.array([1.0 if isinstance(value, str) else _bound(value) for _, value in flat], np.float64),
        is_number=np.array([not isinstance(value, str) for _, value in flat], np.bool_),
        fields=hashes[len(flat) :],
        sides=np.array([find_sides(name, crosses) for name in names] if crosses else (), np.int64),
    )


def _bound(number: float) -> float:
    if abs(number) <= ZERO:
        return 0.0
    return math.copysign(MAX_MAGNITUDE, number) if abs(number) > MAX_MAGNITUDE else number


def _hash_texts(texts: Sequence[str]) -> NDArray[np.int64]:
    """The hash of each text, whose last bits are its row. (nnz,)"""
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise FeatureError(error.object[:80], "not_unicode", "a name or value holds a lone surrogate") from error
    hashes = np.fromiter(accumulate(map(len, encoded)), np.int64, len(texts))  # first where each text ends
    buffer = np.frombuffer(b"".join([*encoded, PADDING]), np.uint8)
    hash_texts(buffer.ctypes.data, len(texts), hashes.ctypes.data)
    return hashes
