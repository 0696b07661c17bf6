"""What a checkpoint costs in the midst of ingest, and how soon a killed learner learns again: at 32 MiB and at 1 GiB.

The measuring is that of `bench.recovery`; the sizes are those of the records, 128 of the 160 bytes that a row takes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from bench import recovery
from bench.results import Row

N_ROWS = {"table of 32 MiB": 1 << 18, "table of 1 GiB": 1 << 23}
N_ROUNDS = 3
KINDS = ("of all rows", "of changes")


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Both sizes in turn: figures of one checkpoint of each kind, and the median of N_ROUNDS deaths."""
    rows: list[Row] = []
    for size, n_rows in N_ROWS.items():
        found = recovery.run(n_rows, N_ROUNDS)
        pauses = [checkpoint["pause_s"] for checkpoint in found["checkpoints"]]
        for kind, checkpoint in zip(KINDS, found["checkpoints"], strict=True):
            case = f"{size}, {kind}"
            of_all = checkpoint["pause_s"] / pauses[0]
            rows += [
                Row("checkpoint", case, "pause", checkpoint["pause_s"] * 1e3, "ms", of_all, "to that of all rows"),
                Row("checkpoint", case, "duration", checkpoint["duration_s"], "s"),
                Row("checkpoint", case, "size", checkpoint["size_bytes"] / 2**20, "MiB"),
                Row("checkpoint", case, "learned meanwhile", checkpoint["learned_meanwhile"], "events"),
            ]
        for stage in ("checkpoint", "in all"):
            seconds = [turn.get(stage, 0.0) for turn in found["rounds"]]
            measured = "recovery from SIGKILL" if stage == "in all" else "restore, reading the checkpoint"
            note = f"median of {N_ROUNDS}, longest {max(seconds):.2f}"
            rows.append(Row("checkpoint", size, measured, statistics.median(seconds), "s", note=note))
        say(size)
    return rows, []
