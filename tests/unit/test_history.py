"""What a model remembers of a log: enough to say which rejected records it will not meet again."""

from __future__ import annotations

import pytest

from flexihash.consumer.history import MAX_LEARNERS, History, read_history
from flexihash.consumer.letters import Letter, make_letter, read_letter, write_headers
from flexihash.consumer.records import Fetch, Record


def fetch(*offsets: int) -> Fetch:
    return Fetch(0, list(offsets), [b""] * len(offsets), lambda index: record(offsets[index]))


def record(offset: int) -> Record:
    return Record("events", 0, offset, -1, None, b"", ())


def letter(offset: int, id: str = "") -> Letter:
    return make_letter(record(offset), "decode", "empty", "?", id)


@pytest.mark.parametrize(
    ("offset", "id", "is_unlearned"),
    [
        (50, "me/3", True),  # the last that the checkpoint knows of
        (50, "me/4", False),  # written behind the checkpoint, by a learner that died
        (50, "other/1", False),
        (50, "", False),  # of a version that gave none
        (19, "other/1", True),  # before the model's beginning
        (20, "other/1", False),
        (99, "me/x", False),
        (99, "me", False),
    ],
)
def test_what_will_not_be_met_again(offset: int, id: str, is_unlearned: bool) -> None:
    history = read_history({"history": {"beginnings": {"events:0": 20}, "learners": {"me": 3}}})
    assert history.is_unlearned(letter(offset, id), {"events:0": 60}) is is_unlearned


def test_a_partition_that_nothing_was_read_of_yet() -> None:
    """Begun at the log's end: what lies before was never read. And one that is new will be read from its start."""
    assert History().is_unlearned(letter(5), {"events:0": 6})
    assert not History().is_unlearned(letter(6), {"events:0": 6})
    assert not History().is_unlearned(letter(0), {})


def test_it_is_what_was_saved() -> None:
    history = History()
    history.begin("events:0", fetch(7, 8))
    history.begin("events:0", fetch(9))
    assert history.skip("events:0", 10, fetch(10, 11))
    assert not history.skip("events:0", 12, fetch(14, 15))  # a gap of the log's own
    assert history.skip("events:0", 20, fetch(20, 21))  # others were learned in between
    plain = history.describe({"me": 4})
    assert plain == {
        "beginnings": {"events:0": 7},
        "skipped": {"events:0": [(10, 16), (20, 22)]},
        "learners": {"me": 4},
    }
    assert read_history({"history": plain}).describe({}) == plain


def test_only_so_many_learners_are_known() -> None:
    history = History(learners={str(number): 1 for number in range(MAX_LEARNERS)})
    learners = read_history({"history": history.describe({"me": 1})}).learners
    assert list(learners) == [*map(str, range(1, MAX_LEARNERS)), "me"]


def test_letters_of_a_version_without_ids_are_read() -> None:
    headers = [("trace", b"1"), *write_headers(letter(3, "me/1"))]
    assert read_letter(record(0)._replace(headers=tuple(headers))) == letter(3, "me/1").__class__(
        **{name: getattr(letter(3, "me/1"), name) for name in Letter.__struct_fields__ if name != "headers"},
        headers=[("trace", b"1")],
    )
    old = read_letter(record(0)._replace(headers=tuple(one for one in headers if not one[0].endswith("errors.id"))))
    assert old is not None
    assert (old.id, old.offset, old.headers) == ("", 3, [("trace", b"1")])
