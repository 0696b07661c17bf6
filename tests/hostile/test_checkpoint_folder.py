"""What somebody else put into the folder of the checkpoints: strays, links, and manifests that were sealed by hand."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.model.checkpoint.checkpoint_errors import CheckpointDamaged
from flexihash.model.checkpoint.manifest import MANIFEST_FILE, read_manifest
from flexihash.model.checkpoint.store import CheckpointStore
from tests.integration.served import Launch
from tests.unit.test_checkpoint import make_store, newest_events, reseal, save

NEXT = "000000000000030-000003"
HUGE = 2**63


def plant_strays(store: CheckpointStore, elsewhere: Path) -> list[str]:
    """All kinds, under every kind of name that saving looks at; returns those that it must leave alone."""
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    for prefix in (".saving-", ".removing-"):
        (store.directory / f"{prefix}file").write_text("")
        (store.directory / f"{prefix}link").symlink_to(elsewhere)
        (store.directory / f"{prefix}dangling").symlink_to("nothing")
        (store.directory / f"{prefix}loop").symlink_to(f"{prefix}loop")
    (store.directory / NEXT).write_text("")
    (store.directory / "000000000000001-000009").symlink_to("000000000000001-000009")
    (store.directory / "notes.txt").write_text("")
    return [NEXT, "000000000000001-000009", "notes.txt"]


def test_strays_and_links_do_not_stop_saving(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=2)
    for events in (10, 20):
        save(store, events)
    left = plant_strays(store, tmp_path / "elsewhere")
    saved = save(store, 30)
    assert saved.path.name == "000000000000030-000010"
    assert newest_events(store) == 30
    names = {path.name for path in store.directory.iterdir()}
    assert names == {"000000000000020-000002", "000000000000030-000010", *left}
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_a_checkpoint_that_is_a_link_is_let_go_of_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=1)
    path = save(store, 10).path
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert newest_events(store) == 10
    save(store, 20)
    save(store, 30)
    assert [info.path.name for info in store.list()] == ["000000000000030-000003"]
    assert read_manifest(tmp_path / "moved").events == 10
    assert not path.is_symlink()


@pytest.mark.parametrize("is_link", [False, True])
def test_a_stray_does_not_keep_a_damaged_one_from_being_set_aside(tmp_path: Path, is_link: bool) -> None:
    store = make_store(tmp_path)
    save(store, 10)
    path = save(store, 20).path
    (path / MANIFEST_FILE).unlink()
    stray = path.with_name(f"{path.name}.damaged")
    stray.symlink_to("nothing") if is_link else stray.write_text("")
    assert newest_events(store) == 10
    assert stray.is_dir()


def test_one_that_is_damaged_again_is_set_aside_beside_the_former(tmp_path: Path) -> None:
    """As where somebody put a copy in the place of the first, and the disk is no better than it was."""
    store = make_store(tmp_path)
    save(store, 10)
    path = save(store, 20).path
    shutil.copytree(path, tmp_path / "copy")
    for number in range(3):
        if number:
            shutil.copytree(tmp_path / "copy", path)
        (path / MANIFEST_FILE).write_text(str(number))
        assert newest_events(store) == 10
    damaged = [path.with_name(f"{path.name}{suffix}") for suffix in (".damaged", ".2.damaged", ".3.damaged")]
    assert [(one / MANIFEST_FILE).read_text() for one in damaged] == ["0", "1", "2"]
    assert {info.path for info in store.list() if info.problem == "set aside as damaged"} == set(damaged)
    assert save(store, 30).path.name == "000000000000030-000003"


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "a partition beyond all": ({"positions": {"flights:5000": 1}}, "a position of 'flights:5000'"),
    "a partition that is a word": ({"positions": {"flights:abc": 1}}, "a position of 'flights:abc'"),
    "a partition below zero": ({"positions": {"flights:-1": 1}}, "a position of 'flights:-1'"),
    "a partition that is no whole number": ({"positions": {"flights:1.5": 1}}, "a position of 'flights:1.5'"),
    "a partition in other digits": ({"positions": {"flights:\u0663": 1}}, "a position of"),
    "a partition of many digits": ({"positions": {f"flights:{'9' * 5000}": 1}}, "a position of"),
    "no partition": ({"positions": {"flights": 1}}, "a position of 'flights'"),
    "a position beyond int64": ({"positions": {"flights:0": HUGE}}, "at `$.positions"),
    "a position below zero": ({"positions": {"flights:0": -1}}, "at `$.positions"),
    "a position that is no whole number": ({"positions": {"flights:0": 1.5}}, "at `$.positions"),
    "a position that is a word": ({"positions": {"flights:0": "1"}}, "at `$.positions"),
    "events beyond int64": ({"events": HUGE}, "at `$.events`"),
    "events below zero": ({"events": -1}, "at `$.events`"),
    "a time without a zone": ({"created_at": "0001-01-01T00:00:00"}, "at `$.created_at`"),
    "rejected that is a word": ({"metrics": {"rejected": "abc"}}, "at `$.rejected`"),
    "rejected of words": ({"metrics": {"rejected": {"not_json": "many"}}}, "at `$.rejected"),
    "rejected beyond int64": ({"metrics": {"rejected": {"not_json": HUGE}}}, "at `$.rejected"),
    "unlabelled that is a word": ({"metrics": {"unlabelled": "many"}}, "at `$.unlabelled`"),
    "unlabelled without end": ({"metrics": {"unlabelled": 1e300}}, "at `$.unlabelled`"),
    "poison without a place": ({"metrics": {"poison": ["everywhere"]}}, "at `$.poison"),
    "a history of words": ({"metrics": {"history": {"learners": "me"}}}, "at `$.history"),
    "a history beyond int64": ({"metrics": {"history": {"beginnings": {"flights:0": HUGE}}}}, "at `$.history"),
    "a range without an end": ({"metrics": {"history": {"skipped": {"flights:0": [[1]]}}}}, "at `$.history"),
    "a topic's id that is a number": ({"topic_ids": {"flights": 1}}, "at `$.topic_ids"),
}


def put_in(values: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update(values)


@pytest.mark.parametrize("name", ODD)
def test_a_sealed_manifest_with_odd_values_is_damaged(tmp_path: Path, name: str) -> None:
    values, reason = ODD[name]
    store = make_store(tmp_path)
    save(store, 10)
    path = save(store, 20).path
    reseal(path / MANIFEST_FILE, put_in(values))
    with pytest.raises(CheckpointDamaged) as caught:
        read_manifest(path)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert newest_events(store) == 10
    assert [info.path.name for info in store.list()] == [f"{path.name}.damaged", "000000000000010-000001"]


def test_a_sealed_manifest_that_nests_without_end_is_damaged(tmp_path: Path) -> None:
    path = save(make_store(tmp_path), 10).path
    content = (
        (path / MANIFEST_FILE).read_bytes()[:-68].replace(b'"auc": null', b'"auc": ' + b"[" * 10**5 + b"]" * 10**5)
    )
    (path / MANIFEST_FILE).write_bytes(content + hashlib.sha256(content).hexdigest().encode() + b'"\n}\n')
    with pytest.raises(CheckpointDamaged, match=r"manifest\.json is not a manifest"):
        read_manifest(path)


def test_a_service_names_such_a_checkpoint_and_says_what_to_do(
    tansu: KafkaConnection, topic_name: str, launch: Launch
) -> None:
    service = launch(tansu, topic_name, FLEXIHASH_CREATE_TOPIC="true")
    service.start().wait_ready()
    service.post("/v1/events", [{"features": {"carrier": "UA"}, "label": 1}])
    service.wait_position(1)
    service.stop()
    (path,) = (service.folder / "checkpoints").glob("0*")
    reseal(path / MANIFEST_FILE, put_in({"positions": {f"{topic_name}:5000": 1}}))
    service.start()
    assert service.process is not None
    assert service.process.wait(service.patience_s) == 2
    assert f"checkpoint {path} is damaged: manifest.json has a position of '{topic_name}:5000'" in service.log
    assert "put a sound copy of one there" in service.log
    assert "Traceback" not in service.log
