"""The memory of a model: torch tensors in plain memory, or in files that several processes map at once."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from flexihash.model import contexts, durable, outputs
from flexihash.model.config import MAX_PARTITIONS, ModelConfig
from flexihash.model.kernel import activation, aging, calibration, experts, losses, mixture, rows, slots, trees
from flexihash.model.model_errors import ConfigurationError, TablesHeld

CONFIG_FILE = "config.json"
FOLDER_MODE = 0o700  # what was learned of the events is for nobody else
FILE_MODE = 0o600
LOCK_FILE = "lock"
GATE_FILE = "gate"
PATIENCE_S = 0.005  # for a writer, who holds the lock for 3 ms at most unless it is kept from working
RETRY_S = 20e-6  # a reader's sleep between two tries; with what the kernel adds, less than a tenth of a millisecond
METRICS_PREFIX = "metrics."
TREES_PREFIX = "trees."


def layout(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Names, shapes and types of all that a model remembers.

    ``table`` (n_rows, RECORD_WIDTH): the records that `model.kernel` describes. ``numbers`` (n_rows, 3): count, median
    and deviation of a number. ``touched`` (n_rows,): the event that last moved the row. ``state``: biases, label
    statistics, mixture, calibration curve; of one head after the other. ``heads``, ``class_names``: see
    `model.outputs`. ``positions``: the next offset per partition, -1 where none is known.
    ``digests``: of the last record before that offset, 0 where it is not known. ``trees.*``: see
    `model.kernel.trees`.
    """
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "table": ((config.n_rows, rows.RECORD_WIDTH), torch.float32),
        "numbers": ((config.n_rows, activation.N_NUMBER_FIELDS), torch.float64),
        "touched": ((config.n_rows,), torch.int64),
        "state": ((config.n_heads * slots.STATE_WIDTH,), torch.float64),
        "positions": ((MAX_PARTITIONS,), torch.int64),
        "digests": ((MAX_PARTITIONS,), torch.int64),
    }
    for name, shape in _trees_layout().items():
        shapes[TREES_PREFIX + name] = shape
    shapes |= contexts.layout(config)
    shapes |= outputs.layout(config)
    for name, shape in outputs.metrics_layout(config).items():
        shapes[METRICS_PREFIX + name] = shape
    return shapes


def _trees_layout() -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {
        "slots": ((trees.N_SLOTS,), torch.int64),
        "counters": ((trees.N_COUNTERS,), torch.int64),
        "features": ((trees.N_TREES, trees.N_NODES), torch.uint8),
        "cuts": ((trees.N_TREES, trees.N_NODES), torch.float32),
        "leaves": ((trees.N_TREES, trees.N_LEAVES), torch.float32),
        "edges": ((trees.N_SLOTS, trees.N_BINS), torch.float32),
        "values": ((trees.WINDOW, trees.N_SLOTS), torch.float32),
        "bins": ((trees.WINDOW, trees.N_SLOTS), torch.uint8),
        "places": ((trees.N_TREES, trees.WINDOW), torch.uint8),
        "known": ((trees.N_KNOWN, trees.WINDOW), torch.float32),
    }


class Tables:
    """All tensors of one model, and the lock that keeps a reader from seeing half an update.

    One process writes; any number may read. On plain memory the lock does nothing: one thread owns such tables.

    `blocks` and `context_blocks` (n_rows / BLOCK_ROWS,) int64 are the writer's own: the last of its events that moved a
    row of each block, and a context embedding of it. They find what changed without a look at every row.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, torch.Tensor], directory: Path | None = None) -> None:
        self.config = config
        self.tensors = dict(tensors)
        self.directory = directory
        n_blocks = -(-config.n_rows // rows.BLOCK_ROWS)
        self.blocks, self.context_blocks = np.zeros(n_blocks, np.int64), np.zeros(n_blocks, np.int64)
        self._positions = self.tensors["positions"].numpy()
        self._locks = [_open_lock(directory / name) for name in (GATE_FILE, LOCK_FILE)] if directory else []

    @classmethod
    def create(cls, config: ModelConfig, directory: Path | None = None) -> Tables:
        """Fresh tables: in `directory` (made, to be attached by others) or, without one, in plain memory.

        Raises:
            ConfigurationError: there is no room for them.
        """
        tables = cls.allocate(config, directory)
        tables.initialize()
        return tables

    @classmethod
    def allocate(cls, config: ModelConfig, directory: Path | None = None) -> Tables:
        """Tables of zeros: to be filled from a checkpoint, or by `initialize`, before anything is learned.

        Raises:
            ConfigurationError: there is no room for them.
        """
        shapes = layout(config).items()
        if directory is None:
            return cls(config, {name: _allocate(shape, dtype) for name, (shape, dtype) in shapes})
        try:
            return cls(config, _reserve(config, directory), directory)
        except OSError as error:
            n_bytes = sum(_size_bytes(*shape) for _, shape in shapes)
            raise ConfigurationError(
                f"cannot make tables in {directory}: {error.strerror} (they take {n_bytes:,} bytes); "
                "give the memory folder more room, or the table fewer rows"
            ) from error

    @classmethod
    def attach(cls, directory: Path) -> Tables:
        """The tables that another process created in `directory`.

        Raises:
            FileNotFoundError: there are none (any more).
        """
        config = msgspec.json.decode((directory / CONFIG_FILE).read_bytes(), type=ModelConfig)
        tensors = {name: _map(directory / name, shape, dtype) for name, (shape, dtype) in layout(config).items()}
        return cls(config, tensors, directory)

    def initialize(self) -> None:
        """Writes what a model knows before its first event; drawing 2^23 rows takes seconds."""
        self.tensors["positions"].fill_(-1)
        _initialize_table(self.tensors["table"].numpy(), self.config)
        for state in self.tensors["state"].numpy().reshape(-1, slots.STATE_WIDTH):
            _initialize_state(state)
        contexts.initialize(self.tensors, self.config)
        outputs.initialize(self.tensors, self.config)

    @contextmanager
    def reading(self, patience_s: float = PATIENCE_S) -> Iterator[None]:
        """Holds writers off; readers share.

        Args:
            patience_s: how long to wait for a writer, blocking this thread; 0 tries once.

        Raises:
            TablesHeld: one did not let go in that time: it is stopped, or gets no processor.
        """
        yield from self._locked(lambda file: self._share(file, patience_s))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds everybody else off. A holder that is killed lets go by dying."""
        yield from self._locked(lambda file: fcntl.flock(file, fcntl.LOCK_EX))

    def _locked(self, take: Callable[[int], None]) -> Iterator[None]:
        """Holds the lock, for which everybody queues at the gate.

        Without the gate a writer that works chunk by chunk would take the lock again before a waiting reader is awake.
        Who waits for the lock holds the gate meanwhile, so that the writer cannot pass it a second time first.
        """
        if not self._locks:
            yield
            return
        gate, lock = self._locks
        take(gate)
        try:
            take(lock)
        finally:
            fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def _share(self, file: int, patience_s: float) -> None:
        """A shared lock on `file`; tried again and again, since the kernel's own waiting has no end."""
        deadline = None
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + patience_s
                if now >= deadline:
                    raise TablesHeld(f"the learner holds the tables in {self.directory}") from None
            time.sleep(RETRY_S)

    def positions(self) -> dict[int, int]:
        """The next offset of every partition that has one."""
        known = (self._positions >= 0).nonzero()[0]
        return dict(zip(known.tolist(), self._positions[known].tolist(), strict=True))

    def digests(self) -> dict[int, int]:
        """The digest of the last record of every partition where it is known."""
        digests = self.tensors["digests"].numpy()
        return {int(partition): int(digests[partition]) for partition in np.flatnonzero(digests)}

    def close(self) -> None:
        """Lets go of the lock files; the tensors stay as long as somebody holds them."""
        while self._locks:
            os.close(self._locks.pop())


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)


