"""The memory folder: taken only where it is ours alone, held by one service, and given back."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.service import folders
from flexihash.service.folders import LEARNER_LOCK, hold_memory
from flexihash.service.memory import Memory
from flexihash.service.service_errors import FolderError
from tests.integration.served import Launch

NOBODY = 65_534
MUST_MEND = 2
REFUSED_S = 60.0
NO_BROKER = KafkaConnection("127.0.0.1:9")

Plant = Callable[[Path], None]


def give_away(folder: Path) -> None:
    folder.mkdir(0o700)
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder away")
    os.chown(folder, NOBODY, NOBODY)


def link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir(0o700)
    folder.symlink_to("elsewhere")


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def open_to_the_group(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


PLANTED: dict[str, tuple[Plant, str]] = {
    "another user's": (give_away, f"belongs to user {NOBODY}, not to user {os.geteuid()}"),
    "a link": (link, "is a link"),
    "open to all": (open_to_all, "may be written by others (mode 777)"),
    "open to the group": (open_to_the_group, "may be written by others (mode 770)"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_folder_that_is_not_ours_alone_is_refused_and_left_as_it_is(
    launch: Launch, tmp_path: Path, name: str
) -> None:
    plant, objection = PLANTED[name]
    service = launch(NO_BROKER, "events", FLEXIHASH_WORKERS="2")
    plant(service.memory)
    service.start()
    assert service.process is not None
    assert service.process.wait(REFUSED_S) == MUST_MEND
    assert f"the memory folder {service.memory} {objection}" in service.log
    assert "FLEXIHASH_MEMORY_DIR" in service.log
    assert "Traceback" not in service.log
    assert list(service.memory.iterdir()) == []


@pytest.mark.parametrize("name", PLANTED)
def test_what_stands_in_such_a_folder_is_not_believed(tmp_path: Path, name: str) -> None:
    plant, objection = PLANTED[name]
    directory = tmp_path / "memory"
    plant(directory)
    (directory / "status.json").write_text('{"state":"learning"}')
    memory = Memory(directory)
    memory._is_warm = True
    memory.refresh()
    assert memory.status is None
    assert objection in (memory.explain_unready() or "")


def test_a_link_put_in_its_place_after_the_look_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, elsewhere = tmp_path / "memory", tmp_path / "elsewhere"
    elsewhere.mkdir()

    def look_then_swap(found: Path) -> None:
        found.rmdir()
        found.symlink_to(elsewhere)

    monkeypatch.setattr(folders, "check_memory", look_then_swap)
    with pytest.raises(FolderError):
        hold_memory(directory, LEARNER_LOCK)
    assert list(elsewhere.iterdir()) == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "memory"
    directory.mkdir(0o700)
    (directory / LEARNER_LOCK).symlink_to(tmp_path / "made")
    with pytest.raises(FolderError, match="cannot write in memory_dir"):
        hold_memory(directory, LEARNER_LOCK)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("mode", "is_exposed"), [(0o1777, False), (0o755, False), (0o777, True)])
def test_a_parent_in_which_others_may_put_another_in_its_place_is_told(
    tmp_path: Path, mode: int, is_exposed: bool
) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(mode)
    exposure = folders.explain_exposure(parent / "memory")
    assert (exposure is not None) == is_exposed
    assert exposure is None or f"chmod +t {parent}" in exposure


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_parent_of_another_user_is_told(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    os.chown(parent, NOBODY, NOBODY)
    assert f"user {NOBODY}, who owns {parent}" in (folders.explain_exposure(parent / "memory") or "")


def test_folders_are_0700_and_files_0600_and_the_tables_go_with_a_stop(
    tansu: KafkaConnection, topic_name: str, launch: Launch
) -> None:
    service = launch(tansu, topic_name, FLEXIHASH_CREATE_TOPIC="true")
    service.start().wait_ready()
    service.post("/v1/checkpoints", {})
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [service.memory, *service.memory.rglob("*")]}
    assert {path: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}
    assert any(path.name.startswith("tables-") for path in modes)
    assert service.stop() == 0
    assert sorted(path.name for path in service.memory.iterdir()) == ["learner.lock", "serve.lock", "status.json"]
    assert service.status().state == "stopped"


def test_a_second_service_is_refused_and_takes_nothing_from_the_first(
    tansu: KafkaConnection, topic_name: str, launch: Launch, tmp_path: Path
) -> None:
    settings = {"FLEXIHASH_CREATE_TOPIC": "true", "FLEXIHASH_WORKERS": "2"}
    first = launch(tansu, topic_name, **settings)
    first.start().wait_ready()
    for _ in range(20):
        first.http.get("/livez")
    before = {path: path.stat().st_ino for path in (first.memory / "prometheus").iterdir()}
    assert before
    second = launch(tansu, topic_name, FLEXIHASH_CHECKPOINT_DIR=str(tmp_path / "others"), **settings)
    assert second.memory == first.memory
    second.start()
    assert second.process is not None
    assert second.process.wait(REFUSED_S) == MUST_MEND
    assert f"another learner works in {first.memory}: stop it" in second.log
    assert {path: path.stat().st_ino for path in (first.memory / "prometheus").iterdir()} == before
    assert first.is_ready()
    counted = f'flexihash_http_request_seconds_count{{method="GET",route="/livez",status="200"}} {20:.1f}'
    assert counted in first.http.get("/metrics").text
    assert first.stop() == 0
