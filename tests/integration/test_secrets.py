"""The token and the broker's password go where they must, and into no log, answer or command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.brokers import USERNAME, ApacheKafka
from tests.integration.served import READY_S, Launch

TOKEN, WRONG_TOKEN, WRONG_PASSWORD = "tok-91b7c4e2", "tok-33aa0f5d", "pass-7d04e6b9"

PAGES = ("/v1/model", "/v1/checkpoints", "/metrics", "/readyz", "/openapi.json", "/docs", "/")
CALLS = ("/v1/predictions", "/v1/events", "/v1/checkpoints")


def command_lines() -> str:
    """Of all processes that can be seen."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return "\n".join(lines)


@pytest.mark.kafka
@pytest.mark.parametrize("is_right", [True, False])
def test_no_secret_is_told(apache_kafka: ApacheKafka, topic_name: str, launch: Launch, is_right: bool) -> None:
    connection = apache_kafka.secure_connection()
    password = connection.password if is_right else WRONG_PASSWORD
    assert password
    service = launch(
        connection,
        topic_name,
        FLEXIHASH_CREATE_TOPIC="true",
        FLEXIHASH_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        FLEXIHASH_SASL_MECHANISM="PLAIN",
        FLEXIHASH_SASL_USERNAME=USERNAME,
        FLEXIHASH_SASL_PASSWORD=password,
        FLEXIHASH_API_TOKEN=TOKEN,
        FLEXIHASH_LOG_LEVEL="debug",
    ).start()
    told = []
    if is_right:
        service.wait_ready()
        for token in (TOKEN, WRONG_TOKEN):
            headers = {"authorization": f"Bearer {token}"}
            answers = [service.http.get(path, headers=headers) for path in PAGES]
            body = {"features": {}, "label": "x"}
            answers += [service.http.post(path, headers=headers, json=body) for path in CALLS]
            told += [answer.text for answer in answers]
        told.append(command_lines())
        assert service.stop() == 0
    else:
        assert service.process is not None
        assert service.process.wait(READY_S) == 2
        assert f"denies user '{USERNAME}' access" in service.log
    told.append(service.log)
    assert '"level": "debug"' in service.log or "[debug" in service.log
    for text in told:
        for secret in (TOKEN, WRONG_TOKEN, password):
            assert secret not in text
