"""scikit-learn's SGD behind its FeatureHasher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import SGDClassifier, SGDRegressor

from bench.peers.peer import SEED, Peer, Predict, Prepare, parse
from flexihash.model.tasks import Task

N_HASHED = 1 << 18  # columns of FeatureHasher: as many as our table has rows; its default of 2^20 is slower
MINI_BATCH = 1000


def scikit_learn(batch: int) -> Prepare:
    """FeatureHasher and SGD: `batch` events are predicted, then learned by one `partial_fit`.

    SGD raises once raw numbers have made its weights overflow: the predictions from there on are NaN.
    """

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        def predict() -> list[float]:
            predictions: list[float] = []
            try:
                for some in sgd_predictions(task, messages, batch):
                    predictions += some
            except ValueError:
                predictions += [math.nan] * (len(messages) - len(predictions))
            return predictions

        return predict

    return prepare


def sgd_predictions(task: Task, messages: Sequence[bytes], batch: int) -> Iterator[list[float]]:
    """The predictions of each batch, 0.5 or 0 before anything is learned."""
    is_binary = task is Task.BINARY
    hasher = FeatureHasher(N_HASHED, alternate_sign=False)
    model = SGDClassifier(loss="log_loss", random_state=SEED) if is_binary else SGDRegressor(random_state=SEED)
    fit_keywords = {"classes": [0, 1]} if is_binary else {}
    for begin in range(0, len(messages), batch):
        events = [parse(message) for message in messages[begin : begin + batch]]
        X = hasher.transform(event["features"] for event in events)
        if begin == 0:
            yield [0.5 if is_binary else 0.0] * len(events)
        else:
            yield (model.predict_proba(X)[:, 1] if is_binary else model.predict(X)).tolist()
        model.partial_fit(X, [event["label"] for event in events], **fit_keywords)


PEERS = (
    Peer("scikit-learn", f"SGD by {MINI_BATCH}", scikit_learn(MINI_BATCH), n_turns=3),
    Peer("scikit-learn", "SGD one by one", scikit_learn(1), n_flights=1_000, n_stream=500),
)
