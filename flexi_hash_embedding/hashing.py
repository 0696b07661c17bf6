"""From dicts to table rows, as scikit-learn's FeatureHasher defines them."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsFloat, TypeAlias

import numpy as np
import numpy.typing as npt

from flexi_hash_embedding.embedding_errors import FeatureKeyError, FeatureRowError, FeatureValueError

Features: TypeAlias = Mapping[str, str | SupportsFloat]
IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]


def hash_rows(
    X: Iterable[Features], n_features: int, max_value: float = sys.float_info.max
) -> tuple[IntArray, IntArray, FloatArray]:
    """Hash each dict's features to rows of a table of `n_features` rows.

    A number at key `k` goes to row `hash(k) mod n_features` with that number as its value; a string `v` at `k` is
    the category `k=v` with value 1. The hash is MurmurHash3 (32 bits, seed 0) of the key's UTF-8, by scikit-learn's
    `FeatureHasher(alternate_sign=False)`. For

        X = [{"dog": 2, "pet": "yes"}, {}, {"dog": 3}]

    rows are `[dog, pet=yes, dog]`, offsets `[0, 2, 2, 3]` and values `[2, 1, 3]`: B = 3 bags, nnz = 3 entries.

    At the edges, also as FeatureHasher has it:

    - A value of zero is dropped, so `{"a": 0}` equals `{}`. True is 1 and False is 0.
    - Keys of one dict that share a row become one entry, and their values add up.
    - A bag's entries are in ascending order of row, whatever the order in its dict.

    Unlike FeatureHasher, a key or category with a lone surrogate, such as JSON's `"\\ud800"`, is hashed too.

    Args:
        X: dicts (any Mapping) of any size, one a bag. Numbers may be Python's, NumPy's or one-element tensors.
        n_features: rows of the table, 1 to 2^31 - 1.
        max_value: the largest absolute value allowed, for tables whose dtype holds less than float64.

    Returns:
        rows (nnz,) int64; offsets (B + 1,) int64, where bag b is `rows[offsets[b]:offsets[b + 1]]`; values (nnz,)
        float64. An empty X gives the offsets `[0]`.

    Raises:
        FeatureRowError: X is not an iterable of mappings.
        FeatureKeyError: a key is not a string.
        FeatureValueError: a value is NaN, infinite, beyond `max_value` or not a number.
    """
    if not isinstance(X, Iterable):
        raise FeatureRowError(f"X is {_article(X)}; pass a list of dicts")
    X = list(X)
    if not X:  # FeatureHasher refuses it
        return np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.float64)
    matrix = _transform(X, n_features)
    values: FloatArray = matrix.data
    offsets = matrix.indptr.astype(np.int64)
    allowed = np.abs(values) <= max_value  # False for NaN as well
    if not allowed.all():
        entry = int(np.argmin(allowed))
        raise _value_error(X, int(np.searchsorted(offsets, entry, side="right")) - 1, max_value)
    return matrix.indices.astype(np.int64), offsets, values


def _transform(X: Sequence[Features], n_features: int) -> Any:
    """Return FeatureHasher's CSR matrix (B, n_features)."""
    from sklearn.feature_extraction import FeatureHasher  # takes a second, which who only pools need not wait

    hasher = FeatureHasher(n_features, input_type="pair", alternate_sign=False)
    try:
        try:
            return hasher.transform(row.items() for row in X)
        except UnicodeEncodeError:  # a lone surrogate; FeatureHasher takes bytes as they are
            return hasher.transform(_encode(row) for row in X)
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        _raise_first_fault(X)
        raise


def _encode(row: Features) -> Iterator[tuple[Any, Any]]:
    for key, value in row.items():
        if isinstance(value, str):
            yield f"{key}={value}".encode("utf-8", "surrogatepass"), 1
        elif isinstance(key, str):
            yield key.encode("utf-8", "surrogatepass"), value
        else:
            yield key, value


def _raise_first_fault(X: Sequence[Features]) -> None:
    """Raise the error of the first feature that FeatureHasher can't take; return where there's none."""
    for i, row in enumerate(X):
        if not isinstance(row, Mapping):
            raise FeatureRowError(f"X[{i}] is {_article(row)}, not a dict; pass a list of dicts")
        for key, value in row.items():
            if isinstance(value, str):
                continue
            if not isinstance(key, str | bytes):
                raise FeatureKeyError(f"X[{i}]: key {key!r} is {_article(key)}, not a string")
            try:
                float(value)
            except OverflowError:
                raise FeatureValueError(f"X[{i}][{key!r}] is too large for a float; scale it down") from None
            except (TypeError, ValueError, ArithmeticError):
                raise FeatureValueError(
                    f"X[{i}][{key!r}] is {_article(value)}, not a number or a string; leave out what is missing"
                ) from None


def _value_error(X: Sequence[Features], i: int, max_value: float) -> FeatureValueError:
    """Name the worst value of row i: the first NaN, or else the largest."""
    numbers = {key: 1.0 if isinstance(value, str) else float(value) for key, value in X[i].items()}
    key = max(numbers, key=lambda key: math.inf if math.isnan(numbers[key]) else abs(numbers[key]))
    if abs(numbers[key]) <= max_value:
        sum_of = f"X[{i}][{key!r}] and the keys that share its row add up to more"
        return FeatureValueError(f"{sum_of} than {max_value:.6g}; scale the values down")
    return FeatureValueError(f"X[{i}][{key!r}] is {numbers[key]!r}; values must be finite and at most {max_value:.6g}")


def _article(value: object) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
