"""LightGBM, trained anew on all the past at every 5% of the stream: what is done where nothing learns online.

The next 5% are predicted by the last model. Categories are native ones, numbered as they appear; one that a model has
not seen, or a feature that an event lacks, is what LightGBM calls missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.peer import Peer, Predict, parse
from flexihash.model.tasks import Task

N_PORTIONS = 20
N_TREES = 100  # of 31 leaves: its defaults, as is all else
OBJECTIVES = {Task.BINARY: "binary", Task.REGRESSION: "regression"}


def boosted(task: Task, messages: Sequence[bytes]) -> Predict:
    """What is timed: parsing, and a model for every portion of the stream but the last."""
    return lambda: boosted_predictions(task, messages)


def boosted_predictions(task: Task, messages: Sequence[bytes]) -> list[float]:
    """A prediction for each event; NaN for the first portion, before which there is nothing to train on."""
    X, y, categories = columns([parse(message) for message in messages])
    ends = [len(messages) * portion // N_PORTIONS for portion in range(1, N_PORTIONS + 1)]
    predictions = np.full(len(messages), np.nan)
    for known, end in pairwise(ends):
        predictions[known:end] = train(task, X[:known], y[:known], categories).predict(X[known:end])
    return predictions.tolist()


def columns(events: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
    """Features (events, names), NaN where an event has none; labels; and which columns are categories."""
    names = {name: None for event in events for name in event["features"]}
    places = {name: place for place, name in enumerate(names)}
    numbers: dict[str, dict[str, int]] = {}
    X = np.full((len(events), len(places)), np.nan)
    for line, event in zip(X, events, strict=True):
        for name, value in event["features"].items():
            if isinstance(value, str):
                known = numbers.setdefault(name, {})
                line[places[name]] = known.setdefault(value, len(known))
            else:
                line[places[name]] = value
    return X, np.array([event["label"] for event in events], np.float64), [places[name] for name in numbers]


def train(task: Task, X: NDArray[np.float64], y: NDArray[np.float64], categories: list[int]) -> Any:
    """A model of all of these, on one thread: the process has one core."""
    import lightgbm

    parameters = {"objective": OBJECTIVES[task], "num_threads": 1, "verbosity": -1}
    return lightgbm.train(parameters, lightgbm.Dataset(X, y, categorical_feature=categories), N_TREES)


def missing() -> str | None:
    """Why it can't be run here, and what to do; None where it can."""
    try:
        import lightgbm  # noqa: F401
    except (ImportError, OSError) as error:  # the latter: it does not bring the OpenMP library
        return f"LightGBM: {error}; pip install -c constraints.txt 'flexihash[bench]', and libgomp1 of the system"
    return None


PEERS = (Peer("LightGBM", f"retrained every {1 / N_PORTIONS:.0%}", boosted, first_portion=1 / N_PORTIONS),)
