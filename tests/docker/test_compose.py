"""docker-compose up, down and up again: learning, answers, and how little the containers may do."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from tests.docker.composed import Composed, wait_until

FLIGHT = {"carrier": "UA", "flight": "1545", "origin": "EWR", "dest": "IAH", "month": "1", "dow": "1", "hour": "5"}
LEARN_S = 60.0  # for the next events to be learned, on a busy machine

READ_IDS = """
import sys
from json import loads
from kafka import KafkaConsumer, TopicPartition
flights = TopicPartition("flights", 0)
consumer = KafkaConsumer(bootstrap_servers="kafka:9092", consumer_timeout_ms=20000)
consumer.assign([flights])
consumer.seek(flights, int(sys.argv[1]))
for record, _ in zip(consumer, range(int(sys.argv[2]))):
    print(record.offset, loads(record.value)["id"])
"""


def test_all_are_healthy(composed: Composed) -> None:
    states = {name: composed.state(name) for name in ("kafka", "topics", "service")}
    assert states["kafka"]["Health"]["Status"] == "healthy"
    assert states["service"]["Health"]["Status"] == "healthy"
    assert (states["topics"]["Status"], states["topics"]["ExitCode"]) == ("exited", 0)


def test_predictions_follow_the_flights(composed: Composed) -> None:
    wait_for_events(composed, 1_000)
    before = predict(composed)
    wait_for_events(composed, before["version"]["events"] + 1_000)
    after = predict(composed)
    for answer in (before, after):
        [prediction] = answer["predictions"]
        assert 0.0 < prediction["value"] < 1.0
        assert answer["version"]["positions"] == {"flights:0": answer["version"]["events"]}
    assert after["predictions"] != before["predictions"]


def test_service_may_do_nothing_but_its_work(composed: Composed) -> None:
    status = composed.execute("service", "cat", "/proc/self/status")
    assert re.findall(r"^(?:Uid|Gid):\s+(\d+)", status, re.MULTILINE) == ["10001", "10001"]
    assert set(re.findall(r"^Cap\w+:\s+(\w+)", status, re.MULTILINE)) == {"0" * 16}
    assert re.findall(r"^NoNewPrivs:\s+(\d)", status, re.MULTILINE) == ["1"]
    mounts = composed.execute("service", "cat", "/proc/mounts").splitlines()
    [root] = [mount.split()[3].split(",") for mount in mounts if mount.split()[1] == "/"]
    assert "ro" in root


def test_kernels_are_those_of_the_image(composed: Composed) -> None:
    """Nothing was compiled at the start: the folder in memory holds what the image does."""
    assert composed.execute("service", "diff", "--recursive", "/opt/kernels", "/tmp/kernels") == ""
    assert "stream.learn-" in composed.execute("service", "find", "/tmp/kernels", "-name", "*.nbc")


def test_torch_scatter_is_inside(composed: Composed) -> None:
    program = "import torch, torch_scatter as s; print(s.scatter_max(torch.tensor([3, 5]), torch.tensor([0, 0]))[0])"
    assert composed.execute("service", "python", "-c", program).strip() == "tensor([5])"


def test_down_and_up_go_on_where_they_stopped(composed: Composed) -> None:
    wait_for_events(composed, 5_000)
    before = composed.ask("/v1/model")["version"]
    composed.compose("stop")
    assert composed.state("service")["ExitCode"] == 0
    composed.compose("down")
    composed.compose("up", "--detach")

    [restored] = [line for line in log_lines(composed, "service") if line.get("event") == "restored"]
    assert restored["events"] >= before["events"]
    wait_for_events(composed, restored["events"] + 1_000)
    after = composed.ask("/v1/model")
    assert after["learner"]["rejected"] == {}

    # Every flight is in the topic once and in order, though the producer was stopped in the middle of them.
    [n_sent] = re.findall(r"(\d+) flights are in the topic already", composed.compose("logs", "producer"))
    begin = int(n_sent) - 50
    lines = composed.execute("service", "python", "-c", READ_IDS, str(begin), "100").splitlines()
    flights = [int(line.split("flight-")[1]) for line in lines if "flight-" in line]
    assert len(lines) == 100
    assert all(following == flight + 1 for flight, following in pairwise(flights))


def test_events_over_http_are_learned(composed: Composed) -> None:
    answer = composed.ask("/v1/events", {"features": FLIGHT, "id": "asked"})
    offset_after = answer["positions"]["flights:0"]
    wait_until(lambda: position(composed) >= offset_after, LEARN_S, f"position {offset_after} is not reached")


def predict(composed: Composed) -> Any:
    return composed.ask("/v1/predictions", {"instances": [FLIGHT]})


def position(composed: Composed) -> int:
    return int(composed.ask("/v1/model")["version"]["positions"]["flights:0"])


def wait_for_events(composed: Composed, n_events: int) -> None:
    wait_until(
        lambda: composed.ask("/v1/model")["version"]["events"] >= n_events,
        LEARN_S,
        f"{n_events} events are not learned",
    )


def log_lines(composed: Composed, service: str) -> list[dict[str, Any]]:
    lines = composed.compose("logs", "--no-color", service).splitlines()
    return [json.loads(line[line.index("{") :]) for line in lines if "{" in line]
