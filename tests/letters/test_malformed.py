"""Events malformed in every way we know go to the dead letters, and leave no trace in the model."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.formats.file_source import FileSource
from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.source import read_topic
from flexihash.consumer.kafka.topic import Topic
from flexihash.consumer.lesson import Lesson, Letters
from flexihash.consumer.letters import read_letter
from flexihash.consumer.loop import LearnLoop
from flexihash.consumer.standing import Standing
from flexihash.consumer.wire import EventFormat
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.checkpoint.tensors import read
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.producer import synthetic
from flexihash.producer.events import encode
from tests.integration.served import N_ROWS, READY_S, Service

N_GOOD, N_BAD = 100_000, 10_000
MAX_EVENT_BYTES = 20_000  # by a setting, so that events beyond it stay small
OK = b'"features": {"a": 1.5}'


def features(text: bytes) -> bytes:
    return b'{"features": ' + text + b', "label": 1}'


def label(text: bytes) -> bytes:
    return b"{" + OK + b', "label": ' + text + b"}"


def weight(text: bytes) -> bytes:
    return b"{" + OK + b', "label": 1, "weight": ' + text + b"}"


KINDS: dict[str, tuple[bytes | None, str]] = {
    "null": (None, "empty"),
    "no bytes": (b"", "empty"),
    "a blank": (b" ", "not_json"),
    "a line's end": (b"\n", "not_json"),
    "a word": (b"hello", "not_json"),
    "a zero byte": (b"\x00", "not_json"),
    "random bytes": (b"\x8f\x1c\x93\xd3\x00\xb1", "not_json"),
    "gzip": (bytes.fromhex("1f8b0800000000000003"), "not_json"),
    "Avro's magic": (b"\x00\x00\x00\x00\x07abc", "not_json"),
    "XML": (b"<event/>", "not_json"),
    "CSV": (b"1,red,2.5", "not_json"),
    "Python's repr": (b"{'features': {}, 'label': 1}", "not_json"),
    "cut off": (features(b'{"a": "re'), "not_json"),
    "only opened": (b"{", "not_json"),
    "not closed": (b"{" + OK, "not_json"),
    "closed twice": (b"{" + OK + b"}}", "not_json"),
    "two events": (b"{" + OK + b"}{" + OK + b"}", "not_json"),
    "trailing garbage": (b"{" + OK + b', "label": 1} x', "not_json"),
    "trailing comma": (b"{" + OK + b",}", "not_json"),
    "a comment": (b"{" + OK + b"} // late", "not_json"),
    "NaN": (features(b'{"a": NaN}'), "not_json"),
    "Infinity": (features(b'{"a": Infinity}'), "not_json"),
    "a leading zero": (features(b'{"a": 01}'), "not_json"),
    "a plus": (features(b'{"a": +1}'), "not_json"),
    "hexadecimal": (features(b'{"a": 0x10}'), "not_json"),
    "a control character": (features(b'{"a": "x\x01y"}'), "not_json"),
    "a line break in a text": (features(b'{"a": "x\ny"}'), "not_json"),
    "an unknown escape": (features(b'{"a": "\\q"}'), "not_json"),
    "half a surrogate pair": (features(b'{"a": "\\ud800"}'), "not_json"),
    "a byte order mark": (b"\xef\xbb\xbf{" + OK + b', "label": 1}', "not_json"),
    "UTF-16": (features(b'{"a": 1}').decode().encode("utf-16"), "not_json"),
    "UTF-16 without a mark": (features(b'{"a": 1}').decode().encode("utf-16-le"), "not_json"),
    "Latin-1": (features('{"a": "Zürich"}'.encode("latin-1")), "not_utf8"),
    "overlong UTF-8": (features(b'{"a": "\xc0\xaf"}'), "not_utf8"),
    "a surrogate in UTF-8": (features(b'{"a": "\xed\xa0\x80"}'), "not_utf8"),
    "UTF-8 cut in a character": (features(b'{"a": "\xe2\x82"}'), "not_utf8"),
    "an array": (b"[1, 2]", "not_an_object"),
    "an array of events": (b"[{" + OK + b', "label": 1}]', "not_an_object"),
    "a text": (b'"hello"', "not_an_object"),
    "a number": (b"42", "not_an_object"),
    "true": (b"true", "not_an_object"),
    "the word null": (b"null", "not_an_object"),
    "no features": (b'{"label": 1}', "no_features"),
    "an empty object": (b"{}", "no_features"),
    "features null": (features(b"null"), "no_features"),
    "features an array": (features(b'["red"]'), "no_features"),
    "features a text": (features(b'"red"'), "no_features"),
    "features a number": (features(b"7"), "no_features"),
    "1e999": (features(b'{"a": 1e999}'), "non_finite_number"),
    "-1e999, nested": (features(b'{"a": {"b": [-1e999]}}'), "non_finite_number"),
    "a label of 1e999": (label(b"1e999"), "non_finite_number"),
    "a huge integer": (features(b'{"a": ' + b"9" * 400 + b"}"), "non_finite_number"),
    "too deep": (features(b'{"a":' * 100 + b"1" + b"}" * 100), "too_deep"),
    "much too deep": (features(b"[" * 5_000 + b"]" * 5_000), "too_deep"),
    "too many features": (features(json.dumps(dict.fromkeys(map(str, range(1500)), 1)).encode()), "too_many_features"),
    "too long a name": (features(b'{"' + b"k" * 2_000 + b'": 1}'), "key_too_long"),
    "too long a path": (features(b'{"' + b"k" * 900 + b'": {"' + b"k" * 900 + b'": 1}}'), "key_too_long"),
    "too large": (features(b'{"a": "' + b"x" * MAX_EVENT_BYTES + b'"}'), "too_large"),
    "too large, and no JSON": (b"x" * (MAX_EVENT_BYTES + 1), "too_large"),
    "label a text": (label(b'"yes"'), "bad_label"),
    "label a number in a text": (label(b'"1"'), "bad_label"),
    "label 2": (label(b"2"), "bad_label"),
    "label -1": (label(b"-1"), "bad_label"),
    "label 0.5": (label(b"0.5"), "bad_label"),
    "label huge": (label(b"1" + b"0" * 300), "bad_label"),
    "label an object": (label(b"{}"), "bad_label"),
    "label an array": (label(b"[1]"), "bad_label"),
    "label twice, the last one wrong": (label(b'1, "label": 3'), "bad_label"),
    "weight negative": (weight(b"-1"), "bad_weight"),
    "weight a text": (weight(b'"1"'), "bad_weight"),
    "weight a boolean": (weight(b"true"), "bad_weight"),
    "weight too much": (weight(b"1e7"), "bad_weight"),
    "weight an array": (weight(b"[]"), "bad_weight"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_reason(kind: str) -> None:
    """By itself, so that a wrong reason is easy to find."""
    value, reason = KINDS[kind]
    decoder = EventDecoder(EventFormat(max_event_bytes=MAX_EVENT_BYTES), Task.BINARY, N_ROWS)
    decoded = decoder.decode([value])
    assert [rejected.reason for _, rejected in decoded.rejections] == [reason]


@pytest.fixture
def service(broker: KafkaConnection, topic_name: str, tmp_path: Path) -> Iterator[Service]:
    limit = str(MAX_EVENT_BYTES)
    service = Service(broker, topic_name, tmp_path, FLEXIHASH_MAX_EVENT_BYTES=limit, FLEXIHASH_CHECKPOINT_SECONDS="2")
    yield service
    service.close()


def learn_good(path: Path) -> OnlineModel:
    """What the good events alone teach."""
    model = OnlineModel(Tables.create(ModelConfig(n_rows=N_ROWS, embeddings=True)))
    source = FileSource(path)
    loop = LearnLoop(
        Lesson(model, EventDecoder(EventFormat(), Task.BINARY, N_ROWS, needs_label=False), NoLetters()),
        Standing(model, source),
    )
    loop.start()
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + READY_S
    while model.n_events < N_GOOD and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join()
    source.close()
    return model


class NoLetters(Letters):
    """For a stream without malformed events."""

    def send(self, *rejected: object) -> None:
        raise AssertionError(f"a good event was rejected: {rejected}")

    def flush(self, timeout_s: float) -> None:
        pass


def test_malformed_events_leave_no_trace_in_the_model(
    broker: KafkaConnection, topic_name: str, service: Service, tmp_path: Path
) -> None:
    assert len(KINDS) >= 30
    randomness = random.Random(20261124)
    good = list(encode(synthetic(N_GOOD)))
    (tmp_path / "good.ndjson").write_bytes(b"\n".join(good) + b"\n")
    kinds = [*KINDS, *randomness.choices(list(KINDS), k=N_BAD - len(KINDS))]
    randomness.shuffle(kinds)
    bad_at = dict(zip(sorted(randomness.sample(range(N_GOOD + N_BAD), N_BAD)), kinds, strict=True))

    Topic(broker, topic_name).create()
    service.start().wait_ready()
    learner = service.status().pid
    producer = Topic(broker, topic_name).open_producer(linger_ms=5, batch_size=256 * 1024, compression_type="lz4")
    events = iter(good)
    for offset in range(N_GOOD + N_BAD):
        value = KINDS[bad_at[offset]][0] if offset in bad_at else next(events)
        producer.send(topic_name, value, key=b"%d" % offset)
    producer.flush(READY_S)
    producer.close()
    service.wait_position(N_GOOD + N_BAD)
    saved = service.post("/v1/checkpoints", None)
    status = service.status()
    assert service.stop() == 0, service.log

    assert (status.pid, status.state, saved["events"]) == (learner, "learning", N_GOOD)
    assert (status.dead_letters.spilled, status.dead_letters.error) == (0, None)
    expected = {offset: (KINDS[kind][0], KINDS[kind][1]) for offset, kind in bad_at.items()}
    records = list(read_topic(Topic(broker, f"{topic_name}.dlq")))
    assert len(records) == N_BAD
    letters = [letter for record in records if (letter := read_letter(record)) is not None]
    assert {letter.offset: (letter.value, letter.reason) for letter in letters} == expected
    assert all(letter.key == b"%d" % letter.offset and letter.topic == topic_name for letter in letters)
    counts = {reason: sum(reason == found for _, found in expected.values()) for _, reason in expected.values()}
    assert status.rejected == counts

    alone = learn_good(tmp_path / "good.ndjson").tables.tensors
    mixed, manifest = read(CheckpointStore(tmp_path / "checkpoints", 3).list()[0].path)
    assert manifest.metrics["rejected"] == counts
    assert mixed.keys() == alone.keys()
    for name, tensor in alone.items():
        if name not in ("positions", "digests"):  # where a record lies is another matter in a file
            assert torch.equal(mixed[name], tensor), name
