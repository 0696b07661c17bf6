"""Checkpoints: what is read is what was saved, and whatever breaks is found, named and survived."""

import contextlib
import hashlib
import json
import logging
import os
import pickletools
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flexihash.model.checkpoint.checkpoint_errors import (
    CheckpointDamaged,
    CheckpointMismatch,
    CheckpointUnreadable,
    CheckpointWriteError,
)
from flexihash.model.checkpoint.manifest import FORMAT_VERSION, MANIFEST_FILE, MODEL_FILE, verify
from flexihash.model.checkpoint.store import STEPS, CheckpointInfo, CheckpointStore
from flexihash.model.checkpoint.tensors import read
from flexihash.model.model_errors import ConfigurationError

CONFIGURATION: dict[str, Any] = {"task": "binary", "n_rows": 64, "experts": [{"name": "bold", "prior": 0.1}]}
N_ROWS = 64


class Crash(BaseException):
    """Stands for a SIGKILL: nothing in the code under test catches it."""


def make_tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "table": torch.randn(N_ROWS, 24, generator=generator),
        "numbers": torch.randn(N_ROWS, 3, generator=generator, dtype=torch.float64),
        "touched": torch.randint(0, 2**62, (N_ROWS,), generator=generator),
        "state": torch.tensor([0.1, float("inf"), -0.0, 5e-324, float(seed)], dtype=torch.float64),
        "metrics.count": torch.tensor(seed),
        "metrics.window": torch.zeros(0, 2),
    }


def save(store: CheckpointStore, events: int, configuration: dict[str, Any] = CONFIGURATION) -> CheckpointInfo:
    return store.save(
        make_tensors(events),
        events=events,
        positions={"flights:0": events, "flights:1": 2**40},
        configuration=configuration,
        metrics={"log_loss": 0.1 + 0.2, "auc": None},
        cluster_id="cluster-1",
        topic_ids={"flights": "topic-1"},
    )


def make_store(path: Path, keep: int = 3, on_step: Callable[[str], None] = lambda step: None) -> CheckpointStore:
    return CheckpointStore(path / "state" / "checkpoints", keep, on_step)


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Compare by bits: == calls -0.0 and 0.0 equal, and NaN different from itself."""
    return {name: (t.dtype, tuple(t.shape), t.numpy().tobytes()) for name, t in tensors.items()}


def newest_events(store: CheckpointStore) -> int:
    loaded = store.load_newest(CONFIGURATION)
    assert loaded is not None
    assert bits(loaded.tensors) == bits(make_tensors(loaded.manifest.events))
    return loaded.manifest.events


def flip(file: Path, position: int, bit: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[position] ^= 1 << bit
    file.write_bytes(raw)


def reseal(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a manifest with another content and the right SHA-256, by the format's description alone."""
    manifest = json.loads(file.read_bytes())
    del manifest["sha256"]
    change(manifest)
    content = json.dumps(manifest, indent=2).encode()[:-2] + b',\n  "sha256": "'
    file.write_bytes(content + hashlib.sha256(content).hexdigest().encode() + b'"\n}\n')


def test_a_checkpoint_reads_back_bit_for_bit(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    info = save(store, 7)
    loaded = store.load_newest(CONFIGURATION)
    assert loaded is not None
    assert bits(loaded.tensors) == bits(make_tensors(7))
    assert loaded.path == info.path == store.directory / "000000000000007-000001"
    assert loaded.manifest == info.manifest == verify(info.path)
    assert loaded.set_aside == []
    assert loaded.manifest.events == 7
    assert loaded.manifest.positions == {"flights:0": 7, "flights:1": 2**40}
    assert loaded.manifest.configuration == CONFIGURATION
    assert loaded.manifest.metrics == {"log_loss": 0.1 + 0.2, "auc": None}
    assert (loaded.manifest.cluster_id, loaded.manifest.topic_ids) == ("cluster-1", {"flights": "topic-1"})
    assert loaded.manifest.created_at.utcoffset() is not None
    assert info.size_bytes == (info.path / MODEL_FILE).stat().st_size


def test_files_are_what_the_format_says(tmp_path: Path) -> None:
    path = save(make_store(tmp_path), 7).path
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST_FILE, MODEL_FILE]
    assert bits(load_file(path / MODEL_FILE)) == bits(make_tensors(7))
    raw = (path / MANIFEST_FILE).read_bytes()
    manifest = json.loads(raw)
    assert manifest["sha256"] == hashlib.sha256(raw[:-68]).hexdigest()
    assert manifest["files"] == {
        MODEL_FILE: {
            "size_bytes": (path / MODEL_FILE).stat().st_size,
            "sha256": hashlib.sha256((path / MODEL_FILE).read_bytes()).hexdigest(),
        }
    }
    assert manifest["format_version"] == FORMAT_VERSION


