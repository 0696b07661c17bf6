"""Other online learners on the same events: Vowpal Wabbit, River, scikit-learn, CapyMOA.

A peer is given JSON messages and predicts each before it learns from it, in stream order, with the library's defaults:
nothing is tuned, for nobody. What a peer may do before its clock starts is to its advantage: build its model, write
messages in its own JSON shape, or see which categories there are. Parsing JSON is on its clock, by msgspec unless the
library has a parser. A binary prediction is the probability of 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from river import compose, facto, forest, linear_model, preprocessing, tree
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import SGDClassifier, SGDRegressor
from vowpalwabbit import Workspace

from flexihash.model.tasks import Task

Predict = Callable[[], Sequence[float]]
Prepare = Callable[[Task, Sequence[bytes]], Predict]

EVERY = (Task.BINARY, Task.REGRESSION)
N_TREES = 10  # of River's forest: its default
N_JAVA_TREES = 100  # of CapyMOA's
SEED = 1
N_HASHED = 1 << 18  # columns of FeatureHasher: as many as our table has rows; its default of 2^20 is slower
MINI_BATCH = 1000
VW_ALGORITHMS = {"default": "", "--ftrl": "--ftrl", "--coin": "--coin"}
VW_SEPARATORS = str.maketrans(" :|\n", "____")  # characters that mean something in VW's text format

parse = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Peer:
    """A learner to compare with.

    Args:
        library: whose it is.
        name: which configuration.
        prepare: given the events, gives what is timed.
        n_flights, n_stream: how many events of the flights, and of another stream, it is given at most: as many as it
            takes some seconds for; None for all.
        n_turns: how often it is timed on the flights.
        tasks: that it can learn.
        is_quality: whether its predictions differ from those of the peers before it; if not, it is run for its speed.
    """

    library: str
    name: str
    prepare: Prepare
    n_flights: int | None = None
    n_stream: int | None = None
    n_turns: int = 1
    tasks: tuple[Task, ...] = EVERY
    is_quality: bool = True

    @property
    def case(self) -> str:
        return f"{self.library} {self.name}"


# --- Vowpal Wabbit --------------------------------------------------------------------------------------------------


def vw_line(task: Task, event: Mapping[str, Any]) -> str:
    """An event in VW's text format, all its features in one namespace."""
    return f"{vw_label(task, event)} |f " + " ".join(vw_features(event["features"]))


def vw_label(task: Task, event: Mapping[str, Any]) -> float:
    """VW's binary labels are -1 and 1."""
    label: float = event["label"]
    return label if task is not Task.BINARY else 1 if label else -1


def vw_features(features: Mapping[str, Any]) -> Iterator[str]:
    """Strings as categories `k=v`, numbers as `k:v`."""
    for name, value in features.items():
        if isinstance(value, str):
            yield f"{name}={value}".translate(VW_SEPARATORS)
        else:
            yield f"{name.translate(VW_SEPARATORS)}:{float(value)}"


def vw_json(task: Task, messages: Sequence[bytes]) -> list[str]:
    """Messages in the JSON shape that VW's own parser takes."""
    events = map(parse, messages)
    return [msgspec.json.encode({"_label": vw_label(task, event), "f": event["features"]}).decode() for event in events]


def vw_arguments(task: Task, options: str) -> str:
    """The command line of a workspace."""
    loss = "--loss_function logistic --link logistic" if task is Task.BINARY else "--loss_function squared"
    return f"--quiet {loss} {options}"


def vw(options: str) -> Prepare:
    """Through its Python API: JSON by msgspec, then a line of VW's text format.

    `learn` leaves the prediction made before learning in the example; asking for it first would take twice as long.
    """

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        workspace = Workspace(vw_arguments(task, options))

        def predict() -> list[float]:
            predictions = []
            for message in messages:
                example = workspace.example(vw_line(task, parse(message)))
                workspace.learn(example)
                predictions.append(example.get_simplelabel_prediction())
                workspace.finish_example(example)
            workspace.finish()
            return predictions

        return predict

    return prepare


