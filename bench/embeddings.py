"""Is like beside like? `python -m bench.embeddings`, a few minutes; its figures are a section of `make bench`, too.

One pass over each stream, without labels, then each value's nearest by cosine are looked at: how far away are they, by
what the events do not say? Ours is a mean of N_SEEDS. The others are given the same events and as many dimensions; a
number is cut in sixteenths for them.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench import pairs
from bench.likeness import LEAST_EVENTS, Field, Likeness, of_digits, of_flights, of_weather
from bench.pass_by_stage import learn, stay_on_one_core
from bench.report import show
from bench.results import Row, Run
from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch, FeatureRules, flatten, hash_features
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.producer.events import encode
from flexihash.producer.flights import flights

OURS = "flexihash"
N_SEEDS = 4
RULES = FeatureRules()
DRIFT_EVENTS = 100_000
HELD_OUT = 5  # every so many-th destination is new in the second half
N_TURNS = 5
PICTURE = Path(__file__).parents[1] / "docs" / "destinations.png"

Vectors = NDArray[np.float64]
Place = Callable[[Field], Vectors]
"""The vectors of a field's values, (n, dim)."""


def hashed(events: Iterable[Mapping[str, object]]) -> Batch:
    """Events as the model takes them."""
    return hash_features([flatten(event, RULES) for event in events], ModelConfig().n_rows)


def fresh(seed: int) -> OnlineModel:
    """A model that learns context embeddings."""
    return OnlineModel(Tables.create(ModelConfig(seed=seed, embeddings=True, embedding_dim=pairs.DIM)))


def teach(model: OnlineModel, batch: Batch) -> None:
    """Without labels."""
    model.learn(batch, np.full(len(batch), np.nan))


def instances(field: Field) -> Batch:
    """Each value as an event that has nothing else."""
    return hashed({field.name: value} for value in field.values)


def ours(batch: Batch, seed: int) -> Place:
    """The context embeddings after one pass."""
    model = fresh(seed)
    teach(model, batch)
    return lambda field: model.look_up(instances(field)).double().numpy()


def factors(batch: Batch, labels: Sequence[int], seed: int) -> Place:
    """The interaction factors of the labels' learner after one pass."""
    model = OnlineModel(Tables.create(ModelConfig(seed=seed)))
    model.learn(batch, np.array(labels, np.float64))
    return lambda field: model.embed(instances(field)).double().numpy()


def chance(seed: int) -> Place:
    """Vectors of nothing."""
    rng = np.random.default_rng(seed)
    return lambda field: rng.standard_normal((len(field.values), pairs.DIM))


def of_words(vectors: pairs.Vectors) -> Place:
    """Those of a peer that takes texts."""
    return lambda field: np.array([vectors[f"{field.name}={value}"] for value in field.values], np.float64)


def peers() -> tuple[dict[str, Callable[[pairs.Sentences], pairs.Vectors]], list[str]]:
    """What makes vectors offline, and what is not installed."""
    ways = {"SVD of positive PMI, all events at once": pairs.factorize}
    try:
        return ways | pairs.gensim_ways(), []
    except ImportError:
        return ways, ["gensim is not installed: pip install 'flexihash[bench]'"]