def test_no_file_is_a_pickle(tmp_path: Path) -> None:
    for file in save(make_store(tmp_path), 7).path.iterdir():
        with pytest.raises(ValueError):
            list(pickletools.genops(file.read_bytes()))


def test_tensors_given_are_filled_in_place(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 7)
    into = {name: torch.full_like(tensor, 9) for name, tensor in make_tensors(1).items()}
    addresses = {name: tensor.data_ptr() for name, tensor in into.items()}
    loaded = store.load_newest(CONFIGURATION, into)
    assert loaded is not None
    assert bits(into) == bits(loaded.tensors) == bits(make_tensors(7))
    assert {name: tensor.data_ptr() for name, tensor in loaded.tensors.items()} == addresses


@pytest.mark.parametrize(
    ("name", "tensor", "field", "found"),
    [
        ("table", torch.zeros(32, 24), "tensor table", "(64, 24) torch.float32"),
        ("table", torch.zeros(N_ROWS, 24, dtype=torch.float64), "tensor table", "(64, 24) torch.float32"),
        ("extra", torch.zeros(2), "tensor extra", None),
    ],
)
def test_tensors_that_do_not_fit_are_refused_untouched(
    tmp_path: Path, name: str, tensor: torch.Tensor, field: str, found: str | None
) -> None:
    store = make_store(tmp_path)
    path = save(store, 7).path
    into = make_tensors(1) | {name: tensor}
    before = bits(into)
    with pytest.raises(CheckpointMismatch) as caught:
        store.load_newest(CONFIGURATION, into)
    assert (caught.value.field, caught.value.found) == (field, found)
    assert caught.value.expected == f"{tuple(tensor.shape)} {tensor.dtype}"
    assert bits(into) == before
    assert path.is_dir()


def test_writing_to_what_was_read_leaves_the_checkpoint_alone(tmp_path: Path) -> None:
    path = save(make_store(tmp_path), 7).path
    tensors, manifest = read(path)
    tensors["table"].fill_(3)
    assert verify(path) == manifest


def test_an_absent_or_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert store.load_newest(CONFIGURATION) is None
    assert list(store.list()) == []
    store.directory.mkdir(parents=True)
    (store.directory / "notes.txt").write_text("not a checkpoint")
    (store.directory / "000000000000007-000001").write_text("nor is a file")
    (store.directory / "lost+found").mkdir()
    assert store.load_newest(CONFIGURATION) is None
    assert list(store.list()) == []


def test_the_newest_are_listed_first_and_the_oldest_go(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=2)
    for events in (10, 20, 30, 40):
        save(store, events)
    listed = store.list()
    assert [info.manifest.events for info in listed if info.manifest] == [40, 30]
    assert [info.problem for info in listed] == [None, None]
    assert sorted(path.name for path in store.directory.iterdir()) == [info.path.name for info in reversed(listed)]


def test_the_last_saved_is_the_newest_even_with_fewer_events(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 1000)
    save(store, 5)
    save(store, 5)
    assert [info.path.name[-6:] for info in store.list()] == ["000003", "000002", "000001"]
    assert newest_events(store) == 5


