"""A record of which the learner dies is found, becomes a dead letter, and learning goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexihash.consumer.guard import PoisonGuard
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import KafkaSource
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.publisher import Publisher
from flexihash.consumer.records import Fetch, Record
from tests.recovery.learner import ABORT, KILL
from tests.recovery.soak import Service

POISON = b'{"features": {"k": "poison"}, "label": 1}'
GOOD = b'{"features": {"k": "v"}, "label": 1}'


def make_fetch(first: int, n_records: int, partition: int = 0) -> Fetch:
    offsets = list(range(first, first + n_records))
    return Fetch(partition, offsets, [GOOD] * n_records, lambda index: pytest.fail("not asked for"))


def die_at(directory: Path, offset: int, *, may_be_killed: bool) -> list[list[int]]:
    """Applies records 0 to 9 in two fetches until the one at `offset` is applied; returns what was tried, in parts."""
    guard = PoisonGuard(directory, may_be_killed=may_be_killed)
    guard.begin("topic")
    tried = []
    try:
        for fetch in (make_fetch(0, 4), make_fetch(4, 6)):
            for part in guard.split(fetch):
                if guard.is_poison(part):
                    tried.append([-part.offsets[0]])
                    continue
                with guard.applying(part):
                    tried.append(part.offsets)
                    if offset in part.offsets:
                        raise SystemError
    except SystemError:
        pass
    guard.close()
    return tried


def test_a_crash_is_known_on_the_second_restart(tmp_path: Path) -> None:
    assert die_at(tmp_path, 6, may_be_killed=False) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
    assert die_at(tmp_path, 6, may_be_killed=False) == [[0, 1, 2, 3], [4], [5], [6]]
    assert die_at(tmp_path, 6, may_be_killed=False) == [[0, 1, 2, 3], [4, 5], [-6], [7, 8, 9]]
    assert die_at(tmp_path, -1, may_be_killed=False) == [[0, 1, 2, 3], [4, 5], [-6], [7, 8, 9]]  # for ever


def test_what_may_be_a_kill_takes_one_death_more(tmp_path: Path) -> None:
    assert die_at(tmp_path, 6, may_be_killed=True) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
    assert die_at(tmp_path, 6, may_be_killed=True) == [[0, 1, 2, 3], [4], [5], [6]]
    assert die_at(tmp_path, 6, may_be_killed=True) == [[0, 1, 2, 3], [4, 5], [6]]
    assert die_at(tmp_path, 6, may_be_killed=True) == [[0, 1, 2, 3], [4, 5], [-6], [7, 8, 9]]


def test_a_kill_elsewhere_condemns_nothing(tmp_path: Path) -> None:
    die_at(tmp_path, 6, may_be_killed=True)
    assert die_at(tmp_path, 1, may_be_killed=True) == [[0, 1, 2, 3]]
    assert [-6] not in die_at(tmp_path, -1, may_be_killed=True)
    assert die_at(tmp_path, -1, may_be_killed=True) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]


def test_a_record_is_tried_alone_after_a_rest_before_a_kill_convicts_it(tmp_path: Path) -> None:
    die_at(tmp_path, 6, may_be_killed=True)
    guard = PoisonGuard(tmp_path)
    guard.begin("topic")
    assert [part.offsets for part in guard.split(make_fetch(4, 6)) if guard.needs_rest(part)] == []
    guard.close()
    die_at(tmp_path, 6, may_be_killed=True)
    guard = PoisonGuard(tmp_path)
    guard.begin("topic")
    assert [part.offsets for part in guard.split(make_fetch(4, 6)) if guard.needs_rest(part)] == [[6]]
    guard.close()


def test_a_death_before_a_suspect_is_applied_again_is_no_fault_of_it(tmp_path: Path) -> None:
    for _ in range(2):
        die_at(tmp_path, 6, may_be_killed=True)
    PoisonGuard(tmp_path).close()
    for may_be_killed in (False, True, True):  # such as at the start, or in the rest
        guard = PoisonGuard(tmp_path, may_be_killed=may_be_killed)
        assert guard.begin("topic") is None
        assert [part.offsets for part in guard.split(make_fetch(4, 6)) if guard.needs_rest(part)] == [[6]]
        guard.close()
    assert [-6] not in die_at(tmp_path, -1, may_be_killed=True)


def test_a_conviction_outlives_a_learner_that_ends_before_it_connects(tmp_path: Path) -> None:
    for _ in range(2):
        die_at(tmp_path, 6, may_be_killed=False)
    PoisonGuard(tmp_path, may_be_killed=False).close()
    assert [-6] in die_at(tmp_path, -1, may_be_killed=False)


@pytest.mark.parametrize(("fault", "ending", "n_deaths"), [(ABORT, "SIGABRT", 2), (KILL, "SIGKILL", 3)])
def test_the_service_goes_on_past_an_event_that_ends_it(
    tansu: KafkaConnection, topic_name: str, tmp_path: Path, fault: str, ending: str, n_deaths: int
) -> None:
    Topic(tansu, topic_name).create()
    with Publisher(Topic(tansu, topic_name)) as publisher:
        publisher.publish([GOOD, GOOD, POISON, GOOD, GOOD], timeout_s=60)
    service = Service(tansu, topic_name, tmp_path / "service")
    service.fault_file.write_text(fault + "poison")
    try:
        service.start()
        service.wait(lambda: service.status().positions == {f"{topic_name}:0": 5}, "the events behind it")
        assert service.status().events == 4
        assert service.status().rejected == {"poison": 1}
        service.stop()
    finally:
        service.close()
    text = (tmp_path / "service" / "log").read_text()
    assert text.count(f"was killed by {ending}") == n_deaths
    assert text.count(f"a learner was killed while it applied {topic_name}[0]@2 alone") == n_deaths - 2
    assert f"{topic_name}[0]@2 made the learner die again and again" in text
    letters = KafkaSource(Topic(tansu, f"{topic_name}.dlq"))
    letters.start({})
    found: list[Record] = []
    while not found:
        found = [fetch.record(index) for fetch in letters.poll(0.5) for index in range(len(fetch))]
    letters.close()
    assert found[0].value == POISON
    assert dict(found[0].headers)["__flexihash.errors.reason"] == b"poison"
