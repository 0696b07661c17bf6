"""The fast path of decoding: plain flat events go from JSON bytes to hashed rows in one compiled loop.

It gives what parsing, flattening and hashing would give, bit for bit, or leaves the message to them. Left are: nested
values, escapes, duplicate names, numbers whose nearest float64 takes more than a few steps to find, everything that is
not valid, and everything that `Layout` does not know of.

The messages lie in one buffer, each followed by a byte 0, which JSON does not allow anywhere. So every loop over bytes
ends at the message's end without looking where that is.

Constants that the compiled functions read stay in this file: Numba's cache watches no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

LEFT, LEARN, UNLABELLED = 0, 1, 2  # what became of a message

LABEL, WEIGHT, FEATURES, IGNORED = 1, 2, 4, 8  # what a name stands for, as bits: a setting may give one name two roles
ONCE = LABEL | WEIGHT | FEATURES  # an event with two of them is left

NULL, BOOLEAN, INTEGER, FRACTION, STRING, OTHER = 0, 1, 2, 3, 4, 5  # kinds of value; OTHER is left, or an object

QUOTE, COMMA, MINUS, PLUS, POINT, ZERO, NINE = 0x22, 0x2C, 0x2D, 0x2B, 0x2E, 0x30, 0x39
COLON, EQUALS, OPEN, CLOSE, BACKSLASH = 0x3A, 0x3D, 0x7B, 0x7D, 0x5C
LOWER_E = 0x65
LOWER = 0x20  # this bit makes a letter lower case
NULL_WORD, TRUE_WORD, FALSE_WORD = (int.from_bytes(word, "little") for word in (b"null", b"true", b"alse"))

PADDING = bytes(8)  # after the last message: words are read whole

SLOT_BITS = 12  # of the set that finds duplicate names: 32 KiB, of which a name takes 8 bytes
MAX_PROBES = 32  # before an event with very many names is left

MAX_DIGITS = 19  # of a mantissa that fits in 64 bits
EXACT_MANTISSA = 1 << 53  # float64 holds every integer up to here
MAX_EXACT_POWER = 22  # and every power of ten up to this one
MAX_POWER = 280  # decimal exponents up to here, either way, give ordinary float64s below `model.features.MAX_MAGNITUDE`
POWERS = np.array([10.0**k for k in range(MAX_EXACT_POWER + 1)])


def _leading_bits(exponent: int) -> int:
    """The first 64 bits of 5**exponent, cut off."""
    if exponent >= 0:
        power: int = 5**exponent
        return power << 64 >> power.bit_length()
    power = int(5**-exponent)
    return (1 << (power.bit_length() + 63)) // power


FIVES = np.array([_leading_bits(exponent) for exponent in range(-MAX_POWER, MAX_POWER + 1)], np.uint64)


class Layout(NamedTuple):
    """What the loop must know of the wire format and the task.

    Args:
        names: (bytes,) uint8, from `pack_names`.
        is_whole: the features are the whole event, not an object in it.
        has_ignored: some name is IGNORED.
        is_binary: labels are 0 or 1; else from `lowest` to `highest`.
        max_weight, max_features, max_name_bytes, max_event_bytes: an event beyond is left.
        n_rows: a power of two.
    """

    names: NDArray[np.uint8]
    is_whole: bool
    has_ignored: bool
    is_binary: bool
    lowest: float
    highest: float
    max_weight: float
    max_features: int
    max_name_bytes: int
    max_event_bytes: int
    n_rows: int


class Scanned(NamedTuple):
    """What the loop found in N messages; only those with the outcome LEARN have features, a label and a weight.

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


def pack_names(roles: Mapping[str, int]) -> NDArray[np.uint8]:
    """Names and their roles, one after the other: length and role, 8 bytes each, then the UTF-8, then 8 bytes 0.

    A length of -1 ends them.
    """
    names = [(name.encode("utf-8", "surrogatepass"), role) for name, role in roles.items()]
    packed = [np.array([len(name), role], np.int64).tobytes() + name + PADDING for name, role in names]
    return np.frombuffer(b"".join([*packed, np.array([-1], np.int64).tobytes()]), np.uint8)


