"""The model under River's interface, for programs written for River; needs the extra ``[river]``.

from flexihash import FlexiHashClassifier
evaluate.progressive_val_score(dataset, FlexiHashClassifier(), metrics.LogLoss())
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from river import base

from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch, FeatureRules, flatten, hash_features
from flexihash.model.model_errors import LabelError
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

RULES = FeatureRules()
JSON_TYPES = (str, bool, int, float, np.bool_, np.integer, np.floating, Mapping, list, tuple, type(None))
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
N_RECENT = 1_000  # of the last events of two classes, which are learned anew when a third class comes

Event = Mapping[Any, Any]


class OnlineEstimator(base.Estimator):
    """What all tasks share: tables made at the first use, so that a clone costs nothing."""

    _task: Task
    _model: OnlineModel | None = None

    def __init__(self, n_rows: int = 1 << 18, seed: int = 0, crosses: Sequence[str] | None = None) -> None:
        self.n_rows = n_rows
        self.seed = seed
        self.crosses = crosses

    @property
    def model(self) -> OnlineModel:
        """The model itself."""
        if self._model is None:
            self._model = OnlineModel(Tables.create(self._config))
        return self._model

    @property
    def _crosses(self) -> tuple[str, ...]:
        return tuple(self.crosses or ())

    @property
    def _config(self) -> ModelConfig:
        of_task = self._config_of_task
        return ModelConfig(task=self._task, n_rows=self.n_rows, seed=self.seed, crosses=self._crosses, **of_task)

    @property
    def _config_of_task(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"n_rows": 1 << 12}
        yield {"n_rows": 1 << 12, "crosses": ["*"]}

    def _predict(self, events: Sequence[Event]) -> Any:
        """(B,) float64, or (B, n_known) where the model says several things."""
        return self.model.predict(self._hash(events)).values

    def _hash(self, events: Sequence[Event]) -> Batch:
        return hash_features([flatten(_as_json(event), RULES) for event in events], self.n_rows, self._crosses)


class _MiniBatchEstimator(OnlineEstimator):
    """What learns rows of a data frame, too."""

    def learn_one(self, x: Event, y: Any, w: float = 1.0) -> None:
        """Learns from one event of weight `w`."""
        self._learn([x], [y], [w])

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Learns from the rows in order, as `learn_one` would one by one."""
        self._learn(X.to_dict(orient="records"), y.tolist(), [1.0] * len(y))

    def _learn(self, events: Sequence[Event], labels: Sequence[Any], weights: Sequence[float]) -> None:
        y = np.array([self._task.check_label(label) for label in labels])
        self.model.learn(self._hash(events), y, np.array(weights, np.float64))


