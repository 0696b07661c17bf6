"""`flexihash verify`: whether a checkpoint is what its log implies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.test_cli import Run, run, write_events

__all__ = ["run"]


def learn(run: Run, log: Path, folder: str, n_rows: int = 1024) -> Path:
    """The newest checkpoint of `folder` after learning the rest of the log."""
    code, _, err = run("learn", log, "--checkpoint-dir", folder, "--n-rows", n_rows)
    assert code == 0, err
    return max(Path(folder).glob("*/manifest.json")).parent


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_events(tmp_path / "events.ndjson", [0, 1, 1] * 20)


def append(log: Path, labels: list[int]) -> None:
    more = write_events(log.with_name("more"), labels)
    log.write_text(log.read_text() + more.read_text())


def test_a_sound_checkpoint_is_bit_for_bit_what_the_log_implies(run: Run, log: Path) -> None:
    checkpoint = learn(run, log, "checkpoints")
    code, out, _ = run("verify", checkpoint)
    assert (code, "bit for bit what the log implies" in out, "60 events" in out) == (0, True, True)


def test_one_label_that_the_log_has_otherwise_is_found(run: Run, log: Path) -> None:
    checkpoint = learn(run, log, "checkpoints")
    log.write_text(log.read_text().replace('"label": 1', '"label": 0', 1))
    code, out, _ = run("verify", checkpoint, "--json")
    verdict = json.loads(out)
    assert (code, verdict["is_ordered"]) == (1, True)
    assert any("rows differ" in difference for difference in verdict["differences"]), verdict


def test_begins_from_an_older_checkpoint(run: Run, log: Path) -> None:
    older = learn(run, log, "checkpoints")
    append(log, [1, 0] * 5)
    newer = learn(run, log, "checkpoints")
    code, out, _ = run("verify", newer, "--from", older, "--json")
    assert (code, json.loads(out)["events"], json.loads(out)["differences"]) == (0, 10, [])


def test_an_older_checkpoint_of_another_model_is_refused_with_the_field(run: Run, log: Path) -> None:
    other = learn(run, log, "others", n_rows=2048)
    checkpoint = learn(run, log, "checkpoints")
    code, out, err = run("verify", checkpoint, "--from", other)
    assert (code, out) == (2, "")
    assert "n_rows" in err and "1024" in err and "2048" in err
    assert "begin from a checkpoint of the same model" in err


def test_a_folder_that_is_not_there_is_named(run: Run) -> None:
    code, out, err = run("verify", "nowhere")
    assert (code, out) == (2, "")
    assert "nowhere" in err


def test_the_folder_of_checkpoints_is_no_checkpoint(run: Run, log: Path) -> None:
    checkpoint = learn(run, log, "checkpoints")
    code, out, err = run("verify", "checkpoints")
    assert (code, out) == (2, "")
    assert err == f"flexihash: checkpoints is a folder of checkpoints: name one of them, such as {checkpoint}\n"
