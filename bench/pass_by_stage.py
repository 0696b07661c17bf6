"""One pass of ours over messages, timed stage by stage, on one core."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.formats.file_source import FETCH_LINES
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task


def learn(task: Task, messages: Sequence[bytes], embeddings: bool = False) -> tuple[NDArray[np.float64], float, float]:
    """One pass over fresh tables in the default configuration: predictions, and CPU seconds of decoding and learning.

    What the learner does between a poll and a checkpoint; the polls are as long as those from a file.
    """
    config = ModelConfig(task=task, n_rows=1 << 18, embeddings=embeddings)
    model = OnlineModel(Tables.create(config))
    decoder = EventDecoder(EventFormat(), task, config.n_rows, needs_label=not embeddings)
    model.warm_up()
    decoder.warm_up()
    predictions = []
    decode_s = learn_s = 0.0
    for begin in range(0, len(messages), FETCH_LINES):
        start = time.process_time()
        decoded = decoder.decode(messages[begin : begin + FETCH_LINES])
        middle = time.process_time()
        learned = model.learn(decoded.batch, decoded.labels, decoded.weights)
        learn_s += time.process_time() - middle
        decode_s += middle - start
        predictions.append(learned.predictions)
    found = np.concatenate(predictions)
    assert len(found) == len(messages), "every event of a benchmark is learned"
    return found, decode_s, learn_s


def stay_on_one_core() -> None:
    """This process and all that it starts; Java too sees one core then."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
