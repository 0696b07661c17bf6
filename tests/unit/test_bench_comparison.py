"""`python -m bench --check`: what counts as worse than the committed run, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.comparison import compare
from bench.results import Row

SPEED = Row("learning", "VW default", "speed", 80_000.0, "events/s", 5.0, "ours / this", "higher")
LATENCY = Row("http", "under ingest", "p99", 2.0, "ms", 1.1, "to idle", "lower")
LOSS = Row("learning", "flexihash", "log loss", 0.42, "log loss", allowed_loss=0.002)
NOISE = Row("http", "under ingest", "p99.9", 9.0, "ms", 3.0, "to idle")
SECTIONS = ("learning", "http")


@pytest.mark.parametrize(
    "after",
    [
        replace(SPEED, ratio=4.1),  # within a fifth
        replace(SPEED, ratio=50.0),
        replace(SPEED, value=1.0),  # on a slower machine
        replace(LATENCY, ratio=1.3),
        replace(LATENCY, ratio=0.1),
        replace(LOSS, value=0.4219),
        replace(LOSS, value=0.1),
        replace(NOISE, ratio=99.0),
    ],
)
def test_what_is_as_good_or_better_passes(after: Row) -> None:
    before = [SPEED, LATENCY, LOSS, NOISE]
    later = [after if row.name == after.name else row for row in before]
    assert compare(before, later, SECTIONS) == []


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (replace(SPEED, ratio=3.9), "ratio 3.90 was 5.00 (ours / this, higher is better)"),
        (replace(SPEED, ratio=None), "ratio no was 5.00"),
        (replace(LATENCY, ratio=1.4), "ratio 1.40 was 1.10 (to idle, lower is better)"),
        (replace(LATENCY, ratio=float("nan")), "ratio nan was 1.10"),
        (replace(LOSS, value=0.4221), "0.4221 log loss was 0.4200; at most 0.002 more"),
        (replace(LOSS, value=float("nan")), "nan log loss was 0.4200"),
        (replace(LOSS, value=None), "nan log loss was 0.4200"),
    ],
)
def test_what_is_worse_is_named(after: Row, words: str) -> None:
    before = [SPEED, LATENCY, LOSS, NOISE]
    later = [after if row.name == after.name else row for row in before]
    (complaint,) = compare(before, later, SECTIONS)
    assert complaint.startswith(f"{after.name}: ")
    assert words in complaint


def test_a_missing_figure_is_named_unless_its_section_was_not_run_or_it_is_not_compared() -> None:
    before = [SPEED, LATENCY, LOSS, NOISE]
    assert compare(before, [LOSS], ("learning",)) == ["learning: VW default, speed: missing; it was 8e+04 events/s"]
    assert compare(before, [SPEED, LOSS, LATENCY], SECTIONS) == []


def test_a_figure_that_is_new_passes() -> None:
    assert compare([SPEED], [SPEED, LATENCY], SECTIONS) == []