def scan(messages: Sequence[bytes | None], layout: Layout) -> Scanned:
    """Scans N messages; a missing one is LEFT."""
    present = [message or b"" for message in messages]
    starts = np.zeros(len(present) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, present), np.int64, len(present)) + 1, out=starts[1:])
    buffer = np.frombuffer(b"\0".join([*present, PADDING]), np.uint8)
    most = len(buffer) // 2  # the shortest feature, `"":1,`, takes five bytes and gives two
    rows, values, is_number = np.empty(most, np.int64), np.empty(most), np.empty(most, np.bool_)
    outcomes = np.empty(len(present), np.uint8)
    offsets = np.zeros(len(present) + 1, np.int64)
    labels, weights = np.empty(len(present)), np.empty(len(present))
    slots = np.zeros(1 << SLOT_BITS, np.int64)
    n = scan_messages(
        buffer.ctypes.data, starts, layout.names.ctypes.data, *layout[1:], slots,
        outcomes, offsets, labels, weights, rows, values, is_number,
    )  # fmt: skip
    return Scanned(outcomes, offsets, labels, weights, rows[:n], values[:n], is_number[:n])


# --- memory ---------------------------------------------------------------------------------------------------------
# Bytes are read by their address, not out of arrays: Numba counts references to an array on every call that takes one,
# in atomic steps that would take longer than the call.


def _load(bits):  # type: ignore[no-untyped-def]
    """A function that loads an unsigned little-endian integer of `bits` bits from any address, as int64 or uint64."""

    @intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context, address):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            place = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            loaded = builder.load(place, align=1)
            return loaded if bits == 64 else builder.zext(loaded, ir.IntType(64))

        return (types.uint64 if bits > 8 else types.int64)(types.int64), generate

    return load


byte, word32, word64 = _load(8), _load(32), _load(64)


@njit(cache=True, nogil=True)
def is_same(one, other, n):  # type: ignore[no-untyped-def]
    """Whether `n` bytes at two addresses are equal; reads up to seven more."""
    while n >= 8:
        if word64(one) != word64(other):
            return False
        one += 8
        other += 8
        n -= 8
    return low_bytes(word64(one) ^ word64(other), n) == np.uint64(0)


@njit(cache=True, nogil=True)
def low_bytes(word, n):  # type: ignore[no-untyped-def]
    """The first `n` (0 to 7) bytes of a word."""
    return word & ((np.uint64(1) << np.uint64(8 * n)) - np.uint64(1))


# --- strings and white space ----------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def skip_space(i):  # type: ignore[no-untyped-def]
    """The first byte from `i` on that is not white space, and where it is."""
    c = byte(i)
    while c <= 0x20 and (c == 0x20 or c == 0x0A or c == 0x0D or c == 0x09):
        i += 1
        c = byte(i)
    return c, i


@njit(cache=True, nogil=True)
def is_digit(c):  # type: ignore[no-untyped-def]
    return ZERO <= c <= NINE


