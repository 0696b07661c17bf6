"""Tables on the command line: learned, embedded, produced and verified as lines of JSON are."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexihash.consumer.formats.reader import Format
from flexihash.service.commands.produce import read_file
from tests.unit.test_cli import Run, run
from tests.unit.test_files import write, write_csv

__all__ = ["run"]

ROWS = [
    {"color": "red" if n % 2 else "blue", "price": n / 7 + 0.1, "size": n % 5, "arrived": n % 2, "note": None}
    for n in range(300)
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path, ROWS, Format.CSV).rename(tmp_path / "shop.csv")


def learn(run: Run, *arguments: object) -> dict[str, Any]:
    code, out, err = run("learn", *arguments, "--n-rows", 1024, "--json")
    assert (code, err) == (0, ""), err
    report: dict[str, Any] = json.loads(out)
    return report


def test_a_table_is_learned_by_one_command(run: Run, table: Path) -> None:
    code, out, err = run("learn", table, "--label", "arrived", "--n-rows", 1024)
    assert (code, err) == (0, "")
    assert "In the first 300 events these are" in out
    kinds = {
        cells[0].strip(): cells[1].strip() for line in out.splitlines() if len(cells := line.strip("│").split("│")) == 2
    }
    assert kinds == {
        "numbers": "price", "categories": "color", "numbers and categories": "size", "label": "arrived",
        "nothing": "note",
    }  # fmt: skip
    assert "300 events learned in " in out
    assert out.index("numbers") < out.index("log loss"), "the figures come last"


def test_what_was_taken_for_what_is_in_json(run: Run, table: Path) -> None:
    report = learn(run, table, "--label", "arrived")
    assert report["features"]["price"] == {"taken_for": "number", "missing": 0.0}
    assert report["features"]["note"] == {"taken_for": "nothing", "missing": 1.0}
    assert report["log_loss"] < report["baseline_log_loss"] / 3


def test_label_is_short_for_label_field(run: Run, table: Path, tmp_path: Path) -> None:
    lines = write(tmp_path, ROWS, Format.NDJSON)
    whole = ("--features-field", "")
    losses = {
        learn(run, *arguments)["log_loss"]
        for arguments in (
            (table, "--label", "arrived"),
            (table, "--label-field", "arrived"),
            (lines, "--label", "arrived", *whole),
            (lines, "--label-field", "arrived", *whole),
            (table, "--label", "arrived", "--features-field", "elsewhere"),
        )
    }
    assert len(losses) == 1
    code, out, err = run("learn", table, "--label", "arrived", "--label-field", "arrived")
    assert (code, out) == (2, "")
    assert "is short for --label-field: give one of them" in " ".join(err.replace("│", " ").split())


def test_a_label_that_is_no_column_is_one_line(run: Run, table: Path) -> None:
    assert run("learn", table) == (
        2,
        "",
        f"flexihash: {table} has no column 'label'; its columns are color, price, size, arrived, note; --label names "
        "that of the label\n",
    )


def test_labels_that_are_texts_name_the_task(run: Run, table: Path) -> None:
    assert run("learn", table, "--label", "color", "--n-rows", 1024) == (
        2,
        "",
        f'flexihash: {table}: 300 of the first 300 labels are not 0 or 1 (task=binary): "blue", "red"; choose --task '
        "multiclass, where they are classes, or say by --positive-labels which are 1\n",
    )
    few = write_csv(table.parent, "a,b\n" + "x,no\n" * 50 + "x,1\ny,0\n" * 30)
    report = learn(run, few, "--label", "b")
    assert (report["events"], report["rejected"]) == (60, {"bad_label": 50})


@pytest.mark.parametrize(
    ("options", "labels", "loss"),
    [
        (("--task", "multiclass", "--label", "color"), ["color"], "log_loss"),
        (("--label", "color", "--positive-labels", "red"), ["color"], "log_loss"),
        (("--label-rule", "arrived > 0"), ["arrived"], "log_loss"),
        (("--task", "regression", "--label", "arrived"), ["arrived"], "mae"),
    ],
)
def test_a_column_is_any_label_that_an_event_may_have(
    run: Run, table: Path, options: tuple[str, ...], labels: list[str], loss: str
) -> None:
    report = learn(run, table, *options)
    assert (report["events"], report["rejected"], report["unlabelled"]) == (300, {}, 0)
    assert report[loss] < report[f"baseline_{loss}"] / 2
    assert [name for name, taken in report["features"].items() if taken["taken_for"] == "label"] == labels


def test_columns_are_targets(run: Run, table: Path) -> None:
    report = learn(run, table, "--task", "targets", "--targets", "arrived:binary,size:counts")
    assert (report["events"], set(report["targets"])) == (300, {"arrived", "size"})
    code, _, err = run("learn", table, "--task", "targets", "--targets", "arrived:binary,late:binary")
    assert (code, "has no column 'late'; its columns are color" in err) == (2, True)


def test_lists_and_paths_of_parquet_are_labels(run: Run, tmp_path: Path) -> None:
    rows = [{"row": {"tags": [] if n % 2 else ["a", "b"], "kind": n % 2}, "color": n % 2} for n in range(200)]
    file = write(tmp_path, rows, Format.PARQUET)
    assert learn(run, file, "--task", "multilabel", "--label", "row.tags")["events"] == 200
    report = learn(run, file, "--label", "row.kind")
    assert report["log_loss"] < report["baseline_log_loss"] / 3


@pytest.mark.parametrize("format", [*Format])
def test_what_comes_by_a_pipe_is_what_its_first_bytes_are(
    run: Run, tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write(tmp_path, ROWS, format).read_bytes()
    for options in ((), ("--format", format)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        report = learn(run, "-", "--label", "arrived", "--features-field", "", *options)
        assert (report["events"], report["rejected"]) == (300, {})


def test_a_format_that_there_is_not_is_refused(run: Run, table: Path) -> None:
    for command in (("learn", table), ("produce", table, "--out", "-"), ("embed", table, "--out", "v.npy")):
        code, out, err = run(*command, "--format", "xlsx")
        assert (code, out) == (2, "")
        assert "xlsx is none of ndjson, csv, parquet" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("format", [Format.CSV, Format.PARQUET])
def test_a_checkpoint_of_a_table_is_what_the_table_implies(run: Run, tmp_path: Path, format: Format) -> None:
    file = write(tmp_path, ROWS, format)
    if format is Format.CSV:
        file.write_bytes(file.read_bytes() + b"red,1\n")
    report = learn(run, file, "--label", "arrived", "--checkpoint-dir", "kept")
    assert report["rejected"] == ({"bad_row": 1} if format is Format.CSV else {})
    (checkpoint,) = Path("kept").glob("0*")
    code, out, _ = run("verify", checkpoint, "--json")
    assert (code, json.loads(out)["differences"], json.loads(out)["events"]) == (0, [], 300)
    assert learn(run, file, "--label", "arrived", "--checkpoint-dir", "kept")["events"] == 0


def test_rows_are_embedded_as_their_events_are(run: Run, tmp_path: Path, table: Path) -> None:
    learn(run, table, "--label", "arrived", "--checkpoint-dir", "kept")
    vectors = {}
    for file in (table, write(tmp_path, ROWS, Format.PARQUET, ".gz"), write(tmp_path, ROWS, Format.NDJSON)):
        code, _, err = run("embed", file, "--out", "v.npy", "--checkpoint", "kept")
        assert (code, err) == (0, "")
        vectors[file] = np.load("v.npy")
    first, *others = vectors.values()
    assert first.shape == (300, 16) and first.any()
    for other in others:
        np.testing.assert_array_equal(first, other)
    ragged = write_csv(tmp_path, "color,price\nred,1\nblue\n")
    code, _, err = run("embed", ragged, "--out", "v.npy", "--checkpoint", "kept")
    message = "the row has 1 cell, but the header names 2 columns; nothing was written"
    assert (code, err) == (2, f"flexihash: {ragged}:3: {message}\n")


@pytest.mark.parametrize("format", [*Format])
def test_rows_are_produced_as_events(run: Run, tmp_path: Path, format: Format) -> None:
    code, out, _ = run("produce", write(tmp_path, ROWS, format, ".zst"), "--limit", 250, "--out", "-")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, ROWS[:250])


def test_what_is_piped_is_sent_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    for first, second in ((b'{"a":1}\n', b'{"a":2}\n'), (b"a,b\n1,2\n", b"3,4\n")):
        read_end, write_end = os.pipe()
        with os.fdopen(read_end) as stdin, os.fdopen(write_end, "wb", buffering=0) as pipe:
            monkeypatch.setattr(sys, "stdin", stdin)
            pipe.write(first)
            values = read_file(Path("-"), None)
            assert json.loads(next(values))["a"] == 1, "before there is more"
            pipe.write(second)
            assert json.loads(next(values))["a"] in (2, 3)
            values.close()  # type: ignore[attr-defined]


def test_what_is_no_row_is_sent_as_it_is(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("produce", write_csv(tmp_path, "a,b\r\n1,2\r\n3\r\n4,5\r\n"), "--out", "-")
    assert (code, out) == (0, '{"a":1,"b":2}\n3\n{"a":4,"b":5}\n')


def test_no_table_is_one_line(run: Run, tmp_path: Path) -> None:
    twice = write_csv(tmp_path, "a,a\n1,2\n")
    for command in (("learn", twice), ("produce", twice, "--out", "-")):
        code, out, err = run(*command)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"flexihash: {twice} has several columns with the name 'a'; ")
