"""Whether a run is worse than an earlier one: by ratios within each run, so that the machines need not be the same."""

from __future__ import annotations

from collections.abc import Container, Iterable

from bench.results import Row

ALLOWED_RATIO_LOSS = 0.2


def compare(earlier: Iterable[Row], later: Iterable[Row], sections: Container[str]) -> list[str]:
    """What got worse, in words; empty where nothing did.

    Args:
        sections: that the later run went through; a compared figure of theirs that it lacks is named, too.
    """
    found = {row.name: row for row in later}
    complaints = []
    for row in earlier:
        if row.section in sections and (row.better is not None or row.allowed_loss is not None):
            complaints += _judge(row, found.get(row.name))
    return complaints


def _judge(before: Row, after: Row | None) -> list[str]:
    if after is None:
        return [f"{before.name}: missing; it was {before.value:.4g} {before.unit}"]
    complaints = []
    # Each test is put so that NaN fails it; a file of results has None for it.
    is_compared = before.allowed_loss is not None and before.value is not None
    if is_compared and (after.value is None or not after.value <= before.value + before.allowed_loss):
        found = "nan" if after.value is None else f"{after.value:.4f}"
        complaints.append(
            f"{before.name}: {found} {after.unit} was {before.value:.4f}; "
            f"at most {before.allowed_loss:g} more is allowed"
        )
    if before.better is not None and before.ratio is not None and not _is_kept(before, after):
        ratio = "no" if after.ratio is None else f"{after.ratio:.2f}"
        complaints.append(
            f"{before.name}: ratio {ratio} was {before.ratio:.2f} ({before.ratio_of}, {before.better} is better); "
            f"more than {ALLOWED_RATIO_LOSS:.0%} worse"
        )
    return complaints


def _is_kept(before: Row, after: Row) -> bool:
    if before.ratio is None or after.ratio is None:
        return False
    if before.better == "higher":
        return after.ratio >= before.ratio * (1 - ALLOWED_RATIO_LOSS)
    return after.ratio <= before.ratio * (1 + ALLOWED_RATIO_LOSS)
