"""Fields: where in an event lies what is no feature, and where the features lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flexihash.consumer.paths import Path, Place, parse_path, plant

TIMESTAMP = "timestamp"
DIGITS = frozenset("0123456789")


class Fields:
    """The fields of the events of one format.

    Args:
        labels: of the label, or of each target.
        weight, id: empty: there is none.
        features: empty: the whole event, but for the fields.
        ignored: what else is no feature, as `FeatureRules` has it; what of it is a path from the event's beginning is
            looked at.

    Attributes:
        outer: names at the top of an event that holds features in an object, beside that object.
        left_out: what is no feature, as a tree of paths from where the features lie.
    """

    def __init__(self, labels: Iterable[str], weight: str, id: str, features: str, ignored: Iterable[str] = ()) -> None:
        self.labels = tuple(map(Place.of, labels))
        self.weight = Place.of(weight) if weight else None
        self.features = Place.of(features) if features else None
        outer = [*self.labels, *map(Place.of, filter(None, (weight, id))), Place.of(TIMESTAMP)]
        self.outer = frozenset(way[0] for place in outer for way in place.ways)
        self._base: Path = self.features.path if self.features else ()
        paths = [way for place in outer for way in place.ways] + [*self._whole_paths(ignored)]
        self.left_out = plant(path[len(self._base) :] for path in paths if self._is_inside(path))

    @property
    def has_digits(self) -> bool:
        """Whether a name that is read, or one on its way, has a digit in it."""
        places = filter(None, (*self.labels, self.weight, self.features))
        return any(not DIGITS.isdisjoint(name) for place in places for way in place.ways for name in way)

    def leaves_out(self, name: str) -> bool:
        """Whether what has this name is no feature, where the features lie."""
        return name in self.left_out and self.left_out[name] is None

    def _is_inside(self, path: Path) -> bool:
        """Whether a path leads deeper than to the features."""
        return len(path) > len(self._base) and path[: len(self._base)] == self._base

    def _whole_paths(self, ignored: Iterable[str]) -> Iterator[Path]:
        """Those that begin at the event: JSON Pointers; with dots, where the features themselves lie at a path."""
        for text in ignored:
            if text.startswith("/") or len(self._base) > 1:
                yield parse_path(text)
