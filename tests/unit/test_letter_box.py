"""What `flexihash dead-letters` keeps of the letters that it reads."""

from __future__ import annotations

import pytest

from flexihash.consumer.letters import make_letter, write_headers
from flexihash.consumer.records import Record
from flexihash.consumer.replay import LetterBox


def dead_letter(number: int, reason: str) -> Record:
    """As the learner would send it for a record of `events`."""
    origin = Record("events", 0, number, 0, None, b"{", ())
    headers = tuple(write_headers(make_letter(origin, "decode", reason, "?")))
    return Record("events.dlq", 0, number, 0, None, b"{", headers)


@pytest.mark.parametrize("n_samples", [0, 1, 2, 3, 4, 6, 10])
def test_keeps_the_last_samples_of_each_reason(n_samples: int) -> None:
    box = LetterBox("events", n_samples)
    for number in range(6):
        box.add(dead_letter(number, "not_json"))
    box.add(dead_letter(6, "bad_label"))
    assert box.count() == 7
    assert [letter.offset for letter in box.samples["not_json"]] == list(range(6))[max(0, 6 - n_samples) :]
    assert [letter.offset for letter in box.samples["bad_label"]] == [6][:n_samples]
