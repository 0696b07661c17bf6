"""Context embeddings: the compiled steps against the formulas in plain numpy, and what must hold for every stream."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flexihash.model.config import EMBEDDING_DIMS, ModelConfig
from flexihash.model.features import Batch, FeatureRules, flatten, hash_features
from flexihash.model.kernel import company
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables

RULES = FeatureRules()
NAMES = st.sampled_from(["a", "b", "c", "tags", "price"])
VALUES = st.one_of(
    st.sampled_from(["x", "y", "z"]), st.integers(-3, 3), st.floats(-9, 9), st.lists(st.sampled_from("pqr"), max_size=3)
)
EVENTS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=25)
MASK = (1 << 64) - 1
OF_CONTEXTS = ("contexts", "recent", "rings", "context_state")


def make_model(n_rows: int = 1 << 10, embeddings: bool = True, **config: Any) -> OnlineModel:
    return OnlineModel(Tables.create(ModelConfig(n_rows=n_rows, embeddings=embeddings, **config)))


def hash_events(events: list[dict[str, Any]], model: OnlineModel) -> Batch:
    return hash_features([flatten(event, RULES) for event in events], model.config.n_rows)


def teach(model: OnlineModel, events: list[dict[str, Any]], labels: list[float] | None = None) -> None:
    model.learn(hash_events(events, model), np.full(len(events), np.nan) if labels is None else np.array(labels))


def snapshot(model: OnlineModel, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.tables.tensors.items() if name not in but}


class Reference:
    """One event at a time, by the formulas; starts from where the model is."""

    def __init__(self, model: OnlineModel) -> None:
        tensors, dim = model.tables.tensors, model.config.embedding_dim
        table = tensors["contexts"].double().numpy()
        self.e, self.v = table[:, :dim].copy(), table[:, dim].copy()
        self.b, self.vb = table[:, dim + 1].copy(), table[:, dim + 2].copy()
        self.recent, self.rings = tensors["recent"].numpy().copy(), tensors["rings"].numpy().copy()
        self.event, self.seed, self.dim = int(tensors["context_state"][0]), model.config.seed, dim

    def learn(self, rows: NDArray[np.int64], batch: Batch) -> tuple[int, float]:
        """How many values were told apart, and the sum of their losses."""
        told: list[float] = []
        if len(rows) > 1:
            q = self.draw(0, len(rows))
            others = [j for j in range(len(rows)) if j != q and not self.is_twin(batch, j, q)]
            if others:
                told = self.tell(rows, others, q, self.ring(batch, q))
        for j, row in enumerate(rows):
            ring = self.ring(batch, j)
            self.recent[ring, self.rings[ring, 1] % company.RECENT] = row
            self.rings[ring, 1] += 1
        return (len(told), -sum(map(math.log, told))) if len(told) > 1 else (0, 0.0)

    def tell(self, rows: NDArray[np.int64], others: list[int], q: int, ring: int) -> list[float]:
        company_of = [rows[j] for j in others]
        scale = 1 / math.sqrt(len(others))
        c = self.e[company_of].sum(0) * scale
        s_others = self.v[company_of].sum() * scale**2
        gradient, curvature = np.zeros(self.dim), 0.0
        told = []
        n_lately = min(self.rings[ring, 1], company.RECENT)
        drawn = [self.recent[ring, self.draw(t, n_lately)] for t in range(1, company.N_NEGATIVES + 1) if n_lately]
        for row, y in [(rows[q], 1.0), *((row, 0.0) for row in drawn if row != rows[q])]:
            e = self.e[row].copy()
            p = 1 / (1 + math.exp(-min(max(self.b[row] + e @ c, -30), 30)))
            h = max(p * (1 - p), company.CURVATURE_FLOOR)
            v = min(self.v[row] + company.DRIFT_VECTOR, company.PRIOR_VECTOR)
            f = 1 / (1 + h * (v * c @ c + self.vb[row] + s_others * e @ e))
            gradient += (p - y) * f * e
            curvature += h * f * e @ e
            self.e[row] -= v * (p - y) * f * c
            self.v[row] = v - v * v * h * f * c @ c / self.dim
            self.b[row] -= self.vb[row] * (p - y) * f
            self.vb[row] -= self.vb[row] ** 2 * h * f
            told.append(max(p if y else 1 - p, company.LOSS_FLOOR))
        curvature *= scale**2 / self.dim
        for row in company_of:
            v = min(self.v[row] + company.DRIFT_VECTOR, company.PRIOR_VECTOR)
            f = 1 / (1 + v * curvature)
            self.e[row] -= v * scale * f * gradient
            self.v[row] = v - v * v * curvature * f
        return told

    def draw(self, number: int, n: int) -> int:
        h = self.seed * 0xD1342543DE82EF95 + self.event * 0x9E3779B97F4A7C15 + number * 0xC2B2AE3D27D4EB4F & MASK
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB & MASK
        return ((h ^ (h >> 31)) >> 32) * int(n) >> 32

    def ring(self, batch: Batch, j: int) -> int:
        field = 2 * int(batch.fields[j]) + 1 + int(batch.is_number[j])
        first = (field * 0x9E3779B1 >> 16) % company.N_FIELDS
        for probe in range(company.MAX_PROBES):
            ring = (first + probe) % company.N_FIELDS
            if self.rings[ring, 0] in (0, field):
                self.rings[ring, 0] = field
                break
        return ring

    @staticmethod
    def is_twin(batch: Batch, j: int, q: int) -> bool:
        return abs(j - q) == 1 and bool(
            batch.fields[j] == batch.fields[q] and batch.is_number[min(j, q)] and not batch.is_number[max(j, q)]
        )


@settings(deadline=None, max_examples=20)
@given(stream=EVENTS, n_rows=st.sampled_from([2, 16, 1 << 10]), dim=st.sampled_from(EMBEDDING_DIMS))
def test_a_step_equals_the_formulas(stream: list[dict[str, Any]], n_rows: int, dim: int) -> None:
    model = make_model(n_rows, embedding_dim=dim, seed=3)
    tensors = model.tables.tensors
    for event in stream:
        batch = hash_events([event], model)
        reference = Reference(model)
        rows = np.array(members(model, batch))
        before = tensors["context_state"].clone()
        n_told, loss = reference.learn(rows, batch)
        model.learn(batch, np.array([np.nan]))
        table = tensors["contexts"].double().numpy()
        np.testing.assert_allclose(table[:, :dim], reference.e, rtol=1e-4, atol=1e-5)
        for lane, expected in enumerate((reference.v, reference.b, reference.vb)):
            np.testing.assert_allclose(table[:, dim + lane], expected, rtol=1e-4, atol=1e-5)
        assert not table[:, dim + company.SPARE].any()
        np.testing.assert_array_equal(tensors["recent"].numpy(), reference.recent)
        np.testing.assert_array_equal(tensors["rings"].numpy(), reference.rings)
        moved = (tensors["context_state"] - before).tolist()
        assert moved[company.CONTEXT_EVENTS] == 1
        assert moved[company.TOLD] == n_told
        assert moved[company.LOSS] == pytest.approx(loss, rel=1e-3, abs=1e-4)


def members(model: OnlineModel, batch: Batch) -> list[int]:
    """The row of each feature, found by its vector: rows of a fresh table all differ."""
    fresh = make_model(model.config.n_rows, embedding_dim=model.config.embedding_dim, seed=model.config.seed)
    fresh.tables.tensors["numbers"].copy_(model.tables.tensors["numbers"])
    dim = model.config.embedding_dim
    fresh.tables.tensors["contexts"][:, dim] = 0.0  # known for sure, so that it is served as it is
    table = fresh.tables.tensors["contexts"][:, :dim]
    return [int((table == vector).all(1).nonzero()[0]) for vector in fresh.look_up(batch)]


@settings(deadline=None, max_examples=20)
@given(stream=EVENTS, cuts=st.lists(st.integers(0, 25), max_size=4))
def test_any_cut_of_a_stream_gives_equal_bits(stream: list[dict[str, Any]], cuts: list[int]) -> None:
    whole, cut = make_model(), make_model()
    labels = [float("nan") if n % 3 == 0 else float(n % 2) for n in range(len(stream))]
    teach(whole, stream, labels)
    for begin, end in pairwise([0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]):
        teach(cut, stream[begin:end], labels[begin:end])
    assert snapshot(whole) == snapshot(cut)


@settings(deadline=None, max_examples=20)
@given(stream=EVENTS)
def test_predictions_are_what_they_are_without(stream: list[dict[str, Any]]) -> None:
    """On labelled events, bit for bit: nothing of contexts reaches what the label's learner knows."""
    labels = [float(n % 2) for n in range(len(stream))]
    on, off = make_model(), make_model(embeddings=False)
    teach(on, stream, labels)
    teach(off, stream, labels)
    assert snapshot(on, but=OF_CONTEXTS) == snapshot(off)


