"""The real service over checkpoints that are damaged, do not fit or cannot be read, and on a disk that is full."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import httpx
import msgspec
import pytest
import torch

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.model.checkpoint.manifest import MANIFEST_FILE, MODEL_FILE, read_manifest, seal
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.checkpoint.tensors import read
from tests.disks import small_disk
from tests.recovery.soak import Service, make_events

N_EVENTS = 2_000
MUST_MEND = 2

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def topic_of_faults(tansu: KafkaConnection) -> str:
    topic = f"faults-{os.getpid()}"
    Topic(tansu, topic).create()
    return topic


@pytest.fixture(scope="module")
def sound(tansu: KafkaConnection, topic_of_faults: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints: of half of the topic's events, and of all."""
    service = Service(tansu, topic_of_faults, tmp_path_factory.mktemp("sound") / "service")
    try:
        service.start()
        with Publisher(Topic(tansu, topic_of_faults)) as publisher:
            events = make_events(seed=1)
            for half in (N_EVENTS // 2, N_EVENTS):
                publisher.publish(list(islice(events, N_EVENTS // 2)), timeout_s=60)
                service.wait(lambda half=half: has_saved(service, half), f"a checkpoint at {half}")
        service.stop()
    finally:
        service.close()
    checkpoints = service.folder / "checkpoints"
    newest, older, *rest = list_paths(checkpoints)
    for path in rest:
        shutil.rmtree(path)
    assert read_manifest(older).events < read_manifest(newest).events
    return checkpoints


def has_saved(service: Service, position: int) -> bool:
    saved = service.status().checkpoint
    if saved.path is None or not Path(saved.path).exists():
        return False
    return read_manifest(Path(saved.path)).positions == {f"{service.topic}:0": position}


def list_paths(checkpoints: Path) -> list[Path]:
    """Newest first."""
    return [info.path for info in CheckpointStore(checkpoints, keep=1).list()]


@pytest.fixture
def service(tansu: KafkaConnection, topic_of_faults: str, sound: Path, tmp_path: Path) -> Iterator[Service]:
    """On a copy of the two checkpoints; not yet started."""
    service = Service(tansu, topic_of_faults, tmp_path / "service")
    shutil.copytree(sound, service.folder / "checkpoints")
    yield service
    service.close()


def get(service: Service, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{service.port}{path}", timeout=10)


def log_lines(service: Service) -> list[str]:
    return [json.loads(line)["event"] for line in (service.folder / "log").read_text().splitlines()]


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no manifest": (lambda path: (path / MANIFEST_FILE).unlink(), "manifest.json is missing"),
    "no tensors": (lambda path: (path / MODEL_FILE).unlink(), "model.safetensors is missing"),
    "torn manifest": (
        lambda path: os.truncate(path / MANIFEST_FILE, 100),
        "manifest.json is not what was written: its SHA-256 differs",
    ),
    "torn tensors": (lambda path: os.truncate(path / MODEL_FILE, 10_000), "model.safetensors has 10000 bytes instead"),
    "a bit of the manifest": (
        lambda path: flip_bit(path / MANIFEST_FILE),
        "manifest.json is not what was written: its SHA-256 differs",
    ),
    "a bit of the tensors": (
        lambda path: flip_bit(path / MODEL_FILE),
        "model.safetensors is not what was written: its SHA-256 differs",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_told_and_learned_again(service: Service, sound: Path, name: str) -> None:
    damage, reason = DAMAGES[name]
    newest = list_paths(service.folder / "checkpoints")[0]
    damage(newest)
    service.start()
    service.wait(service.is_ready, "ready")

    aside = newest.with_name(newest.name + ".damaged")
    assert aside.is_dir()
    (warning,) = get(service, "/readyz").json()["warnings"]
    assert warning.startswith(f"a checkpoint was damaged and is set aside: {aside}: {reason}")
    assert "flexihash_checkpoints_set_aside 1.0" in get(service, "/metrics").text
    assert any(
        line.startswith(f"checkpoint {newest} is damaged: {reason}") and line.endswith("trying the one before")
        for line in log_lines(service)
    )

    service.wait(lambda: has_saved(service, N_EVENTS), "the rest of the topic")
    service.stop()
    expected, _ = read(list_paths(sound)[0])
    again, _ = read(list_paths(service.folder / "checkpoints")[0])
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def refuse(service: Service) -> str:
    """The last error of a service that must not start, and touches nothing."""
    before = sorted(path.name for path in (service.folder / "checkpoints").iterdir())
    service.start()
    assert service.process is not None
    assert service.process.wait(60) == MUST_MEND
    left = {path.name for path in (service.folder / "checkpoints").iterdir()} - {"learner.lock"}
    assert left == set(before) - {"learner.lock"}
    lines = [json.loads(line) for line in (service.folder / "log").read_text().splitlines()]
    return [line["event"] for line in lines if line["level"] == "error" and line["process"] == "learner"][-1]


def rewrite_version(path: Path) -> None:
    manifest = msgspec.structs.replace(read_manifest(path), format_version=99)
    (path / MANIFEST_FILE).write_bytes(seal(manifest))


def test_another_format_version_is_refused(service: Service) -> None:
    newest = list_paths(service.folder / "checkpoints")[0]
    rewrite_version(newest)
    assert refuse(service) == (
        f"{newest} has format_version = 99, but 3 is asked for: "
        "run the version of this program that wrote it, or choose another checkpoint_dir"
    )


@pytest.mark.parametrize(
    ("setting", "value", "field", "there", "asked"),
    [
        ("FLEXIHASH_N_ROWS", "8192", "n_rows", "4096", "8192"),
        ("FLEXIHASH_TASK", "regression", "task", "'binary'", "'regression'"),
        ("FLEXIHASH_LABEL_FIELD", "clicked", "label_field", "'label'", "'clicked'"),
        ("FLEXIHASH_EMBEDDINGS", "false", "embeddings", "True", "False"),
    ],
)
def test_other_settings_are_refused(
    service: Service, setting: str, value: str, field: str, there: str, asked: str
) -> None:
    newest = list_paths(service.folder / "checkpoints")[0]
    service.environment |= {setting: value}
    assert refuse(service) == (
        f"{newest} has {field} = {there}, but {asked} is asked for: "
        f"choose another checkpoint_dir or set {field} back to {there}"
    )


def test_no_sound_checkpoint_is_refused_with_each_reason(service: Service) -> None:
    newest, older = list_paths(service.folder / "checkpoints")
    (newest / MODEL_FILE).unlink()
    flip_bit(older / MANIFEST_FILE)
    service.start()
    assert service.process is not None
    assert service.process.wait(60) == MUST_MEND
    checkpoints = service.folder / "checkpoints"
    assert (
        f"{checkpoints} is damaged: none of its 2 checkpoints is sound; {newest.name}.damaged: model.safetensors is "
        f"missing; {older.name}.damaged: manifest.json is not what was written: its SHA-256 differs; "
        "put a sound copy of one there, or move all *.damaged away to start afresh"
    ) in log_lines(service)


def test_a_checkpoint_that_may_not_be_read_is_named_and_stays(service: Service) -> None:
    newest = list_paths(service.folder / "checkpoints")[0]
    (newest / MANIFEST_FILE).chmod(0)
    if os.access(newest / MANIFEST_FILE, os.R_OK):  # root reads everything, unless it gives that up
        lost = "-dac_override,-dac_read_search"
        service.prefix = ["setpriv", f"--bounding-set={lost}", f"--inh-caps={lost}"]
    assert refuse(service) == (
        f"cannot read {newest / MANIFEST_FILE}: Permission denied (errno 13, EACCES); "
        f"make it readable for user {os.geteuid()} or choose another checkpoint_dir"
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB, where five checkpoints have room."""
    with small_disk(tmp_path / "disk", "32m") as disk:
        yield disk


def test_a_full_disk_costs_checkpoints_not_learning_and_saving_goes_on_by_itself(
    service: Service, tansu: KafkaConnection, disk: Path
) -> None:
    topic = f"{service.topic}-full"
    Topic(tansu, topic).create()
    service.topic = topic
    service.environment |= {"FLEXIHASH_TOPIC": topic, "FLEXIHASH_GROUP_ID": topic}
    service.environment |= {"FLEXIHASH_CHECKPOINT_DIR": str(disk)}
    events = make_events(seed=2)
    filler = disk / "filler"
    with Publisher(Topic(tansu, topic)) as publisher:
        publisher.publish(list(islice(events, 1_000)), timeout_s=60)
        service.start()
        service.wait(lambda: has_saved(service, 1_000), "a checkpoint")
        saved = list_paths(disk)

        # Without a buffer, which would try to write what is left in it once more as it is closed.
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(1 << 16))
        publisher.publish(list(islice(events, 1_000)), timeout_s=60)
        service.wait(lambda: "warnings" in get(service, "/readyz").json(), "a failure")
        (warning,) = get(service, "/readyz").json()["warnings"]
        assert warning == (
            f"the last checkpoint was not saved: cannot write {disk}: No space left on device "
            "(errno 28, ENOSPC); free some space there or lower checkpoint_keep, checkpoint_keep_hourly or"
            " checkpoint_keep_daily"
        )
        assert "flexihash_checkpoint_failed 1.0" in get(service, "/metrics").text
        assert list_paths(disk) == saved
        publisher.publish(list(islice(events, 1_000)), timeout_s=60)
        service.wait(lambda: service.status().positions == {f"{topic}:0": 3_000}, "learning goes on")

        filler.unlink()
        service.wait(lambda: has_saved(service, 3_000), "a checkpoint again")
        service.wait(lambda: get(service, "/readyz").json() == {"status": "ready"}, "no warning")
        service.stop()
    assert any(
        line.startswith("checkpoint failed: cannot write")
        and line.endswith("learning goes on, and saving is tried again")
        for line in log_lines(service)
    )
