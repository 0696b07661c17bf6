"""The model under River's interface, for programs written for River; needs the extra ``[river]``.

from flexihash import FlexiHashClassifier
evaluate.progressive_val_score(dataset, FlexiHashClassifier(), metrics.LogLoss())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from river import base

from flexihash.model.config import ModelConfig
from flexihash.model.features import Batch, FeatureRules, flatten, hash_features
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

RULES = FeatureRules()
JSON_TYPES = (str, bool, int, float, np.bool_, np.integer, np.floating, Mapping, list, tuple, type(None))


class _Estimator(base.Estimator):
    """What both tasks share: tables made at the first use, so that a clone costs nothing."""

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
        return ModelConfig(task=self._task, n_rows=self.n_rows, seed=self.seed, crosses=self._crosses)

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"n_rows": 1 << 12}
        yield {"n_rows": 1 << 12, "crosses": ["*"]}

    def learn_one(self, x: Mapping[Any, Any], y: Any, w: float = 1.0) -> None:
        """Learns from one event of weight `w`."""
        self._learn([x], [y], [w])

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Learns from the rows in order, as `learn_one` would one by one."""
        self._learn(X.to_dict(orient="records"), y.tolist(), [1.0] * len(y))

    def _learn(self, events: Sequence[Mapping[Any, Any]], labels: Sequence[Any], weights: Sequence[float]) -> None:
        y = np.array([self._task.check_label(label) for label in labels])
        self.model.learn(self._hash(events), y, np.array(weights, np.float64))

    def _predict(self, events: Sequence[Mapping[Any, Any]]) -> list[float]:
        values: list[float] = self.model.predict(self._hash(events)).values.tolist()
        return values

    def _hash(self, events: Sequence[Mapping[Any, Any]]) -> Batch:
        return hash_features([flatten(_as_json(event), RULES) for event in events], self.n_rows, self._crosses)


class FlexiHashClassifier(_Estimator, base.MiniBatchClassifier):
    """Binary classification. Labels are booleans, or 0 and 1.

    Args:
        n_rows: rows of the table, a power of two.
        seed: of the first embeddings.
        crosses: features that are also learned in pairs, such as ``origin*dest``, or ``*`` for every pair.

    >>> from river import datasets, evaluate, metrics
    >>> from flexihash import FlexiHashClassifier
    >>> evaluate.progressive_val_score(datasets.Phishing(), FlexiHashClassifier(), metrics.Accuracy())
    Accuracy: 90.56%
    """

    _task = Task.BINARY

    def predict_proba_one(self, x: Mapping[Any, Any], **kwargs: Any) -> dict[base.typing.ClfTarget, float]:
        """Probabilities of False and True."""
        p = self._predict([x])[0]
        return {False: 1.0 - p, True: p}

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """Probabilities of False and True, a row each."""
        p = np.array(self._predict(X.to_dict(orient="records")))
        return type(X)({False: 1.0 - p, True: p}, index=X.index)


class FlexiHashRegressor(_Estimator, base.MiniBatchRegressor):
    """Regression on labels of any scale.

    Args:
        n_rows: rows of the table, a power of two.
        seed: of the first embeddings.
        crosses: features that are also learned in pairs, such as ``origin*dest``, or ``*`` for every pair.

    >>> from river import datasets, evaluate, metrics
    >>> from flexihash import FlexiHashRegressor
    >>> evaluate.progressive_val_score(datasets.TrumpApproval(), FlexiHashRegressor(), metrics.MAE())
    MAE: 0.29834
    """

    _task = Task.REGRESSION

    def predict_one(self, x: Mapping[Any, Any]) -> float:
        """The predicted label."""
        return self._predict([x])[0]

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """Predicted labels, one per row."""
        import pandas as pd

        return pd.Series(self._predict(X.to_dict(orient="records")), index=X.index)


def _as_json(event: Mapping[Any, Any]) -> dict[str, Any]:
    """River's features may have any type, dates for one, which are times: what JSON lacks is taken by its text.

    They are sorted, since River promises that their order has no effect at all, not even a rounding's.
    """
    named = sorted(((str(name), value) for name, value in event.items()), key=lambda pair: pair[0])
    return {name: value if isinstance(value, JSON_TYPES) else str(value) for name, value in named}
