"""Paths: where in an event something lies, ``payload.after.status``, or ``/payload/after/a.b`` for names with dots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Path = tuple[str, ...]  # the names on the way, from the outermost object inwards
Tree = dict[str, Any]  # of paths, by their first names: what follows, again a tree, or None where a path ends

ABSENT: Any = object()  # what is found where nothing is


def parse_path(text: str) -> Path:
    """The names of a path with dots, or of a JSON Pointer (RFC 6901), which begins with a slash."""
    if text.startswith("/"):
        return tuple(name.replace("~1", "/").replace("~0", "~") for name in text[1:].split("/"))
    return tuple(text.split("."))


class Place(NamedTuple):
    """Where a setting says that something lies: under this very name at the top, or else where the path leads."""

    name: str
    path: Path

    @classmethod
    def of(cls, text: str) -> Place:
        """The place that `text` names."""
        return cls(text, parse_path(text))

    @property
    def ways(self) -> tuple[Path, ...]:
        """Both, or the one of a plain name."""
        return tuple(dict.fromkeys(((self.name,), self.path)))

    def find(self, event: Mapping[str, Any]) -> Any:
        """What lies there; ABSENT where nothing does. A path leads through objects alone, not into arrays."""
        if self.name in event:
            return event[self.name]
        found: Any = event
        for name in self.path:
            if not isinstance(found, Mapping) or name not in found:
                return ABSENT
            found = found[name]
        return found


def plant(paths: Iterable[Path]) -> Tree:
    """A tree of paths; one that goes on behind the end of another is part of that one."""
    tree: Tree = {}
    for path in sorted(set(paths), key=len):
        _grow(tree, path)
    return tree


def _grow(tree: Tree, path: Path) -> None:
    if len(path) == 1:
        tree[path[0]] = None
    elif (branch := tree.setdefault(path[0], {})) is not None:
        _grow(branch, path[1:])


def prune(features: Mapping[str, Any], tree: Tree) -> dict[str, Any]:
    """The same without what lies at the ends of a tree's paths."""
    kept: dict[str, Any] = {}
    for name, value in features.items():
        branch = tree.get(name, ABSENT)
        if branch is not None:
            goes_on = branch is not ABSENT and isinstance(value, Mapping)
            kept[name] = prune(value, branch) if goes_on else value
    return kept
