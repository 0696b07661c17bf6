"""Predictions and embeddings over HTTP: what they say, and in which version."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from flexihash.model.features import FeatureRules, flatten, hash_features
from flexihash.service.memory import AttachedModel
from flexihash.service.routes.computing import CHUNK_INSTANCES

LATE = {"carrier": "UA", "hour": "17", "distance": 1400.5}
OTHER = {"carrier": "B6", "hour": "6", "distance": 200}


def predict(api: Any, *instances: dict[str, Any]) -> tuple[list[float], dict[str, Any]]:
    response = api.post("/v1/predictions", json={"instances": list(instances)})
    assert response.status_code == 200, response.text
    body = response.json()
    return [prediction["value"] for prediction in body["predictions"]], body["version"]


def test_the_answer_moves_with_what_was_learned_and_the_version_says_by_how_many_events(api: Any, learner: Any) -> None:
    learner.learn(OTHER, 0, times=5)
    (before,), version_before = predict(api, LATE)
    learner.learn(LATE, 1, times=20)
    (after,), version_after = predict(api, LATE)

    assert version_before == {"events": 5, "positions": {"flights:0": 5}}
    assert version_after == {"events": 25, "positions": {"flights:0": 25}}
    assert before < 0.5 < 0.8 < after


def test_predictions_are_those_of_the_model(api: Any, learner: Any) -> None:
    learner.learn(LATE, 1, times=7)
    learner.learn(OTHER, 0, times=7)
    instances: list[dict[str, Any]] = [
        LATE,
        OTHER,
        {},
        {"distance": 3},
        {"nested": {"list": ["x", 2.5, None]}, "flag": True, "zürich": "ß"},
    ]

    body = api.post("/v1/predictions", json={"instances": instances}).json()

    flat = [flatten(features, FeatureRules()) for features in instances]
    expected = learner.model.predict(hash_features(flat, learner.model.config.n_rows))
    assert [prediction["value"] for prediction in body["predictions"]] == expected.values.tolist()
    assert [prediction["score"] for prediction in body["predictions"]] == expected.scores.tolist()


def test_embeddings_are_those_of_the_model(api: Any, learner: Any) -> None:
    learner.learn(LATE, 1, times=7)
    body = api.post("/v1/embeddings", json={"instances": [LATE, {}, OTHER], "kind": "task"}).json()

    flat = [flatten(features, FeatureRules()) for features in (LATE, {}, OTHER)]
    expected = learner.model.embed(hash_features(flat, learner.model.config.n_rows))
    assert body["embeddings"] == expected.tolist()
    assert np.shape(body["embeddings"]) == (3, 16)
    assert body["version"] == {"events": 7, "positions": {"flights:0": 7}}


def test_an_instance_without_features_gets_zeros_and_the_prior(api: Any, learner: Any) -> None:
    for _ in range(30):
        learner.learn({}, 1)
        learner.learn({}, 1)
        learner.learn({}, 0)
    embeddings = api.post("/v1/embeddings", json={"instances": [{}, {"a": None}]}).json()["embeddings"]
    (empty, null), _ = predict(api, {}, {"a": None})

    assert embeddings == [[0.0] * 16, [0.0] * 16]
    assert empty == null == pytest.approx(2 / 3, abs=0.1)


def test_no_instances_in_no_answers_out(api: Any, learner: Any) -> None:
    learner.learn(LATE, 1)
    for path, name in (("/v1/predictions", "predictions"), ("/v1/embeddings", "embeddings")):
        body = api.post(path, json={"instances": []}).json()
        assert body == {name: [], "version": {"events": 1, "positions": {"flights:0": 1}}}


def test_an_integer_is_another_feature_than_the_same_float(api: Any, learner: Any) -> None:
    # 3 is also the category n=3; 3.0 is a quantity only. Both reach the model as they were written.
    learner.learn({"n": 3}, 1, times=10)
    integer, fraction = (
        api.post_text("/v1/predictions", b'{"instances": [{"n": %s}]}' % n).json() for n in (b"3", b"3.0")
    )
    assert integer["predictions"][0]["value"] > fraction["predictions"][0]["value"] > 0.5


def test_a_batch_over_several_chunks_keeps_its_order(api: Any, learner: Any) -> None:
    learner.learn(LATE, 1, times=10)
    instances = [{"carrier": f"c{i}", "distance": i} for i in range(2 * CHUNK_INSTANCES + 3)]
    together, _ = predict(api, *instances)
    places = (0, CHUNK_INSTANCES - 1, CHUNK_INSTANCES, 2 * CHUNK_INSTANCES, 2 * CHUNK_INSTANCES + 2)

    assert len(together) == len(instances)
    assert [together[place] for place in places] == [predict(api, instances[place])[0][0] for place in places]


def test_a_big_batch_lets_others_in_between_its_chunks(api: Any, learner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    predict_really = AttachedModel.predict

    def predict_recording(model: AttachedModel, events: Any) -> Any:
        batches.append(len(events))
        return predict_really(model, events)

    monkeypatch.setattr(AttachedModel, "predict", predict_recording)

    async def race() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            big, small = ({"instances": [{"a": 1}] * n} for n in (3 * CHUNK_INSTANCES, 1))
            await asyncio.gather(*(client.post("/v1/predictions", json=body) for body in (big, small)))

    api.run(race())
    assert sorted(batches) == [1, CHUNK_INSTANCES, CHUNK_INSTANCES, CHUNK_INSTANCES]
    assert batches[-1] != 1


def test_predicting_changes_nothing(api: Any, learner: Any) -> None:
    learner.learn(LATE, 1, times=3)
    before = {name: tensor.clone() for name, tensor in learner.model.tables.tensors.items()}
    predict(api, LATE, OTHER, {"new": 1e300})
    api.post("/v1/embeddings", json={"instances": [LATE, OTHER]})
    assert all(bool((before[name] == tensor).all()) for name, tensor in learner.model.tables.tensors.items())


def test_ignored_features_are_not_asked_either(open_api: Any, learner: Any) -> None:
    api = open_api(ignored_features=("secret",))
    learner.learn({**LATE, "secret": "x"}, 1, times=5)
    (plain, noisy), _ = predict(api, LATE, {**LATE, "secret": "x"})
    assert plain == noisy


def test_answers_say_how_many_features_are_known(api: Any, learner: Any) -> None:
    learner.learn({"carrier": "UA", "distance": 1400.5, "hour": 5}, 1)
    instances: list[dict[str, Any]] = [
        {"carrier": "UA", "distance": 99.5, "hour": 5},  # a number is known by its name, an integer by its name twice
        {"carier": "UA", "distance": 1400.5},
        {"carrier": "AA", "hour": 6},
        {},
    ]
    predictions = api.post("/v1/predictions", json={"instances": instances}).json()["predictions"]
    embeddings = api.post("/v1/embeddings", json={"instances": instances, "kind": "task"}).json()

    known, features = [4, 1, 1, 0], [4, 2, 3, 0]
    assert [prediction["known_features"] for prediction in predictions] == known
    assert [prediction["features"] for prediction in predictions] == features
    assert (embeddings["known_features"], embeddings["features"]) == (known, features)


def test_a_model_that_has_learned_nothing_knows_no_feature(api: Any) -> None:
    (prediction,) = api.post("/v1/predictions", json={"instances": [LATE]}).json()["predictions"]
    assert (prediction["known_features"], prediction["features"]) == (0, 3)


def test_features_are_ignored_by_pattern_and_by_path(open_api: Any, learner: Any) -> None:
    api = open_api(ignored_features=("debug_*", "user.address"))
    learner.learn({"carrier": "UA", "user": {"age": 30.5}}, 1, times=5)
    odd = {"carrier": "UA", "user": {"age": 30.5, "address": {"city": "x"}}, "debug_id": 7}
    plain = {"carrier": "UA", "user": {"age": 30.5}}
    for n_instances in (1, 5):
        body = api.post("/v1/predictions", json={"instances": [odd, plain] * n_instances}).json()
        assert len({str(prediction) for prediction in body["predictions"]}) == 1
        assert body["predictions"][0]["features"] == 2