@njit(cache=True, nogil=True)
def first_special(word):  # type: ignore[no-untyped-def]
    """Which of a word's bytes is the first that is a quote, a backslash, a control character or not ASCII; 8: none.

    The usual test for a zero byte in a word, x - 1 & ~x, is exact up to the first hit, and no more is asked.
    """
    ones = np.uint64(0x0101010101010101)
    highs = np.uint64(0x8080808080808080)
    quote = word ^ (ones * np.uint64(QUOTE))
    slash = word ^ (ones * np.uint64(BACKSLASH))
    hits = (quote - ones) & ~quote | (slash - ones) & ~slash | (word - ones * np.uint64(0x20)) & ~word | word
    hits &= highs
    if hits == np.uint64(0):
        return 8
    lowest = (hits & (~hits + np.uint64(1))) >> np.uint64(7)  # 1 << 8 * answer
    return np.int64((lowest * np.uint64(0x0001020304050607)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def skip_character(i):  # type: ignore[no-untyped-def]
    """Behind the non-ASCII character at `i`; -1 where that is not UTF-8 (RFC 3629: shortest form, no surrogates)."""
    c = byte(i)
    second = byte(i + 1)
    if 0xC2 <= c <= 0xDF:
        n, low, high = 1, 0x80, 0xBF
    elif 0xE0 <= c <= 0xEF:
        n, low, high = 2, (0xA0 if c == 0xE0 else 0x80), (0x9F if c == 0xED else 0xBF)
    elif 0xF0 <= c <= 0xF4:
        n, low, high = 3, (0x90 if c == 0xF0 else 0x80), (0x8F if c == 0xF4 else 0xBF)
    else:
        return -1
    if not low <= second <= high:
        return -1
    for k in range(2, n + 1):
        if byte(i + k) & 0xC0 != 0x80:
            return -1
    return i + n + 1


@njit(cache=True, nogil=True)
def end_of_string(i):  # type: ignore[no-untyped-def]
    """The quote that ends the string whose text begins at `i`; -1 where the string is left."""
    while True:
        at = first_special(word64(i))
        i += at
        if at == 8:
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


@njit(cache=True, nogil=True)
def multiply_high(x, y):  # type: ignore[no-untyped-def]
    """The upper and the lower 64 bits of a product."""
    half = np.uint64(32)
    mask = np.uint64(0xFFFFFFFF)
    a, b, c, d = x >> half, x & mask, y >> half, y & mask
    middle = (b * d >> half) + (a * d & mask) + b * c
    return a * c + (a * d >> half) + (middle >> half), x * y


@njit(cache=True, nogil=True)
def scale(mantissa, exponent):  # type: ignore[no-untyped-def]
    """mantissa * 10**exponent, correctly rounded; -1 where that is not sure.

    Two exact float64s need one rounding (Clinger 1990); else by the first 128 bits of the product (Eisel and Lemire,
    "Number parsing at a gigabyte per second", 2021), without the second step, which one number in 500 needs.
    """
    if exponent == 0 or mantissa == np.uint64(0):
        return np.float64(mantissa)
    if mantissa <= np.uint64(EXACT_MANTISSA) and -MAX_EXACT_POWER <= exponent <= MAX_EXACT_POWER:
        power = POWERS[np.uint64(abs(exponent))]
        return np.float64(mantissa) * power if exponent > 0 else np.float64(mantissa) / power
    if not -MAX_POWER <= exponent <= MAX_POWER:
        return -1.0
    # 2**shift is what the mantissa moves up by; 217706 / 2**16 is log2(10), near enough for every exponent here
    shift = 0
    while mantissa < np.uint64(1 << 63):
        mantissa <<= np.uint64(1)
        shift += 1
    high, low = multiply_high(mantissa, FIVES[np.uint64(exponent + MAX_POWER)])
    rest = high & np.uint64(0x1FF)
    if rest == np.uint64(0x1FF):  # the bits that FIVES lacks might carry into the answer
        return -1.0
    is_upper = np.int64(high >> np.uint64(63))
    bits = high >> np.uint64(is_upper + 9)  # 54 of them: one more than fits, to round by
    if rest == np.uint64(0) and low == np.uint64(0) and bits & np.uint64(3) == np.uint64(1):  # halfway, or just above
        return -1.0
    bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
    return math.ldexp(np.float64(bits), ((217706 * exponent) >> 16) + 12 + is_upper - shift)


@njit(cache=True, nogil=True)
def read_number(i):  # type: ignore[no-untyped-def]
    """The number at `i`: its kind (OTHER: left), its value, and where it ends."""
    is_negative = byte(i) == MINUS
    i += is_negative
    begin = i
    mantissa = np.uint64(0)
    while is_digit(byte(i)):
        mantissa = mantissa * np.uint64(10) + np.uint64(byte(i) - ZERO)
        i += 1
    n_digits = i - begin
    if n_digits == 0 or (n_digits > 1 and byte(begin) == ZERO):
        return OTHER, 0.0, i
    kind = INTEGER
    exponent = 0
    if byte(i) == POINT:
        kind = FRACTION
        i += 1
        begin = i
        while is_digit(byte(i)):
            mantissa = mantissa * np.uint64(10) + np.uint64(byte(i) - ZERO)
            i += 1
        exponent = begin - i
        n_digits -= exponent
        if exponent == 0:
            return OTHER, 0.0, i
    if byte(i) | LOWER == LOWER_E:
        kind = FRACTION
        i += 1
        sign = byte(i)
        i += sign == MINUS or sign == PLUS
        begin = i
        power = 0
        while is_digit(byte(i)) and i - begin < 4:
            power = power * 10 + byte(i) - ZERO
            i += 1
        if i == begin or is_digit(byte(i)):
            return OTHER, 0.0, i
        exponent += -power if sign == MINUS else power
    if n_digits > MAX_DIGITS:
        return OTHER, 0.0, i
    if kind == INTEGER and is_negative and mantissa == np.uint64(0):  # JSON's -0 is written "0" as a category
        return OTHER, 0.0, i
    x = scale(mantissa, exponent)
    if x < 0.0:
        return OTHER, 0.0, i
    return kind, -x if is_negative else x, i


@njit(cache=True, nogil=True)
def read_value(i):  # type: ignore[no-untyped-def]
    """The value at `i`: its kind, what it is as a number, where its text begins and ends, and where to go on."""
    c = byte(i)
    if c == QUOTE:
        end = end_of_string(i + 1)
        return (STRING if end >= 0 else OTHER), 0.0, i + 1, end, end + 1
    if is_digit(c) or c == MINUS:
        kind, x, end = read_number(i)
        return kind, x, i, end, end
    word = word32(i)
    if word == np.uint64(NULL_WORD):
        return NULL, 0.0, i, i + 4, i + 4
    if word == np.uint64(TRUE_WORD):
        return BOOLEAN, 1.0, i, i + 4, i + 4
    if word32(i + 1) == np.uint64(FALSE_WORD) and c == 0x66:
        return BOOLEAN, 0.0, i, i + 5, i + 5
    return OTHER, 0.0, i, i, i


# --- hashing: MurmurHash3, 32 bits, seed 0, of `name` or `name=value` -----------------------------------------------
# A hash underway is `h`, over whole blocks of four bytes, and `tail`, the up to seven bytes after them.


@njit(cache=True, nogil=True)
def rotate(x, n):  # type: ignore[no-untyped-def]
    return np.uint32(x << np.uint32(n)) | np.uint32(x >> np.uint32(32 - n))


@njit(cache=True, nogil=True)
def mix_block(h, block):  # type: ignore[no-untyped-def]
    return np.uint32(rotate(h ^ spread(block), 13) * np.uint32(5) + np.uint32(0xE6546B64))


@njit(cache=True, nogil=True)
def spread(block):  # type: ignore[no-untyped-def]
    k = np.uint32(np.uint32(block) * np.uint32(0xCC9E2D51))
    return np.uint32(rotate(k, 15) * np.uint32(0x1B873593))


@njit(cache=True, nogil=True)
def hash_name(begin, end):  # type: ignore[no-untyped-def]
    """`h` and `tail` (0 to 3 bytes) of a name."""
    h = np.uint32(0)
    while end - begin >= 4:
        h = mix_block(h, word32(begin))
        begin += 4
    return h, low_bytes(word32(begin), end - begin)


@njit(cache=True, nogil=True)
def end_hash(h, tail, n_tail, n_bytes, n_rows):  # type: ignore[no-untyped-def]
    """The row of `n_bytes` bytes of which `n_tail` (0 to 7) are in `tail`; |hash| mod n_rows, as FeatureHasher has it."""
    if n_tail >= 4:
        h = mix_block(h, tail)
        tail >>= np.uint64(32)
    h = h ^ spread(tail) ^ np.uint32(n_bytes)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    h ^= h >> np.uint32(16)
    return abs(np.int64(np.int32(h))) & (n_rows - 1)


@njit(cache=True, nogil=True)
def row_of_number(h, tail, n_name, n_rows):  # type: ignore[no-untyped-def]
    return end_hash(h, tail, n_name & 3, n_name, n_rows)


@njit(cache=True, nogil=True)
def row_of_category(h, tail, n_name, begin, end, n_rows):  # type: ignore[no-untyped-def]
    n_tail = n_name & 3
    tail |= np.uint64(EQUALS) << np.uint64(8 * n_tail)
    n_tail += 1
    n_bytes = n_name + 1 + end - begin
    while end - begin >= 4:
        tail |= word32(begin) << np.uint64(8 * n_tail)
        h = mix_block(h, tail)
        tail >>= np.uint64(32)
        begin += 4
    tail |= low_bytes(word32(begin), end - begin) << np.uint64(8 * n_tail)
    return end_hash(h, tail, n_tail + end - begin, n_bytes, n_rows)


# --- names ----------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def find_role(name, n_name, names):  # type: ignore[no-untyped-def]
    """The roles of a name, as bits; 0: none."""
    while True:
        n = np.int64(word64(names))
        if n < 0:
            return 0
        if n == n_name and is_same(name, names + 16, n):
            return np.int64(word64(names + 8))
        names += 16 + n + 8


@njit(cache=True, nogil=True)
def is_new_name(event_begin, name, n_name, h, tail, slots):  # type: ignore[no-untyped-def]
    """Notes a name of the event at `event_begin`; False where it was there before, or that isn't sure.

    A slot holds where a name begins; what lies before this event counts as empty.
    """
    mixed = (np.uint64(h) << np.uint64(24) ^ tail) * np.uint64(0x9E3779B97F4A7C15)
    slot = mixed >> np.uint64(64 - SLOT_BITS)
    for _ in range(MAX_PROBES):
        other = slots[slot]
        if other < event_begin:
            slots[slot] = name
            return True
        if is_same(name, other, n_name + 1):  # with the quote behind
            return False
        slot = (slot + np.uint64(1)) & np.uint64((1 << SLOT_BITS) - 1)
    return False


# --- events ---------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def is_label(x, is_binary, lowest, highest):  # type: ignore[no-untyped-def]
    return (x == 0.0 or x == 1.0) if is_binary else lowest <= x <= highest


@njit(cache=True, nogil=True, inline="always")
def scan_event(  # type: ignore[no-untyped-def]
    event_begin, event_end, names, is_whole, has_ignored, is_binary, lowest, highest, max_weight,
    max_features, max_name_bytes, n_rows, slots, rows, values, is_number, first,
):  # fmt: skip
    """Scans one message, with its features at `first` and after.

    Returns:
        The outcome, where its features end, its label and its weight.
    """
    has_label = False
    label, weight = 0.0, 1.0
    met = 0  # roles
    is_inside = False  # the object of the features
    n = first
    c, i = skip_space(event_begin)
    if c != OPEN:
        return LEFT, first, label, weight
    c, i = skip_space(i + 1)
    while True:  # a name and its value a turn
        if c != QUOTE:
            return LEFT, first, label, weight
        name = i + 1
        name_end = end_of_string(name)
        if name_end < 0:
            return LEFT, first, label, weight
        n_name = name_end - name
        c, i = skip_space(name_end + 1)
        if c != COLON:
            return LEFT, first, label, weight
        c, i = skip_space(i + 1)
        role = 0 if is_inside and not has_ignored else find_role(name, n_name, names)
        if not is_inside:
            if met & role & ONCE:
                return LEFT, first, label, weight
            met |= role
            if role & FEATURES:
                if c != OPEN or role & (LABEL | WEIGHT):
                    return LEFT, first, label, weight
                is_inside = True
                c, i = skip_space(i + 1)
                continue
        kind, x, text, text_end, i = read_value(i)
        if kind == OTHER:
            return LEFT, first, label, weight
        if (is_inside or is_whole) and not role & IGNORED:
            h, tail = hash_name(name, name_end)
            if n_name > max_name_bytes or not is_new_name(event_begin, name, n_name, h, tail, slots):
                return LEFT, first, label, weight
            if kind == INTEGER or kind == FRACTION:
                rows[np.uint64(n)] = row_of_number(h, tail, n_name, n_rows)
                values[np.uint64(n)] = x + 0.0  # -0.0 becomes 0.0
                is_number[np.uint64(n)] = True
                n += 1
            if kind != FRACTION and kind != NULL:
                rows[np.uint64(n)] = row_of_category(h, tail, n_name, text, text_end, n_rows)
                values[np.uint64(n)] = 1.0
                is_number[np.uint64(n)] = False
                n += 1
        if not is_inside and kind != NULL:
            if role & LABEL:
                if kind == STRING or not is_label(x, is_binary, lowest, highest):
                    return LEFT, first, label, weight
                label = x
                has_label = True
            if role & WEIGHT:
                if kind == STRING or kind == BOOLEAN or not 0.0 <= x <= max_weight:
                    return LEFT, first, label, weight
                weight = x
        c, i = skip_space(i)
        if c == CLOSE and is_inside:
            is_inside = False
            c, i = skip_space(i + 1)
        if c == CLOSE:
            break
        if c != COMMA:
            return LEFT, first, label, weight
        c, i = skip_space(i + 1)
    c, i = skip_space(i + 1)
    if i != event_end or n - first > max_features or not (is_whole or met & FEATURES):
        return LEFT, first, label, weight
    if not has_label:
        return UNLABELLED, first, label, weight
    return LEARN, n, label, weight


@njit(cache=True, nogil=True)
def scan_messages(  # type: ignore[no-untyped-def]
    buffer, starts, names, is_whole, has_ignored, is_binary, lowest, highest, max_weight,
    max_features, max_name_bytes, max_event_bytes, n_rows, slots,
    outcomes, offsets, labels, weights, rows, values, is_number,
):  # fmt: skip
    """Message m lies from ``buffer + starts[m]`` up to the byte before the next; returns how many features there are.

    `buffer` and `names` are addresses, the others what they are in `Layout` and `Scanned`.
    """
    n = 0
    for event in range(len(outcomes)):
        begin = buffer + starts[event]
        end = buffer + starts[event + 1] - 1
        outcome = LEFT
        if end - begin <= max_event_bytes:
            outcome, n, labels[event], weights[event] = scan_event(
                begin, end, names, is_whole, has_ignored, is_binary, lowest, highest, max_weight,
                max_features, max_name_bytes, n_rows, slots, rows, values, is_number, n,
            )  # fmt: skip
        outcomes[event] = outcome
        offsets[event + 1] = n
    return n
