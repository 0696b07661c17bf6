"""The page on topics as it stands: its five commands, from Debezium's envelopes to a served prediction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.pasted import ACTIVATED, BROKER, PATIENCE_S, SERVE_AND_ASK, paste_blocks, read_blocks

TERMINALS = f"""
bash make.sh; echo make $?
{BROKER}
timeout {PATIENCE_S} bash -c 'until grep -q listening broker.txt; do sleep 0.1; done'
bash publish.sh >publish.txt 2>&1; echo publish $?
{SERVE_AND_ASK}
"""


def test_from_changes_of_a_table_to_a_prediction(tmp_path: Path) -> None:
    *blocks, shown = read_blocks("docs/topics.md", "From changes of a table to a prediction")
    named = dict(zip(("make", "broker", "publish", "serve", "ask"), blocks, strict=True))
    ended, said = paste_blocks(named, TERMINALS, tmp_path, ACTIVATED)
    assert ended.stdout == "make 0\npublish 0\nask 0\nserve 0\nbroker 0\n", (ended.stderr, said)
    assert "3,300 events in" in said["publish.txt"]
    none_left, answered = said["ask.txt"].splitlines()
    assert none_left == '"lag":0,"positions":{"shop.public.orders:0":3300'
    answer, promise = json.loads(answered), json.loads(shown)
    assert answer["version"] == {"events": 2_700, "positions": {"shop.public.orders:0": 3_300}} == promise["version"]
    (prediction,) = answer["predictions"]
    (promised,) = promise["predictions"]
    assert list(prediction) == list(promised)
    assert prediction["value"] == "returned"
    probabilities = prediction["probabilities"]
    assert list(probabilities) == ["returned", "kept", "exchanged"]
    assert probabilities == pytest.approx(promised["probabilities"], abs=0.05)
    assert prediction["score"] == pytest.approx(promised["score"], abs=0.5)
    assert sum(probabilities.values()) == pytest.approx(1)
    assert probabilities["returned"] > 0.6, "17 of 23 is true of shoes at night, 0.4 of all"
    assert (prediction["known_features"], prediction["features"]) == (7, 7), "with a time's hour, weekday and both"
