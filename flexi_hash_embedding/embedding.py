"""A torch module that turns dicts of any size into vectors of one size."""

import operator
from collections.abc import Callable, Iterable
from typing import TypeGuard

import torch
from torch import Tensor, nn

from flexi_hash_embedding.embedding_errors import SettingError
from flexi_hash_embedding.hashing import Features, FloatArray, IntArray, hash_rows
from flexi_hash_embedding.pooling import check_pooling, pool_vectors, sum_rows

MAX_N_FEATURES = 2**31 - 1  # rows are 32 bit numbers in FeatureHasher


class FlexiHashEmbedding(nn.Module):
    """Hash the features of each dict to rows of an embedding table, and pool those rows to one vector.

    No vocabulary is kept: a key never seen before has a row already. With values x_i and vectors e_i, a dict
    becomes `sum x_i e_i`, or another of the poolings that `flexi_hash_embedding.pooling` defines. For X of B dicts:

        [{"dog": 1, "cat": 2}, {}, {"dog": 3}]  ->  [e_dog + 2 e_cat, zeros, 3 e_dog]        (B, D) = (3, dim)

    `hash_rows` says how keys and values become rows, and which of them are dropped or refused. Values are data: the
    gradient goes to the table only. Pooling by sum can be differentiated once, not twice.

    Args:
        n_features: rows of the table, 1 to 2^31 - 1. More rows, fewer keys that share one.
        dim: D, the size of a vector.
        pooling: "sum", "mean" (weighted by the values), "sqrtn" or "max".
        embedding: called with (n_features, dim), it makes the table: nn.Embedding, a subclass, a partial of one, or
            any module with a `weight` that maps rows (nnz,) to vectors (nnz, D). Its own forward and hooks are used.

    Raises:
        SettingError: an argument can't be used.

    Shape:
        X: B dicts -> (B, D), of the dtype and on the device of the table's weight. An empty dict gives zeros, an
        empty list (0, D).

    >>> X = [{"dog": 1, "cat": 2, "elephant": 4}, {"dog": 2, "run": 5}]
    >>> embed = FlexiHashEmbedding(n_features=1024, dim=5)
    >>> embed(X).shape
    torch.Size([2, 5])
    """

    embed: nn.Module

    def __init__(
        self,
        n_features: int = 1048576,
        dim: int = 128,
        pooling: str = "sum",
        embedding: Callable[[int, int], nn.Module] = nn.Embedding,
    ) -> None:
        super().__init__()
        check_pooling(pooling)
        self.n_features = _check_size("n_features", n_features, MAX_N_FEATURES)
        self.dim = _check_size("dim", dim, None)
        self.pooling = pooling
        self.embed = embedding(self.n_features, self.dim)
        if not isinstance(getattr(self.embed, "weight", None), Tensor):
            raise SettingError(f"embedding={embedding!r} makes no module with a weight; use nn.Embedding or a subclass")

    def forward(self, X: Iterable[Features]) -> Tensor:
        """Embed B dicts as (B, D).

        Raises:
            FeatureRowError: X is not a list of dicts.
            FeatureKeyError: a key is not a string.
            FeatureValueError: a value is NaN, infinite, too large for the table's dtype or not a number.
        """
        max_value = torch.finfo(self._weight.dtype).max
        return self.pool(*hash_rows(X, self.n_features, max_value))

    def pool(self, rows: IntArray, offsets: IntArray, values: FloatArray) -> Tensor:
        """Embed what `hash_rows` gave for B dicts, as (B, D), so that a training set needs hashing only once."""
        rows_, offsets_, values_ = torch.from_numpy(rows), torch.from_numpy(offsets), torch.from_numpy(values)
        if self.pooling == "sum" and _is_plain(self.embed):
            return sum_rows(self._weight, rows_, offsets_, values_, sparse=self.embed.sparse)
        vectors: Tensor = self.embed(rows_.to(self._weight.device))  # (nnz, D)
        return pool_vectors(vectors, offsets_, values_, self.pooling)

    def extra_repr(self) -> str:
        """Say the pooling; the table says its own size."""
        return f"pooling={self.pooling!r}"

    @property
    def _weight(self) -> Tensor:
        weight = self.embed.weight
        assert isinstance(weight, Tensor)
        return weight


def _is_plain(module: nn.Module) -> TypeGuard[nn.Embedding]:
    """Whether calling the module would only look rows up, so that the sum may read its weight directly."""
    if type(module) is not nn.Embedding or "forward" in vars(module):
        return False
    has_hooks = (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
    has_options = module.padding_idx is not None or module.max_norm is not None or module.scale_grad_by_freq
    return not has_hooks and not has_options


def _check_size(name: str, value: int, maximum: int | None) -> int:
    allowed = "at least 1" if maximum is None else f"from 1 to {maximum}"
    try:
        size = operator.index(value)
    except TypeError:
        raise SettingError(f"{name}={value!r} is not an integer {allowed}") from None
    if size < 1 or (maximum is not None and size > maximum):
        raise SettingError(f"{name}={value!r} is not an integer {allowed}")
    return size
