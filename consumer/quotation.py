"""Values from events, in messages for people."""

from __future__ import annotations

import math
from typing import Any

import msgspec

KINDS: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}
MOST_QUOTED = 80  # characters


def describe(value: Any) -> str:
    """What kind of JSON a value is."""
    return "null" if value is None else KINDS.get(type(value), f"a {type(value).__name__}")


def quote(value: Any) -> str:
    """The JSON of a value, as far as it is worth showing."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        return msgspec.json.encode(value).decode()[:MOST_QUOTED]
    except (RecursionError, UnicodeEncodeError):  # nested as deep as can be read, which is deeper than can be written
        return describe(value)
