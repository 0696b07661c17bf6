"""What became of the last records: whether most of them taught nothing, and for which reason."""

from __future__ import annotations

from collections import Counter, deque

from flexihash.consumer.status import UNLABELLED, RecentStatus

WINDOW_RECORDS = 1_000
MIN_RECORDS = 100  # fewer say nothing of a stream
BEGIN_SHARE, END_SHARE = 0.5, 0.4  # of what is untaught: two, or a share about the one would begin and end without end

REASONS = (
    "empty",
    "too_large",
    "not_utf8",
    "not_json",
    "not_an_object",
    "no_envelope",
    "deleted",
    "no_features",
    "non_finite_number",
    "too_deep",
    "too_many_features",
    "key_too_long",
    "bad_label",
    "bad_weight",
    "not_finite",
    "poison",
    "unknown_type",
    "not_unicode",
)
"""Every reason for which a record is rejected."""


class Outcomes:
    """Counts over the last WINDOW_RECORDS records, and over those that were read with the first of them."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, Counter[str]]] = deque()
        self._records = 0
        self._untaught: Counter[str] = Counter()
        self._next: Counter[str] = Counter()
        self._is_fruitless = False

    def count_rejected(self, reason: str, n_records: int) -> None:
        """Notes some of the records that are passed next."""
        self._next[reason] += n_records

    def count_unlabelled(self, n_records: int) -> None:
        """The same, for those that have no label."""
        self._next[UNLABELLED] += n_records

    def pass_records(self, n_records: int) -> None:
        """Takes in a batch, of which all that was not counted was learned."""
        self._batches.append((n_records, self._next))
        self._records += n_records
        self._untaught.update(self._next)
        self._next = Counter()
        while self._records - self._batches[0][0] >= WINDOW_RECORDS:
            n_old, old = self._batches.popleft()
            self._records -= n_old
            self._untaught.subtract(old)
        share = self._untaught.total() / self._records
        if self._records >= MIN_RECORDS:
            self._is_fruitless = share > (END_SHARE if self._is_fruitless else BEGIN_SHARE)

    @property
    def status(self) -> RecentStatus:
        """The counts now."""
        untaught = {reason: n for reason, n in self._untaught.most_common() if n}
        return RecentStatus(records=self._records, untaught=untaught, is_fruitless=self._is_fruitless)
