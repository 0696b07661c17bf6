"""The example of docs/embeddings.md, as it stands there: an index is filled from a real API process, and kept fresh."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexihash.model.features import FeatureRules, flatten, hash_features
from flexihash.producer.flights import flights
from flexihash.service.settings import Settings
from tests.service.worker import Worker

NAMES = ("carrier", "origin", "dest", "hour", "distance")
PAGE = Path(__file__).parents[2] / "docs" / "embeddings.md"
SHOW = """
import sys
for _ in range(2):
    print(json.dumps([refresh(), near("LAX"), near("nowhere"), index.ntotal]), flush=True)
    sys.stdin.readline()
"""
WEST = {"SFO", "SEA", "LAS", "SAN", "PDX"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"embeddings": True, "n_rows": 1 << 16})


def read_example() -> str:
    section = PAGE.read_text().partition("## Filling a vector index")[2].partition("\n## ")[0]
    (block,) = re.findall(
        r"(?m)(?:^(?:    .*)?\n)*^    .*\n", section.partition("vector:\n")[2].partition("`refresh`")[0]
    )
    return re.sub(r"(?m)^    ", "", block)


def teach(learner: Any, begin: int, end: int) -> None:
    """Flights without labels."""
    events = [flight["features"] for flight in islice(flights(end), begin, None)]
    flat = [flatten({name: event[name] for name in NAMES}, FeatureRules()) for event in events]
    batch = hash_features(flat, learner.model.config.n_rows)
    learner.model.learn(batch, np.full(len(flat), np.nan), partition=0, next_offsets=np.arange(begin + 1, end + 1))
    learner.report()


def test_an_index_is_filled_and_kept_fresh(settings: Settings, learner: Any) -> None:
    worker = Worker(settings)
    try:
        worker.wait_until_ready(learner)
        teach(learner, 0, 500)
        code = read_example().replace("http://localhost:8080", worker.url) + SHOW
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as shown:
            assert shown.stdin is not None
            assert shown.stdout is not None
            version, early, nowhere, n_vectors = json.loads(shown.stdout.readline())
            assert version["positions"] == {"flights:0": 500}
            assert n_vectors == 14
            teach(learner, 500, 100_000)
            shown.stdin.write("\n")
            shown.stdin.flush()
            version, late, nowhere, n_vectors = json.loads(shown.stdout.readline())
        assert version["positions"] == {"flights:0": 100_000}
        assert n_vectors == 14
        assert late[0] == "LAX"
        assert len(WEST & set(late)) >= 3
        assert late != early
        assert len(nowhere) == 5, "of zeros all are equally far"
    finally:
        worker.end()
