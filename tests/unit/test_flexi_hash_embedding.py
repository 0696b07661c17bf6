import copy
import doctest
import functools
import io
import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction import FeatureHasher
from sklearn.utils import murmurhash3_32
from torch import nn

import flexi_hash_embedding
from flexi_hash_embedding import (
    FeatureError,
    FeatureKeyError,
    FeatureRowError,
    FeatureValueError,
    FlexiHashEmbedding,
    FlexiHashError,
    SettingError,
    embedding,
    hash_rows,
)
from flexi_hash_embedding.pooling import POOLINGS, TORCH, TORCH_SCATTER, pool_vectors

X = [{"dog": 1, "cat": 2, "elephant": 4}, {"dog": 2, "run": 5}]
needs_torch_scatter = pytest.mark.skipif(TORCH_SCATTER is None, reason="torch-scatter is not installed")
SCATTERS = [
    pytest.param(TORCH, id="torch"),
    pytest.param(TORCH_SCATTER, id="torch-scatter", marks=needs_torch_scatter),
]


def row_of(key, n_features):
    return abs(murmurhash3_32(key.encode("utf-8", "surrogatepass"))) % n_features


def make(**arguments):
    torch.manual_seed(0)
    return FlexiHashEmbedding(**{"n_features": 512, "dim": 3, **arguments})


def expect_sum(embed, X):
    out = torch.zeros(len(X), embed.dim)
    for i, row in enumerate(X):
        for key, value in row.items():
            out[i] += float(value) * embed.embed.weight[row_of(key, embed.n_features)]
    return out


# The package


def test_all_is_sorted_and_complete():
    names = flexi_hash_embedding.__all__
    assert names == sorted(names)
    assert all(hasattr(flexi_hash_embedding, name) for name in names)


def test_one_error_tree():
    errors = (FeatureError, FeatureKeyError, FeatureRowError, FeatureValueError, SettingError)
    assert all(issubclass(error, FlexiHashError) for error in errors)
    assert issubclass(FlexiHashError, ValueError)


def test_docstring_examples_run():
    results = doctest.testmod(embedding)
    assert results.attempted == 3
    assert results.failed == 0


def test_readme_example():
    embed = FlexiHashEmbedding(dim=5)
    out = embed(X)
    assert out.shape == (2, 5)
    assert out.grad_fn is not None
    assert embed.embed.weight.shape == (1048576, 5)
    torch.testing.assert_close(out, expect_sum(embed, X))


# Hashing


def test_rows_are_feature_hashers():
    rows, offsets, values = hash_rows(X, 64)
    matrix = FeatureHasher(64, alternate_sign=False).transform(X)
    assert (rows.dtype, offsets.dtype, values.dtype) == (np.int64, np.int64, np.float64)
    np.testing.assert_array_equal(rows, matrix.indices)
    np.testing.assert_array_equal(offsets, matrix.indptr)
    np.testing.assert_array_equal(values, matrix.data)


def test_empty_and_trailing_rows_keep_their_place():
    rows, offsets, values = hash_rows([{}, {"a": 2}, {}, {}], 64)
    assert (rows.tolist(), offsets.tolist(), values.tolist()) == ([row_of("a", 64)], [0, 0, 1, 1, 1], [2.0])
    rows, offsets, values = hash_rows([], 64)
    assert (rows.tolist(), offsets.tolist(), values.tolist()) == ([], [0], [])
    assert (rows.dtype, offsets.dtype, values.dtype) == (np.int64, np.int64, np.float64)


def test_string_is_a_category():
    rows, _, values = hash_rows([{"color": "red"}], 2**20)
    assert rows.tolist() == [row_of("color=red", 2**20)]
    assert values.tolist() == [1.0]


def test_zero_is_dropped_and_bool_is_a_number():
    _, offsets, values = hash_rows([{"a": 0, "b": 0.0, "c": False, "d": True}], 2**20)
    assert offsets.tolist() == [0, 1]
    assert values.tolist() == [1.0]


