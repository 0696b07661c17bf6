"""Settings: what the environment says, how a wrong value is told, and that docs/settings.md lists them as they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from model.config import ModelConfig, Task
from service.errors import SettingsError
from service.logs import configure_logs
from service.settings import PREFIX, Settings, describe_default, find_unknown, load_settings

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def test_environment_and_overrides_win_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().port == 8080
    monkeypatch.setenv("FLEXIHASH_PORT", "9000")
    assert load_settings().port == 9000
    assert load_settings(port=None).port == 9000
    assert load_settings(port=9001).port == 9001


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXIHASH_CATEGORICAL_FEATURES", "*_id, user ,")
    assert load_settings().categorical_features == ("*_id", "user")
    assert load_settings(ignored_features="").ignored_features == ()


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("PORT", "x", "FLEXIHASH_PORT=x: must be a whole number"),
        ("PORT", "70000", "FLEXIHASH_PORT=70000: must be less than or equal to 65535"),
        ("TASK", "guess", "FLEXIHASH_TASK=guess: must be 'binary', 'regression', 'counts' or 'quantile'"),
        ("START_AT", "now", "FLEXIHASH_START_AT=now: must be 'earliest' or 'latest'"),
        ("N_ROWS", "1000", "FLEXIHASH_N_ROWS=1000: must be a power of two, such as 1024"),
        ("QUANTILE", "1", "FLEXIHASH_QUANTILE=1: must be less than 1"),
        ("CREATE_TOPIC", "perhaps", "FLEXIHASH_CREATE_TOPIC=perhaps: must be true or false"),
        ("LABEL_FIELD", "", "FLEXIHASH_LABEL_FIELD=: must not be empty"),
        ("CHECKPOINT_SECONDS", "inf", "FLEXIHASH_CHECKPOINT_SECONDS=inf: must be a finite number"),
        (
            "BOOTSTRAP_SERVERS",
            "kafka",
            "FLEXIHASH_BOOTSTRAP_SERVERS=kafka: must be host:port, or several separated by commas",
        ),
        (
            "TOPIC",
            "a/b",
            "FLEXIHASH_TOPIC=a/b: must be 1 to 245 letters, digits, dots, underscores and hyphens",
        ),
        (
            "SECURITY_PROTOCOL",
            "SASL_SSL",
            "FLEXIHASH_SECURITY_PROTOCOL=SASL_SSL needs FLEXIHASH_SASL_MECHANISM",
        ),
        ("SSL_CAFILE", "/nowhere.pem", "FLEXIHASH_SSL_CAFILE=/nowhere.pem: must be a file that exists"),
        ("PROT", "1", "FLEXIHASH_PROT is no setting; did you mean FLEXIHASH_PORT? Otherwise unset it"),
    ],
)
def test_wrong_value_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == line


def test_wrong_option_is_named_as_it_was_typed() -> None:
    with pytest.raises(SettingsError, match=r"^--max-depth 0: must be greater than or equal to 1$"):
        load_settings(max_depth=0)


def test_secret_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXIHASH_API_TOKEN", "two words")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "two" not in str(caught.value)
    assert str(caught.value).startswith("FLEXIHASH_API_TOKEN=(not shown): ")
    monkeypatch.setenv("FLEXIHASH_API_TOKEN", "s3cret")
    assert "s3cret" not in repr(load_settings())


def test_child_gets_equal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given = load_settings(
        port=0,
        api_token="s3cret",
        task="counts",
        numeric_features="year,age",
        create_topic=True,
        memory_dir=Path("/dev/shm/x"),
        checkpoint_seconds=0.5,
        sasl_username=None,
        features_field="",
    )
    for name, value in given.to_environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


def test_unknown_variables_of_others_are_left_alone() -> None:
    assert find_unknown({"PATH": "/bin", "FLEXIHASH_TOPIC": "a", "FLEXI": "b"}) == []


def test_model_and_memory() -> None:
    settings = load_settings(task="quantile", quantile=0.9, n_rows=1024, seed=7, topic="t.1")
    assert settings.model == ModelConfig(task=Task.QUANTILE, quantile=0.9, n_rows=1024, seed=7)
    assert settings.memory.name.endswith("-t.1")
    assert load_settings(memory_dir=Path("here")).memory == Path("here")


def test_every_setting_is_in_the_docs_as_it_is() -> None:
    documented = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]
    assert documented == [
        f"| `{PREFIX}{name.upper()}` | {f'`{default}`' if (default := describe_default(field)) else ''} "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    import sys
    import threading

    root = logging.getLogger()
    former = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    yield
    root.handlers[:], level, sys.excepthook, threading.excepthook = former
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_restored_logging")
def test_logs_are_json_lines_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(log_format="json", api_token='s3"cret'), "learner")
    structlog.stdlib.get_logger("ours").info("hello", token='s3"cret', n=1)
    logging.getLogger("uvicorn.error").warning("their %s", 's3"cret')
    logging.getLogger("kafka.client").info("chatter")
    captured = capsys.readouterr()
    ours, theirs = (json.loads(line) for line in captured.err.splitlines())
    assert captured.out == ""
    assert (ours["event"], ours["process"], ours["level"], ours["n"]) == ("hello", "learner", "info", 1)
    assert ours["token"] == "(not shown)"
    assert (theirs["event"], theirs["level"]) == ("their (not shown)", "warning")


@pytest.mark.usefixtures("_restored_logging")
def test_console_logs_have_no_colours_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(log_format="console", log_level="warning"), "api")
    structlog.stdlib.get_logger("ours").info("too little")
    structlog.stdlib.get_logger("ours").error("enough", n=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("[error    ] enough n=1 process=api")
    assert "\x1b" not in line
