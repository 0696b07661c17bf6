"""A service that learns from a Kafka stream while it serves, and its model as a library.

The folders `model`, `consumer`, `producer` and `service` beside this one are its packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexihash.model.estimators import FlexiHashClassifier, FlexiHashRegressor
    from flexihash.model.several_estimators import FlexiHashMultiLabelClassifier, FlexiHashMultiTargetRegressor
    from flexihash.service.torch_module import FlexiHashEmbedding

__all__ = [
    "FlexiHashClassifier",
    "FlexiHashEmbedding",
    "FlexiHashMultiLabelClassifier",
    "FlexiHashMultiTargetRegressor",
    "FlexiHashRegressor",
]


def __getattr__(name: str) -> Any:
    """Imported by whoever asks for one: the estimators need River, and nothing else does; the module needs much."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "FlexiHashEmbedding":
        from flexihash.service import torch_module

        return torch_module.FlexiHashEmbedding
    from flexihash.model import estimators, several_estimators

    return getattr(several_estimators if "Multi" in name else estimators, name)