def _allocate(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros in plain memory."""
    n_bytes = _size_bytes(shape, dtype)
    memory = torch.zeros(n_bytes + rows.RECORD_BYTES, dtype=torch.uint8)
    begin = -memory.data_ptr() % rows.RECORD_BYTES  # a record that begins elsewhere lies in one more line
    return memory[begin : begin + n_bytes].view(dtype).view(shape)


def _reserve(config: ModelConfig, directory: Path) -> dict[str, torch.Tensor]:
    """Tensors of zeros in files of a new folder, whose bytes are all there: a full tmpfs must fail here, not as SIGBUS.

    Raises:
        OSError: they are not; the folder is gone again.
    """
    shapes = layout(config)
    directory.mkdir(FOLDER_MODE, parents=True)
    try:
        for name, (shape, dtype) in shapes.items():
            _reserve_file(directory / name, _size_bytes(shape, dtype))
        durable.write(directory / CONFIG_FILE, msgspec.json.encode(config), FILE_MODE, is_forced=False)
        return {name: _map(directory / name, shape, dtype) for name, (shape, dtype) in shapes.items()}
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _reserve_file(path: Path, n_bytes: int) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        os.posix_fallocate(file, 0, n_bytes)
    finally:
        os.close(file)


def _map(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    n_bytes = _size_bytes(shape, dtype)
    if path.stat().st_size != n_bytes:
        raise FileNotFoundError(f"{path} has {path.stat().st_size} bytes, not the {n_bytes} of a table")
    n_elements = n_bytes // dtype.itemsize
    return torch.from_file(str(path), shared=True, size=n_elements, dtype=dtype).view(shape)


def _size_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return int(np.prod(shape)) * dtype.itemsize


def _initialize_table(table: NDArray[np.float32], config: ModelConfig) -> None:
    rng = np.random.default_rng(config.seed)
    table[:, : experts.DIM] = rng.standard_normal((config.n_rows, experts.DIM)) * experts.INITIAL_DEVIATION
    table[:, rows.WEIGHT_VARIANCES] = experts.PRIOR_WEIGHT
    table[:, rows.EMBEDDING_VARIANCES] = experts.PRIOR_EMBEDDING
    table[:, rows.QUICK_VARIANCE] = aging.PRIOR_QUICK


def _initialize_state(state: NDArray[np.float64]) -> None:
    state[slots.LABEL_VARIANCE] = 1.0
    state[slots.LABEL_REACH] = state[slots.REACH : slots.MIX] = losses.LEAST_REACH
    state[slots.BIAS_VARIANCE : slots.BIAS_VARIANCE + experts.N_EXPERTS] = aging.PRIOR_BIAS
    state[slots.QUICK_BIAS_VARIANCE] = aging.PRIOR_QUICK_BIAS
    state[slots.RESIDUAL : slots.REACH] = 1.0
    state[slots.MIX : slots.MIX + experts.N_EXPERTS] = experts.INITIAL_MIX
    mix_covariance = state[slots.MIX_COVARIANCE : slots.CURVE].reshape(experts.N_EXPERTS, experts.N_EXPERTS)
    np.fill_diagonal(mix_covariance, mixture.PRIOR_MIX)
    knots = calibration.CURVE_LOW + calibration.CURVE_STEP * np.arange(slots.N_KNOTS)
    state[slots.CURVE : slots.CURVE + slots.N_KNOTS] = knots
    state[slots.CURVE_VARIANCE : slots.CURVE_VARIANCE + slots.N_KNOTS] = calibration.PRIOR_CURVE
