"""The core is handed over between two pieces of work, but not to somebody who keeps it."""

from __future__ import annotations

import time

import pytest

from flexihash.consumer.yielding import MAX_CREDIT_S, MAX_SHARE, Yielder

WORK_S = 0.0002
TURNS = 500


def work() -> None:
    """Keeps the core busy."""
    end = time.perf_counter() + WORK_S
    while time.perf_counter() < end:
        pass


def test_hands_over_after_every_piece_of_work_where_others_are_brief() -> None:
    taken: list[None] = []
    give_way = Yielder(lambda: taken.append(None))
    for _ in range(TURNS):
        work()
        give_way()
    assert len(taken) == TURNS


@pytest.mark.parametrize("keeps_s", [0.004, 0.03])
def test_who_keeps_the_core_gets_a_share_of_the_time(keeps_s: float) -> None:
    taken: list[float] = []

    def keep() -> None:
        begin = time.perf_counter()
        time.sleep(keeps_s)
        taken.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    give_way = Yielder(keep)
    for _ in range(TURNS):
        work()
        give_way()
    elapsed = time.perf_counter() - begin
    assert len(taken) > 1
    assert sum(taken[:-1]) <= MAX_CREDIT_S + MAX_SHARE * elapsed + taken[-1]
    assert len(taken) < TURNS
