"""The fast path of decoding: plain flat events go from JSON bytes to hashed rows in one compiled loop.

It gives what parsing, flattening and hashing would give, bit for bit, or leaves the message to them. Left are: nested
values, escapes, a name that comes twice, the rare number whose nearest float64 is hard to tell, events beyond a limit,
and everything that is not valid.

The messages lie in one buffer, each followed by a byte 0, which JSON does not allow anywhere. So every loop over bytes
ends at the message's end without looking where that is.

Memory is read and written by address, not through arrays: Numba counts references to an array on every call that takes
one, in atomic steps that would double the time. The machine must be little-endian.

Constants that the compiled functions read stay in this file: Numba's cache watches no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from flexihash.model.vectors import loader, store

LEFT, LEARN, UNLABELLED = 0, 1, 2  # what becomes of a message

# What a name stands for, as bits, because settings may give one name two roles.
LABEL, WEIGHT, FEATURES, IGNORED = 1, 2, 4, 8
ONCE = LABEL | WEIGHT | FEATURES  # an event that has one of them twice is left

# Kinds of value; OTHER is an object, an array, or left for another reason.
NULL, BOOLEAN, INTEGER, FRACTION, STRING, OTHER = 0, 1, 2, 3, 4, 5

QUOTE, PLUS, COMMA, MINUS, POINT, DIGIT_0, DIGIT_9, COLON = 0x22, 0x2B, 0x2C, 0x2D, 0x2E, 0x30, 0x39, 0x3A
EQUALS, BACKSLASH, LOWER_E, LOWER_F, OPEN, CLOSE = 0x3D, 0x5C, 0x65, 0x66, 0x7B, 0x7D
SPACE, TAB, LINE_FEED, RETURN = 0x20, 0x09, 0x0A, 0x0D
LOWER = 0x20  # this bit makes a letter lower case
NULL_WORD, TRUE_WORD, ALSE_WORD = (int.from_bytes(word, "little") for word in (b"null", b"true", b"alse"))

PADDING = bytes(8)  # memory is read in words, up to seven bytes beyond what is looked at

SLOT_BITS = 12  # of the set of an event's names: 32 KiB, of which each name touches 8 bytes
MAX_PROBES = 32  # in that set; an event with names beyond is left

MAX_DIGITS = 19  # of a number: so many fit in 64 bits
MAX_EXACT_MANTISSA = 1 << 53  # float64 holds every integer up to here
MAX_EXACT_POWER = 22  # and every power of ten up to this one
MAX_POWER = 280  # decimal exponents within are sure to give ordinary float64s, below `model.features.MAX_MAGNITUDE`
POWERS = np.array([10.0**exponent for exponent in range(MAX_EXACT_POWER + 1)])


def _leading_bits(exponent: int) -> int:
    """The first 128 bits of 5**exponent, the rest cut off."""
    power: int = 5 ** abs(exponent)
    if exponent >= 0:
        return (power << 128) >> power.bit_length()
    return (1 << (power.bit_length() + 127)) // power


_FIVES = [_leading_bits(exponent) for exponent in range(-MAX_POWER, MAX_POWER + 1)]
FIVES = np.array([bits >> 64 for bits in _FIVES], np.uint64)
FIVES_BELOW = np.array([bits & ((1 << 64) - 1) for bits in _FIVES], np.uint64)


class Limits(NamedTuple):
    """What the loop must know of the wire format and the task, beside the names.

    Args:
        is_whole: the features are the whole event, not an object in it.
        has_ignored: some name is IGNORED.
        needs_label: an event without a label is UNLABELLED, and its features are not kept.
        is_binary: labels are 0 or 1; else from `lowest` to `highest`.
        max_weight, max_features, max_name_bytes, max_event_bytes: an event beyond is left.
        n_rows: a power of two.
    """

    is_whole: bool
    has_ignored: bool
    needs_label: bool
    is_binary: bool
    lowest: float
    highest: float
    max_weight: float
    max_features: int
    max_name_bytes: int
    max_event_bytes: int
    n_rows: int


class Scanned(NamedTuple):
    """What the loop found in N messages; only those to LEARN have features, a label and a weight.

    Args:
        outcomes: (N,) uint8.
        offsets: (N + 1,) int64; message m owns ``rows[offsets[m]:offsets[m + 1]]``.
        labels, weights: (N,) float64.
        rows, values, is_number: (nnz,), as in `model.features.Batch`.
    """

    outcomes: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    labels: NDArray[np.float64]
    weights: NDArray[np.float64]
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    is_number: NDArray[np.bool_]


class Addresses(NamedTuple):
    """Where the arrays of `Scanned` lie."""

    outcomes: int
    offsets: int
    labels: int
    weights: int
    rows: int
    values: int
    is_number: int


def pack_names(roles: Mapping[str, int]) -> NDArray[np.uint8]:
    """Names and their roles for `scan`: of each its length and its role, 8 bytes each, its UTF-8, 8 bytes 0.

    The length -1 ends them.
    """
    packed = b""
    for name, role in roles.items():
        text = name.encode("utf-8", "surrogatepass")
        packed += np.array([len(text), role], np.int64).tobytes() + text + PADDING
    return np.frombuffer(packed + np.array([-1], np.int64).tobytes(), np.uint8)


def scan(messages: Sequence[bytes | None], names: NDArray[np.uint8], limits: Limits) -> Scanned:
    """Scans N messages; a missing one is LEFT. `names` is what `pack_names` gives."""
    present = [message or b"" for message in messages]
    starts = np.zeros(len(present) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, present), np.int64, len(present)) + 1, out=starts[1:])
    buffer = np.frombuffer(b"\0".join([*present, PADDING]), np.uint8)
    most = len(buffer) // 2  # the shortest feature, `"":1,`, takes five bytes and gives two
    scanned = Scanned(
        outcomes=np.empty(len(present), np.uint8),
        offsets=np.zeros(len(present) + 1, np.int64),
        labels=np.empty(len(present)),
        weights=np.empty(len(present)),
        rows=np.empty(most, np.int64),
        values=np.empty(most),
        is_number=np.empty(most, np.bool_),
    )
    slots = np.zeros(1 << SLOT_BITS, np.int64)
    n = scan_messages(
        buffer.ctypes.data,
        starts.ctypes.data,
        len(present),
        names.ctypes.data,
        limits,
        slots.ctypes.data,
        Addresses(*(array.ctypes.data for array in scanned)),
    )
    return scanned._replace(rows=scanned.rows[:n], values=scanned.values[:n], is_number=scanned.is_number[:n])


# --- memory ---------------------------------------------------------------------------------------------------------


byte = loader(types.uint8, types.int64)
word32 = loader(types.uint32, types.uint64)
word64 = loader(types.uint64)
signed64 = loader(types.int64)


@njit
def low_bytes(word, n):  # type: ignore[no-untyped-def]
    """The first `n` (0 to 7) bytes of a word."""
    return word & ((np.uint64(1) << np.uint64(8 * n)) - np.uint64(1))


@njit
def is_same(one, other, n):  # type: ignore[no-untyped-def]
    """Whether `n` bytes at two addresses are equal."""
    while n >= 8:
        if word64(one) != word64(other):
            return False
        one += 8
        other += 8
        n -= 8
    return low_bytes(word64(one) ^ word64(other), n) == np.uint64(0)


# --- white space and strings ----------------------------------------------------------------------------------------


@njit
def skip_space(i):  # type: ignore[no-untyped-def]
    """The first byte from `i` on that is not white space, and where it is."""
    c = byte(i)
    while c <= SPACE and (c == SPACE or c == LINE_FEED or c == RETURN or c == TAB):
        i += 1
        c = byte(i)
    return c, i


@njit
def first_special(word):  # type: ignore[no-untyped-def]
    """Which of eight bytes is the first that is a quote, a backslash, a control character or not ASCII; 8: none.

    ``x - 1 & ~x`` has the high bit of the first zero byte of x, and may have it in bytes after that one.
    """
    ones = np.uint64(0x0101010101010101)
    quote = word ^ (ones * np.uint64(QUOTE))
    slash = word ^ (ones * np.uint64(BACKSLASH))
    hits = ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((word - ones * np.uint64(SPACE)) & ~word) | word
    hits &= ones << np.uint64(7)
    if hits == np.uint64(0):
        return 8
    lowest = (hits & (~hits + np.uint64(1))) >> np.uint64(7)  # 1 << 8 * answer
    return np.int64((lowest * np.uint64(0x0001020304050607)) >> np.uint64(56))


@njit
def skip_character(i):  # type: ignore[no-untyped-def]
    """Behind the non-ASCII character at `i`; -1 where it is not UTF-8 (RFC 3629: shortest form, no surrogates)."""
    c = byte(i)
    low, high = 0x80, 0xBF  # what the second byte may be
    if 0xC2 <= c <= 0xDF:
        n = 2
    elif 0xE0 <= c <= 0xEF:
        n = 3
        if c == 0xE0:
            low = 0xA0
        elif c == 0xED:
            high = 0x9F
    elif 0xF0 <= c <= 0xF4:
        n = 4
        if c == 0xF0:
            low = 0x90
        elif c == 0xF4:
            high = 0x8F
    else:
        return -1
    if not low <= byte(i + 1) <= high:
        return -1
    for k in range(2, n):
        if not 0x80 <= byte(i + k) <= 0xBF:
            return -1
    return i + n


@njit
def end_of_string(i):  # type: ignore[no-untyped-def]
    """The quote that ends the string whose text begins at `i`; -1 where the string is left."""
    while True:
        n = first_special(word64(i))
        i += n
        if n == 8:
            continue
        c = byte(i)
        if c == QUOTE:
            return i
        if c < 0x80:
            return -1
        i = skip_character(i)
        if i < 0:
            return -1


# --- numbers --------------------------------------------------------------------------------------------------------


@njit
def multiply(x, y):  # type: ignore[no-untyped-def]
    """The upper and the lower 64 bits of a product."""
    half = np.uint64(32)
    mask = np.uint64(0xFFFFFFFF)
    a, b, c, d = x >> half, x & mask, y >> half, y & mask
    middle = ((b * d) >> half) + ((a * d) & mask) + b * c
    return a * c + ((a * d) >> half) + (middle >> half), x * y


@njit
def scale(mantissa, exponent):  # type: ignore[no-untyped-def]
    """The float64 nearest to mantissa * 10**exponent; -1 where that is not sure.

    Two numbers that float64 holds need one rounding (Clinger 1990). For others the first bits of the product nearly
    always settle it (Eisel and Lemire, "Number parsing at a gigabyte per second", 2021).
    """
    while exponent < 0 and mantissa > np.uint64(MAX_EXACT_MANTISSA) and mantissa % np.uint64(10) == np.uint64(0):
        mantissa //= np.uint64(10)
        exponent += 1
    if exponent == 0 or mantissa == np.uint64(0):
        return np.float64(mantissa)
    if mantissa <= np.uint64(MAX_EXACT_MANTISSA) and -MAX_EXACT_POWER <= exponent <= MAX_EXACT_POWER:
        power = POWERS[np.uint64(abs(exponent))]
        return np.float64(mantissa) * power if exponent > 0 else np.float64(mantissa) / power
    if not -MAX_POWER <= exponent <= MAX_POWER:
        return -1.0
    shift = 0
    while mantissa < np.uint64(1 << 63):
        mantissa <<= np.uint64(1)
        shift += 1
    high, low = multiply(mantissa, FIVES[np.uint64(exponent + MAX_POWER)])
    ends = np.uint64(0x1FF)
    if high & ends == ends:  # what is missing below might carry into the answer
        more, _ = multiply(mantissa, FIVES_BELOW[np.uint64(exponent + MAX_POWER)])
        low += more
        high += np.uint64(low < more)
        if high & ends == ends and low == ~np.uint64(0):
            return -1.0
    is_upper = np.int64(high >> np.uint64(63))
    bits = high >> np.uint64(9 + is_upper)  # 54 of them, the last to round by
    if high & ends == np.uint64(0) and low == np.uint64(0) and bits & np.uint64(3) == np.uint64(1):  # about halfway
        return -1.0
    bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
    # 217706 / 2**16 is log2(10), near enough for every exponent here.
    return math.ldexp(np.float64(bits), ((217706 * exponent) >> 16) + 11 + is_upper - shift)


@njit
def is_digit(c):  # type: ignore[no-untyped-def]
    return DIGIT_0 <= c <= DIGIT_9


@njit
def read_digits(i, mantissa):  # type: ignore[no-untyped-def]
    """Appends the digits from `i` on to `mantissa`; returns where they end, too."""
    while is_digit(byte(i)):
        mantissa = mantissa * np.uint64(10) + np.uint64(byte(i) - DIGIT_0)
        i += 1
    return mantissa, i


@njit
def read_number(i):  # type: ignore[no-untyped-def]
    """The number at `i`: its kind (OTHER: left), what it is, and where it ends."""
    is_negative = byte(i) == MINUS
    begin = i + is_negative
    mantissa, i = read_digits(begin, np.uint64(0))
    n_digits = i - begin
    if n_digits == 0 or (n_digits > 1 and byte(begin) == DIGIT_0):
        return OTHER, 0.0, i
    kind = INTEGER
    exponent = np.int64(0)
    if byte(i) == POINT:
        kind = FRACTION
        begin = i + 1
        first = begin  # digit that counts
        while mantissa == np.uint64(0) and byte(first) == DIGIT_0:
            first += 1
        mantissa, i = read_digits(first, mantissa)
        if i == begin:
            return OTHER, 0.0, i
        exponent = begin - i
        n_digits += i - first
    if byte(i) | LOWER == LOWER_E:
        kind = FRACTION
        sign = byte(i + 1)
        begin = i + 1 + (sign == MINUS or sign == PLUS)
        digits, i = read_digits(begin, np.uint64(0))
        if i == begin or i - begin > 4:
            return OTHER, 0.0, i
        power = np.int64(digits)
        exponent += -power if sign == MINUS else power
    if n_digits > MAX_DIGITS:
        return OTHER, 0.0, i
    if kind == INTEGER and is_negative and mantissa == np.uint64(0):  # -0, whose category is "0"
        return OTHER, 0.0, i
    x = scale(mantissa, exponent)
    if x < 0.0:
        return OTHER, 0.0, i
    return kind, -x if is_negative else x, i


@njit
def read_value(i):  # type: ignore[no-untyped-def]
    """The value at `i`: its kind, what it is as a number, where its text begins and ends, and where to go on."""
    c = byte(i)
    if c == QUOTE:
        end = end_of_string(i + 1)
        return STRING if end >= 0 else OTHER, 0.0, i + 1, end, end + 1
    if is_digit(c) or c == MINUS:
        kind, x, end = read_number(i)
        return kind, x, i, end, end
    word = word32(i)
    if word == np.uint64(NULL_WORD):
        return NULL, 0.0, i, i + 4, i + 4
    if word == np.uint64(TRUE_WORD):
        return BOOLEAN, 1.0, i, i + 4, i + 4
    if c == LOWER_F and word32(i + 1) == np.uint64(ALSE_WORD):
        return BOOLEAN, 0.0, i, i + 5, i + 5
    return OTHER, 0.0, i, i, i


# --- hashing: MurmurHash3 (32 bits, seed 0) of `name` or `name=value`, as FeatureHasher has it ------------------------
# A hash underway is `h`, over the blocks of four bytes so far, and `tail`, the up to seven bytes behind them.


@njit
def rotate(x, n):  # type: ignore[no-untyped-def]
    return np.uint32(x << np.uint32(n)) | np.uint32(x >> np.uint32(32 - n))


@njit
def spread(block):  # type: ignore[no-untyped-def]
    return np.uint32(rotate(np.uint32(np.uint32(block) * np.uint32(0xCC9E2D51)), 15) * np.uint32(0x1B873593))


@njit
def mix_block(h, block):  # type: ignore[no-untyped-def]
    return np.uint32(rotate(h ^ spread(block), 13) * np.uint32(5) + np.uint32(0xE6546B64))


@njit
def hash_name(begin, end):  # type: ignore[no-untyped-def]
    """`h` and `tail` (0 to 3 bytes) of a name."""
    h = np.uint32(0)
    while end - begin >= 4:
        h = mix_block(h, word32(begin))
        begin += 4
    return h, low_bytes(word32(begin), end - begin)


@njit
def end_hash(h, tail, n_tail, n_bytes, n_rows):  # type: ignore[no-untyped-def]
    """The row, abs(hash) mod n_rows, of `n_bytes` bytes of which `n_tail` are in `tail`."""
    if n_tail >= 4:
        h = mix_block(h, tail)
        tail >>= np.uint64(32)
    h ^= spread(tail) ^ np.uint32(n_bytes)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    h ^= h >> np.uint32(16)
    return abs(np.int64(np.int32(h))) & (n_rows - 1)


@njit
def row_of_number(h, tail, n_name, n_rows):  # type: ignore[no-untyped-def]
    return end_hash(h, tail, n_name & 3, n_name, n_rows)


@njit
def row_of_category(h, tail, n_name, begin, end, n_rows):  # type: ignore[no-untyped-def]
    """The row of a name and the value from `begin` to `end`."""
    n_tail = n_name & 3
    n_bytes = n_name + 1 + end - begin
    tail |= np.uint64(EQUALS) << np.uint64(8 * n_tail)
    n_tail += 1
    while end - begin >= 4:
        tail |= word32(begin) << np.uint64(8 * n_tail)
        h = mix_block(h, tail)
        tail >>= np.uint64(32)
        begin += 4
    tail |= low_bytes(word32(begin), end - begin) << np.uint64(8 * n_tail)
    return end_hash(h, tail, n_tail + end - begin, n_bytes, n_rows)


# --- names ----------------------------------------------------------------------------------------------------------


@njit
def find_role(name, n_name, names):  # type: ignore[no-untyped-def]
    """The roles of a name, as bits; 0: none."""
    while True:
        n = signed64(names)
        if n < 0:
            return 0
        if n == n_name and is_same(name, names + 16, n):
            return signed64(names + 8)
        names += 16 + n + 8


@njit
def is_new_name(event, name, n_name, h, tail, slots):  # type: ignore[no-untyped-def]
    """Notes a name of the event that begins at `event`; False where it came before, or that is not sure.

    A slot holds where a name begins; one that begins before this event counts for nothing.
    """
    mixed = ((np.uint64(h) << np.uint64(24)) ^ tail) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(64 - SLOT_BITS))
    for _ in range(MAX_PROBES):
        place = slots + 8 * slot
        other = signed64(place)
        if other < event:
            store(place, name)
            return True
        if is_same(name, other, n_name + 1):  # with the quote behind it
            return False
        slot = (slot + 1) & ((1 << SLOT_BITS) - 1)
    return False


# --- events ---------------------------------------------------------------------------------------------------------


@njit
def is_label(x, limits):  # type: ignore[no-untyped-def]
    return (x == 0.0 or x == 1.0) if limits.is_binary else limits.lowest <= x <= limits.highest


@njit
def add_feature(found, n, row, value, is_number):  # type: ignore[no-untyped-def]
    """Writes feature `n`; returns the next one's number."""
    store(found.rows + 8 * n, row)
    store(found.values + 8 * n, value)
    store(found.is_number + n, np.uint8(is_number))
    return n + 1


