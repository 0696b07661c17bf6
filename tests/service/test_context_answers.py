"""Context embeddings over HTTP: what is served of them, how near they are, and how good."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from flexi_hash_embedding.pooling import POOLINGS, pool_vectors
from flexihash.model.features import FeatureRules, flatten, hash_features
from flexihash.service.routes.comparing import CHUNK_CANDIDATES
from flexihash.service.settings import Settings
from tests.service.conftest import Learner

CITIES = {"paris": "fr", "lyon": "fr", "berlin": "de", "bonn": "de", "rome": "it", "milan": "it"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"embeddings": True, "n_rows": 1 << 14})


@pytest.fixture
def travels(learner: Any) -> Any:
    """A learner that has seen 3,000 unlabelled events of cities and their countries."""
    chosen = np.random.default_rng(0).integers(0, len(CITIES), 3000).tolist()
    events = [{"city": city, "country": CITIES[city], "size": float(n)} for n in chosen for city in [list(CITIES)[n]]]
    batch = hash_features([flatten(event, FeatureRules()) for event in events], learner.model.config.n_rows)
    learner.model.learn(batch, np.full(3000, np.nan), partition=0, next_offsets=np.arange(1, 3001))
    learner.position = 3000
    return learner


def ask(api: Any, *instances: Any, status: int = 200, **choice: Any) -> Any:
    response = api.post("/v1/embeddings", json={"instances": list(instances), **choice})
    assert response.status_code == status, response.text
    return response.json()


def vectors_of(learner: Any, *instances: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The vector of each feature of all instances, and where those of each begin and end."""
    flat = [flatten(features, FeatureRules()) for features in instances]
    batch = hash_features(flat, learner.model.config.n_rows)
    return learner.model.look_up(batch), torch.from_numpy(batch.offsets)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_library_pools_the_features_vectors(api: Any, travels: Any, pooling: str) -> None:
    instances = [{"city": "paris", "country": "fr", "size": 3.0}, {}, {"city": "rome"}, {"size": 2, "of": "nobody"}]
    vectors, offsets = vectors_of(travels, *instances)
    expected = pool_vectors(vectors, offsets, torch.ones(len(vectors), dtype=torch.float64), pooling)
    answer = ask(api, *instances, pooling=pooling)
    assert answer["embeddings"] == expected.tolist()
    assert answer["embeddings"][1] == [0.0] * 16
    assert (answer["known_features"], answer["features"]) == ([3, 0, 1, 1], [3, 0, 1, 3])
    assert ask(api, *instances, pooling=pooling, kind="context") == answer


def test_the_sum_of_the_vectors_is_what_is_given_unasked(api: Any, travels: Any) -> None:
    both, paris, france = ask(api, {"city": "paris", "country": "fr"}, {"city": "paris"}, {"country": "fr"})[
        "embeddings"
    ]
    np.testing.assert_allclose(np.add(paris, france), both, rtol=1e-5)
    assert np.linalg.norm(paris) > 0.5


