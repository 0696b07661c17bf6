"""What the HTTP API says and hears: the bodies, which are also the schemas of its OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from flexihash.consumer.status import CheckpointStatus, DeadLettersStatus, RecentStatus


class Version(msgspec.Struct):
    """What an answer knew: `events` learned so far, and the next offset per ``topic:partition``."""

    events: int
    positions: dict[str, int]


class Prediction(msgspec.Struct):
    """`value` is the prediction after the task's link, `score` the model's raw output.

    `features` says how many features the instance came to, `known_features` how many of them were learned from before.
    """

    value: float
    score: float
    known_features: int
    features: int


class ClassPrediction(msgspec.Struct):
    """`value` is the most probable class, `score` its logit; null both before a class is known.

    `probabilities` are those of the most probable classes, as many as asked for, the most probable first.
    """

    value: str | int | bool | None
    probabilities: dict[str, float]
    score: float | None
    known_features: int
    features: int


class LabelsPrediction(msgspec.Struct):
    """`value` are the labels of a probability of 0.5 or more; `probabilities` as for classes, of the labels known."""

    value: list[str | int | bool]
    probabilities: dict[str, float]
    known_features: int
    features: int


class TargetPrediction(msgspec.Struct):
    """`value` is the prediction after the link of the target's task, `score` what it was made of."""

    value: float
    score: float


class TargetsPrediction(msgspec.Struct):
    """The prediction of each target, by its name."""

    targets: dict[str, TargetPrediction]
    known_features: int
    features: int


class Predictions(msgspec.Struct):
    """One prediction per instance, in their order; what each is, the task says."""

    predictions: list[Any]
    version: Version


class Embeddings(msgspec.Struct, omit_defaults=True):
    """One embedding per instance, in their order; all zeros for an instance without features.

    `features` says how many features each came to, `known_features` how many of them were learned from before; of
    context embeddings, how many have a vector.
    """

    embeddings: list[list[float]]
    version: Version
    known_features: list[int] = []
    features: list[int] = []


class EmbeddingLine(msgspec.Struct):
    """One instance's embedding, where each has a line."""

    embedding: list[float]
    known_features: int
    features: int


class Similarities(msgspec.Struct):
    """The cosine between the query and each candidate, in their order; null where one of the two is all zeros."""

    similarities: list[float | None]
    version: Version


class Published(msgspec.Struct, omit_defaults=True):
    """`events` published; all of them are learned once a version's positions have reached these.

    Predictions learn nothing from those that are `unlabelled`, embeddings do; `warnings` say so.
    """

    events: int
    positions: dict[str, int]
    unlabelled: int = 0
    warnings: list[str] = []


class Learner(msgspec.Struct, kw_only=True):
    """The learner as it last reported, `age_s` seconds ago; `problem` says why it isn't learning."""

    state: str
    problem: str | None
    age_s: float
    started_at: float
    events_per_second: float
    lag: int
    positions: dict[str, int]
    end_positions: dict[str, int]
    rejected: dict[str, int]
    unlabelled: int
    recent: RecentStatus
    dead_letters: DeadLettersStatus
    checkpoint: CheckpointStatus


class Model(msgspec.Struct, kw_only=True):
    """The model that answers; the parts that come from tables or from a learner are null until there is one.

    `metrics` are progressive, under ``window`` over the last events only, and of the moment that `version` names;
    `occupancy` is the share of the table's rows that an event ever moved, `embedding_occupancy` of those that have
    learned a context embedding: null where these are turned off.
    """

    configuration: dict[str, Any]
    version: Version | None
    metrics: dict[str, Any]
    occupancy: float | None
    embedding_occupancy: float | None
    learner: Learner | None


class Saved(msgspec.Struct, kw_only=True):
    """The checkpoint that was saved: its folder, the events in it, and what it cost."""

    path: str
    events: int
    saved_at: float
    duration_s: float | None
    pause_s: float | None
    size_bytes: int | None


class Checkpoint(msgspec.Struct, kw_only=True):
    """A checkpoint on the disk; `problem` says why it cannot be used, and then the rest is null."""

    path: str
    events: int | None
    created_at: datetime | None
    positions: dict[str, int] | None
    size_bytes: int | None
    problem: str | None


class Checkpoints(msgspec.Struct):
    """The checkpoints on the disk, newest first."""

    checkpoints: list[Checkpoint]


class Health(msgspec.Struct, omit_defaults=True):
    """Where everything is well; `warnings` say what will not stay so by itself."""

    status: str
    warnings: list[str] = []


class Index(msgspec.Struct):
    """Where to go from here."""

    name: str
    documentation: str
    model: str
    readiness: str
    metrics: str


class ProblemDetails(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An error, as RFC 9457 has it. `type` is ``about:blank``: the status says what kind it is.

    `where` is the instance or event (``instances[3]``), `key` the feature's flat name, `reason` a short word for
    programs; `request_id` finds the request in the logs.
    """

    title: str
    status: int
    detail: str
    where: str | None = None
    key: str | None = None
    reason: str | None = None
    request_id: str | None = None