def test_keys_that_share_a_row_add_up():
    rows, offsets, values = hash_rows([{"a": 1, "b": 2.5}, {"a": 1, "b": -1}], 1)
    assert (rows.tolist(), offsets.tolist(), values.tolist()) == ([0, 0], [0, 1, 2], [3.5, 0.0])


@pytest.mark.parametrize(
    "value",
    [np.float32(2), np.int8(2), np.array(2), torch.tensor(2.0), torch.tensor([2]), Fraction(2), Decimal(2)],
    ids=lambda value: type(value).__name__,
)
def test_scalars_of_other_libraries_are_numbers(value):
    assert hash_rows([{"a": value}], 64)[2].tolist() == [2.0]


def test_unicode_keys_stay_apart():
    keys = ["é", "e\u0301", "İ", "ß", "ss", "\0", "a\0", "a\0b", "", "😀", "\ud83d\ude00", "\ud83d", "\udcff", "ключ"]
    rows, _, _ = hash_rows([dict.fromkeys(keys, 1)], 2**31 - 1)
    assert rows.tolist() == sorted(row_of(key, 2**31 - 1) for key in keys)
    assert len(set(rows.tolist())) == len(keys)


def test_lone_surrogates_change_no_other_row():
    plain = {"a": 2, "b": "x", "c": 0}
    rows, offsets, values = hash_rows([plain, {"\ud800": 3, "b": "\udfff", "c": 0}], 2**20)
    expected = hash_rows([plain], 2**20)
    np.testing.assert_array_equal(rows[:2], expected[0])
    np.testing.assert_array_equal(values[:2], expected[2])
    assert offsets.tolist() == [0, 2, 4]
    found = dict(zip(rows[2:].tolist(), values[2:].tolist(), strict=True))
    assert found == {row_of("\ud800", 2**20): 3.0, row_of("b=\udfff", 2**20): 1.0}


def test_hash_that_has_no_absolute_value():
    assert murmurhash3_32(b"0082bwOP") == -(2**31)
    rows, _, _ = hash_rows([{"0082bwOP": 1}], 7)
    assert rows.tolist() == [2**31 % 7]


def test_any_iterable_of_mappings():
    expected = hash_rows(X, 64)
    for same in (tuple(X), iter(X), (row for row in X)):
        for left, right in zip(hash_rows(same, 64), expected, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([{"a": 1}, {}, {"b": 1, "c": math.nan}], FeatureValueError, "X[2]['c'] is nan"),
        ([{"a": math.inf}], FeatureValueError, "X[0]['a'] is inf"),
        ([{"a": 1}, {"b": -math.inf}], FeatureValueError, "X[1]['b'] is -inf"),
        ([{"a": 1, "b": np.float32("nan")}], FeatureValueError, "X[0]['b'] is nan"),
        ([{"a": None}], FeatureValueError, "X[0]['a'] is a NoneType, not a number"),
        ([{"a": b"x"}], FeatureValueError, "X[0]['a'] is a bytes, not a number"),
        ([{"a": [1]}], FeatureValueError, "X[0]['a'] is a list, not a number"),
        ([{"a": 1j}], FeatureValueError, "X[0]['a'] is a complex, not a number"),
        ([{"a": torch.ones(2)}], FeatureValueError, "X[0]['a'] is a Tensor, not a number"),
        ([{"a": Decimal("sNaN")}], FeatureValueError, "X[0]['a'] is a Decimal, not a number"),
        ([{"a": 10**400}], FeatureValueError, "X[0]['a'] is too large"),
        ([{"a": 1e39}], FeatureValueError, "X[0]['a'] is 1e+39; values must be finite and at most 3.40282e+38"),
        ([{"\ud800": 1, "z": None}], FeatureValueError, "X[0]['z'] is a NoneType"),
        ([{"\ud800": math.nan}], FeatureValueError, r"X[0]['\ud800'] is nan"),
        ([{1: 2}], FeatureKeyError, "X[0]: key 1 is an int, not a string"),
        ([{"a": 1}, {None: 2}], FeatureKeyError, "X[1]: key None is a NoneType"),
        ({"a": 1}, FeatureRowError, "X[0] is a str, not a dict"),
        ("abc", FeatureRowError, "X[0] is a str, not a dict"),
        ([{"a": 1}, [("a", 1)]], FeatureRowError, "X[1] is a list, not a dict"),
        (None, FeatureRowError, "X is a NoneType; pass a list of dicts"),
    ],
)
@pytest.mark.parametrize("pooling", ["sum", "max"])
def test_bad_input_is_named(bad, error, message, pooling):
    with pytest.raises(error) as caught:
        make(pooling=pooling)(bad)
    assert message in str(caught.value)


