"""The scheduler's trace is read right: who waited, how long, and who had the core."""

from __future__ import annotations

import pytest

from bench.waits import Names, Wait, blame, parse

API, LEARNER = 11, 22
TRACE = """\
# tracer: nop
 python-22 [000] d..2. 10.000000: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=python next_pid=22 next_prio=120
 wrk-33    [001] dN.4. 10.001000: sched_wakeup: comm=python pid=11 prio=120 target_cpu=000
 python-22 [000] d..2. 10.004000: sched_switch: prev_comm=python prev_pid=22 prev_prio=120 prev_state=R ==> next_comm=python next_pid=11 next_prio=120
 python-11 [000] dN.4. 10.004500: sched_wakeup: comm=python pid=11 prio=120 target_cpu=000
 python-11 [000] d..2. 10.005000: sched_switch: prev_comm=python prev_pid=11 prev_prio=120 prev_state=S ==> next_comm=python next_pid=22 next_prio=120
 wrk-33    [001] dN.4. 10.009000: sched_wakeup: comm=python pid=11 prio=120 target_cpu=000
 python-22 [000] d..2. 10.009100: sched_switch: prev_comm=python prev_pid=22 prev_prio=120 prev_state=R+ ==> next_comm=python next_pid=11 next_prio=120
"""  # noqa: E501


def test_a_wait_lasts_from_the_wakeup_or_the_preemption_to_the_next_turn() -> None:
    _, waits = parse(TRACE)
    assert [(wait.thread, wait.core) for wait in waits] == [(API, 0), (LEARNER, 0), (API, 0)]
    assert [wait.end - wait.begin for wait in waits] == pytest.approx([0.003, 0.001, 0.0001])


def test_a_wakeup_of_a_thread_that_runs_begins_no_wait() -> None:
    _, waits = parse(TRACE)
    assert waits[-1] == Wait(API, 0, 10.009, 10.0091)


def test_long_waits_are_put_down_to_who_had_the_core() -> None:
    spans, waits = parse(TRACE)
    assert blame(spans, waits, {API}, Names()) == pytest.approx({"python": 0.003})