def compare(stream: Likeness, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Every way on one stream."""
    batch = hashed(stream.events)
    seeds = range(N_SEEDS)
    places: dict[str, list[Place]] = {
        OURS: [ours(batch, seed) for seed in seeds],
        "interaction factors of the label's learner": [factors(batch, stream.labels, seed) for seed in seeds],
        "random": [chance(seed) for seed in seeds],
    }
    offline, skipped = peers()
    for name, make in offline.items():
        places[name] = [of_words(make(stream.sentences))]
        say(f"{stream.name}: {name}")
    return [row for field in stream.fields for row in judged(stream, field, places)], skipped


def judged(stream: Likeness, field: Field, places: Mapping[str, Sequence[Place]]) -> list[Row]:
    """Every way on one field, and what is the best and the mean of all."""
    found = {name: [float(field.judge(place(field)).mean()) for place in ways] for name, ways in places.items()}
    found |= {"any other": [field.any_other], "the nearest there are": [field.best]}
    our = statistics.fmean(found[OURS])
    rows = []
    for name, values in found.items():
        ratio = (
            (field.any_other / our, "any other / this", "higher")
            if name == OURS
            else (statistics.fmean(values) / our, "this / ours", None)
        )
        case = f"{stream.name}, {field.name} ({len(field.values)}), {name}"
        rows.append(row_of_seeds(case, nearest(field), values, field.unit, *ratio))
    return rows


def nearest(field: Field) -> str:
    return f"mean distance of the nearest {field.n_near}"


def newcomers(stream: Likeness, field: Field) -> tuple[list[float], float]:
    """How near values that the first half lacks are, each when it has been seen LEAST_EVENTS times.

    Returns:
        Mean distance of their nearest, by seed; of any other value.
    """
    new = {value: number for number, value in enumerate(field.values) if number % HELD_OUT == HELD_OUT // 2}
    half = len(stream.events) // 2
    events = [event for n, event in enumerate(stream.events) if n >= half or event[field.name] not in new]
    batch, seen, stops = hashed(events), Counter[str](), []
    for end, event in enumerate(events, 1):
        value = event[field.name]
        seen[value] += value in new
        if seen[value] == LEAST_EVENTS and value in new:
            stops.append((end, new[value]))
    every = statistics.fmean(field.distances[number].sum() / (len(field.values) - 1) for _, number in stops)
    return [statistics.fmean(arrivals(batch, field, stops, seed)) for seed in range(N_SEEDS)], every


def arrivals(batch: Batch, field: Field, stops: Sequence[tuple[int, int]], seed: int) -> Iterator[float]:
    """How near a value's nearest are at each stop: (events learned by then, the value's number)."""
    model, begin = fresh(seed), 0
    for end, number in stops:
        teach(model, part(batch, begin, end))
        begin = end
        yield float(judge(model, field)[number])


def judge(model: OnlineModel, field: Field) -> Vectors:
    return field.judge(model.look_up(instances(field)).double().numpy())


def part(batch: Batch, begin: int, end: int) -> Batch:
    """Events from `begin` to before `end`."""
    offsets = batch.offsets[begin : end + 1]
    arrays = (array[offsets[0] : offsets[-1]] for array in (batch.rows, batch.values, batch.is_number, batch.fields))
    rows, values, is_number, fields = arrays
    return Batch(rows, offsets - offsets[0], values, is_number, fields)


def drifts(batch: Batch, field: Field, seed: int) -> list[float]:
    """Mean cosine of a value's vector with that of DRIFT_EVENTS before, all along the stream."""
    model, cosines, before = fresh(seed), [], None
    for end in range(DRIFT_EVENTS, len(batch) + 1, DRIFT_EVENTS):
        teach(model, part(batch, end - DRIFT_EVENTS, end))
        vectors = model.look_up(instances(field)).double().numpy()
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        if before is not None:
            is_known = np.linalg.norm(before, axis=1) > 0
            cosines.append(float((vectors * before).sum(1)[is_known].mean()))
        before = vectors
    return cosines


def of_time(stream: Likeness, say: Callable[[str], None]) -> list[Row]:
    """New destinations, and how far the vectors of known ones go."""
    field, batch = stream.fields[0], hashed(stream.events)
    found, every = newcomers(stream, field)
    case = f"{stream.name}, {field.name}, new in the second half, after {LEAST_EVENTS} events of each"
    near = statistics.fmean(found)
    rows = [row_of_seeds(case, nearest(field), found, field.unit, every / near, "any other / this", "higher")]
    say(case)
    for number, cosines in enumerate(zip(*(drifts(batch, field, seed) for seed in range(N_SEEDS)), strict=True), 1):
        begin = number * DRIFT_EVENTS
        case = f"{stream.name}, {field.name}, vectors at event {begin:,} and {begin + DRIFT_EVENTS:,}"
        rows.append(row_of_seeds(case, "mean cosine", cosines, ""))
    return rows


def row_of_seeds(case: str, measure: str, found: Sequence[float], unit: str, *ratio: Any) -> Row:
    """The mean of a figure's seeds, with their range."""
    note = f"{min(found):.4g} to {max(found):.4g}, {len(found)} seeds" if len(found) > 1 else ""
    return Row("embeddings", case, measure, statistics.fmean(found), unit, *ratio, note=note)


def speeds(say: Callable[[str], None]) -> list[Row]:
    """From JSON bytes to the updated tables on one core, with embeddings and without, in turns."""
    stay_on_one_core()
    messages = list(encode(flights()))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    order = random.Random(0)
    for turn in range(N_TURNS + 1):
        for is_on in order.sample([True, False], 2):
            _, decode_s, learn_s = learn(Task.BINARY, messages, is_on)
            if turn:  # the first may compile
                seconds[is_on].append(decode_s + learn_s)
    on, off = (len(messages) / statistics.median(seconds[is_on]) for is_on in (True, False))
    say("speed")
    return [
        Row(
            "embeddings",
            "flights from JSON bytes, embeddings on",
            "speed",
            on,
            "events/s",
            on / off,
            "to off",
            "higher",
        ),
        Row("embeddings", "flights from JSON bytes, embeddings off", "speed", off, "events/s"),
    ]


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Likeness on three streams, what time does, and speed."""
    rows, skipped = speeds(say), []
    for stream in (of_flights(), of_weather(), of_digits()):
        found, skipped = compare(stream, say)
        rows += found
        if stream.name == "flights":
            rows += of_time(stream, say)
    return rows, skipped


def main() -> None:
    """Measure, print, and draw the picture."""
    from bench.atlas import draw  # matplotlib
    from bench.machine import describe_machine

    rows, skipped = measure(print)
    show(Run(describe_machine(), {"embeddings": 0.0}, rows, skipped, {}), Console())
    stream = of_flights()
    draw(stream.fields[0], ours(hashed(stream.events), seed=0)(stream.fields[0]), PICTURE)


if __name__ == "__main__":
    main()