@njit
def add_features(found, n, name_hash, n_name, value, n_rows):  # type: ignore[no-untyped-def]
    """Writes what a name and its value give, from feature `n` on; returns the next one's number."""
    h, tail = name_hash
    kind, x, begin, end, _ = value
    if kind == INTEGER or kind == FRACTION:
        n = add_feature(found, n, row_of_number(h, tail, n_name, n_rows), x + 0.0, True)  # -0.0 becomes 0.0
    if kind != FRACTION and kind != NULL:
        n = add_feature(found, n, row_of_category(h, tail, n_name, begin, end, n_rows), 1.0, False)
    return n


@njit(forceinline=True)
def scan_event(event, end, names, limits, slots, found, first):  # type: ignore[no-untyped-def]
    """Scans the message from `event` to `end`; its features go to `first` and after.

    Returns:
        The outcome, where the next event's features go, the label and the weight.
    """
    left = LEFT, first, 0.0, 1.0
    n = first
    label, weight = 0.0, 1.0
    has_label = False
    met = 0  # roles
    is_inside = False  # the object that holds the features
    c, i = skip_space(event)
    if c != OPEN or end - event > limits.max_event_bytes:
        return left
    c, i = skip_space(i + 1)
    while True:  # a name and its value a turn
        if c != QUOTE:
            return left
        name = i + 1
        i = end_of_string(name)
        n_name = i - name
        if i < 0:
            return left
        c, i = skip_space(i + 1)
        if c != COLON:
            return left
        c, i = skip_space(i + 1)
        role = 0 if is_inside and not limits.has_ignored else find_role(name, n_name, names)
        if not is_inside:
            if role & met & ONCE:
                return left
            met |= role
            if role & FEATURES:
                if c != OPEN or role & (LABEL | WEIGHT):
                    return left
                is_inside = True
                c, i = skip_space(i + 1)
                continue
        value = read_value(i)
        kind, x, i = value[0], value[1], value[4]
        if kind == OTHER:
            return left
        if (is_inside or limits.is_whole) and not role & IGNORED:
            h, tail = hash_name(name, name + n_name)
            if n_name > limits.max_name_bytes or not is_new_name(event, name, n_name, h, tail, slots):
                return left
            n = add_features(found, n, (h, tail), n_name, value, limits.n_rows)
        if role & LABEL and not is_inside and kind != NULL:
            if kind == STRING or not is_label(x, limits):
                return left
            has_label = True
            label = x
        if role & WEIGHT and not is_inside and kind != NULL:
            if kind == STRING or kind == BOOLEAN or not 0.0 <= x <= limits.max_weight:
                return left
            weight = x
        c, i = skip_space(i)
        if c == CLOSE and is_inside:
            is_inside = False
            c, i = skip_space(i + 1)
        if c == CLOSE:
            break
        if c != COMMA:
            return left
        c, i = skip_space(i + 1)
    c, i = skip_space(i + 1)
    if i != end or n - first > limits.max_features or not (limits.is_whole or met & FEATURES):
        return left
    if limits.needs_label and not has_label:
        return UNLABELLED, first, label, weight
    return LEARN, n, label, weight


@njit(cache=True, nogil=True)
def scan_messages(buffer, starts, n_messages, names, limits, slots, found):  # type: ignore[no-untyped-def]
    """Fills `found`; returns how many features there are. All but `n_messages` and `limits` are addresses.

    Message m lies from ``buffer + starts[m]`` up to the byte 0 before the next one.
    """
    n = 0
    for message in range(n_messages):
        begin = buffer + signed64(starts + 8 * message)
        end = buffer + signed64(starts + 8 * (message + 1)) - 1
        outcome, n, label, weight = scan_event(begin, end, names, limits, slots, found, n)
        store(found.outcomes + message, np.uint8(outcome))
        store(found.offsets + 8 * (message + 1), n)
        store(found.labels + 8 * message, label)
        store(found.weights + 8 * message, weight)
    return n
