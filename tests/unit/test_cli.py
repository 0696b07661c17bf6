"""The command line: what it prints, where, and how it ends when something is wrong."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flexihash.service import cli, demonstration
from flexihash.service.environment import PREFIX
from flexihash.service.measurement import Measurement
from flexihash.service.setting_types import Panel
from flexihash.service.settings import Settings
from flexihash.service.supervisor import bind_socket

WIDTH = 80  # of what is no terminal

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in an empty folder; gives its exit code, stdout and stderr."""
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flexihash", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capfd.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def write_events(path: Path, labels: list[int]) -> Path:
    """Events whose only feature gives the label away."""
    lines = [json.dumps({"features": {"color": "red" if label else "blue"}, "label": label}) for label in labels]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "command", ["serve", "learn", "embed", "produce", "inspect", "verify", "dead-letters", "broker", "demo"]
)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: flexihash {command} " in out
    for line, after in pairwise(line.rstrip() for line in out.partition("╭")[0].splitlines()):
        if line and after:
            assert len(f"{line} {after.split()[0]}") > WIDTH - 2, "no line is broken but where it is full"


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"flexihash {version('flexihash')}\n", "")


def test_help_imports_nothing_heavy() -> None:
    heavy = "('torch', 'numba', 'sklearn', 'numpy', 'kafka', 'fastapi', 'pydantic', 'msgspec')"
    code = (
        "import sys, atexit, flexihash.service.cli\n"
        f"atexit.register(lambda: print([name for name in {heavy} if name in sys.modules], file=sys.stderr))\n"
        "sys.argv = ['flexihash', '--help']\n"
        "flexihash.service.cli.main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stderr == "[]\n"


def test_options_of_serve_are_settings() -> None:
    (serve,) = (command for command in cli.app.registered_commands if command.callback is cli.serve)
    assert serve.callback is not None
    options = {option.name for option in cli.complete("serve").params} - {"as_json"}
    assert len(options) > 15
    assert options <= set(Settings.model_fields)


def test_a_setting_is_the_same_option_everywhere() -> None:
    n_options = 0
    for command in cli.app.registered_commands:
        taken = vars(command.callback).get("settings", ())
        options = {option.name: option for option in cli.complete(command.name).params}
        for name in taken:
            field = Settings.model_fields[name]
            assert options[name].help == field.description
            assert options[name].opts == [f"--{name.replace('_', '-')}"]
            assert options[name].default is None  # an environment variable wins over what the help shows
            (panel,) = (mark for mark in field.metadata if isinstance(mark, Panel))
            assert options[name].rich_help_panel == panel.title
            n_options += 1
    assert n_options > 30


def test_options_show_default_and_choices() -> None:
    options = {option.name: option for option in cli.complete("serve").params}
    shown = {name: (options[name].metavar, options[name].show_default) for name in options}
    assert shown["task"] == ("binary|regression|counts|quantile|multiclass|multilabel|targets", "binary")
    assert shown["start_at"] == ("earliest|latest", "earliest")
    assert shown["bootstrap_servers"] == ("HOST:PORT", "localhost:9092")
    assert shown["ignored_features"] == ("A,B", False)
    assert shown["crosses"] == ("A*B,C*D", False)
    assert shown["memory_dir"] == (None, False)
    assert shown["port"] == (None, "8080")
    assert shown["create_topic"] == (None, "no")
    assert options["create_topic"].secondary_opts == ["--no-create-topic"]


def test_no_option_has_the_name_of_its_value() -> None:
    """Some versions of Typer take what stands for the value in the help as the name, where none is written."""
    options = [
        option
        for command in cli.app.registered_commands
        for option in cli.complete(command.name).params
        if option.param_type_name == "option"
    ]
    assert len(options) > 50
    assert [option.opts for option in options if not re.fullmatch(r"--[a-z-]+", option.opts[0])] == []


def test_every_command_has_json() -> None:
    for command in cli.app.registered_commands:
        assert ["--json"] in [option.opts for option in cli.complete(command.name).params], command.name


def test_wrong_setting_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("serve", "--task", "guess") == (
        2,
        "",
        "flexihash: --task guess: must be 'binary', 'regression', 'counts', 'quantile', 'multiclass', 'multilabel' or"
        " 'targets'\n",
    )
    monkeypatch.setenv("FLEXIHASH_TOPIK", "a")
    code, _, err = run("serve")
    assert (code, err) == (
        2,
        "flexihash: FLEXIHASH_TOPIK is no setting; did you mean FLEXIHASH_TOPIC? Otherwise unset it\n",
    )


def test_dead_letters_that_are_not_kept_cannot_be_shown(run: Run) -> None:
    code, out, err = run("dead-letters", "--dead-letter-topic", "")
    assert (code, out) == (2, "")
    assert err == "flexihash: FLEXIHASH_DEAD_LETTER_TOPIC is empty, so no letters are kept; name that of older ones\n"


def test_port_in_use_is_one_line() -> None:
    """In a process of its own, since `serve` takes over the logs of its process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with bind_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "flexihash", "serve", "--port", str(port)],
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"flexihash: cannot listen on 127.0.0.1:{port}: address already in use; "
        "stop what uses it, or choose another with --port or --host\n"
    )


def test_learn_prints_metrics_beside_the_baseline(run: Run, tmp_path: Path) -> None:
    labels = [1, 0] * 50
    file = write_events(tmp_path / "events.ndjson", labels)
    code, out, err = run("learn", file, "--n-rows", 1024)
    assert (code, err) == (0, "")
    assert "100 events learned in " in out
    assert "Progressive metrics, task binary; of the first, lower is better" in out
    (row,) = (line for line in out.splitlines() if "log loss" in line)
    mine, baseline = (float(cell) for cell in row.replace("│", " ").split()[2:4])
    seen = [(sum(labels[:n]) + 0.5) / (n + 1) for n in range(100)]  # half an event of each kind at first
    losses = [-math.log(share if label else 1 - share) for share, label in zip(seen, labels, strict=True)]
    assert baseline == pytest.approx(sum(losses) / 100, abs=1e-4)
    assert mine < baseline / 3


def test_learn_prints_json(run: Run, tmp_path: Path) -> None:
    file = write_events(tmp_path / "events.ndjson", [1, 0] * 50)
    file.write_text(file.read_text() + "no json\n")
    code, out, err = run("learn", file, "--json", "--n-rows", 1024, "--checkpoint-dir", tmp_path / "checkpoints")
    report: dict[str, Any] = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert report["events"] == report["window"]["events"] == 100
    assert report["log_loss"] < report["baseline_log_loss"]
    assert report["auc"] == pytest.approx(1.0, abs=0.02)
    assert report["events_per_second"] == pytest.approx(100 / report["seconds"])
    assert report["rejected"] == {"not_json": 1}
    assert report["rejected_samples"][0].startswith(f"{file}:101: ")

    write_events(file, [1, 0] * 60)
    code, out, _ = run(
        "learn", tmp_path / "events.ndjson", "--json", "--n-rows", 1024, "--checkpoint-dir", "checkpoints"
    )
    assert code == 0
    assert json.loads(out)["window"]["events"] > 100  # it went on from the checkpoint


def test_learn_from_nothing_that_fits_says_so(run: Run, tmp_path: Path) -> None:
    file = write_events(tmp_path / "events.ndjson", [1])
    code, out, err = run("learn", file, "--label-field", "late", "--n-rows", 1024)
    assert code == 1
    assert "1 events had no label" in out
    assert err == (
        f"flexihash: {file}: no event was learned; do --label-field and --features-field name what is in it?\n"
    )


def test_learn_of_a_file_that_was_learned_has_nothing_left_to_do(run: Run, tmp_path: Path) -> None:
    command = ("learn", write_events(tmp_path / "events.ndjson", [1, 0]), "--n-rows", 1024, "--checkpoint-dir", "kept")
    assert run(*command)[0] == 0
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert "0 events learned" in out


@pytest.mark.parametrize("labels", [range(7), [0] * 5_000 + [1, 2, 3, 4, 5, 6] * 20, [1, 2] * 50])
def test_learn_does_not_take_several_labels_for_two(run: Run, tmp_path: Path, labels: list[int]) -> None:
    file = write_events(tmp_path / "events.ndjson", list(labels))
    code, out, err = run("learn", file, "--n-rows", 1024, "--checkpoint-dir", "kept")
    assert (code, out, err.count("\n")) == (2, "", 1)
    unfit = sorted({label for label in labels if label > 1})
    assert re.fullmatch(
        rf"flexihash: {file}: [\d,]+ of the first [\d,]+ labels are not 0 or 1 \(task=binary\): "
        + ", ".join(map(str, unfit))
        + "; mend them, or choose --task regression for quantities, or counts for counts; .*\n",
        err,
    )
    assert list(Path("kept").glob("0*")) == []
    code, out, _ = run("learn", file, "--n-rows", 1024, "--task", "counts", "--json")
    assert (code, json.loads(out)["events"], json.loads(out)["rejected"]) == (0, len(labels), {})


@pytest.mark.parametrize("slips", [["2"], ['"no"'] * 50, ["2"] * 10])
def test_learn_passes_labels_that_are_slips(run: Run, tmp_path: Path, slips: list[str]) -> None:
    file = write_events(tmp_path / "events.ndjson", [1, 0] * 500)
    lines = [f'{{"features": {{"color": "red"}}, "label": {label}}}\n' for label in slips]
    file.write_text("".join(lines) + file.read_text())
    code, out, _ = run("learn", file, "--n-rows", 1024, "--json")
    assert (code, json.loads(out)["events"], json.loads(out)["rejected"]) == (0, 1_000, {"bad_label": len(slips)})


def test_learn_of_counts_below_zero_names_another_task(run: Run, tmp_path: Path) -> None:
    file = write_events(tmp_path / "events.ndjson", [-1, 3, -2] * 10)
    code, _, err = run("learn", file, "--n-rows", 1024, "--task", "counts")
    assert code == 2
    assert err.endswith(
        "20 of the first 30 labels are not what it learns (task=counts): -2, -1; "
        "mend them, or choose --task regression for quantities that may be negative\n"
    )


def test_learn_reads_gzip_and_standard_input_as_its_help_says(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_events(tmp_path / "events.ndjson", [1, 0] * 5).read_bytes()
    (tmp_path / "events.ndjson.gz").write_bytes(gzip.compress(content))
    assert json.loads(run("learn", "events.ndjson.gz", "--n-rows", 1024, "--json")[1])["events"] == 10
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert json.loads(run("learn", "-", "--n-rows", 1024, "--json")[1])["events"] == 10
    words = " ".join(run("learn", "--help")[1].replace("│", " ").split())
    assert "gzipped where the name ends in .gz; - reads standard input" in words


def test_learn_of_an_absent_file_is_one_line(run: Run) -> None:
    assert run("learn", "nowhere.ndjson") == (
        2,
        "",
        "flexihash: cannot read nowhere.ndjson: No such file or directory\n",
    )


def test_learn_of_classes_shows_each_of_them(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    classes = ["AA", "B6", "B6"] * 40
    lines = (json.dumps({"features": {"carrier": name}, "label": name}) + "\n" for name in classes)
    file.write_text("".join(lines))
    code, out, err = run("learn", file, "--n-rows", 1024, "--task", "multiclass", "--checkpoint-dir", "kept")
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line[:1] == "│"]
    assert [row[:2] for row in rows if row[0] in ("AA", "B6")] == [["B6", "80"], ["AA", "40"]]
    (baseline,) = (row[2] for row in rows if row[0] == "accuracy")
    assert 0.6 < float(baseline) < 0.67
    code, out, _ = run("inspect", next(Path("kept").iterdir()))
    shown = [" ".join(line.split()) for line in out.splitlines()]
    assert [line for line in shown if line.startswith("class ")] == ["class B6: 80 events", "class AA: 40 events"]


def test_inspect_shows_lists_and_finds_damage(run: Run, tmp_path: Path) -> None:
    file = write_events(tmp_path / "events.ndjson", [1, 0] * 5)
    run("learn", file, "--json", "--n-rows", 1024, "--checkpoint-dir", "kept")
    code, out, _ = run("inspect", "kept", "--json")
    (listed,) = json.loads(out)["checkpoints"]
    assert (code, listed["events"], listed["problem"]) == (0, 10, None)

    code, out, _ = run("inspect", listed["path"], "--json")
    found = json.loads(out)
    assert (code, found["problem"], found["events"]) == (0, None, 10)
    assert found["configuration"]["n_rows"] == 1024
    assert found["positions"] == {f"{file}:0": file.stat().st_size}
    assert found["occupancy"] == 2 / 1024
    assert found["tensors"]["touched"] == {"shape": [1024], "dtype": "int64", "bytes": 8192}

    code, out, _ = run("inspect", listed["path"])
    assert code == 0
    assert "0.2% of 1,024" in out
    code, out, _ = run("inspect", "kept")
    assert Path(listed["path"]).name in out and "problem" not in out
    code, out, _ = run("inspect", ".")
    assert (code, out) == (1, ".: there are no checkpoints in this folder; there are in kept\n")

    tensors = Path(listed["path"]) / "model.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    code, out, err = run("inspect", listed["path"])
    assert (code, err) == (1, "")
    assert out.splitlines()[1].startswith("damaged: model.safetensors ")
    code, out, _ = run("inspect", listed["path"], "--json")
    assert code == 1
    assert json.loads(out)["problem"].startswith("model.safetensors ")
    (Path(listed["path"]) / "manifest.json").write_text("{}")
    code, out, _ = run("inspect", "kept")
    assert "problem" in out.splitlines()[0]


def test_inspect_of_what_is_not_there(run: Run, tmp_path: Path) -> None:
    assert run("inspect", "nowhere") == (
        2,
        "",
        "flexihash: nowhere: there is no such folder; a checkpoint is a folder in checkpoint_dir\n",
    )
    code, out, _ = run("inspect", tmp_path)
    assert code == 1
    assert out.endswith("there are no checkpoints in this folder\n")


def test_produce_writes_files(run: Run, tmp_path: Path) -> None:
    code, out, err = run("produce", "synthetic", "--limit", 7, "--out", "synthetic.ndjson")
    assert (code, out) == (0, "")
    assert err.startswith("7 events in ")
    events = [json.loads(line) for line in (tmp_path / "synthetic.ndjson").read_text().splitlines()]
    assert [sorted(event) for event in events] == [["features", "id", "label", "timestamp"]] * 7

    code, out, _ = run("produce", "synthetic.ndjson", "--limit", 2, "--out", "-")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, events[:2])


def test_produce_prints_its_figures_as_json(run: Run) -> None:
    code, out, err = run("produce", "synthetic", "--limit", 7, "--out", "f", "--json")
    figures = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert figures["events"] == 7
    assert figures["events_per_second"] == pytest.approx(7 / figures["seconds"])

    code, out, err = run("produce", "f", "--out", "-", "--json")  # standard output is taken
    assert (code, out.count("\n"), json.loads(err)["events"]) == (0, 7, 7)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("flights", "--rate", "fast"), "--rate"),
        (("flights", "--rate", "0"), "--rate"),
        (("flights", "--rate", "nan"), "--rate"),
        (("flights", "--rate", "5", "--out", "f"), "--out"),
        (("flights", "--topic", "t", "--out", "f"), "--out"),
        (("synthetic", "--out", "f"), "--limit"),
    ],
)
def test_produce_refuses_what_makes_no_sense(run: Run, arguments: tuple[str, ...], word: str) -> None:
    code, out, err = run("produce", *arguments)
    assert (code, out) == (2, "")
    assert f"Invalid value for {word}" in err


def test_produce_of_an_absent_file_is_one_line(run: Run) -> None:
    code, out, err = run("produce", "nowhere.ndjson", "--out", "f")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("flexihash: cannot read nowhere.ndjson: ")


def test_our_own_faults_keep_their_traceback() -> None:
    assert cli.explain(KeyError("x")) == []
    assert cli.explain(OSError("no file")) == []
    assert cli.explain(PermissionError(13, "Permission denied", "x")) == ["x: permission denied"]


def test_demo_measures_from_before_the_first_event_to_the_last() -> None:
    seen = Measurement(idle_at=1.0)
    assert seen.summary()["events_per_second"] == 0.0
    assert seen.summary()["predict_p99_ms"] is None
    for now, n_events in ((2.0, 0), (3.0, 100), (4.0, 400), (5.0, 400)):
        metrics = {"log_loss": 0.4, "auc": 0.8, "baseline_log_loss": 0.5}
        seen.note({"version": {"events": n_events}, "metrics": metrics}, now)
    seen.latencies_ms.extend(float(ms) for ms in range(1, 101))
    seen.n_predictions = 100
    assert seen.summary() == {
        "events": 400,
        "events_per_second": 200.0,
        "log_loss": 0.4,
        "auc": 0.8,
        "baseline_log_loss": 0.5,
        "predictions": 100,
        "predict_p50_ms": 50.0,
        "predict_p99_ms": 99.0,
    }


def test_demo_prints_its_figures_as_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Measurement(n_predictions=3)
    monkeypatch.setattr(demonstration, "run_demo", lambda **_: seen)
    code, out, err = run("demo", "--json")
    assert (code, json.loads(out), err) == (0, seen.summary(), "")
    assert "predictions over HTTP 3" in " ".join(run("demo")[1].split())
