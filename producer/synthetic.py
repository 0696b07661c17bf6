"""A stream whose truth is known: what a learner should have learned, and the least loss that any could have."""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count, islice
from random import Random
from statistics import fmean
from typing import Literal

from flexihash.producer.events import Event

Task = Literal["binary", "regression"]

COLORS = ("amber", "blue", "coral", "green", "indigo", "red", "teal", "white")
SHAPES = ("circle", "cube", "ring", "star", "wave")
N_USER_WEIGHTS = 1009  # user n weighs as user n - 1009 does: users have no end, the weights must
NEW_USER_SHARE = 0.1
USER_SD = 0.7
CURVE_HEIGHT = 1.5
LOG_PRICE_MEAN, LOG_PRICE_SD = 3.0, 0.8
NOISE_SD = 0.5  # of a regression label, around its mean
BEGIN = datetime(2024, 1, 1)  # UTC


class SyntheticStream:
    """Events drawn from a model that is known, and that changes at a known event.

    Of each event with index i, the score is

        z = color + pair(color, shape) + user + 1.5 cos(2 (ln price - 3))      color: negated from i = drift_at on

    where `color`, `pair` and `user` are normal weights, fixed by the seed. A tenth of the events bring a user that was
    never seen; `price` is log-normal. The label is 1 with the probability sigmoid(z) (binary), or z plus normal noise
    of deviation 0.5 (regression). Shapes alone weigh nothing.

    Iterating gives the same events each time, without end.

    Args:
        seed: fixes the weights and the events.
        task: "binary" or "regression".
        drift_at: index of the first event after the drift.

    Attributes:
        color_weights: weight of each color before the drift.
        pair_weights: weight of each (color, shape).
        user_weights: weight of user n is `user_weights[n % len(user_weights)]`; user n is named `u<n>`.
    """

    def __init__(self, seed: int = 0, task: Task = "binary", drift_at: int = 20_000) -> None:
        random = Random(seed)
        self.seed = seed
        self.task = task
        self.drift_at = drift_at
        self.color_weights = {color: random.gauss(0.0, 1.0) for color in COLORS}
        self.pair_weights = {(color, shape): random.gauss(0.0, 1.0) for color in COLORS for shape in SHAPES}
        self.user_weights = [random.gauss(0.0, USER_SD) for _ in range(N_USER_WEIGHTS)]

    def __iter__(self) -> Iterator[Event]:
        random = Random(f"events of {self.seed}")
        n_users = 0
        for index in count():
            if n_users == 0 or random.random() < NEW_USER_SHARE:
                user = n_users
                n_users += 1
            else:
                user = int(random.random() * n_users)
            features: dict[str, str | float] = {
                "color": COLORS[int(random.random() * len(COLORS))],
                "shape": SHAPES[int(random.random() * len(SHAPES))],
                "user": f"u{user}",
                "price": round(random.lognormvariate(LOG_PRICE_MEAN, LOG_PRICE_SD), 2),
            }
            yield {
                "features": features,
                "label": self._label(features, index, random),
                "id": f"synthetic-{index}",
                "timestamp": f"{(BEGIN + timedelta(seconds=index)).isoformat()}Z",
            }

    def score(self, features: dict[str, str | float], index: int) -> float:
        """The true z of an event: the log odds of label 1 (binary), the mean of the label (regression)."""
        color, shape = str(features["color"]), str(features["shape"])
        sign = 1.0 if index < self.drift_at else -1.0
        user = int(str(features["user"])[1:])
        return (
            sign * self.color_weights[color]
            + self.pair_weights[color, shape]
            + self.user_weights[user % N_USER_WEIGHTS]
            + CURVE_HEIGHT * math.cos(2.0 * (math.log(float(features["price"])) - LOG_PRICE_MEAN))
        )

    def probability(self, features: dict[str, str | float], index: int) -> float:
        """The true probability of label 1 of an event (binary)."""
        return 1.0 / (1.0 + math.exp(-self.score(features, index)))

    def bayes_loss(self, start: int, stop: int) -> float:
        """The least mean loss that any learner can expect on the events from index `start` up to `stop`.

        Log loss in nats (binary): the mean entropy of the labels. Mean absolute error (regression): the noise's own,
        whatever the events.
        """
        if self.task == "regression":
            return NOISE_SD * math.sqrt(2.0 / math.pi)
        events = enumerate(islice(self, start, stop), start)
        return fmean(_entropy(self.probability(event["features"], index)) for index, event in events)

    def _label(self, features: dict[str, str | float], index: int, random: Random) -> float:
        if self.task == "regression":
            return self.score(features, index) + random.gauss(0.0, NOISE_SD)
        return int(random.random() < self.probability(features, index))


def synthetic(n: int | None, seed: int = 0, task: Task = "binary", drift_at: int = 20_000) -> Iterator[Event]:
    """Stream the first n events of a `SyntheticStream`; None gives them without end."""
    return islice(SyntheticStream(seed, task, drift_at), n)


def _entropy(p: float) -> float:
    return -p * math.log(p) - (1.0 - p) * math.log1p(-p)
