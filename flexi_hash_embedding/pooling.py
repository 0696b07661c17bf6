"""From the vectors of a bag's entries to one vector a bag.

B bags, nnz entries in all, D dims. A bag of the entries (x_1, e_1) ... (x_n, e_n), values and vectors, becomes

    sum     sum x_i e_i
    mean    sum x_i e_i / sum x_i
    sqrtn   sum x_i e_i / sqrt(sum x_i^2)
    max     max x_i e_i, in each dim

and an empty bag becomes zeros. Mean and sqrtn are TensorFlow's (`tf.nn.embedding_lookup_sparse`), so with all values 1
they divide by n and by sqrt(n).
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flexi_hash_embedding.embedding_errors import SettingError

POOLINGS = ("max", "mean", "sqrtn", "sum")


class Scatter(NamedTuple):
    """One library's reductions by bag: of src (nnz,) or (nnz, D), bags (nnz,) and B, to (B,) or (B, D)."""

    sum: Callable[[Tensor, Tensor, int], Tensor]
    max: Callable[[Tensor, Tensor, int], Tensor]  # what it gives for an empty bag is not defined; takes no gradient
    device_types: frozenset[str] | None  # None: all


def _torch_sum(src: Tensor, bags: Tensor, n_bags: int) -> Tensor:
    return src.new_zeros((n_bags, *src.shape[1:])).scatter_add(0, _expand(bags, src), src)


def _torch_max(src: Tensor, bags: Tensor, n_bags: int) -> Tensor:
    start = src.new_zeros((n_bags, *src.shape[1:]))
    return start.scatter_reduce(0, _expand(bags, src), src, "amax", include_self=False)


TORCH = Scatter(_torch_sum, _torch_max, None)


def _load_torch_scatter() -> Scatter | None:
    try:
        import torch_scatter
    except ModuleNotFoundError:
        return None
    except OSError as error:  # its binary is of another torch
        warnings.warn(f"torch-scatter can't be loaded, torch's scatter is used: {error}", RuntimeWarning, stacklevel=2)
        return None
    with_cuda = torch.ops.torch_scatter.cuda_version() != -1
    return Scatter(
        sum=lambda src, bags, n_bags: torch_scatter.scatter_sum(src, bags, dim=0, dim_size=n_bags),
        max=lambda src, bags, n_bags: torch_scatter.scatter_max(src, bags, dim=0, dim_size=n_bags)[0],
        device_types=frozenset({"cpu", "cuda"} if with_cuda else {"cpu"}),
    )


TORCH_SCATTER = _load_torch_scatter()


def choose_scatter(device: torch.device) -> Scatter:
    """Return torch-scatter where it is installed and built for this device, torch's own scatter where not."""
    if TORCH_SCATTER is not None and device.type in (TORCH_SCATTER.device_types or ()):
        return TORCH_SCATTER
    return TORCH


def sum_rows(table: Tensor, rows: Tensor, offsets: Tensor, values: Tensor, sparse: bool = False) -> Tensor:
    """Sum each bag's table rows times their values, without making the (nnz, D) in between.

    Args:
        table: (n_rows, D).
        rows: (nnz,) int64, on any device, like offsets and values.
        offsets: (B + 1,) int64; bag b is `rows[offsets[b]:offsets[b + 1]]`.
        values: (nnz,), any float dtype.
        sparse: whether the table's gradient is a sparse tensor.

    Returns:
        Tensor (B, D), of the table's dtype and device. It can be differentiated once, not twice, because
        `embedding_bag` can't.
    """
    return nn.functional.embedding_bag(
        rows.to(table.device),
        table,
        offsets.to(table.device),
        mode="sum",
        sparse=sparse,
        per_sample_weights=values.to(table.device, table.dtype),
        include_last_offset=True,
    )


def pool_vectors(
    vectors: Tensor, offsets: Tensor, values: Tensor, pooling: str, scatter: Scatter | None = None
) -> Tensor:
    """Pool vectors that have been looked up.

    Where a bag's values add up to zero, within rounding, its mean is undefined and becomes zeros. Where entries
    tie for the max, the first of them gets the whole gradient. NaN counts as more than any number.

    Args:
        vectors: (nnz, D), one an entry.
        offsets: (B + 1,) int64, on the CPU; bag b is `vectors[offsets[b]:offsets[b + 1]]`.
        values: (nnz,) float64, on the CPU.
        pooling: one of POOLINGS.
        scatter: the library that reduces mean, sqrtn and max; by default `choose_scatter(vectors.device)`.

    Returns:
        Tensor (B, D), of the vectors' dtype and device.

    Raises:
        SettingError: no such pooling.
    """
    check_pooling(pooling)
    if pooling == "sum":
        return sum_rows(vectors, torch.arange(len(vectors)), offsets, values)
    scatter = scatter or choose_scatter(vectors.device)
    n_bags = len(offsets) - 1
    bags = torch.repeat_interleave(torch.arange(n_bags), offsets.diff())
    if pooling != "max":
        values = _divide_by_total(values, bags, offsets.diff(), pooling, scatter)
    scaled = vectors * values.to(vectors.device, vectors.dtype)[:, None]  # (nnz, D)
    bags = bags.to(vectors.device)
    return _max_first(scaled, bags, n_bags, scatter) if pooling == "max" else scatter.sum(scaled, bags, n_bags)


def check_pooling(pooling: str) -> None:
    """Raise SettingError unless `pooling` is one of POOLINGS."""
    if pooling not in POOLINGS:
        raise SettingError(f"pooling={pooling!r} is unknown; use one of {', '.join(POOLINGS)}")


def _divide_by_total(values: Tensor, bags: Tensor, sizes: Tensor, pooling: str, scatter: Scatter) -> Tensor:
    """Return each value over its bag's sum, or root of squares; 0 where that is 0. All (nnz,) but sizes (B,)."""
    n_bags = len(sizes)
    tiny, eps = torch.finfo(values.dtype).tiny, torch.finfo(values.dtype).eps
    peaks = scatter.max(values.abs(), bags, n_bags)[bags]
    units = values / peaks.clamp(min=tiny)  # at most 1, so that no square overflows
    is_mean = pooling == "mean"
    totals = scatter.sum(units, bags, n_bags) if is_mean else scatter.sum(units.square(), bags, n_bags).sqrt()
    is_zero = totals.abs() <= sizes * eps  # what rounding can leave of a sum of zero
    return units / totals.masked_fill(is_zero, torch.inf)[bags]


def _max_first(scaled: Tensor, bags: Tensor, n_bags: int, scatter: Scatter) -> Tensor:
    """Take each bag's max by position, because libraries share a tie's gradient out in different ways."""
    lowest = torch.finfo(scaled.dtype).min
    ranks = scaled.detach().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=lowest / 2)  # torch-scatter skips these
    is_max = ranks == scatter.max(ranks, bags, n_bags)[bags]
    nnz, dim = scaled.shape
    positions = torch.arange(nnz, device=scaled.device)[:, None].where(is_max, nnz)  # (nnz, D)
    first = positions.new_full((n_bags, dim), nnz).scatter_reduce(0, _expand(bags, positions), positions, "amin")
    return nn.functional.pad(scaled, (0, 0, 0, 1)).gather(0, first)  # row nnz, all zeros, is an empty bag's


def _expand(bags: Tensor, src: Tensor) -> Tensor:
    return bags.view(-1, *[1] * (src.dim() - 1)).expand_as(src)
