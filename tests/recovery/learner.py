"""The learner of the recovery tests: the real one, made to die where an armed fault says, or given a deliberate bug.

A fault is armed by writing its name to the file that FAULT_FILE names; it strikes once. The names are those of
`model.checkpoint.store.STEPS`, `learn` (in the midst of a fetch), and `abort:TEXT` and `kill:TEXT` (each time that a
record holds TEXT).
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flexihash.consumer.loop
import flexihash.model.saving
import flexihash.service.learner
from flexihash.consumer.decoding import Decoded, EventDecoder
from flexihash.consumer.fence import Fence
from flexihash.consumer.lesson import Lesson
from flexihash.consumer.loop import LearnLoop
from flexihash.consumer.records import Fetch
from flexihash.model.online import Learned, OnlineModel

FAULT_FILE = "RECOVERY_FAULT_FILE"
BUG = "RECOVERY_BUG"
LEARN = "learn"
ABORT, KILL = "abort:", "kill:"
COOL_DOWN_S = 0.5
BUGS = ("early_position", "shadow_row")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm_faults(file: Path) -> None:
    """Has the learner look at the file wherever a fault may strike."""

    def read() -> str:
        try:
            return file.read_text()
        except FileNotFoundError:
            return ""

    def strike(name: str) -> bool:
        if read() != name:
            return False
        file.unlink()
        return True

    confirm_before_rename = flexihash.service.learner._confirm_before_rename

    def die_at_steps(fence: Fence) -> Callable[[str], None]:
        confirm = confirm_before_rename(fence)

        def on_step(step: str) -> None:
            confirm(step)
            if strike(step):
                die()

        return on_step

    learn = OnlineModel.learn

    def die_while_learning(model: OnlineModel, *args: Any) -> Learned:
        if strike(LEARN):
            threading.Timer(random.uniform(0.0, 0.002), die).start()
        return learn(model, *args)

    decode = EventDecoder.decode

    def die_on_text(decoder: EventDecoder, values: Any) -> Decoded:
        name = read()
        for prefix, end in ((ABORT, os.abort), (KILL, die)):
            text = name.removeprefix(prefix).encode()
            if name.startswith(prefix) and any(text in value for value in values if value):
                end()
        return decode(decoder, values)

    flexihash.service.learner._confirm_before_rename = die_at_steps
    OnlineModel.learn = die_while_learning  # type: ignore[method-assign]
    EventDecoder.decode = die_on_text  # type: ignore[method-assign]
    flexihash.consumer.loop.COOL_DOWN_S = COOL_DOWN_S


def plant(bug: str) -> None:
    """Has the learner make a mistake that the recovery tests must notice."""
    if bug == "early_position":
        apply, run = Lesson._apply, LearnLoop.run
        loops: list[LearnLoop] = []

        def run_known(loop: LearnLoop, stop: threading.Event) -> None:
            loops[:] = [loop]
            run(loop, stop)

        def commit_early(lesson: Lesson, fetch: Fetch) -> None:
            lesson.model.advance(fetch.partition, fetch.position)
            loops[0].tend()
            apply(lesson, fetch)

        LearnLoop.run = run_known  # type: ignore[method-assign]
        Lesson._apply = commit_early  # type: ignore[method-assign]
    elif bug == "shadow_row":
        copy = flexihash.model.saving._copy_changed

        def skip_last_row(since: int, block_rows: int, blocks: Any, *arrays: Any) -> Any:
            if since < 0:  # all rows; else the last one would hold what was in memory
                return copy(since, block_rows, blocks, *arrays)
            return copy(since, block_rows, blocks, *(array[:-1] for array in arrays))

        flexihash.model.saving._copy_changed = skip_last_row
    else:
        raise ValueError(f"{bug} is none of {BUGS}")


if __name__ == "__main__":
    if file := os.environ.get(FAULT_FILE):
        arm_faults(Path(file))
    if bug := os.environ.get(BUG):
        plant(bug)
    os._exit(flexihash.service.learner.main())
