"""Checkpoints without stopping: a shadow of the tables, and a thread that writes it."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
import torch

from flexihash.model import contexts
from flexihash.model.checkpoint.checkpoint_errors import CheckpointError
from flexihash.model.checkpoint.store import CheckpointInfo, CheckpointStore
from flexihash.model.compiled import entry
from flexihash.model.config import ModelConfig
from flexihash.model.kernel import company, rows, slots
from flexihash.model.tables import Tables

FEW_ROWS = 1 << 15  # and
FEW_EVENTS = 1024  # of some rows each: what is copied within milliseconds needs no preparation
MAX_PASSES = 10  # of a preparation: where learning outruns copying, more do not bring it closer
ROW_TENSORS = ("table", "numbers", "touched")  # copied row by row, as the next two; the others are small, copied whole
CONTEXT_TENSORS = (contexts.TABLE, "numbers")  # an event without a label moves both


class Clock(NamedTuple):
    """Events learned from, and events seen, by which the rows that changed are told."""

    learned: int
    seen: int


@entry
def _copy_changed(since, block_rows, blocks, table, numbers, touched, to_table, to_numbers, to_touched):  # type: ignore[no-untyped-def]
    n = 0
    for block in range(len(blocks)):
        if blocks[block] > since:
            begin = block * block_rows
            for row in range(begin, min(begin + block_rows, len(touched))):
                if touched[row] > since:
                    to_table[row] = table[row]
                    to_numbers[row] = numbers[row]
                    to_touched[row] = touched[row]
                    n += 1
    return n


@entry
def _copy_blocks(since, block_rows, blocks, table, numbers, to_table, to_numbers):  # type: ignore[no-untyped-def]
    n = 0
    for block in range(len(blocks)):
        if blocks[block] > since:
            begin, end = block * block_rows, min((block + 1) * block_rows, len(table))
            to_table[begin:end] = table[begin:end]
            to_numbers[begin:end] = numbers[begin:end]
            n += end - begin
    return n


class Shadow:
    """A copy of all tensors of `tables`, brought up to date by copying only the rows that changed.

    Memory is taken by the first copy, not before, so that a restart does not wait for it.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.tensors = {name: torch.empty_like(tensor) for name, tensor in tables.tensors.items()}
        self._since = Clock(-1, -1)  # a row moved later may differ; -1: every row does

    @property
    def is_close(self) -> bool:
        """Whether `refresh` has few rows to copy."""
        if len(self.tensors["touched"]) <= FEW_ROWS:
            return True
        return all(since >= 0 and now - since <= FEW_EVENTS for now, since in zip(self.now(), self._since, strict=True))

    def now(self) -> Clock:
        """The tables' clock. To be read between chunks."""
        live = self._tables.tensors
        n_seen = live["context_state"][company.CONTEXT_EVENTS] if contexts.TABLE in live else 0
        return Clock(int(live["state"][slots.EVENTS]), int(n_seen))

    def approach(self, now: Clock) -> None:
        """Copies the rows that changed until `now` while others change: those are copied again the next time."""
        self._copy_rows()
        self._since = now

    def refresh(self) -> int:
        """Copies what changed since the last time; returns how many rows that were. For the writer, between chunks."""
        n_rows = self._copy_rows()
        for name, tensor in self._tables.tensors.items():
            if name not in ROW_TENSORS and name != contexts.TABLE:
                self.tensors[name].copy_(tensor)
        self._since = self.now()
        return n_rows

    def _copy_rows(self) -> int:
        live = self._tables.tensors
        n_rows: int = _copy_changed(
            self._since.learned,
            rows.BLOCK_ROWS,
            self._tables.blocks,
            *(live[name].numpy() for name in ROW_TENSORS),
            *(self.tensors[name].numpy() for name in ROW_TENSORS),
        )
        if contexts.TABLE in live:
            n_rows += _copy_blocks(
                self._since.seen,
                rows.BLOCK_ROWS,
                self._tables.context_blocks,
                *(live[name].numpy() for name in CONTEXT_TENSORS),
                *(self.tensors[name].numpy() for name in CONTEXT_TENSORS),
            )
        return n_rows


class Saved(msgspec.Struct, frozen=True):
    """What became of one attempt to save.

    Args:
        started_at: Unix time.
        pause_s: seconds that the learner stood still, copying.
        duration_s: seconds until the checkpoint was durable.
        info: the checkpoint, or None where `error` says why there is none.
        positions: next offsets that it holds.
    """

    started_at: float
    pause_s: float
    duration_s: float
    info: CheckpointInfo | None
    error: CheckpointError | None
    positions: dict[str, int]


class Saver:
    """Saves checkpoints of one model, one at a time, from a thread of its own.

    A save is `prepare`, again and again until it is True, then `begin`: most rows are copied while learning goes on,
    and it stands still only for those that changed since.
    """

    def __init__(self, store: CheckpointStore, tables: Tables) -> None:
        self.store = store
        self._shadow = Shadow(tables)
        Shadow(Tables.create(ModelConfig(n_rows=2))).refresh()  # compiles, or loads, what would else stop learning
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._approach: Future[None] | None = None
        self._n_passes = 0
        self._pending: Future[Saved] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a save was begun whose result has not been taken."""
        return self._pending is not None

    def prepare(self) -> bool:
        """Has the thread copy what changed so far; True once so little is left that `begin` takes milliseconds.

        For the writer, between chunks. Calling `begin` without it only takes longer.
        """
        if self._approach is not None and not self._approach.done():
            return False
        self._finish_approach()
        if self._shadow.is_close or self._n_passes == MAX_PASSES:
            return True
        self._n_passes += 1
        self._approach = self._thread.submit(self._shadow.approach, self._shadow.now())
        return False

    def begin(self, *, positions: dict[str, int], **manifest: Any) -> None:
        """Copies the changed rows, then saves them in the background with what `CheckpointStore.save` wants to know."""
        started_at, start = time.time(), time.perf_counter()
        self._finish_approach()
        self._n_passes = 0
        self._shadow.refresh()
        pause_s = time.perf_counter() - start
        self._pending = self._thread.submit(self._save, started_at, start, pause_s, positions, manifest)

    def take_result(self, wait: bool = False) -> Saved | None:
        """The result of the save that was begun, once; None while it runs, or where there is none."""
        if self._pending is None or not (wait or self._pending.done()):
            return None
        pending, self._pending = self._pending, None
        return pending.result()

    def close(self) -> None:
        """Waits for a save under way and ends the thread."""
        self._thread.shutdown(wait=True)

    def _finish_approach(self) -> None:
        approach, self._approach = self._approach, None
        if approach is not None:
            approach.result()

    def _save(
        self, started_at: float, start: float, pause_s: float, positions: dict[str, int], manifest: dict[str, Any]
    ) -> Saved:
        info, error = None, None
        try:
            info = self.store.save(self._shadow.tensors, positions=positions, **manifest)
        except CheckpointError as failure:
            error = failure
        return Saved(started_at, pause_s, time.perf_counter() - start, info, error, positions)
