"""How fast is pooling by sum? `python -m bench --only pooling`, about ten seconds.

4096 dicts of 5 features are embedded, at 16 and at 128 dims, in a table of 2^18 rows:

- pooling: the dicts are hashed already, each way starts from the same arrays. The forward pass alone, with the graph
  recorded for a backward one.
- hashing and pooling: from the dicts on.

The upstream way is that of the Flexi Hash Embeddings library: FeatureHasher to COO, nn.Embedding lookup, scaling,
scatter by sum. All ways take turns in one process, in a new order each turn, on one thread; each figure is the median
of that thread's CPU time, which is what a clock shows on an idle machine and changes little on a busy one.
"""

import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.feature_extraction import FeatureHasher
from torch import Tensor, nn

from bench.results import Row
from flexi_hash_embedding import FlexiHashEmbedding, hash_rows
from flexi_hash_embedding.pooling import TORCH_SCATTER

N_BAGS = 4096
N_FEATURES_PER_BAG = 5
N_ROWS = 2**18
N_KEYS = 20_000
DIMS = (16, 128)
N_TURNS = {"pooling": 301, "hashing and pooling": 41}
OURS = "flexi_hash_embedding"
UPSTREAM = "upstream: lookup, scaling, scatter"

Way = Callable[[], Tensor]


def make_features(seed: int = 0) -> list[dict[str, float]]:
    """Make N_BAGS dicts of N_FEATURES_PER_BAG keys drawn from N_KEYS, with values in 0.1 to 2."""
    rng = np.random.default_rng(seed)
    keys = [rng.choice(N_KEYS, N_FEATURES_PER_BAG, replace=False) for _ in range(N_BAGS)]
    return [
        {f"key{key}": float(value) for key, value in zip(bag, rng.uniform(0.1, 2, len(bag)), strict=True)}
        for bag in keys
    ]


def scatter_sum(scaled: Tensor, bags: Tensor) -> Tensor:
    """Sum (nnz, D) by bag to (N_BAGS, D), with torch's own scatter."""
    return scaled.new_zeros((N_BAGS, scaled.shape[1])).scatter_add_(0, bags[:, None].expand_as(scaled), scaled)


def make_ways(embed: FlexiHashEmbedding, X: list[dict[str, float]]) -> dict[str, dict[str, Way]]:
    """Return {what: {way: function}}; every function gives the same (N_BAGS, D)."""
    lookup = embed.embed
    assert isinstance(lookup, nn.Embedding)
    rows, offsets, values = hash_rows(X, N_ROWS)
    bags = np.repeat(np.arange(N_BAGS), np.diff(offsets))
    bag = nn.EmbeddingBag.from_pretrained(lookup.weight, freeze=False, mode="sum", include_last_offset=True)
    hasher = FeatureHasher(N_ROWS, alternate_sign=False)

    def scale() -> Tensor:
        vectors: Tensor = lookup(torch.from_numpy(rows))
        return vectors * torch.from_numpy(values).float()[:, None]  # (nnz, D)

    def upstream_from_dicts() -> Tensor:
        coo = hasher.transform(X).tocoo()
        scaled = lookup(torch.from_numpy(coo.col.astype(np.int64)))
        scaled = scaled * torch.from_numpy(coo.data.astype(np.float32))[:, None]
        return scatter_sum(scaled, torch.from_numpy(coo.row.astype(np.int64)))

    def embedding_bag() -> Tensor:
        weights = torch.from_numpy(values).float()
        pooled: Tensor = bag(torch.from_numpy(rows), torch.from_numpy(offsets), per_sample_weights=weights)
        return pooled

    pooling: dict[str, Way] = {
        OURS: lambda: embed.pool(rows, offsets, values),
        UPSTREAM: lambda: scatter_sum(scale(), torch.from_numpy(bags)),
        "torch.nn.EmbeddingBag": embedding_bag,
    }
    if TORCH_SCATTER is not None:
        import torch_scatter

        pooling["upstream, with torch-scatter"] = lambda: torch_scatter.scatter_add(
            scale(), torch.from_numpy(bags), dim=0, dim_size=N_BAGS
        )
        pooling["lookup, scaling, torch-scatter's segment_csr"] = lambda: torch_scatter.segment_csr(
            scale(), torch.from_numpy(offsets), reduce="sum"
        )
    return {"pooling": pooling, "hashing and pooling": {OURS: lambda: embed(X), UPSTREAM: upstream_from_dicts}}


def time_ways_ms(ways: dict[str, Way], n_turns: int) -> dict[str, float]:
    """Return each way's median CPU time in ms, after checking that all give the same."""
    expected = ways[UPSTREAM]()
    for way in ways.values():
        torch.testing.assert_close(way(), expected)
    times_ms: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(n_turns):
        for name in order.sample(list(ways), len(ways)):
            start = time.thread_time()
            ways[name]()
            times_ms[name].append((time.thread_time() - start) * 1e3)
    return {name: statistics.median(times) for name, times in times_ms.items()}


def measure(say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Every way for each number of dims and each of N_TURNS."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    X = make_features()
    rows = []
    for dim in DIMS:
        ways = make_ways(FlexiHashEmbedding(N_ROWS, dim), X)
        for what, n_turns in N_TURNS.items():
            medians_ms = time_ways_ms(ways[what], n_turns)
            for name, median in medians_ms.items():
                ratio, better = medians_ms[OURS] / median, None if name == OURS else "lower"
                case = f"{what}, {dim} dims, {name}"
                rows.append(Row("pooling", case, "CPU time", median, "ms", ratio, "ours / this", better))
            say(f"{what}, {dim} dims")
    absent = "torch-scatter is not installed: make scatter compiles it, in 4 minutes"
    return rows, [] if TORCH_SCATTER is not None else [absent]
