"""The benchmark's streams: what their events look like, and that they are the same every time."""

from itertools import islice
from pathlib import Path

import msgspec
import pytest

from bench.streams import STREAMS, Event, Stream, wire_events, write_events
from flexihash.model.tasks import Task

RIVER_STREAMS = [stream for name, stream in STREAMS.items() if name != "flights"]


FILES = {"phishing", "bananas", "trump-approval", "chick-weights"}


def by_name(stream: Stream) -> str:
    return stream.name


def first_events(stream: Stream) -> list[Event]:
    """The first 300 events; a dataset in a file is read on to its end, which is where River closes it."""
    return list(stream.events())[:300] if stream.name in FILES else list(islice(stream.events(), 300))


@pytest.mark.parametrize(
    ("name", "features", "label"),
    [
        ("bananas", {"1": 1.617466, "2": -0.919233}, 0),
        ("chick-weights", {"time": 0, "chick": 1, "diet": 1}, 42.0),
        (
            "trump-approval",
            {
                "ordinal_date": 736389,
                "gallup": 43.843213,
                "ipsos": 46.19925042857143,
                "morning_consult": 48.318749,
                "rasmussen": 44.104692,
                "you_gov": 43.636914000000004,
            },
            43.75505,
        ),
    ],
)
def test_first_event(name: str, features: dict[str, float], label: float) -> None:
    first = first_events(STREAMS[name])[0]
    assert first == {"features": features, "label": label}
    assert [type(value) for value in first["features"].values()] == [type(value) for value in features.values()]


@pytest.mark.parametrize(("name", "n_events"), [("phishing", 1250), ("bananas", 5300), ("trump-approval", 1001)])
def test_length(name: str, n_events: int) -> None:
    assert sum(1 for _ in STREAMS[name].events()) == n_events


def test_generators_end() -> None:
    assert sum(1 for _ in STREAMS["hyperplane"].events()) == 50_000


@pytest.mark.parametrize("stream", RIVER_STREAMS, ids=by_name)
def test_a_stream_starts_anew_with_the_same_events(stream: Stream) -> None:
    first = first_events(stream)
    assert first == first_events(stream)
    assert len({msgspec.json.encode(event["features"]) for event in first}) > 200


@pytest.mark.parametrize("stream", RIVER_STREAMS, ids=by_name)
def test_labels_suit_the_task(stream: Stream) -> None:
    labels = [event["label"] for event in first_events(stream)]
    if stream.task is Task.BINARY:
        assert set(labels) == {0, 1}
        assert {type(label) for label in labels} == {int}
    else:
        assert {type(label) for label in labels} == {float}
        assert len(set(labels)) > 50


def test_names_and_odd_values_become_strings() -> None:
    examples = [({0: 1, "b": 2.5, "c": "x", "d": None}, True), ({}, False)]
    assert list(wire_events(examples, Task.BINARY)) == [
        {"features": {"0": 1, "b": 2.5, "c": "x", "d": "None"}, "label": 1},
        {"features": {}, "label": 0},
    ]


def test_a_written_stream_reads_back_exactly(tmp_path: Path) -> None:
    events = first_events(STREAMS["agrawal"])
    write_events(events, tmp_path / "agrawal.ndjson")
    read = [msgspec.json.decode(line) for line in (tmp_path / "agrawal.ndjson").read_bytes().splitlines()]
    assert read == events
    # 3 and 3.0 are learned differently: the kind of each number must survive too
    assert [list(map(type, e["features"].values())) for e in read] == [
        list(map(type, e["features"].values())) for e in events
    ]
