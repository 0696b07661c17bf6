"""What the OpenAPI document allows, and much that it does not, sent to a real service: all checks of schemathesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from tests.integration.served import Launch

TOKEN = "tok-5d6f0c"
TIMEOUT_S = 300  # half a minute on an idle machine

RUN = """
import json, sys
import schemathesis
from hypothesis import strategies as st
from schemathesis.cli import schemathesis as run

event = {"features": {"carrier": "UA"}, "label": 1}
instances = ['{"carrier": "UA"}', '{}', '{"carrier": {"of": ["UA", 7]}}']
schemathesis.openapi.format("ndjson-instances", st.lists(st.sampled_from(instances), min_size=1).map("\\n".join))
schemathesis.openapi.format("ndjson", st.integers(1, 3).map(lambda n: (json.dumps(event) + "\\n") * n))

@schemathesis.serializer("application/x-ndjson")
def encode_lines(context, value):
    if isinstance(value, str):
        return value.encode()
    return json.dumps([value]).encode()  # what is to be wrong stays so: an object, as it is, would be a line

sys.exit(run())
"""


@pytest.mark.parametrize("token", [TOKEN, ""], ids=["token", "no token"])
def test_every_answer_is_documented(
    tansu: KafkaConnection, topic_name: str, launch: Launch, tmp_path: Path, token: str
) -> None:
    Topic(tansu, topic_name).create()
    settings = {"FLEXIHASH_API_TOKEN": token} if token else {}
    service = launch(tansu, topic_name, **settings).start().wait_ready()
    authorization = [f"--header=Authorization: Bearer {token}"] if token else []
    url = f"http://127.0.0.1:{service.port}/openapi.json"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, "run", url, "--seed=1", "--max-examples=40", *authorization],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "No issues found" in run.stdout
    assert service.stop() == 0
    assert "Traceback" not in service.log
