"""Settings: what the environment says, how a wrong value is told, and that docs/settings.md lists them as they are."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from flexihash.model.config import ModelConfig
from flexihash.model.tasks import Task
from flexihash.service.environment import PREFIX
from flexihash.service.logs import configure_logs
from flexihash.service.service_errors import SettingsError
from flexihash.service.settings import Settings, describe_default, find_unknown, load_settings
from tests.integration.brokers import Certificates

PASSWORD = 'h\'orse "battery" st\\aple ünd'
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
        (
            "TASK",
            "guess",
            "FLEXIHASH_TASK=guess: must be 'binary', 'regression', 'counts', 'quantile', 'multiclass', 'multilabel' or "
            "'targets'",
        ),
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
            "DEAD_LETTER_TOPIC",
            "{topic}" + "x" * 244,
            f"FLEXIHASH_DEAD_LETTER_TOPIC={{topic}}{'x' * 244} makes 250 characters with the topic's name, and Kafka"
            " takes 249",
        ),
        (
            "SECURITY_PROTOCOL",
            "SASL_SSL",
            "FLEXIHASH_SECURITY_PROTOCOL=SASL_SSL needs FLEXIHASH_SASL_MECHANISM",
        ),
        ("SSL_CAFILE", "/nowhere.pem", "FLEXIHASH_SSL_CAFILE=/nowhere.pem: must be a file that exists"),
        (
            "SSL_CAFILE",
            __file__,
            f"FLEXIHASH_SSL_CAFILE={__file__}: {__file__} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        ),
        ("SSL_CERTFILE", "/nowhere.pem", "FLEXIHASH_SSL_CERTFILE=/nowhere.pem: must be a file that exists"),
        (
            "SSL_KEYFILE",
            __file__,
            "FLEXIHASH_SSL_CERTFILE and FLEXIHASH_SSL_KEYFILE go together: set both, or neither",
        ),
        (
            "SASL_PASSWORD",
            "s3cret",
            "FLEXIHASH_SECURITY_PROTOCOL=PLAINTEXT takes no SASL settings: set it to SASL_SSL or SASL_PLAINTEXT, or"
            " unset FLEXIHASH_SASL_*",
        ),
        ("PROT", "1", "FLEXIHASH_PROT is no setting; did you mean FLEXIHASH_PORT? Otherwise unset it"),
    ],
)
def test_wrong_value_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("pattern", "name"),
    [(None, "t.1.dlq"), ("{topic}.dlq", "t.1.dlq"), ("dlq.{topic}", "dlq.t.1"), ("", "")],
)
def test_dead_letters_have_a_topic_of_their_own_or_none(
    monkeypatch: pytest.MonkeyPatch, pattern: str | None, name: str
) -> None:
    if pattern is not None:
        monkeypatch.setenv("FLEXIHASH_DEAD_LETTER_TOPIC", pattern)
    settings = load_settings(topic="t.1")
    assert settings.letter_topic == name
    assert settings.kafka_topic.dead_letters.name == (name or "t.1.dlq")


@pytest.mark.parametrize("pattern", ["letters", "{topic}", "{topic}/x", "{partition}.dlq"])
def test_no_two_topics_share_one_for_dead_letters(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.setenv("FLEXIHASH_DEAD_LETTER_TOPIC", pattern)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    allowed = "must be a name with {topic} and more in it, such as {topic}.dlq, or empty"
    assert str(caught.value) == f"FLEXIHASH_DEAD_LETTER_TOPIC={pattern}: {allowed}"


def test_a_login_needs_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"sasl_mechanism": "PLAIN", "sasl_username": "me", "sasl_password": "s3cret"}
    for absent in given:
        with pytest.raises(SettingsError) as caught:
            load_settings(security_protocol="SASL_SSL", **{name: given[name] for name in given if name != absent})
        assert str(caught.value) == f"FLEXIHASH_SECURITY_PROTOCOL=SASL_SSL needs FLEXIHASH_{absent.upper()}"


def test_files_of_tls_are_looked_into(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    certificate, key = certificates.issue("me")
    _, other = certificates.issue("other")
    tls = {"security_protocol": "SSL", "ssl_cafile": certificates.authority}
    connection = load_settings(**tls, ssl_certfile=certificate, ssl_keyfile=key).connection
    assert (connection.ssl_cafile, connection.ssl_certfile, connection.ssl_keyfile) == tuple(
        map(str, (certificates.authority, certificate, key))
    )
    encrypted = tmp_path / "encrypted.key"
    loaded = load_pem_private_key(key.read_bytes(), None)
    encrypted.write_bytes(
        loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))
    )
    for wrong in (other, encrypted, certificate):
        with pytest.raises(SettingsError) as caught:
            load_settings(**tls, ssl_certfile=certificate, ssl_keyfile=wrong)
        assert str(caught.value) == f"{wrong} holds no key of {certificate} in PEM, without a passphrase"
    with pytest.raises(SettingsError) as caught:
        load_settings(ssl_cafile=certificates.authority)
    assert str(caught.value) == (
        "FLEXIHASH_SECURITY_PROTOCOL=PLAINTEXT takes no FLEXIHASH_SSL_CAFILE: set it to SSL or SASL_SSL, or unset"
        " FLEXIHASH_SSL_CAFILE"
    )


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
    assert settings.model == ModelConfig(task=Task.QUANTILE, quantile=0.9, n_rows=1024, seed=7, embeddings=True)
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
@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("password", [PASSWORD, "it's", 'quoted "', "näive", "back\\slash"])
def test_the_password_shows_in_no_form(capsys: pytest.CaptureFixture[str], password: str, log_format: str) -> None:
    login = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "me"}
    configure_logs(load_settings(**login, log_format=log_format, sasl_password=password), "learner")
    token = f"\0me\0{password}"
    for form in (token, repr(token), token.encode(), {"auth_bytes": token.encode(), "text": token}):
        logging.getLogger("theirs").warning("%s", form)
    lines = capsys.readouterr().err
    assert lines.count("(not shown)") == 5
    for piece in re.findall(r"\w+", password, re.ASCII):
        assert len(piece) < 3 or piece not in lines, lines


@pytest.mark.usefixtures("_restored_logging")
def test_console_logs_have_no_colours_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(log_format="console", log_level="warning"), "api")
    structlog.stdlib.get_logger("ours").info("too little")
    structlog.stdlib.get_logger("ours").error("enough", n=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("[error    ] enough n=1 process=api")
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"task": "targets"},
            "FLEXIHASH_TASK=targets and FLEXIHASH_TARGETS go together: set both, such as late:binary,delay:regression,"
            " or neither",
        ),
        (
            {"targets": "late:binary"},
            "FLEXIHASH_TASK=targets and FLEXIHASH_TARGETS go together: set both, such as late:binary,delay:regression,"
            " or neither",
        ),
        (
            {"task": "multiclass", "positive_labels": "late"},
            "FLEXIHASH_POSITIVE_LABELS makes labels of yes and no, and FLEXIHASH_TASK is multiclass",
        ),
        (
            {"task": "counts", "label_rule": "delay > 15"},
            "FLEXIHASH_LABEL_RULE makes labels of yes and no, and FLEXIHASH_TASK is counts",
        ),
        (
            {"positive_labels": "late", "label_rule": "delay > 15"},
            "set FLEXIHASH_POSITIVE_LABELS or FLEXIHASH_LABEL_RULE, not both: each makes the label",
        ),
        ({"targets": "late"}, "--targets late: must be FIELD:TASK, several separated by commas, each field once"),
        (
            {"label_rule": "delay > late"},
            "--label-rule delay > late: must compare a field with a number or a string, by one of >= <= == != > <, such"
            ' as arr_delay > 15 or status == "late", with the quotes',
        ),
        ({"envelope": "avro"}, "--envelope avro: must be '', 'debezium' or 'connect'"),
    ],
)
def test_labels_that_do_not_go_together_are_refused(given: dict[str, str], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**given)
    assert str(caught.value) == line


def test_targets_are_read_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(task="targets", targets="order.late:binary, delay:regression")
    assert settings.event_format.targets == (("order.late", Task.BINARY), ("delay", Task.REGRESSION))
    assert list(settings.model.targets.items()) == [("order.late", Task.BINARY), ("delay", Task.REGRESSION)]
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