class FlexiHashClassifier(_MiniBatchEstimator, base.MiniBatchClassifier):
    """Classification, binary or of many classes, which may arrive on the way.

    While all labels are booleans, or 0 and 1, it is binary, and answers for False and True from the start. The first
    other label makes it one of many classes, with a class for each label that has come. It then learns the last 1,000
    events anew; what was learned of those before them is lost.

    Args:
        n_rows: rows of the table, a power of two.
        seed: of the first embeddings.
        crosses: features that are also learned in pairs, such as ``origin*dest``, or ``*`` for every pair.
        max_classes: how many there can be, from 2 to 1,000; one more is a ``LabelError``.

    >>> from river import datasets, evaluate, metrics
    >>> from flexihash import FlexiHashClassifier
    >>> evaluate.progressive_val_score(datasets.Phishing(), FlexiHashClassifier(), metrics.Accuracy())
    Accuracy: 91.12%
    >>> evaluate.progressive_val_score(datasets.ImageSegments(), FlexiHashClassifier(), metrics.Accuracy())
    Accuracy: 91.00%
    """

    _task = Task.BINARY  # until a label is something else
    _classes: dict[Hashable, int] | None = None  # the user's own labels, by number; None while it is binary
    _recent: deque[tuple[Batch, Sequence[Any], Sequence[float]]] | None = None
    _n_recent = 0

    def __init__(
        self, n_rows: int = 1 << 18, seed: int = 0, crosses: Sequence[str] | None = None, max_classes: int = 100
    ) -> None:
        super().__init__(n_rows, seed, crosses)
        self.max_classes = max_classes

    @property
    def _multiclass(self) -> bool:
        return True

    @property
    def _config_of_task(self) -> dict[str, Any]:
        return {"max_classes": self.max_classes}

    def predict_proba_one(self, x: Event, **kwargs: Any) -> dict[base.typing.ClfTarget, float]:
        """The probability of each class that has come; of False and True before any other has."""
        return dict(zip(self._list_classes(), *self._predict_classes([x]).tolist(), strict=False))

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """The same, a row each."""
        probabilities = self._predict_classes(X.to_dict(orient="records"))
        return type(X)(dict(zip(self._list_classes(), probabilities.T, strict=False)), index=X.index)

    def _list_classes(self) -> tuple[Any, ...]:
        return (False, True) if self._classes is None else tuple(self._classes)

    def _predict_classes(self, events: Sequence[Event]) -> NDArray[np.float64]:
        """(B, n_classes)"""
        p: NDArray[np.float64] = self._predict(events)
        return np.stack([1.0 - p, p], axis=1) if self._classes is None else p

    def _learn(self, events: Sequence[Event], labels: Sequence[Any], weights: Sequence[float]) -> None:
        n = 0  # events that are learned as binary
        if self._classes is None:
            n = next((i for i, label in enumerate(labels) if not _is_binary(label)), len(labels))
        if n:
            self._learn_binary(self._hash(events[:n]), labels[:n], weights[:n])
        if n < len(labels):
            self._learn_classes(self._hash(events[n:]), labels[n:], weights[n:])

    def _learn_binary(self, batch: Batch, labels: Sequence[Any], weights: Sequence[float]) -> None:
        self.model.learn(batch, np.array(labels, np.float64), np.array(weights, np.float64))
        if self._recent is None:
            self._recent = deque()
        self._recent.append((batch, labels, weights))
        self._n_recent += len(batch)
        while self._n_recent - len(self._recent[0][0]) >= N_RECENT:
            self._n_recent -= len(self._recent.popleft()[0])

    def _learn_classes(self, batch: Batch, labels: Sequence[Any], weights: Sequence[float]) -> None:
        if self._classes is None:
            number_labels(labels, {}, self.max_classes)  # so that a label that is none changes nothing
            self._classes, self._model, self._task = {}, None, Task.MULTICLASS
            for recent in self._recent or ():
                self._learn_classes(*recent)
            self._recent = None
        numbers = number_labels(labels, self._classes, self.max_classes)
        admit_all(self.model, numbers)
        self.model.learn(batch, np.array(numbers, np.float64), np.array(weights, np.float64))


class FlexiHashRegressor(_MiniBatchEstimator, base.MiniBatchRegressor):
    """Regression on labels of any scale.

    Args:
        n_rows: rows of the table, a power of two.
        seed: of the first embeddings.
        crosses: features that are also learned in pairs, such as ``origin*dest``, or ``*`` for every pair.

    >>> from river import datasets, evaluate, metrics
    >>> from flexihash import FlexiHashRegressor
    >>> evaluate.progressive_val_score(datasets.TrumpApproval(), FlexiHashRegressor(), metrics.MAE())
    MAE: 0.298318
    """

    _task = Task.REGRESSION

    def predict_one(self, x: Event) -> float:
        """The predicted label."""
        return float(self._predict([x])[0])

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """Predicted labels, one per row."""
        import pandas as pd

        return pd.Series(self._predict(X.to_dict(orient="records")), index=X.index)


def number_labels(labels: Iterable[Any], known: dict[Hashable, int], most: int) -> list[int]:
    """The numbers of labels; each that `known` lacks gets the next one there.

    Raises:
        LabelError: one is None, NaN or not hashable, or one more than there can be.
    """
    numbered = dict(known)  # a label that is refused leaves none of the others behind
    numbers = [_number_label(label, numbered, most) for label in labels]
    known.update(numbered)
    return numbers


def _number_label(label: Any, known: dict[Hashable, int], most: int) -> int:
    if label is None or label != label or not _is_hashable(label):
        raise LabelError(f"{label!r} is no class: give a label that can be a key, not None or NaN")
    if label not in known and len(known) == most:
        raise LabelError(f"{label!r} would be one class more than the {most} of max_classes")
    return known.setdefault(label, len(known))


def _is_hashable(label: Any) -> bool:
    try:
        hash(label)
    except TypeError:
        return False
    return True


def admit_all(model: OnlineModel, numbers: Iterable[int]) -> None:
    """Names classes by their numbers: the model keeps no objects."""
    if model.classes is not None:
        model.classes.admit([str(number) for number in sorted({*numbers})])


def _is_binary(label: Any) -> bool:
    return isinstance(label, NUMBERS) and (label == 0 or label == 1)


def _as_json(event: Event) -> dict[str, Any]:
    """River's features may have any type, dates for one, which are times: what JSON lacks is taken by its text.

    They are sorted, since River promises that their order has no effect at all, not even a rounding's.
    """
    named = sorted(((str(name), value) for name, value in event.items()), key=lambda pair: pair[0])
    return {name: value if isinstance(value, JSON_TYPES) else str(value) for name, value in named}