@settings(deadline=None, max_examples=20)
@given(stream=EVENTS)
def test_an_event_without_a_label_teaches_contexts_only(stream: list[dict[str, Any]]) -> None:
    model = make_model()
    before = snapshot(model, but=(*OF_CONTEXTS, "numbers"))
    teach(model, stream)
    assert snapshot(model, but=(*OF_CONTEXTS, "numbers")) == before
    assert model.report()["embeddings"]["events"] == len(stream)


@settings(deadline=None, max_examples=20)
@given(stream=EVENTS, never=st.text("NEVER", min_size=1, max_size=8))
def test_a_feature_never_seen_has_a_vector_of_zeros(stream: list[dict[str, Any]], never: str) -> None:
    model = make_model(1 << 16)
    teach(model, stream)
    known, unknown = model.look_up(hash_events([{"a": "x"}], model)), model.look_up(hash_events([{never: "x"}], model))
    assert unknown.norm() == 0.0
    assert known.isfinite().all()


def test_like_comes_beside_like() -> None:
    """Cities that share a country share company; without labels, after a thousand events."""
    rng = np.random.default_rng(0)
    model = make_model(1 << 16)
    cities = {"paris": "fr", "lyon": "fr", "berlin": "de", "bonn": "de", "rome": "it", "milan": "it"}
    names = list(cities)
    events = [{"city": (city := names[n]), "country": cities[city]} for n in rng.integers(0, len(names), 3000)]
    teach(model, events)
    vectors = torch.nn.functional.normalize(model.look_up(hash_events([{"city": name} for name in names], model)))
    near = vectors @ vectors.T - 2 * torch.eye(len(names))
    assert [names[n] for n in near.argmax(1)] == ["lyon", "paris", "bonn", "berlin", "milan", "rome"]
    report = model.report()["embeddings"]
    assert report["loss"] < 0.5 * report["chance_loss"]
    assert report["window_loss"] < report["loss"]