def vw_api_json(options: str) -> Prepare:
    """Through its Python API and its own JSON parser."""

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        workspace = Workspace(vw_arguments(task, f"--json {options}"))
        lines = vw_json(task, messages)

        def predict() -> list[float]:
            predictions = []
            for line in lines:
                parsed = workspace.parse(line)
                example = parsed[0] if isinstance(parsed, list) else parsed
                workspace.learn(example)
                predictions.append(example.get_simplelabel_prediction())
                workspace.finish_example(parsed)
            workspace.finish()
            return predictions

        return predict

    return prepare


def vw_file_json(options: str) -> Prepare:
    """As its command line does: the library reads a file of JSON and writes the predictions to another."""

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        folder = TemporaryDirectory()
        data, written = Path(folder.name, "events.json"), Path(folder.name, "predictions")
        data.write_text("\n".join(vw_json(task, messages)) + "\n")

        def predict() -> list[float]:
            Workspace(vw_arguments(task, f"--json -d {data} -p {written} {options}")).finish()
            with folder:
                return [float(line.split()[0]) for line in written.read_text().splitlines()]

        return predict

    return prepare


# --- River ----------------------------------------------------------------------------------------------------------


def river_binary(model: Any, messages: Sequence[bytes]) -> list[float]:
    """Run one of River's classifiers; 0.5 where it has no opinion yet."""
    predictions = []
    for message in messages:
        event = parse(message)
        predictions.append(float(model.predict_proba_one(event["features"]).get(True, 0.5)))
        model.learn_one(event["features"], bool(event["label"]))
    return predictions


def river_regression(model: Any, messages: Sequence[bytes]) -> list[float]:
    """Run one of River's regressors."""
    predictions = []
    for message in messages:
        event = parse(message)
        predictions.append(float(model.predict_one(event["features"])))
        model.learn_one(event["features"], event["label"])
    return predictions


def river(classifier: Callable[[], Any], regressor: Callable[[], Any]) -> Prepare:
    """The classifier or the regressor, by the task."""

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        if task is Task.BINARY:
            return lambda: river_binary(classifier(), messages)
        return lambda: river_regression(regressor(), messages)

    return prepare


def scaled(model: Any) -> Any:
    """River's usual pipeline: numbers standardized, strings as indicators. Whatever fits a linear model needs it."""
    numbers = compose.SelectType(int, float) | preprocessing.StandardScaler()
    strings = compose.SelectType(str) | preprocessing.OneHotEncoder(drop_zeros=True)
    return (numbers + strings) | model


# --- scikit-learn ---------------------------------------------------------------------------------------------------


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


# --- CapyMOA --------------------------------------------------------------------------------------------------------


def capymoa(classifier: str | None, regressor: str | None) -> Prepare:
    """One of its ensembles; it is told beforehand which features the events have, and which values."""

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        from capymoa import classifier as classifiers
        from capymoa import regressor as regressors

        is_binary = task is Task.BINARY
        name = classifier if is_binary else regressor
        assert name is not None
        schema, names, numbers = capymoa_schema(task, [parse(message) for message in messages])
        model = getattr(classifiers if is_binary else regressors, name)(
            schema=schema, ensemble_size=N_JAVA_TREES, random_seed=SEED
        )
        return lambda: capymoa_predictions(task, model, schema, names, numbers, messages)

    return prepare


def capymoa_schema(
    task: Task, events: Sequence[Mapping[str, Any]]
) -> tuple[Any, list[str], dict[str, dict[str, float]]]:
    """MOA's description of a stream, its features in order, and for each with names the number of each name."""
    from capymoa.stream import Schema

    numbers: dict[str, dict[str, float]] = {}
    names = list(dict.fromkeys(name for event in events for name in event["features"]))
    for event in events:
        for name, value in event["features"].items():
            if isinstance(value, str):
                known = numbers.setdefault(name, {})
                known.setdefault(value, float(len(known)))
    target = (
        {"values_for_class_label": ["0", "1"]}
        if task is Task.BINARY
        else {"target_attribute_name": "label", "target_type": "numeric"}
    )
    nominal = {name: list(known) for name, known in numbers.items()}
    feature_names = names if task is Task.BINARY else [*names, "label"]
    schema = Schema.from_custom(feature_names=feature_names, values_for_nominal_features=nominal, **target)
    return schema, names, numbers