def test_normalized_they_have_length_one_or_none(api: Any, travels: Any) -> None:
    instances = [{"city": "paris"}, {}, {"never": "seen"}]
    plain, normalized = (np.array(ask(api, *instances, normalize=n)["embeddings"]) for n in (False, True))
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=1), [1.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(plain[0] / np.linalg.norm(plain[0]), normalized[0], rtol=1e-5)


def test_the_task_s_factors_are_to_be_had_as_before(api: Any, travels: Any) -> None:
    travels.learn({"city": "paris", "country": "fr"}, 1, times=20)
    instance = {"city": "paris", "country": "fr"}
    expected = travels.model.embed(hash_features([flatten(instance, FeatureRules())], travels.model.config.n_rows))
    assert ask(api, instance, kind="task")["embeddings"] == expected.tolist()
    assert ask(api, instance)["embeddings"] != expected.tolist()


@pytest.mark.parametrize(
    ("choice", "reason", "said"),
    [
        ({"kind": "contexts"}, "shape", "Invalid enum value 'contexts'"),
        ({"pooling": "average"}, "shape", "Invalid enum value 'average'"),
        ({"normalize": 1}, "shape", "Expected `bool`"),
        ({"normalise": True}, "shape", "unknown field `normalise`"),
        ({"kind": "task", "pooling": "mean"}, "choice", 'pooling "mean" is for the kind "context"'),
    ],
)
def test_a_choice_that_cannot_be_had_is_refused(api: Any, choice: Any, reason: str, said: str) -> None:
    problem = ask(api, status=409 if reason == "choice" else 422, **choice)
    assert problem["reason"] == reason
    assert said in problem["detail"]


def test_where_they_are_turned_off_the_answer_says_what_to_set(
    open_api: Any, settings: Settings, tmp_path: Any
) -> None:

    off = settings.model_copy(update={"embeddings": False, "memory_dir": tmp_path / "off"})
    learner = Learner(off.memory, off)
    api = open_api(embeddings=False, memory_dir=off.memory_dir)
    learner.learn({"city": "paris"}, 1)
    assert ask(api, {"city": "paris"}) == ask(api, {"city": "paris"}, kind="task")
    for instances in ([{"city": "paris"}], []):
        problem = ask(api, *instances, kind="context", status=409)
        assert problem["reason"] == "choice"
        assert "FLEXIHASH_EMBEDDINGS=true" in problem["detail"]
    assert api.get("/v1/model").json()["embedding_occupancy"] is None
    assert "flexihash_embedding_" not in api.get("/metrics").text
    learner.close()


def test_a_feature_never_seen_has_a_vector_of_nearly_no_length(api: Any, travels: Any) -> None:
    @examples(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(name=st.text("NEVER", min_size=1, max_size=8), value=st.one_of(st.text("xyz", max_size=3), st.floats(-9, 9)))
    def check(name: str, value: str | float) -> None:
        answer = ask(api, {name: value}, {"city": "paris", name: value}, {"city": "paris"})
        unknown, beside, alone = answer["embeddings"]
        assert np.linalg.norm(unknown) < 1e-6
        assert beside == alone
        assert answer["known_features"] == [0, 1, 1]

    check()


# --- similarities ---------------------------------------------------------------------------------------------------


def compare(api: Any, query: Any, candidates: list[Any], status: int = 200, **choice: Any) -> Any:
    response = api.post("/v1/similarities", json={"query": query, "candidates": candidates, **choice})
    assert response.status_code == status, response.text
    return response.json()


def test_similarities_are_the_cosines_of_the_embeddings(api: Any, travels: Any) -> None:
    candidates = [{"city": city} for city in CITIES] + [{"country": "fr", "size": 1.0}]
    query, *others = np.array(ask(api, {"city": "paris"}, *candidates)["embeddings"])
    expected = [query @ other / np.linalg.norm(query) / np.linalg.norm(other) for other in others]
    answer = compare(api, {"city": "paris"}, candidates)
    np.testing.assert_allclose(answer["similarities"], expected, rtol=1e-5, atol=1e-6)
    assert answer["version"] == {"events": 0, "positions": {"flights:0": 3000}}
    assert answer["similarities"][0] == pytest.approx(1.0)
    assert max(range(1, 6), key=lambda n: answer["similarities"][n]) == 1, "lyon is the nearest to paris"


def test_what_is_not_known_is_near_to_nothing(api: Any, travels: Any) -> None:
    assert compare(api, {"city": "paris"}, [{}, {"city": "atlantis"}])["similarities"] == [None, None]
    assert compare(api, {"city": "atlantis"}, [{"city": "paris"}])["similarities"] == [None]
    assert compare(api, {"city": "paris"}, [])["similarities"] == []


def test_candidates_over_several_chunks_keep_their_order(open_api: Any, travels: Any) -> None:
    api = open_api(max_instances=2 * CHUNK_CANDIDATES + 3, max_body_bytes=1_000_000)
    candidates = [{"city": list(CITIES)[n % 6], "size": n / 100} for n in range(2 * CHUNK_CANDIDATES + 3)]
    together = compare(api, {"city": "paris"}, candidates)["similarities"]
    assert len(together) == len(candidates)
    for place in (0, CHUNK_CANDIDATES - 1, CHUNK_CANDIDATES, 2 * CHUNK_CANDIDATES + 2):
        assert compare(api, {"city": "paris"}, [candidates[place]])["similarities"] == [together[place]]


def test_similarities_of_the_task_and_of_other_poolings(api: Any, travels: Any) -> None:
    travels.learn({"city": "paris", "country": "fr"}, 1, times=20)
    pair = {"city": "paris", "country": "fr"}, [{"city": "lyon", "country": "fr"}]
    given = {
        str(choice): compare(api, *pair, **choice)["similarities"][0]
        for choice in ({}, {"kind": "task"}, {"pooling": "max"})
    }
    assert len(set(given.values())) == 3


@pytest.mark.parametrize(
    ("body", "status", "where", "reason"),
    [
        ('{"query": 3, "candidates": []}', 422, "query", "no_features"),
        ('{"query": {"a": NaN}, "candidates": []}', 422, "query", "non_finite_number"),
        ('{"query": {}, "candidates": [{}, {"a": 1e999}]}', 422, "candidates[1]", "non_finite_number"),
        ('{"query": {}, "candidates": [{}, [1]]}', 422, "candidates[1]", "no_features"),
        ('{"query": {}}', 422, None, "shape"),
        ('{"query": {}, "candidates": [', 400, None, "not_json"),
        (json.dumps({"query": {}, "candidates": [{}] * 1001}), 413, None, "too_many"),
    ],
)
def test_what_cannot_be_compared_is_named(api: Any, body: str, status: int, where: str | None, reason: str) -> None:
    response = api.post_text("/v1/similarities", body)
    problem = response.json()
    assert (response.status_code, problem.get("where"), problem["reason"]) == (status, where, reason), problem


# --- how good they are ----------------------------------------------------------------------------------------------


def test_model_and_metrics_tell_the_losses_and_the_share_of_rows(api: Any, travels: Any, monkeypatch: Any) -> None:
    report = travels.model.report()
    travels.report(metrics=report)
    model = api.get("/v1/model").json()
    assert model["metrics"]["embeddings"] == report["embeddings"]
    found = report["embeddings"]
    assert 0.0 < found["window_loss"] < found["loss"] < found["chance_loss"]
    assert 6 + 3 <= model["embedding_occupancy"] * (1 << 14) <= 6 + 3 + 9

    lines = [line for line in api.get("/metrics").text.splitlines() if line.startswith("flexihash_embedding")]
    expected = {
        'flexihash_embedding_loss{over="all"}': found["loss"],
        'flexihash_embedding_loss{over="window"}': found["window_loss"],
        'flexihash_embedding_chance_loss{over="all"}': found["chance_loss"],
        'flexihash_embedding_chance_loss{over="window"}': found["window_chance_loss"],
        "flexihash_embedding_occupancy": model["embedding_occupancy"],
    }
    shown = dict(line.rsplit(" ", 1) for line in lines)
    assert {name: float(value) for name, value in shown.items()} == pytest.approx(expected)


def test_before_the_first_event_there_is_no_loss(api: Any, learner: Any) -> None:
    learner.report(metrics=learner.model.report())
    assert api.get("/v1/model").json()["metrics"]["embeddings"]["loss"] is None
    shown = api.get("/metrics").text
    assert "flexihash_embedding_occupancy 0.0" in shown
    assert "flexihash_embedding_loss" not in shown
