"""The table of goals: each is beside the figure that the run has for it."""

from __future__ import annotations

import pytest

from bench.goals import GOALS, narrowest_loss, slowest_lead
from bench.results import Row

CELLS = {
    "events/s": [Row("learning", "flexihash", "speed", 1_200_000.0, "events/s")],
    "ms": [Row("checkpoint", "table of 1 GiB, of changes", "pause", 4.3, "ms")],
    "p99": [Row("http", "1 worker, under ingest, 1 a request", "p99", 2.1, "ms", 2.8, "to idle")],
}


def peer(case: str, lead: float, loss: float, ours: float) -> list[Row]:
    return [
        Row("learning", case, "speed", 1.0, "events/s", lead),
        Row("learning", case, "log loss", loss, "log loss"),
        Row("learning", case, "log loss of ours", ours, "log loss"),
    ]


ROWS = [
    *peer("VW default", 14.0, 0.47, 0.42),
    *peer("VW --coin", 13.0, 0.46, 0.42),
    *peer("VW default, own JSON parser, API", 7.0, 0.47, 0.42),
    *peer("River FM", 250.0, 0.50, 0.49),
    *peer("scikit-learn SGD by 1000", 1.5, 0.30, 0.42),
]


@pytest.mark.parametrize(
    ("rows", "cells"),
    [
        (CELLS["events/s"], ("at least 1,000,000 events/s", "1,200,000 events/s", "yes")),
        (CELLS["ms"], ("at most 10 ms", "4.3 ms", "yes")),
        (CELLS["p99"], ("at most 1.2 x", "2.8 x", "NO")),
    ],
)
def test_a_goal_stands_beside_its_figure(rows: list[Row], cells: tuple[str, ...]) -> None:
    lines = [goal.cells(rows)[1:] for goal in GOALS]
    assert [line for line in lines if line[1] != "not measured"] == [cells]


def test_the_peers_closest_to_ours_are_judged_by() -> None:
    assert slowest_lead(ROWS) == 13.0
    assert narrowest_loss(ROWS) == 0.49 / 0.50


def test_without_peers_there_is_no_figure() -> None:
    assert slowest_lead([]) is None
    assert narrowest_loss(peer("scikit-learn SGD by 1000", 1.5, 0.30, 0.42)) is None
