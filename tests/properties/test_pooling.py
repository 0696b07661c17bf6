"""What holds for any features: pooled values, gradients, linearity, order, rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction import FeatureHasher

from flexi_hash_embedding import FlexiHashEmbedding, hash_rows
from flexi_hash_embedding.pooling import POOLINGS, TORCH, TORCH_SCATTER, pool_vectors

KEYS = st.text(max_size=4)  # no lone surrogates, which FeatureHasher refuses
ANY_KEYS = st.text(st.characters(), max_size=4) | st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2)
NUMBERS = st.floats(-1e6, 1e6, width=32)
ROWS = st.lists(st.dictionaries(KEYS, NUMBERS | st.integers(-1000, 1000) | KEYS, max_size=6), max_size=6)
POSITIVE_ROWS = st.lists(st.dictionaries(KEYS, st.floats(0.125, 8, width=32), max_size=6), max_size=6)
EXAMPLES = settings(max_examples=60, deadline=None)


def make(pooling="sum", n_features=32):
    torch.manual_seed(0)
    return FlexiHashEmbedding(n_features, 3, pooling).double()


@st.composite
def bags(draw):
    """Draw vectors (nnz, 2), many of which tie, offsets (B + 1,) and values (nnz,)."""
    sizes = draw(st.lists(st.integers(0, 5), max_size=5))
    small = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    nnz = sum(sizes)
    vectors = draw(st.lists(st.tuples(small, small), min_size=nnz, max_size=nnz))
    values = draw(st.lists(small | st.floats(-1e100, 1e100), min_size=nnz, max_size=nnz))
    return (
        torch.tensor(vectors, dtype=torch.float64).reshape(nnz, 2),
        torch.tensor([0, *np.cumsum(sizes, dtype=np.int64)]),
        torch.tensor(values, dtype=torch.float64),
    )


def pool_plainly(vectors, values, pooling):
    """The formulas, one bag at a time."""
    if not values:
        return np.zeros(2)
    scaled = np.array([value * np.array(vector) for vector, value in zip(vectors, values, strict=True)])
    if pooling == "max":
        return scaled.max(axis=0)
    total = {"sum": 1.0, "mean": math.fsum(values), "sqrtn": math.hypot(*values)}[pooling]
    return np.array([math.fsum(column) for column in scaled.T]) / total if total else np.zeros(2)


@given(bags(), st.sampled_from(POOLINGS))
@EXAMPLES
def test_pooling_equals_its_formula(case, pooling):
    vectors, offsets, values = case
    out = pool_vectors(vectors, offsets, values, pooling)
    assert out.shape == (len(offsets) - 1, 2)
    for b, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        bag = values[start:stop].tolist()
        largest = max(map(abs, bag), default=0.0)
        if pooling == "mean" and abs(math.fsum(bag)) <= 1e-6 * largest:
            continue  # little but rounding is left
        expected = pool_plainly(vectors[start:stop].tolist(), bag, pooling)
        atol = 1e-9 * largest if pooling in ("sum", "max") else 1e-8
        np.testing.assert_allclose(out[b].numpy(), expected, rtol=1e-9, atol=atol)


@pytest.mark.skipif(TORCH_SCATTER is None, reason="torch-scatter is not installed")
@given(bags(), st.sampled_from(POOLINGS))
@EXAMPLES
def test_both_libraries_give_the_same(case, pooling):
    vectors, offsets, values = case
    results = []
    for scatter in (TORCH, TORCH_SCATTER):
        leaf = vectors.clone().requires_grad_()
        out = pool_vectors(leaf, offsets, values, pooling, scatter)
        (out * torch.arange(1.0, out.numel() + 1).reshape(out.shape)).sum().backward()
        results.append((out.detach(), leaf.grad))
    (out, grad), (expected_out, expected_grad) = results
    assert torch.equal(out, expected_out)
    assert torch.equal(grad, expected_grad)


@given(ROWS, st.sampled_from(POOLINGS))
@EXAMPLES
def test_each_row_depends_on_its_dict_alone(X, pooling):
    embed = make(pooling)
    out = embed(X)
    assert out.shape == (len(X), 3)
    assert out.isfinite().all()
    for i, row in enumerate(X):
        torch.testing.assert_close(embed([row])[0], out[i], rtol=0, atol=0)


@given(ROWS, st.sampled_from(POOLINGS))
@EXAMPLES
def test_order_in_a_dict_does_not_matter(X, pooling):
    embed = make(pooling, n_features=2**16)
    backwards = [dict(reversed(row.items())) for row in X]
    torch.testing.assert_close(embed(backwards), embed(X), rtol=1e-9, atol=1e-9)


@given(st.dictionaries(KEYS, NUMBERS, max_size=6), st.dictionaries(KEYS, NUMBERS, max_size=6), st.floats(-8, 8))
@EXAMPLES
def test_sum_is_linear_in_the_values(a, b, factor):
    embed = make()
    both = {key: a.get(key, 0.0) + factor * b.get(key, 0.0) for key in {*a, *b}}
    out = embed([a, b, both])
    torch.testing.assert_close(out[2], out[0] + factor * out[1], rtol=1e-9, atol=1e-5)


@given(POSITIVE_ROWS, st.floats(0.01, 100))
@EXAMPLES
def test_scaling_the_values_scales_sum_and_max_only(X, factor):
    scaled = [{key: factor * value for key, value in row.items()} for row in X]
    for pooling, expected in {"sum": factor, "max": factor, "mean": 1.0, "sqrtn": 1.0}.items():
        embed = make(pooling)
        torch.testing.assert_close(embed(scaled), expected * embed(X), rtol=1e-9, atol=1e-9)


@given(ROWS.filter(bool), st.sampled_from([1, 2, 3, 1000, 2**20, 2**31 - 1]))
@EXAMPLES
def test_rows_are_feature_hashers(X, n_features):
    rows, offsets, values = hash_rows(X, n_features)
    matrix = FeatureHasher(n_features, alternate_sign=False).transform(X)
    np.testing.assert_array_equal(rows, matrix.indices)
    np.testing.assert_array_equal(offsets, matrix.indptr)
    np.testing.assert_array_equal(values, matrix.data)


@given(st.lists(ANY_KEYS, unique=True, max_size=6))
@EXAMPLES
def test_unicode_keys_of_any_kind_have_rows_of_their_own(keys):
    rows, _, values = hash_rows([dict.fromkeys(keys, 1.0)], 2**31 - 1)
    assert len(set(rows.tolist())) == len(keys)
    assert values.tolist() == [1.0] * len(keys)