def test_values_that_overflow_together_are_named():
    with pytest.raises(FeatureValueError, match=r"X\[0\]\['b'\] and the keys that share its row add up to more"):
        make(n_features=1)([{"a": 2e38, "b": 3e38}])


def test_limit_is_that_of_the_tables_dtype():
    big = [{"a": 1e39}]
    assert make().double()(big).isfinite().all()
    with pytest.raises(FeatureValueError, match="at most 65504"):
        make().half()([{"a": 65505}])
    with pytest.raises(FeatureValueError, match=r"3\.40282e\+38"):
        make()(big)


# The module


@pytest.mark.parametrize(
    "arguments",
    [
        {"pooling": "avg"},
        {"pooling": None},
        {"dim": 0},
        {"dim": -1},
        {"dim": 2.5},
        {"n_features": 0},
        {"n_features": 2**31},
        {"n_features": "8"},
    ],
)
def test_bad_setting_is_named(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(SettingError) as caught:
        make(**arguments)
    assert f"{name}={value!r}" in str(caught.value)


def test_embedding_without_a_weight_is_refused():
    with pytest.raises(SettingError, match="embedding="):
        make(embedding=lambda n_features, dim: nn.Identity())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_rows_out_are_rows_in(pooling):
    embed = make(pooling=pooling)
    assert embed([]).shape == (0, 3)
    out = embed([{}, {"a": 2, "b": -1}, {}, {"zero": 0}, {}])
    assert out.shape == (5, 3)
    assert out[1].abs().min() > 0
    assert out[[0, 2, 3, 4]].eq(0).all()
    assert embed([{}, {}]).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("X", [[], [{}, {}]], ids=["no rows", "empty rows"])
def test_backward_of_nothing_is_zero(pooling, X):
    embed = make(pooling=pooling)
    embed(X).sum().backward()
    assert embed.embed.weight.grad.eq(0).all()


def test_each_pooling_by_its_formula():
    a, b = (make().embed.weight[row_of(key, 512)] for key in "ab")
    X = [{"a": 3.0, "b": -1.0}]
    expected = {
        "sum": 3 * a - b,
        "mean": (3 * a - b) / 2,
        "sqrtn": (3 * a - b) / math.sqrt(10),
        "max": torch.maximum(3 * a, -b),
    }
    for pooling in POOLINGS:
        torch.testing.assert_close(make(pooling=pooling)(X)[0], expected[pooling])


@pytest.mark.parametrize("values", [(1, -1), (0.1, 0.2, -0.3), (1e30, 3e30, -4e30)])
def test_mean_is_zero_where_values_cancel(values):
    X = [{f"k{i}": value for i, value in enumerate(values)}, {"a": 5}]
    embed = make(pooling="mean")
    out = embed(X)
    assert out[0].tolist() == [0.0] * 3
    torch.testing.assert_close(out[1], embed.embed.weight[row_of("a", 512)])
    out.sum().backward()
    assert embed.embed.weight.grad.sum() == 3  # all of it row 1's


@pytest.mark.parametrize("pooling", ["mean", "sqrtn"])
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 3e38])
def test_normalized_poolings_do_not_depend_on_scale(pooling, scale):
    embed = make(pooling=pooling)
    torch.testing.assert_close(embed([{"a": scale, "b": scale / 2}]), embed([{"a": 2, "b": 1}]))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradcheck(pooling):
    embed = make(n_features=16, dim=2, pooling=pooling).double()
    X = [{"a": 1.5, "b": -2, "c": "x"}, {}, {"a": 1, "d": 3}]
    weight = embed.embed.weight

    def forward(weight):
        return torch.func.functional_call(embed, {"embed.weight": weight}, (X,))

    assert torch.autograd.gradcheck(forward, (weight.detach().clone().requires_grad_(),))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_hooks_run(pooling):
    embed = make(pooling=pooling)
    seen = []
    embed.register_forward_pre_hook(lambda module, args: seen.append(("before", args[0])))
    embed.register_forward_hook(lambda module, args, out: out + 1)
    embed.embed.register_forward_hook(lambda module, args, out: seen.append(("lookup", len(out))))
    assert embed([{"a": 1}, {}])[1].tolist() == [1.0] * 3
    assert seen == [("before", [{"a": 1}, {}]), ("lookup", 1)]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_custom_forward_is_honoured(pooling):
    class Doubled(nn.Embedding):
        def forward(self, input):
            return 2 * super().forward(input)

    plain, doubled = make(pooling=pooling), make(pooling=pooling, embedding=Doubled)
    torch.testing.assert_close(doubled(X), 2 * plain(X))
    doubled(X).sum().backward()
    plain(X).sum().backward()
    torch.testing.assert_close(doubled.embed.weight.grad, 2 * plain.embed.weight.grad)
    assert doubled([]).shape == (0, 3)


