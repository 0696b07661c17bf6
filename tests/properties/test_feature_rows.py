"""Rows and values of flat features are those of scikit-learn's FeatureHasher."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction import FeatureHasher

from flexihash.model.features import MAX_MAGNITUDE, ZERO, Feature, hash_features
from flexihash.model.model_errors import FeatureError

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def row_of(feature: Feature, n_rows: int) -> int:
    name, value = feature
    given_value = value if isinstance(value, str) else 1.0  # whose row does not depend on it; a zero has none
    return int(FeatureHasher(n_rows, alternate_sign=False).transform([{name: given_value}]).indices[0])


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.lists(st.tuples(TEXTS, TEXTS | NUMBERS), max_size=4), max_size=4), st.sampled_from((1, 64, 1 << 30)))
def test_rows_and_values(events: list[list[Feature]], n_rows: int) -> None:
    batch = hash_features(events, n_rows)
    flat = [feature for event in events for feature in event]
    assert batch.rows.tolist() == [row_of(feature, n_rows) for feature in flat]
    assert np.diff(batch.offsets).tolist() == list(map(len, events))
    expected = np.array([1.0 if isinstance(value, str) else value for _, value in flat], np.float64)
    expected[np.abs(expected) <= ZERO] = 0.0
    np.testing.assert_array_equal(batch.values, np.clip(expected, -MAX_MAGNITUDE, MAX_MAGNITUDE))
    assert batch.is_number.tolist() == [not isinstance(value, str) for _, value in flat]


def test_edges() -> None:
    batch = hash_features([[("0082bwOP", "x"), ("0082bwOP", -0.0), ("a", 5e-324), ("b", -1e308)]], 1 << 18)
    assert batch.rows[1] == 0  # its hash is -2**31, which has no absolute value of 32 bits
    assert np.signbit(batch.values).tolist() == [False, False, False, True]
    assert batch.values.tolist() == [1.0, 0.0, 0.0, -MAX_MAGNITUDE]


def test_a_lone_surrogate_has_no_row() -> None:
    with pytest.raises(FeatureError) as caught:
        hash_features([[("k", "\ud800")]], 2)
    assert (caught.value.key, caught.value.reason) == ("k=\ud800", "not_unicode")