def test_a_crash_at_any_step_costs_nothing_but_the_new_checkpoint(tmp_path: Path) -> None:
    seen: list[str] = []
    save(make_store(tmp_path / "whole", on_step=seen.append), 1)
    assert tuple(seen) == STEPS
    for crash_at in STEPS:

        def crash(step: str, crash_at: str = crash_at) -> None:
            if step == crash_at:
                raise Crash(step)

        folder = tmp_path / crash_at
        store = make_store(folder, keep=2)
        for events in (10, 20):
            save(store, events)
        with pytest.raises(Crash):
            save(make_store(folder, keep=2, on_step=crash), 30)
        named = STEPS.index(crash_at) > STEPS.index("rename")
        assert newest_events(make_store(folder)) == (30 if named else 20), crash_at
        assert all(info.problem is None for info in store.list()), crash_at
        save(store, 40)
        listed = store.list()
        assert [info.manifest.events for info in listed if info.manifest] == [40, 30 if named else 20], crash_at
        assert {path.name for path in store.directory.iterdir()} == {info.path.name for info in listed}, crash_at


def test_what_a_killed_save_left_is_not_loaded_and_goes_with_the_next(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = save(store, 10).path
    for name in (".saving-000000000000020-000002", ".removing-000000000000005-000000"):
        shutil.copytree(path, store.directory / name)
        os.truncate(store.directory / name / MODEL_FILE, 100)
    assert newest_events(store) == 10
    save(store, 20)
    assert [p.name for p in sorted(store.directory.iterdir())] == ["000000000000010-000001", "000000000000020-000002"]


def flip_in(name: str, share: float, bit: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        flip(path / name, int(share * ((path / name).stat().st_size - 1)), bit)

    return damage


def truncate(name: str, n_bytes: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / name, max(0, (path / name).stat().st_size - n_bytes))


def become_folder(path: Path) -> None:
    (path / MANIFEST_FILE).unlink()
    (path / MANIFEST_FILE).mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        f"{name} flipped at {share}, bit {bit}": (flip_in(name, share, bit), f"{name} is not what was written")
        for name in (MANIFEST_FILE, MODEL_FILE)
        for share in (0, 0.001, 0.3, 0.5, 0.99, 1)
        for bit in (0, 5)
    },
    "model torn": (truncate(MODEL_FILE, 1), "bytes instead of"),
    "model empty": (truncate(MODEL_FILE, 1 << 30), f"{MODEL_FILE} has 0 bytes instead of"),
    "model longer": (lambda path: os.truncate(path / MODEL_FILE, 100_000), f"{MODEL_FILE} has 100000 bytes instead of"),
    "model missing": (lambda path: (path / MODEL_FILE).unlink(), f"{MODEL_FILE} is missing"),
    "manifest torn": (truncate(MANIFEST_FILE, 1), f"{MANIFEST_FILE} is not what was written"),
    "manifest empty": (truncate(MANIFEST_FILE, 1 << 30), f"{MANIFEST_FILE} is not what was written"),
    "manifest missing": (lambda path: (path / MANIFEST_FILE).unlink(), f"{MANIFEST_FILE} is missing"),
    "manifest a folder": (become_folder, f"{MANIFEST_FILE}: Is a directory"),
    "manifest of another schema": (
        lambda path: reseal(path / MANIFEST_FILE, lambda manifest: manifest.pop("events")),
        "missing required field `events`",
    ),
    "manifest without files": (
        lambda path: reseal(path / MANIFEST_FILE, lambda manifest: manifest.update(files={})),
        "names [] instead of",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    inflict, reason = DAMAGES[damage]
    store = make_store(tmp_path)
    save(store, 10)
    path = save(store, 20).path
    inflict(path)
    with pytest.raises(CheckpointDamaged) as caught:
        verify(path)
    assert reason in caught.value.reason
    with caplog.at_level(logging.ERROR, "flexihash.model.checkpoint"):
        loaded = store.load_newest(CONFIGURATION)
    assert loaded is not None
    assert loaded.manifest.events == 10
    assert bits(loaded.tensors) == bits(make_tensors(10))
    aside = path.with_name(path.name + ".damaged")
    assert [(one.path, one.reason) for one in loaded.set_aside] == [(aside, caught.value.reason)]
    assert aside.is_dir()
    assert not path.exists()
    assert str(path) in caplog.text
    assert reason in caplog.text

    save(store, 20)
    assert [(info.path.name, info.problem) for info in store.list()] == [
        ("000000000000020-000003", None),
        ("000000000000020-000002.damaged", "set aside as damaged"),
        ("000000000000010-000001", None),
    ]
    assert newest_events(store) == 20


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    path = save(make_store(tmp_path), 7).path
    raw = (path / MANIFEST_FILE).read_bytes()
    for position in range(len(raw)):
        # In the digest at the end: bit 5, which turns a hex digit into the same one in upper case.
        bit = 5 if position >= len(raw) - 68 else position % 8
        flip(path / MANIFEST_FILE, position, bit)
        with pytest.raises(CheckpointDamaged):
            verify(path)
        flip(path / MANIFEST_FILE, position, bit)
    assert verify(path).events == 7


@pytest.mark.parametrize("place", [3, 9, 300, -1])  # the header's length, the header, a tensor, the last byte
def test_the_tensors_given_end_up_as_those_of_the_one_before_the_damaged(tmp_path: Path, place: int) -> None:
    store = make_store(tmp_path)
    save(store, 7)
    damaged = save(store, 8).path
    flip(damaged / MODEL_FILE, place % (damaged / MODEL_FILE).stat().st_size, 0)
    into = make_tensors(1)
    loaded = store.load_newest(CONFIGURATION, into)
    assert loaded is not None
    assert [aside.path.name for aside in loaded.set_aside] == [f"{damaged.name}.damaged"]
    assert bits(into) == bits(make_tensors(7))


def test_a_list_flags_what_it_can_see_cheaply(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=4)
    paths = [save(store, events).path for events in (10, 20, 30)]
    flip(paths[0] / MANIFEST_FILE, 100, 3)
    os.truncate(paths[1] / MODEL_FILE, 10)
    newest, torn, flipped = store.list()
    assert newest.problem is None
    assert torn.manifest is None
    assert torn.size_bytes is None
    assert f"{MODEL_FILE} has 10 bytes instead of" in str(torn.problem)
    assert f"{MANIFEST_FILE} is not what was written" in str(flipped.problem)
    assert [path.is_dir() for path in paths] == [True, True, True]


def test_no_sound_checkpoint_left_is_an_error_now_and_at_the_next_start(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for events in (10, 20):
        flip(save(store, events).path / MODEL_FILE, 300, 1)
    with pytest.raises(CheckpointDamaged, match=r"none of its 2 checkpoints is sound; 0+20-0+2\.damaged: model\.safe"):
        store.load_newest(CONFIGURATION)
    with pytest.raises(CheckpointDamaged, match=r"move all \*\.damaged away to start afresh"):
        store.load_newest(CONFIGURATION)
    for path in store.directory.iterdir():
        shutil.rmtree(path)
    assert store.load_newest(CONFIGURATION) is None


@pytest.mark.parametrize(
    ("change", "field", "expected", "found"),
    [
        ({"n_rows": 128}, "n_rows", 128, 64),
        ({"task": "regression"}, "task", "regression", "binary"),
        ({"seed": 3}, "seed", 3, None),
        ({"experts": {"bold": 1}}, "experts", {"bold": 1}, [{"name": "bold", "prior": 0.1}]),
    ],
)
def test_another_configuration_is_refused_with_both_values(
    tmp_path: Path, change: dict[str, Any], field: str, expected: object, found: object
) -> None:
    store = make_store(tmp_path)
    path = save(store, 10).path
    with pytest.raises(CheckpointMismatch) as caught:
        store.load_newest(CONFIGURATION | change)
    assert (caught.value.field, caught.value.expected, caught.value.found) == (field, expected, found)
    assert str(caught.value) == (
        f"{path} has {field} = {found!r}, but {expected!r} is asked for: "
        f"choose another checkpoint_dir or set {field} back to {found!r}"
    )
    assert newest_events(store) == 10


def test_all_that_differs_is_told_at_once(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = save(store, 10).path
    with pytest.raises(CheckpointMismatch) as caught:
        store.load_newest(CONFIGURATION | {"task": "regression", "n_rows": 128, "seed": 3})
    assert [tuple(one) for one in caught.value.differences] == [
        ("n_rows", 128, 64),
        ("seed", 3, None),
        ("task", "regression", "binary"),
    ]
    assert caught.value.field == "n_rows"
    assert str(caught.value) == (
        f"{path} has n_rows = 64, but 128 is asked for; seed = None, but 3 is asked for; "
        "task = 'binary', but 'regression' is asked for: "
        "choose another checkpoint_dir or set n_rows back to 64 and seed back to None and task back to 'binary'"
    )


def test_a_nested_setting_is_named_with_dots_and_tuples_equal_lists(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 10, {"limits": {"depth": 8, "grid": (1.0, 0.2)}})
    assert store.load_newest({"limits": {"depth": 8, "grid": (1.0, 0.2)}}) is not None
    with pytest.raises(CheckpointMismatch, match=r"limits\.depth = 8, but 9 is asked for"):
        store.load_newest({"limits": {"depth": 9, "grid": (1.0, 0.2)}})


def test_another_format_version_is_refused_and_stays(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    save(store, 10)
    path = save(store, 20).path

    def age(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 1
        del manifest["positions"]

    reseal(path / MANIFEST_FILE, age)
    with pytest.raises(CheckpointMismatch, match="format_version = 1, but 3 is asked for: run the version") as caught:
        store.load_newest(CONFIGURATION)
    assert (caught.value.field, caught.value.expected, caught.value.found) == ("format_version", 3, 1)
    assert str(caught.value).endswith("choose an empty checkpoint_dir, where the model is learned again from the log")
    assert path.is_dir()
    assert "format_version = 1" in str(store.list()[0].problem)


def test_a_file_in_the_folder_s_place_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "taken", 3)
    store.directory.write_text("")
    with pytest.raises(
        CheckpointUnreadable, match=r"cannot read .*/taken: Not a directory \(errno 20, ENOTDIR\); make"
    ):
        store.load_newest(CONFIGURATION)
    with pytest.raises(CheckpointWriteError, match=r"cannot write .*/taken: File exists \(errno 17, EEXIST\); check"):
        save(store, 10)
    with pytest.raises(CheckpointDamaged, match=r"manifest\.json is missing"):
        verify(tmp_path / "absent")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read everywhere")
def test_permissions_are_named_and_nothing_is_set_aside(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = save(store, 10).path
    (path / MODEL_FILE).chmod(0)
    store.directory.chmod(0o500)
    try:
        with pytest.raises(CheckpointWriteError, match=r"EACCES\); make it writable for user \d+"):
            save(store, 20)
        with pytest.raises(CheckpointUnreadable, match=r"EACCES\); make it readable for user \d+"):
            store.load_newest(CONFIGURATION)
    finally:
        store.directory.chmod(0o700)
        (path / MODEL_FILE).chmod(0o600)
    assert newest_events(store) == 10


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 4 KiB: a write that fails for real, in the middle of a tensor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_is_named_leaves_nothing_behind_and_can_be_tried_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = save(store, 10).path
    with small_files(), pytest.raises(CheckpointWriteError, match=r"File too large \(errno 27, EFBIG\)") as caught:
        save(store, 20)
    assert (caught.value.path, caught.value.errno) == (store.directory, 27)
    assert list(store.directory.iterdir()) == [path]
    assert newest_events(store) == 10
    save(store, 20)
    assert newest_events(store) == 20


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (28, r"No space left on device \(errno 28, ENOSPC\); free some space there or lower checkpoint_keep"),
        (
            30,
            r"Read-only file system \(errno 30, EROFS\); make it writable for user \d+ or choose another",
        ),
    ],
)
def test_a_failed_write_says_what_to_do(number: int, advice: str) -> None:
    error = CheckpointWriteError(Path("/data"), OSError(number, "whatever"))
    assert error.errno == number
    with pytest.raises(CheckpointWriteError, match=f"^cannot write /data: {advice}"):
        raise error


@pytest.mark.parametrize(
    "text", [CheckpointStore.save.__doc__, (Path(__file__).parents[2] / "docs/checkpoints.md").read_text()]
)
def test_the_steps_are_written_down_as_they_are(text: str) -> None:
    written = re.findall(r"^ *(\d+)\. `(\w+)`", text, re.MULTILINE)
    assert written == [(str(number), step) for number, step in enumerate(STEPS, start=1)]


def test_at_least_one_checkpoint_must_stay(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="checkpoint_keep = 0"):
        CheckpointStore(tmp_path, 0)