def test_forward_set_on_the_instance_is_honoured():
    embed = make()
    expected = 3 * embed(X)
    forward = embed.embed.forward
    embed.embed.forward = lambda rows: 3 * forward(rows)
    torch.testing.assert_close(embed(X), expected)


def test_pruning_is_honoured():
    from torch.nn.utils import prune

    embed = make()
    prune.random_unstructured(embed.embed, "weight", amount=0.5)
    for _ in range(2):
        embed(X).sum().backward()  # the pruned weight is made anew by a hook
    assert embed.embed.weight_orig.grad[embed.embed.weight_mask == 0].eq(0).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_sparse_gradient_equals_the_dense_one(pooling):
    dense, sparse = make(pooling=pooling), make(pooling=pooling, embedding=functools.partial(nn.Embedding, sparse=True))
    dense(X).square().sum().backward()
    sparse(X).square().sum().backward()
    assert sparse.embed.weight.grad.layout == torch.sparse_coo
    torch.testing.assert_close(sparse.embed.weight.grad.to_dense(), dense.embed.weight.grad)


def test_options_of_nn_embedding_are_honoured():
    padded = make(embedding=functools.partial(nn.Embedding, padding_idx=row_of("dog", 512)))
    padded(X).sum().backward()
    assert padded.embed.weight.grad[row_of("dog", 512)].eq(0).all()
    assert padded.embed.weight.grad[row_of("run", 512)].tolist() == [5.0] * 3
    short = make(embedding=functools.partial(nn.Embedding, max_norm=0.1))
    assert short([{"dog": 1}]).norm().item() == pytest.approx(0.1, rel=1e-4)
    shared = make(embedding=functools.partial(nn.Embedding, scale_grad_by_freq=True))
    shared(X).sum().backward()
    assert shared.embed.weight.grad[row_of("dog", 512)].tolist() == [1.5] * 3


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(pooling, dtype):
    embed = make(pooling=pooling)
    expected = embed(X)
    out = embed.to(dtype)(X)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert embed.embed.weight.grad.dtype == dtype
    assert embed([]).shape == (0, 3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_state_dict_deepcopy_and_save(pooling):
    embed = make(pooling=pooling)
    assert list(embed.state_dict()) == ["embed.weight"]
    torch.manual_seed(1)
    other = FlexiHashEmbedding(512, 3, pooling)
    assert not torch.equal(other(X), embed(X))
    other.load_state_dict(embed.state_dict())
    file = io.BytesIO()
    torch.save(embed, file)
    file.seek(0)
    for same in (other, copy.deepcopy(embed), torch.load(file, weights_only=False)):
        assert torch.equal(same(X), embed(X))
        assert same.embed.weight is not embed.embed.weight


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda(pooling):
    embed = make(pooling=pooling)
    embed(X).square().sum().backward()
    on_cuda = copy.deepcopy(embed).cuda()
    on_cuda.zero_grad()
    out = on_cuda([*X, {}])
    assert out.device.type == "cuda"
    torch.testing.assert_close(out.cpu(), embed([*X, {}]))
    out.square().sum().backward()
    torch.testing.assert_close(on_cuda.embed.weight.grad.cpu(), embed.embed.weight.grad)
    assert on_cuda([]).shape == (0, 3)


def test_input_changed_in_place_is_seen():
    embed, X = make(), [{"a": 1}]
    first = embed(X)
    X[0]["a"] = 2
    torch.testing.assert_close(embed(X), 2 * first)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pool_takes_what_hash_rows_gives(pooling):
    embed = make(pooling=pooling)
    assert torch.equal(embed.pool(*hash_rows(X, 512)), embed(X))


def test_learns():
    embed = make(dim=1)
    optimizer = torch.optim.SGD(embed.parameters(), lr=0.01)
    target = torch.tensor([[3.0], [-2.0]])
    for _ in range(100):
        optimizer.zero_grad()
        (embed(X) - target).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(embed(X), target, atol=1e-3, rtol=0)


def test_repr_says_the_pooling():
    assert "pooling='max'" in repr(make(pooling="max"))
    assert "Embedding(512, 3)" in repr(make())


# Max, where libraries differ


@pytest.mark.parametrize("scatter", SCATTERS)
def test_a_tie_gives_its_gradient_to_the_first(scatter):
    vectors = torch.tensor([[1.0, 5.0], [2.0, 5.0], [2.0, 0.0], [0.0, 0.0]], requires_grad=True)
    out = pool_vectors(vectors, torch.tensor([0, 3, 3, 4]), torch.ones(4, dtype=torch.float64), "max", scatter)
    assert out.tolist() == [[2.0, 5.0], [0.0, 0.0], [0.0, 0.0]]
    out.sum().backward()
    assert vectors.grad.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize("scatter", SCATTERS)
def test_max_of_what_is_not_finite(scatter):
    nan, inf = math.nan, math.inf
    vectors = torch.tensor([[1.0, -inf, -inf], [nan, -inf, 1.0], [2.0, -inf, inf]])
    out = pool_vectors(vectors, torch.tensor([0, 3]), torch.ones(3, dtype=torch.float64), "max", scatter)
    torch.testing.assert_close(out, torch.tensor([[nan, -inf, inf]]), equal_nan=True)


def test_unknown_pooling_of_vectors():
    with pytest.raises(SettingError, match="pooling='min'"):
        pool_vectors(torch.ones(1, 1), torch.tensor([0, 1]), torch.ones(1, dtype=torch.float64), "min")


def test_torch_scatter_of_another_torch_is_reported_and_passed_over(tmp_path):
    (tmp_path / "torch_scatter.py").write_text("raise OSError('undefined symbol: x')\n")
    code = (
        f"import sys, warnings; sys.path.insert(0, {str(tmp_path)!r})\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    from flexi_hash_embedding import FlexiHashEmbedding\n"
        "print([str(w.message) for w in caught if w.category is RuntimeWarning])\n"
        "print(FlexiHashEmbedding(8, 2, 'max')([{'a': 1}, {}]).shape)\n"
    )
    root = Path(flexi_hash_embedding.__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout == (
        "[\"torch-scatter can't be loaded, torch's scatter is used: undefined symbol: x\"]\ntorch.Size([2, 2])\n"
    )
