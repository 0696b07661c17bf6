"""From JSON bytes to the updated table: speed and quality on the flights, ours by stage, beside the peers.

Everybody gets the same messages, in one process on one core, in turns. Seconds are CPU time of all threads of the
process, which is what a clock shows on an idle core and changes little on a busy one. A slow peer gets the first N
flights only; ours is then scored on those N as well, and on what is left by a peer that needs some to begin with.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.pass_by_stage import learn, stay_on_one_core
from bench.peers import Peer, all_peers, quiet
from bench.results import Row
from flexihash.model.sums import PROBABILITY_CLIP
from flexihash.model.tasks import Task
from flexihash.producer.events import encode
from flexihash.producer.flights import flights

OURS = "flexihash"
N_TURNS = 5  # of ours
ALLOWED_LOSS = 0.002  # what another seed may move a log loss


@dataclass
class Ours:
    """Our predictions of a stream, made event by event, and the CPU seconds of each pass by stage."""

    predictions: NDArray[np.float64]
    decode_s: list[float] = field(default_factory=list)
    learn_s: list[float] = field(default_factory=list)

    @property
    def total_s(self) -> float:
        """The median pass."""
        return statistics.median(map(sum, zip(self.decode_s, self.learn_s, strict=True)))


def loss(task: Task, predictions: Sequence[float] | NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    """Log loss of probabilities (binary) or mean absolute error; NaN where a prediction is."""
    predicted = np.asarray(predictions, np.float64)
    if task is Task.BINARY:
        p = np.clip(predicted, PROBABILITY_CLIP, 1.0 - PROBABILITY_CLIP)  # as the model's own metric does
        return float(-np.log(np.where(labels == 1.0, p, 1.0 - p)).mean())
    return float(np.abs(predicted - labels).mean())


def time_peer(peer: Peer, task: Task, messages: Sequence[bytes]) -> tuple[Sequence[float], float]:
    """One pass: the predictions and the CPU seconds."""
    predict = peer.prepare(task, messages)
    gc.collect()
    start = time.process_time()
    predictions = predict()
    return predictions, time.process_time() - start


def peer_loss(peer: Peer, task: Task, predictions: Sequence[float], labels: NDArray[np.float64]) -> float:
    """The loss of a peer's predictions, or of ours, of the events that it was given and is scored on."""
    scored = peer.scored(len(predictions))
    return loss(task, predictions[scored], labels[scored])


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Ours and the peers on flights."""
    stay_on_one_core()
    quiet()
    events = list(flights())
    messages = list(encode(events))
    labels = np.array([event["label"] for event in events], np.float64)
    del events
    gc.freeze()  # a million objects that would be looked through again and again, on everybody's clock
    peers, skipped = all_peers()
    say(f"{len(messages):,} flights, {sum(map(len, messages)) / len(messages):.0f} bytes each")
    ours = Ours(learn(Task.BINARY, messages)[0])  # the first pass may compile
    times_s: dict[str, list[float]] = {peer.case: [] for peer in peers}
    losses: dict[str, float] = {}
    order = random.Random(0)
    # What is in Java comes last, since its threads work on in the background, on the next one's clock.
    here, in_java = divide(peers)
    for turn in range(N_TURNS):
        _, decode_s, learn_s = learn(Task.BINARY, messages)
        ours.decode_s.append(decode_s)
        ours.learn_s.append(learn_s)
        some = [peer for peer in here if peer.n_turns > turn]
        for peer in order.sample(some, len(some)):
            losses[peer.case] = _take_turn(peer, messages, labels, times_s, say)
    for peer in in_java:
        losses[peer.case] = _take_turn(peer, messages, labels, times_s, say)
    return _rows(ours, peers, times_s, losses, labels), skipped


def divide(peers: Sequence[Peer]) -> tuple[list[Peer], list[Peer]]:
    """The peers in this process's own code, and those in Java, that learn a binary label."""
    some = [peer for peer in peers if Task.BINARY in peer.tasks]
    return [peer for peer in some if peer.library != "CapyMOA"], [peer for peer in some if peer.library == "CapyMOA"]


def _take_turn(
    peer: Peer,
    messages: Sequence[bytes],
    labels: NDArray[np.float64],
    times_s: dict[str, list[float]],
    say: Callable[[str], None],
) -> float:
    some = messages[: peer.n_flights]
    predictions, seconds = time_peer(peer, Task.BINARY, some)
    times_s[peer.case].append(seconds)
    found = peer_loss(peer, Task.BINARY, predictions, labels)
    say(f"{peer.case}: {len(some):,} events, {len(some) / seconds:,.0f} events/s, log loss {found:.4f}")
    return found


def _rows(
    ours: Ours,
    peers: Sequence[Peer],
    times_s: dict[str, list[float]],
    losses: dict[str, float],
    labels: NDArray[np.float64],
) -> list[Row]:
    n = len(labels)
    our_speed = n / ours.total_s
    our_loss = loss(Task.BINARY, ours.predictions, labels)
    rows = [
        Row("learning", OURS, "speed", our_speed, "events/s", note="all"),
        Row("learning", OURS, "log loss", our_loss, "log loss", allowed_loss=ALLOWED_LOSS, note="all"),
    ]
    for stage, seconds in (("decode (scan and hash)", ours.decode_s), ("learn", ours.learn_s)):
        each_us = statistics.median(seconds) * 1e6 / n
        of_all = statistics.median(seconds) / ours.total_s
        rows.append(Row("learning", f"stage {stage}", "CPU time", each_us, "us/event", of_all, "of all"))
    for peer in peers:
        if not times_s[peer.case]:
            continue
        n_events = min(n, peer.n_flights or n)
        speed = n_events / statistics.median(times_s[peer.case])
        note = peer.portion(n_events, n)
        same = peer_loss(peer, Task.BINARY, ours.predictions[:n_events], labels)
        rows += [
            Row(
                "learning", peer.case, "speed", speed, "events/s", our_speed / speed, "ours / this", "higher", note=note
            ),
            Row("learning", peer.case, "log loss", losses[peer.case], "log loss", note=note),
            Row("learning", peer.case, "log loss of ours", same, "log loss", allowed_loss=ALLOWED_LOSS, note=note),
        ]
    return rows
