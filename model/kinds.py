"""Kinds of features, by the patterns that their names match."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

from flexihash.model.patterns import matches

AS_IT_IS, CATEGORY, NUMBER, TIME, TEXT = range(5)
NAMES_CACHED = 1 << 16  # decisions of the patterns kept; names are unbounded, memory is not

Patterns = tuple[str, ...]


@lru_cache(maxsize=NAMES_CACHED)
def find_kind(name: str, categorical: Patterns, numeric: Patterns, times: Patterns, texts: Patterns) -> int:
    """The first kind of which a pattern matches the name."""
    if any(fnmatchcase(name, pattern) for pattern in categorical):
        return CATEGORY
    if any(fnmatchcase(name, pattern) for pattern in numeric):
        return NUMBER
    if is_one_of(name, times):
        return TIME
    return TEXT if is_one_of(name, texts) else AS_IT_IS


def is_exact(pattern: str) -> bool:
    """Whether a pattern stands for one name only."""
    return not any(sign in pattern for sign in "*?[")


@lru_cache(maxsize=NAMES_CACHED)
def is_one_of(name: str, patterns: Patterns) -> bool:
    """Whether a pattern matches the name, or is the name."""
    return any(matches(name, pattern) for pattern in patterns)
