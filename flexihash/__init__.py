"""A service that learns from a Kafka stream while it serves, and its model as a library.

The folders `model`, `consumer`, `producer` and `service` beside this one are its packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexihash.model.estimators import FlexiHashClassifier, FlexiHashRegressor

__all__ = ["FlexiHashClassifier", "FlexiHashRegressor"]


def __getattr__(name: str) -> Any:
    """The estimators need River, and nothing else does: they are imported by whoever asks for one."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flexihash.model import estimators

    return getattr(estimators, name)
