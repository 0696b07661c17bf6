"""The model under River's interface where the label is several things at once; needs the extra ``[river]``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from river import base

from flexihash.model.estimators import Event, OnlineEstimator, admit_all, number_labels
from flexihash.model.model_errors import LabelError
from flexihash.model.tasks import Task


class FlexiHashMultiLabelClassifier(OnlineEstimator, base.MultiLabelClassifier):
    """Classification by several labels at once, each of which an event has or not. They may arrive on the way.

    Args:
        n_rows: rows of the table, a power of two.
        seed: of the first embeddings.
        crosses: features that are also learned in pairs, such as ``origin*dest``, or ``*`` for every pair.
        max_classes: how many labels there can be, from 2 to 1,000; one more is a ``LabelError``.

    >>> from flexihash import FlexiHashMultiLabelClassifier
    >>> model = FlexiHashMultiLabelClassifier()
    >>> for _ in range(20):
    ...     model.learn_one({"sky": "grey"}, {"wet": True, "cold": True})
    ...     model.learn_one({"sky": "blue"}, {"wet": False, "cold": True})
    >>> model.predict_one({"sky": "blue"})
    {'wet': False, 'cold': True}
    """

    _task = Task.MULTILABEL
    _labels: dict[Hashable, int] | None = None  # the user's own, by number

    def __init__(
        self, n_rows: int = 1 << 18, seed: int = 0, crosses: Sequence[str] | None = None, max_classes: int = 100
    ) -> None:
        super().__init__(n_rows, seed, crosses)
        self.max_classes = max_classes

    @property
    def _config_of_task(self) -> dict[str, Any]:
        return {"max_classes": self.max_classes}

    def learn_one(self, x: Event, y: Mapping[Any, Any], w: float = 1.0) -> None:
        """Learns from one event of weight `w`; a label that `y` lacks is one that it has not."""
        if self._labels is None:
            self._labels = {}
        numbers = number_labels(y, self._labels, self.max_classes)
        admit_all(self.model, numbers)
        labels = np.zeros((1, self.max_classes))
        labels[0, numbers] = [bool(has_it) for has_it in y.values()]
        self.model.learn(self._hash([x]), labels, np.array([w]))

    def predict_proba_one(self, x: Event, **kwargs: Any) -> dict[Any, dict[bool, float]]:
        """The probability of each label that ever came in a `y`; 0 where no event had it."""
        labels = self._labels or {}
        p = np.zeros(len(labels))
        known = self._predict([x])[0] if labels else p
        p[: len(known)] = known
        return {label: {False: 1.0 - share, True: share} for label, share in zip(labels, p.tolist(), strict=True)}


class FlexiHashMultiTargetRegressor(OnlineEstimator, base.MultiTargetRegressor):
    """Regression on several targets at once, of any scale each.

    The first event that is learned names the targets; a later one may lack some.

    Args:
        n_rows: rows of the table, a power of two.
        seed: of the first embeddings.
        crosses: features that are also learned in pairs, such as ``origin*dest``, or ``*`` for every pair.

    >>> from flexihash import FlexiHashMultiTargetRegressor
    >>> model = FlexiHashMultiTargetRegressor()
    >>> for _ in range(200):
    ...     model.learn_one({"size": "small"}, {"price": 10.0, "days": 2.0})
    ...     model.learn_one({"size": "large"}, {"price": 30.0, "days": 3.0})
    >>> {target: round(value) for target, value in model.predict_one({"size": "large"}).items()}
    {'price': 30, 'days': 3}
    """

    _task = Task.TARGETS
    _targets: tuple[Any, ...] = ()

    @property
    def _config_of_task(self) -> dict[str, Any]:
        return {"targets": {str(k): Task.REGRESSION for k in range(len(self._targets))}}

    def learn_one(self, x: Event, y: Mapping[Any, float], w: float = 1.0, **kwargs: Any) -> None:
        """Learns from one event of weight `w`.

        Raises:
            LabelError: it has a target that the first event had not, or one that is not a finite number.
        """
        targets = self._targets or tuple(y)
        if unknown := [target for target in y if target not in targets]:
            raise LabelError(f"target {unknown[0]!r} is not one of those of the first event, {list(targets)}")
        labels = [Task.REGRESSION.check_label(y[target]) if target in y else np.nan for target in targets]
        self._targets = targets
        self.model.learn(self._hash([x]), np.array([labels]), np.array([w]))

    def predict_one(self, x: Event) -> dict[Any, float]:
        """The prediction of each target; of none before the first event is learned."""
        return dict(zip(self._targets, self._predict([x])[0].tolist(), strict=True)) if self._targets else {}
