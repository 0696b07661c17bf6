"""Errors of the model package.

ModelError
├── ConfigurationError      a setting that no model can have
│   └── EmbeddingsOff           context embeddings are asked of a model that learns none
├── FeatureError            a feature that cannot be learned; names the key
├── LabelError              a label that the task cannot take
├── TablesHeld              whoever writes the tables does not let readers in
└── CheckpointError         (model.checkpoint.checkpoint_errors) with its own branches
"""


class ModelError(Exception):
    """Root of everything that this package raises."""


class ConfigurationError(ModelError, ValueError):
    """A setting is outside its range; the message names the setting, the value and the range."""


class EmbeddingsOff(ConfigurationError):
    """Context embeddings are asked of a model that learns none."""


class FeatureError(ModelError, ValueError):
    """A feature cannot be learned.

    Args:
        key: the feature's flat name, as far as it was read.
        reason: a short slug for counting, such as ``non_finite_number``.
        message: what is wrong, for people.
    """

    def __init__(self, key: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.reason = reason


class LabelError(ModelError, ValueError):
    """A label is not one that the task can take; the message names the label and the task."""


class TablesHeld(ModelError):
    """Whoever writes the tables did not let a reader in within its time; the message names the folder."""
