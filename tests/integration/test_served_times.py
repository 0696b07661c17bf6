"""Times, texts and missing values by `flexihash serve`: from the topic to a prediction in which they matter."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from tests.integration.served import READY_S, Launch, assert_exact

NEW_YORK = ZoneInfo("America/New_York")
BEGIN = datetime(2013, 1, 1, tzinfo=NEW_YORK)
N_EVENTS = 3_000
SETTINGS = {
    "FLEXIHASH_TIME_ZONE": "America/New_York",
    "FLEXIHASH_TIME_FEATURES": "*_ms",
    "FLEXIHASH_TEXT_FEATURES": "note",
    "FLEXIHASH_MISSING_FEATURES": "age",
}


def is_open(moment: datetime) -> bool:
    """Whether a shop in New York is."""
    return moment.weekday() < 5 and 9 <= moment.hour < 17


def make_event(moment: datetime, rng: random.Random) -> dict[str, Any]:
    """Half of the times are texts in UTC, half are milliseconds."""
    utc = moment.astimezone(ZoneInfo("UTC"))
    features: dict[str, Any] = (
        {"at": utc.strftime("%Y-%m-%dT%H:%M:%SZ")} if rng.random() < 0.5 else {"at_ms": int(utc.timestamp() * 1000)}
    )
    features["note"] = rng.choice(["Please, come in", "come later", "IN a moment"])
    return {"features": features, "label": int(is_open(moment))}


def test_hour_and_weekday_in_the_zone_decide(broker: KafkaConnection, topic: str, launch: Launch) -> None:
    rng = random.Random(0)
    moments = [BEGIN + timedelta(hours=n) for n in range(N_EVENTS)]  # over a change of the clocks
    with Publisher(Topic(broker, topic)) as publisher:
        publisher.publish([msgspec.json.encode(make_event(moment, rng)) for moment in moments], timeout_s=60)
    service = launch(broker, topic, **SETTINGS).start().wait_ready()
    service.wait_position(N_EVENTS)

    asked = [datetime(2013, 7, 8, 0, 30, tzinfo=NEW_YORK) + timedelta(hours=n) for n in range(7 * 24)]  # in summer time
    for name, instances in {
        "texts": [{"at": moment.astimezone(ZoneInfo("UTC")).isoformat()} for moment in asked],
        "local": [{"at": moment.strftime("%Y-%m-%d %H:%M")} for moment in asked],
        "millis": [{"at_ms": moment.timestamp() * 1000} for moment in asked],
    }.items():
        answers = service.post("/v1/predictions", {"instances": instances})["predictions"]
        right = [(one["value"] > 0.5) == is_open(moment) for one, moment in zip(answers, asked, strict=True)]
        assert sum(right) > 0.97 * len(asked), name
    configuration = service.http.get("/v1/model").json()["configuration"]
    assert (configuration["time_zone"], configuration["time_features"]) == ("America/New_York", ["*_ms"])

    service.post("/v1/checkpoints", None)
    assert service.stop() == 0, service.log
    (checkpoint, *_) = sorted((service.folder / "checkpoints").glob("*/manifest.json"), reverse=True)
    assert_exact(checkpoint.parent, broker, N_EVENTS)

    service.environment["FLEXIHASH_TIME_ZONE"] = "UTC"
    assert service.start().process.wait(READY_S) == 2  # type: ignore[union-attr]
    assert "time_zone = 'America/New_York', but 'UTC' is asked for" in service.log
