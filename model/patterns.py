"""Names, and glob patterns of names."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern itself, or one of those that it stands for."""
    return name == pattern or fnmatchcase(name, pattern)
