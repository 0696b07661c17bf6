"""What is answered where the label is one of many classes, several labels, or several targets."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from flexihash.model.config import ModelConfig
from flexihash.model.features import FeatureRules, flatten, hash_features
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.service.phrasing import phrase

CARRIERS = ["AA", "UA", "B6", *(f"X{k}" for k in range(12))]


@pytest.fixture
def settings(settings: Any, request: pytest.FixtureRequest) -> Any:
    targets = {"late": Task.BINARY, "delay": Task.REGRESSION} if request.param is Task.TARGETS else {}
    return settings.model_copy(update={"task": request.param, "targets": targets})


def teach(learner: Any, labels: np.ndarray, classes: tuple[str, ...] = ()) -> None:
    """An event of each label, from the carrier of its number, again and again."""
    events = [flatten({"carrier": CARRIERS[k % len(CARRIERS)]}, FeatureRules()) for k in range(len(labels))]
    batch = hash_features(events, learner.model.config.n_rows)
    for _ in range(20):
        of_model = learner.model.admit(labels, classes).labels if classes else labels
        learner.model.learn(batch, of_model)
    learner.report(events=learner.model.n_events, metrics=learner.model.report())


@pytest.mark.parametrize("settings", [Task.MULTICLASS], indirect=True)
def test_a_class_has_factors_of_its_own(api: Any, learner: Any) -> None:
    teach(learner, np.arange(3.0), ('"AA"', '"UA"', '"B6"'))

    def embed(status: int = 200, **choice: Any) -> Any:
        answer = api.post("/v1/embeddings", json={"instances": [{"carrier": "UA"}], **choice})
        assert answer.status_code == status, answer.text
        return answer.json()

    of_classes = [embed(output=name)["embeddings"] for name in ("AA", "UA", "B6")]
    assert embed(kind="task")["embeddings"] == of_classes[0]
    assert of_classes[0] != of_classes[1] != of_classes[2]
    assert (
        api.post("/v1/embeddings?output=UA", json={"instances": [{"carrier": "UA"}]}).json()["embeddings"]
        == of_classes[1]
    )
    assert 'no class, label or target "XX"' in embed(409, output="XX")["detail"]
    assert "contexts know no labels" in embed(409, kind="context", output="UA")["detail"]


def ask(api: Any, **body: Any) -> Any:
    answer = api.post("/v1/predictions", json={"instances": [{"carrier": "UA"}, {}], **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


@pytest.mark.parametrize("settings", [Task.MULTICLASS], indirect=True)
@pytest.mark.parametrize(
    ("classes", "values"),
    [
        (tuple(f'"{carrier}"' for carrier in CARRIERS), CARRIERS),
        (tuple(str(k - 3) for k in range(15)), list(range(-3, 12))),
        (("false", "true"), [False, True]),
    ],
)
def test_a_class_is_answered_as_it_came(api: Any, learner: Any, classes: tuple[str, ...], values: list[Any]) -> None:
    assert ask(api)[0] == {"value": None, "probabilities": {}, "score": None, "known_features": 0, "features": 1}
    teach(learner, np.arange(float(len(classes))), classes)
    of_ua, prior = ask(api)
    assert (of_ua["value"], type(of_ua["value"])) == (values[1], type(values[1]))
    title = classes[1].strip('"')
    assert next(iter(of_ua["probabilities"])) == title
    assert of_ua["probabilities"][title] > 0.5
    assert list(of_ua["probabilities"].values()) == sorted(of_ua["probabilities"].values(), reverse=True)
    assert (of_ua["known_features"], of_ua["features"]) == (1, 1)
    assert len(of_ua["probabilities"]) == min(10, len(classes))
    assert of_ua["score"] > prior["score"]

    everything = ask(api, top_k=1000)[0]["probabilities"]
    assert set(everything) == {name.strip('"') for name in classes}
    assert sum(everything.values()) == pytest.approx(1.0)
    assert list(ask(api, top_k=1)[0]["probabilities"]) == [title]
    described = api.get("/v1/model").json()["metrics"]
    assert {name: of_one["count"] for name, of_one in described["classes"].items()} == dict.fromkeys(everything, 20)
    assert 0.0 < described["log_loss"] < described["baseline_log_loss"]


@pytest.mark.parametrize("settings", [Task.MULTICLASS], indirect=True)
@pytest.mark.parametrize("top_k", [0, -1, 1001, "3", None, 2.5])
def test_top_k_is_a_number_of_classes(api: Any, learner: Any, top_k: Any) -> None:
    answer = api.post("/v1/predictions", json={"instances": [{}], "top_k": top_k})
    assert answer.status_code == 422
    assert "top_k" in answer.json()["detail"]


@pytest.mark.parametrize("settings", [Task.BINARY], indirect=True)
def test_yes_or_no_has_no_top_k(api: Any, learner: Any) -> None:
    answer = api.post("/v1/predictions", json={"instances": [{}], "top_k": 3})
    assert (answer.status_code, answer.json()["reason"]) == (422, "shape")
    assert "top_k" in answer.json()["detail"]


@pytest.mark.parametrize("settings", [Task.MULTILABEL], indirect=True)
def test_labels_are_those_of_half_and_more(api: Any, learner: Any) -> None:
    assert ask(api)[0] == {"value": [], "probabilities": {}, "known_features": 0, "features": 1}
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], float)
    teach(learner, labels, ('"late"', '"full"', '"dear"'))
    of_ua, _ = ask(api)
    assert sorted(of_ua["value"]) == ["full", "late"]
    assert set(of_ua["probabilities"]) == {"late", "full", "dear"}
    assert of_ua["probabilities"]["dear"] < 0.2
    assert of_ua["value"] == list(of_ua["probabilities"])[:2]
    assert list(ask(api, top_k=1)[0]["probabilities"]) == of_ua["value"][:1]


@pytest.mark.parametrize("settings", [*Task], indirect=True)
def test_the_document_has_the_answers_of_the_task(open_api: Any, settings: Any) -> None:
    task = settings.task
    document = open_api().get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    shown = document["paths"]["/v1/predictions"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    properties = schemas["Prediction"]["properties"]
    assert set(shown["predictions"][0]) == set(properties)
    assert schemas["Predictions"]["properties"]["predictions"]["items"] == {"$ref": "#/components/schemas/Prediction"}
    assert ("top_k" in schemas["Instances"]["properties"]) == task.record.has_classes
    assert ("classes" in schemas["Metrics"]["properties"]) == task.record.has_classes
    assert msgspec.json.encode(document).count(b"#/$defs/") == 0


def test_targets_are_answered_by_name() -> None:
    config = ModelConfig(task=Task.TARGETS, targets={"late": Task.BINARY, "delay": Task.REGRESSION}, n_rows=1 << 10)
    model = OnlineModel(Tables.create(config))
    batch = hash_features([[("carrier", "UA")], [("carrier", "AA")]], config.n_rows)
    for _ in range(30):
        model.learn(batch, np.array([[1.0, 60.0], [0.0, -5.0]]))
    found = model.predict(batch)
    answers = phrase(config, [], found, model.count_known(batch), batch.sizes, 10)
    of_ua, of_aa = msgspec.json.decode(msgspec.json.encode(answers))
    assert list(of_ua) == ["targets", "known_features", "features"]
    assert list(of_ua["targets"]) == ["late", "delay"]
    assert of_ua["targets"]["late"] == {"value": found.values[0, 0], "score": found.scores[0, 0]}
    assert of_ua["targets"]["late"]["value"] > 0.8 > 0.2 > of_aa["targets"]["late"]["value"]
    assert of_ua["targets"]["delay"]["value"] == pytest.approx(60.0, abs=5.0)
    assert (of_aa["known_features"], of_aa["features"]) == (1, 1)
