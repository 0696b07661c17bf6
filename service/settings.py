"""Settings of the service: environment variables named ``FLEXIHASH_<FIELD>``; docs/settings.md lists them all."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict

from flexihash.consumer.envelopes import Envelope
from flexihash.model.config import MOST_CLASSES, ModelConfig
from flexihash.model.tasks import Task
from flexihash.service.environment import PREFIX, env_name, to_text
from flexihash.service.http_settings import HttpSettings
from flexihash.service.kafka_settings import KafkaSettings
from flexihash.service.service_errors import FormerCheckpoints, SettingsError
from flexihash.service.setting_types import (
    Crosses,
    EmbeddingDim,
    Names,
    OptionalFolder,
    Panel,
    Rows,
    Rule,
    Targets,
    ZoneName,
    explain_allowed,
)

if TYPE_CHECKING:  # these import torch and scikit-learn, which the supervisor must not load
    from flexihash.consumer.wire import EventFormat
    from flexihash.model.checkpoint.retention import Retention

SHARED_MEMORY = Path("/dev/shm")
FORMER_CHECKPOINTS = Path("checkpoints")  # of all topics once; now a folder each in it
MANIFESTS = "*/manifest.json"
MODEL, EVENTS, STORAGE, LOGS = map(Panel, ("Model", "Events", "Storage", "Logs"))


class Settings(KafkaSettings, HttpSettings):  # fields come base by base, the last one's first
    """Every setting, with its default. Use `load_settings`, which explains a wrong value in one line.

    The options of the command line are made from these too: a description is also the help of an option.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    task: Annotated[Task, MODEL] = Field(
        Task.BINARY,
        description="What is predicted: binary (yes or no), regression (a quantity), counts, quantile, multiclass "
        "(one of many classes), multilabel (any of many labels), or targets (several at once).",
    )
    quantile: Annotated[float, MODEL] = Field(0.5, gt=0, lt=1, description="The wanted quantile, with task quantile.")
    n_rows: Annotated[Rows, MODEL] = Field(
        1 << 18,
        description="Rows of the table, a power of two: the more, the fewer features share one; a row takes 160 bytes, "
        "and what its embedding takes.",
    )
    seed: Annotated[int, MODEL] = Field(0, ge=0, lt=1 << 63, description="Seed of the first embeddings.")
    embeddings: Annotated[bool, MODEL] = Field(
        True,
        description="Learn embeddings of features from their company, without labels, beside the predictions; false "
        "takes less memory and time.",
    )
    embedding_dim: Annotated[EmbeddingDim, MODEL] = Field(
        16, description="Size of these embeddings: 8, 16, 32 or 64; a row takes 4 bytes for each, and 16 more."
    )
    crosses: Annotated[Crosses, MODEL] = Field(
        (),
        description="Pairs of features that are also learned together, as origin*dest, or as user.* * item_id where a "
        "pattern has a star; several separated by commas; * is every pair, which is slow.",
    )

    max_classes: Annotated[int, MODEL] = Field(
        100,
        ge=2,
        le=MOST_CLASSES,
        description="Most classes, or labels, of the tasks multiclass and multilabel; an event of one more is a dead "
        "letter.",
    )

    envelope: Annotated[Envelope, EVENTS] = Field(
        "",
        description="What an event lies in: debezium (a row, after its change) or connect (a payload beside its "
        "schema); empty: in nothing.",
    )
    label_field: Annotated[str, EVENTS] = Field(
        "label",
        min_length=1,
        description="Field of an event that holds the label: a name, a path (order.late), or a JSON Pointer where "
        "names have dots (/order/a.b).",
    )
    targets: Annotated[Targets, EVENTS] = Field(
        {},
        description="Fields that hold several labels, each with its task, such as late:binary,delay:regression; with "
        "task targets, instead of label_field.",
    )
    positive_labels: Annotated[Names, EVENTS] = Field(
        (),
        description="Labels that mean yes, such as late,yes, while all others mean no, separated by commas; with task "
        "binary.",
    )
    label_rule: Annotated[Rule, EVENTS] = Field(
        "",
        description="Comparison of a field with a number or a string that is the label, such as arr_delay > 15, "
        "instead of label_field; with task binary.",
    )
    features_field: Annotated[str, EVENTS] = Field(
        "features",
        description="Field that holds the features; empty: the whole event but the label, weight, id, timestamp and "
        "what is ignored.",
    )
    weight_field: Annotated[str, EVENTS] = Field(
        "weight", description="Field that says how much an event counts; empty: there is none."
    )
    id_field: Annotated[str, EVENTS] = Field(
        "id", description="Field that says which event it is, and is no feature; empty: there is none."
    )
    ignored_features: Annotated[Names, EVENTS] = Field(
        (), description="Names, paths (user.address) and patterns (debug_*) of what is no feature, separated by commas."
    )
    categorical_features: Annotated[Names, EVENTS] = Field(
        (), description="Patterns of features whose numbers are names only, such as *_id, separated by commas."
    )
    numeric_features: Annotated[Names, EVENTS] = Field(
        (), description="Patterns of features that are quantities only, such as year, separated by commas."
    )
    time_features: Annotated[Names, EVENTS] = Field(
        (),
        description="Patterns of features that are times, such as *_at, separated by commas: numbers are seconds since "
        "1970, or milli-, micro- or nanoseconds. ISO 8601 times are found without.",
    )
    time_zone: Annotated[ZoneName, EVENTS] = Field(
        "UTC",
        description="Zone whose clock tells a time's hour and weekday, and of times without an offset: UTC, or a name "
        "such as America/New_York.",
    )
    text_features: Annotated[Names, EVENTS] = Field(
        (),
        description="Patterns of features that are texts, such as title, separated by commas: each word is a category.",
    )
    max_words: Annotated[int, EVENTS] = Field(
        256, ge=1, le=1_000, description="Most words of one text; those behind are passed over."
    )
    missing_features: Annotated[Names, EVENTS] = Field(
        (),
        description="Patterns of features whose null means something, separated by commas; of a name without a star "
        "its absence as well.",
    )
    max_features: Annotated[int, EVENTS] = Field(1_000, ge=1, description="Most features in one event.")
    max_depth: Annotated[int, EVENTS] = Field(16, ge=1, le=100, description="Most levels of nesting in one event.")
    max_key_length: Annotated[int, EVENTS] = Field(512, ge=1, description="Most characters in a feature's name.")
    max_event_bytes: Annotated[int, EVENTS] = Field(1_000_000, ge=2, description="Largest event, in bytes.")

    checkpoint_dir: Annotated[OptionalFolder, STORAGE] = Field(
        None,
        description="Folder of the checkpoints, the newest of which is gone on from, and of dead letters that the "
        "broker has not taken; empty: checkpoints/TOPIC.",
    )
    adopt: Annotated[bool, STORAGE] = Field(
        False,
        description="Go on from a checkpoint that was learned from other topics: keep what it learned, and begin this "
        "topic where start_at says.",
    )
    checkpoint_seconds: Annotated[float, STORAGE] = Field(
        60.0, gt=0, allow_inf_nan=False, description="Seconds between two checkpoints."
    )
    checkpoint_keep: Annotated[int, STORAGE] = Field(3, ge=1, description="Newest checkpoints that are kept.")
    checkpoint_keep_hourly: Annotated[int, STORAGE] = Field(
        24, ge=0, description="Hours of which the newest checkpoint is kept as well, the last in which one was saved."
    )
    checkpoint_keep_daily: Annotated[int, STORAGE] = Field(
        7, ge=0, description="Days, in UTC, of which the newest checkpoint is kept as well."
    )
    memory_dir: Annotated[OptionalFolder, STORAGE] = Field(
        None, description="Folder on tmpfs for the shared tables; empty: one in /dev/shm, named after user and topic."
    )

    log_format: Annotated[Literal["auto", "console", "json"], LOGS] = Field(
        "auto", description="Log lines for people (console) or programs (json); auto: console on a terminal."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LOGS] = Field(
        "info", description="Least level that is logged: debug, info, warning or error."
    )

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if bool(self.targets) != (self.task is Task.TARGETS):
            raise ValueError(
                f"{PREFIX}TASK=targets and {PREFIX}TARGETS go together: set both, such as late:binary,delay:regression,"
                " or neither"
            )
        if self.task is not Task.BINARY and (self.positive_labels or self.label_rule):
            given = "POSITIVE_LABELS" if self.positive_labels else "LABEL_RULE"
            raise ValueError(f"{PREFIX}{given} makes labels of yes and no, and {PREFIX}TASK is {self.task}")
        if self.positive_labels and self.label_rule:
            raise ValueError(f"set {PREFIX}POSITIVE_LABELS or {PREFIX}LABEL_RULE, not both: each makes the label")
        return self

    @property
    def model(self) -> ModelConfig:
        """What the model is made of."""
        fields = type(self).model_fields.keys() & set(ModelConfig.__struct_fields__)
        return ModelConfig(**{name: getattr(self, name) for name in fields})

    @property
    def event_format(self) -> EventFormat:
        """How an event is read."""
        from flexihash.consumer.wire import EventFormat
        from flexihash.model.features import FeatureRules

        return EventFormat(
            envelope=self.envelope,
            label_field=self.label_field,
            targets=tuple(self.targets.items()),
            positive_labels=self.positive_labels,
            label_rule=self.label_rule,
            features_field=self.features_field,
            weight_field=self.weight_field,
            id_field=self.id_field,
            max_event_bytes=self.max_event_bytes,
            rules=FeatureRules(
                ignored_features=self.ignored_features,
                categorical_features=self.categorical_features,
                numeric_features=self.numeric_features,
                time_features=self.time_features,
                time_zone=self.time_zone,
                text_features=self.text_features,
                max_words=self.max_words,
                missing_features=self.missing_features,
                max_features=self.max_features,
                max_depth=self.max_depth,
                max_key_length=self.max_key_length,
                crosses=self.crosses,
            ),
        )

    @property
    def dead_letter_dir(self) -> Path:
        """Folder of the dead letters that the broker has not taken."""
        return self.checkpoints / "dead-letters"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.checkpoint_dir or FORMER_CHECKPOINTS / self.topic

    @property
    def retention(self) -> Retention:
        """Which checkpoints are kept."""
        from flexihash.model.checkpoint.retention import Retention

        return Retention(self.checkpoint_keep, self.checkpoint_keep_hourly, self.checkpoint_keep_daily)

    def check_former_checkpoints(self) -> None:
        """Keeps a start from passing over what lies in the folder that was the default for all topics once.

        Raises:
            FormerCheckpoints: there are checkpoints, and none in the folder that is the default now.
        """
        if self.checkpoint_dir is not None or any(self.checkpoints.glob(MANIFESTS)):
            return
        if any(FORMER_CHECKPOINTS.glob(MANIFESTS)):
            raise FormerCheckpoints(FORMER_CHECKPOINTS, self.checkpoints)

    @property
    def memory(self) -> Path:
        """Folder of the shared tables, on tmpfs where the machine has it."""
        if self.memory_dir is not None:
            return self.memory_dir
        parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
        return parent / f"flexihash-{os.getuid()}-{self.topic}"

    def to_environment(self) -> dict[str, str]:
        """Environment variables that give a child process these settings, secrets included."""
        return {env_name(name): to_text(getattr(self, name)) for name in sorted(self.model_fields_set)}


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; `overrides` (command line options) that are not None win.

    Raises:
        SettingsError: a value cannot be used, or a ``FLEXIHASH_`` variable is none of ours.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if unknown := find_unknown(os.environ):
        raise SettingsError("\n".join(unknown))
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [_explain(details, given) for details in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from None


def find_unknown(environment: Mapping[str, str]) -> list[str]:
    """One line per ``FLEXIHASH_`` variable that is no setting, with the nearest that is: a typo must not be silent."""
    known = [env_name(name) for name in Settings.model_fields]
    lines = []
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0]
            lines.append(f"{name} is no setting; did you mean {nearest}? Otherwise unset it")
    return lines


def describe_default(field: FieldInfo) -> str:
    """A field's default as one writes it in the environment."""
    return to_text(field.default)


def _explain(details: ErrorDetails, given: Mapping[str, Any]) -> str:
    if not details["loc"]:
        return str(details["ctx"]["error"])
    name = str(details["loc"][0])
    if name not in Settings.model_fields:
        raise TypeError(f"{name} is no setting")  # a mistake in our own code
    field = Settings.model_fields[name]
    is_secret = SecretStr in (field.annotation, *get_args(field.annotation))
    value = "(not shown)" if is_secret else to_text(details["input"])
    setting = f"--{name.replace('_', '-')} {value}" if name in given else f"{env_name(name)}={value}"
    return f"{setting}: {explain_allowed(details)}"