def capymoa_predictions(
    task: Task,
    model: Any,
    schema: Any,
    names: Sequence[str],
    numbers: Mapping[str, Mapping[str, float]],
    messages: Sequence[bytes],
) -> list[float]:
    """Each event's votes as a probability, or the prediction; 0.5 or 0 where it has no opinion yet."""
    from capymoa.instance import LabeledInstance, RegressionInstance

    predictions = []
    for message in messages:
        event = parse(message)
        features = event["features"]
        x = np.full(len(names), np.nan)
        for place, name in enumerate(names):
            if name in features:
                known = numbers.get(name)
                x[place] = known[features[name]] if known else features[name]
        if task is Task.BINARY:
            instance = LabeledInstance.from_array(schema, x, int(event["label"]))
            votes = model.predict_proba(instance)
            total = 0.0 if votes is None else float(sum(votes))
            predictions.append(0.5 if not total > 0.0 else float(votes[1]) / total if len(votes) > 1 else 0.0)
        else:
            instance = RegressionInstance.from_array(schema, x, float(event["label"]))
            predicted = model.predict(instance)
            predictions.append(0.0 if predicted is None else float(predicted))
        model.train(instance)
    return predictions


# --- all of them ----------------------------------------------------------------------------------------------------

FAST: tuple[Peer, ...] = (
    *(
        Peer("VW", f"{name}{suffix}", vw(algorithm + interactions), n_turns=3)
        for interactions, suffix in (("", ""), (" -q ::", " -q"))
        for name, algorithm in VW_ALGORITHMS.items()
    ),
    *(
        Peer("VW", f"default{suffix}, own JSON parser, {how}", prepare(options), n_turns=3, is_quality=False)
        for options, suffix in (("", ""), ("-q ::", " -q"))
        for how, prepare in (("API", vw_api_json), ("file", vw_file_json))
    ),
    Peer("scikit-learn", f"SGD by {MINI_BATCH}", scikit_learn(MINI_BATCH), n_turns=3),
)
SLOW: tuple[Peer, ...] = (
    Peer(
        "River",
        "LR",
        river(lambda: scaled(linear_model.LogisticRegression()), lambda: scaled(linear_model.LinearRegression())),
    ),
    Peer(
        "River",
        "FM",
        river(lambda: scaled(facto.FMClassifier(seed=SEED)), lambda: scaled(facto.FMRegressor(seed=SEED))),
        n_flights=40_000,
        n_stream=5_000,
    ),
    Peer(
        "River",
        "HAT",
        river(
            lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=SEED),
            lambda: scaled(tree.HoeffdingAdaptiveTreeRegressor(seed=SEED)),
        ),
        n_flights=50_000,
        n_stream=20_000,
    ),
    Peer(
        "River",
        f"ARF of {N_TREES}",
        river(
            lambda: forest.ARFClassifier(n_models=N_TREES, seed=SEED),
            lambda: scaled(forest.ARFRegressor(n_models=N_TREES, seed=SEED)),
        ),
        n_flights=10_000,
        n_stream=3_000,
    ),
    Peer("scikit-learn", "SGD one by one", scikit_learn(1), n_flights=1_000, n_stream=500),
)
JAVA: tuple[Peer, ...] = (
    Peer(
        "CapyMOA",
        f"ARF of {N_JAVA_TREES}",
        capymoa("AdaptiveRandomForestClassifier", "AdaptiveRandomForestRegressor"),
        n_flights=1_500,
        n_stream=5_000,
    ),
    Peer(
        "CapyMOA",
        f"SRP of {N_JAVA_TREES}",
        capymoa("StreamingRandomPatches", None),
        n_flights=1_500,
        n_stream=5_000,
        tasks=(Task.BINARY,),
    ),
)
"""Regression trees of River have linear models in their leaves: they are scaled too."""


def all_peers() -> tuple[list[Peer], list[str]]:
    """Those that can be run here, the ones in Java last; and what is missing, with what to do."""
    if which("java") is None:
        return [*FAST, *SLOW], ["CapyMOA: there is no java; install one, such as openjdk-17-jre-headless"]
    if find_spec("capymoa") is None:
        return [*FAST, *SLOW], ["CapyMOA is not installed: pip install -c constraints.txt 'flexihash[bench]'"]
    return [*FAST, *SLOW, *JAVA], []


def quiet() -> None:
    """River and SGD overflow on raw or unseen numbers, and say so thousands of times; the loss shows it."""
    warnings.simplefilter("ignore", RuntimeWarning)
    warnings.simplefilter("ignore", UserWarning)
