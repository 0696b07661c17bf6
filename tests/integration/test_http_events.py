"""POST /v1/events to real brokers: what arrives, and where the answer says it went."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.service.api import create_app
from flexihash.service.settings import load_settings

PATIENCE_S = 60.0
EVENT = {"features": {"carrier": "UA", "distance": 1400.5}, "label": 1}

Post = Callable[..., httpx.Response]


@pytest.fixture
def open_api(broker: KafkaConnection, tmp_path: Path) -> Iterator[Callable[[str], Post]]:
    """The API for a topic, as a function that posts events."""
    with asyncio.Runner() as runner:
        opened = []

        def open_for(topic: str) -> Post:
            settings = load_settings(
                bootstrap_servers=broker.bootstrap_servers, topic=topic, memory_dir=tmp_path / "memory"
            )
            app = create_app(settings)
            opened.append(app.state.parts)

            def post(**body: Any) -> httpx.Response:
                async def call() -> httpx.Response:
                    transport = httpx.ASGITransport(app)
                    async with httpx.AsyncClient(transport=transport, base_url="http://api", timeout=60) as client:
                        return await client.post("/v1/events", **body)

                return runner.run(call())

            return post

        yield open_for
        for parts in opened:
            runner.run(parts.close())


def read_values(broker: KafkaConnection, topic: str, n_values: int) -> list[bytes | None]:
    """The values of partition 0, at least n_values of them."""
    source = KafkaSource(Topic(broker, topic))
    source.start({})
    values: list[bytes | None] = []
    deadline = monotonic() + PATIENCE_S
    while len(values) < n_values:
        assert monotonic() < deadline, f"{len(values)} of {n_values} events came"
        for fetch in source.poll(0.5):
            values += fetch.values
    source.close()
    return values


def test_events_arrive_as_they_were_sent_and_the_positions_are_those_after_them(
    broker: KafkaConnection, topic: str, open_api: Callable[[str], Post]
) -> None:
    post = open_api(topic)
    lines = [json.dumps({**EVENT, "id": str(number)}) for number in range(300)]

    one = post(json=EVENT)
    array = post(json=[EVENT, EVENT])
    bad = post(json=[EVENT, {"features": {"a": 1}, "label": "yes"}])
    ndjson = post(content="\n".join(lines), headers={"content-type": "application/x-ndjson"})

    assert one.json() == {"events": 1, "positions": {f"{topic}:0": 1}}
    assert array.json() == {"events": 2, "positions": {f"{topic}:0": 3}}
    assert (bad.status_code, bad.json()["where"], bad.json()["key"]) == (422, "events[1]", "label")
    assert ndjson.json() == {"events": 300, "positions": {f"{topic}:0": 303}}
    values = read_values(broker, topic, 303)
    assert [json.loads(value or b"") for value in values[:3]] == [EVENT] * 3
    assert values[3:] == [line.encode() for line in lines]


def test_a_topic_that_does_not_exist_is_named(topic_name: str, open_api: Callable[[str], Post]) -> None:
    response = open_api(topic_name)(json=EVENT)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert "retry-after" not in response.headers  # coming back does not help
    assert response.json()["detail"].startswith(f"the events were not published: topic '{topic_name}' does not exist")
