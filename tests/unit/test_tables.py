"""The memory that processes share, and who may enter it when."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import threading
from pathlib import Path

import pytest
import torch

from flexihash.model.config import ModelConfig
from flexihash.model.kernel.rows import RECORD_BYTES
from flexihash.model.model_errors import ConfigurationError
from flexihash.model.tables import GATE_FILE, Tables

CONFIG = ModelConfig(n_rows=8)


def test_attached_tables_are_the_same_memory(tmp_path: Path) -> None:
    tables = Tables.create(CONFIG, tmp_path / "tables")
    other = Tables.attach(tmp_path / "tables")
    assert other.config == CONFIG
    tables.tensors["table"][3, 5] = 42.0
    assert other.tensors["table"][3, 5] == 42.0
    assert tables.tensors.keys() == other.tensors.keys()
    tables.close()
    other.close()


def test_records_begin_where_two_lines_of_the_cache_do(tmp_path: Path) -> None:
    mapped = Tables.create(CONFIG, tmp_path / "tables")
    for table in (Tables.create(CONFIG).tensors["table"], mapped.tensors["table"]):
        assert table.stride(0) * table.element_size() == RECORD_BYTES == 128
        assert table.data_ptr() % RECORD_BYTES == 0
    mapped.close()


def test_fresh_tables_are_those_of_the_seed() -> None:
    one, same = Tables.create(CONFIG), Tables.create(CONFIG)
    other = Tables.create(ModelConfig(n_rows=8, seed=1))
    assert torch.equal(one.tensors["table"], same.tensors["table"])
    assert not torch.equal(one.tensors["table"], other.tensors["table"])


def test_tables_that_are_gone_cannot_be_attached(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tables.attach(tmp_path / "tables")


def test_a_waiting_reader_comes_before_the_writers_next_chunk(tmp_path: Path) -> None:
    writer = Tables.create(CONFIG, tmp_path / "tables")
    reader = Tables.attach(tmp_path / "tables")
    entered: list[str] = []

    def read() -> None:
        with reader.reading():
            entered.append("reader")

    thread = threading.Thread(target=read)
    with writer.writing():
        thread.start()
        while not _is_held(tmp_path / "tables" / GATE_FILE):
            pass
        entered.append("first chunk")
    with writer.writing():
        entered.append("second chunk")
    thread.join()
    assert entered == ["first chunk", "reader", "second chunk"]
    writer.close()
    reader.close()


def _is_held(path: Path) -> bool:
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def test_tables_without_room_say_so_and_leave_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))  # as a file system that is full: a write fails
    try:
        with pytest.raises(ConfigurationError, match=r"cannot make tables in .*: .*fewer rows"):
            Tables.create(ModelConfig(n_rows=1 << 10), tmp_path / "tables")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert not (tmp_path / "tables").exists()
