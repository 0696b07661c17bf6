"""What is read from a checkpoint: `flexihash embed`, and the torch module. Both give what the API gives."""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flexi_hash_embedding
from flexi_hash_embedding import FeatureRowError, FeatureValueError
from flexi_hash_embedding.pooling import POOLINGS
from flexihash import FlexiHashEmbedding
from flexihash.consumer.files import learn_file
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.model.features import FeatureRules, flatten, hash_features
from flexihash.model.model_errors import EmbeddingsOff
from flexihash.model.pooled import Choice, embed
from flexihash.service.learned_model import open_checkpoint
from flexihash.service.service_errors import SettingsError
from tests.service.conftest import no_settings_from_outside
from tests.unit.test_cli import Run, run

__all__ = ["no_settings_from_outside", "run"]

N_ROWS = 1 << 14
INSTANCES: list[dict[str, Any]] = [
    {"city": "c1", "country": "l1", "size": 2.5},
    {"city": "c2"},
    {},
    {"place": {"of": ["c1", 7]}, "size": 3},
    {"city": "atlantis"},
]


def write_lines(path: Path, objects: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(one) + "\n" for one in objects)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def learn(events: list[dict[str, Any]], folder: Path, features_field: str = "features", **config: Any) -> Path:
    path = write_lines(folder / "events.ndjson", events)
    model_config = ModelConfig(**{"n_rows": N_ROWS, "embeddings": True, **config})
    checkpoints = folder / "checkpoints"
    learn_file(path, model_config, EventFormat(features_field=features_field), checkpoints)
    return checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    features = [{"city": f"c{n % 6}", "country": f"l{n % 3}", "size": n / 10} for n in range(400)]
    return learn([{"features": one} for one in features], tmp_path)


def expect(checkpoint: Path, instances: list[dict[str, Any]], **choice: Any) -> Any:
    """What the API says: it reads by the same format, and pools by the same code."""
    learned = open_checkpoint(checkpoint)
    rules = learned.format.rules
    batch = hash_features([flatten(one, rules) for one in instances], N_ROWS, rules.crosses)
    return embed(learned.model, batch, Choice(**choice)).vectors


# --- flexihash embed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["events.ndjson", "events.ndjson.gz", "-"])
def test_a_row_is_written_for_each_event(
    run: Run, checkpoints: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = INSTANCES * 500  # more than are read at once
    lines = [{"features": one, "label": 1} if n % 2 else {"features": one} for n, one in enumerate(instances)]
    file = write_lines(tmp_path / (name if name != "-" else "stdin"), lines)
    if name == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
        file = Path("-")
    code, out, err = run("embed", file, "--out", "v.npy", "--checkpoint", checkpoints, "--json")
    assert (code, err) == (0, "")
    (checkpoint,) = checkpoints.iterdir()
    said = json.loads(out)
    assert {**said, "seconds": 0} == {
        "out": "v.npy", "checkpoint": str(checkpoint), "numbers": 16, "events": 2500, "unknown": 1500, "seconds": 0,
    }  # fmt: skip
    vectors = np.load("v.npy")
    np.testing.assert_array_equal(vectors, expect(checkpoints, instances))
    assert vectors.dtype == np.float32
    assert not Path("v.npy.part").exists()


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        (["--normalize"], {"normalize": True}),
        (["--pooling", "max"], {"pooling": "max"}),
        (["--kind", "task"], {"kind": "task"}),
    ],
)
def test_options_are_those_of_the_api(
    run: Run, checkpoints: Path, tmp_path: Path, options: list[str], choice: dict[str, Any]
) -> None:
    file = write_lines(tmp_path / "instances.ndjson", INSTANCES)
    how = ["--out", "v.npy", "--checkpoint", next(checkpoints.iterdir()), "--features-field", ""]
    code, out, err = run("embed", file, *how, *options)
    assert (code, err) == (0, "")
    assert "5 events embedded" in out
    assert "v.npy: 5 x 16, float32" in out
    np.testing.assert_array_equal(np.load("v.npy"), expect(checkpoints, INSTANCES, **choice))


def test_what_cannot_be_embedded_is_told_in_a_line(run: Run, checkpoints: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "some.ndjson", [{"features": {"a": 1}}] * 3)
    how = ["--out", "v.npy", "--checkpoint", checkpoints]
    broken = tmp_path / "broken.ndjson"
    broken.write_text('{"features": {}}\n\n{"features": {"a": 1e999}}\n')
    (empty := tmp_path / "empty.ndjson").write_text("\n")
    (nothing := tmp_path / "nothing").mkdir()
    expected: list[tuple[list[Any], int, str]] = [
        ([broken, *how], 2, f"{broken}:3: a number is out of range"),
        ([empty, *how], 1, f"{empty}: there are no events in it"),
        ([tmp_path / "no", *how], 2, "no such file or directory"),
        ([file, *how, "--pooling", "average"], 2, "Invalid enum value 'average'"),
        ([file, *how, "--kind", "task", "--pooling", "mean"], 2, 'pooling "mean" is for the kind "context"'),
        ([file, "--out", "v.npy", "--checkpoint", nothing], 2, f"{nothing}: no checkpoint in this folder"),
        ([file, "--out", "v.npy"], 2, "checkpoints/events: there is no such folder"),
        ([file, "--out", "no/v.npy", "--checkpoint", checkpoints], 2, "no/v.npy.part: no such file or directory"),
    ]
    for arguments, code, said in expected:
        ended = run("embed", *arguments)
        assert ended[0] == code, ended
        assert said.lower() in ended[2].lower(), ended
        assert ended[2].count("\n") == 1
    assert not list(tmp_path.glob("v.npy*"))


def test_a_model_without_them_says_what_to_set(run: Run, tmp_path: Path) -> None:
    checkpoints = learn([{"features": {"a": "b"}, "label": 1}], tmp_path, embeddings=False)
    code, _, err = run("embed", "events.ndjson", "--out", "v.npy", "--checkpoint", checkpoints, "--kind", "context")
    assert code == 2
    assert "FLEXIHASH_EMBEDDINGS=true" in err
    assert run("embed", "events.ndjson", "--out", "v.npy", "--checkpoint", checkpoints)[0] == 0
    with pytest.raises(EmbeddingsOff, match="learned without FLEXIHASH_EMBEDDINGS"):
        FlexiHashEmbedding.from_checkpoint(checkpoints)


def test_a_damaged_checkpoint_is_named_and_left_as_it_is(run: Run, checkpoints: Path) -> None:
    (checkpoint,) = checkpoints.iterdir()
    model = checkpoint / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    code, _, err = run("embed", "events.ndjson", "--out", "v.npy", "--checkpoint", checkpoints)
    assert code == 2
    assert f"{checkpoint} is damaged" in err
    assert list(checkpoints.iterdir()) == [checkpoint]


def test_learning_shows_metrics_beside_embeddings(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXIHASH_EMBEDDINGS", "true")
    events = [{"features": {"a": f"{n % 3}", "b": "x"}, "label": n % 2} for n in range(9)]
    file = write_lines(tmp_path / "e.ndjson", events)
    code, out, err = run("learn", file)
    assert (code, err) == (0, "")
    assert "log loss" in out


# --- the module -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("freeze", [True, False])
def test_the_module_gives_what_is_served(checkpoints: Path, pooling: str, freeze: bool) -> None:
    module = FlexiHashEmbedding.from_checkpoint(checkpoints, pooling=pooling, freeze=freeze)
    assert isinstance(module, flexi_hash_embedding.FlexiHashEmbedding)
    found = module(INSTANCES)
    np.testing.assert_allclose(found.detach(), expect(checkpoints, INSTANCES, pooling=pooling), rtol=1e-6, atol=1e-7)
    assert found.requires_grad is not freeze
    assert torch.equal(module.pool(*module.find_rows(INSTANCES)), found)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(INSTANCES), found)


def test_the_whole_event_is_read_as_the_model_reads_it(tmp_path: Path) -> None:
    checkpoints = learn([{"a": "x", "b": f"{n % 3}", "label": 1} for n in range(50)], tmp_path, features_field="")
    with_label, without = FlexiHashEmbedding.from_checkpoint(checkpoints)([{"a": "x", "label": 1}, {"a": "x"}])
    assert torch.equal(with_label, without)
    assert without.norm() > 0


def test_a_model_that_crosses_features_is_read_too(tmp_path: Path) -> None:
    crosses = ("city*country",)
    events = [{"features": {"city": f"c{n % 6}", "country": f"l{n % 3}"}} for n in range(100)]
    file = write_lines(tmp_path / "crossed.ndjson", events)
    format = EventFormat(rules=FeatureRules(crosses=crosses))
    learn_file(file, ModelConfig(n_rows=N_ROWS, embeddings=True, crosses=crosses), format, tmp_path / "checkpoints")
    found = FlexiHashEmbedding.from_checkpoint(tmp_path / "checkpoints")(INSTANCES)
    np.testing.assert_allclose(found, expect(tmp_path / "checkpoints", INSTANCES), rtol=1e-6, atol=1e-7)


def test_training_moves_what_is_not_frozen(checkpoints: Path) -> None:
    module = FlexiHashEmbedding.from_checkpoint(checkpoints, freeze=False)
    before = module(INSTANCES).detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(INSTANCES).square().sum().backward()
    optimizer.step()
    assert (module(INSTANCES).detach().norm() < before.norm()).item()


def test_what_the_module_cannot_take_is_named(checkpoints: Path, tmp_path: Path) -> None:
    module = FlexiHashEmbedding.from_checkpoint(str(next(checkpoints.iterdir())))
    with pytest.raises(FeatureRowError, match=r"X\[1\] is a int, not a dict"):
        module([{}, 3])
    with pytest.raises(FeatureValueError, match=r'X\[0\]: "a" is not a finite number'):
        module([{"a": float("inf")}])
    with pytest.raises(FeatureValueError, match=r"X\[0\]: an instance is the features alone"):
        module([{"features": {"a": 1}}])
    with pytest.raises(SettingsError, match="there is no such folder"):
        FlexiHashEmbedding.from_checkpoint(tmp_path / "none")


def test_made_without_a_checkpoint_it_is_the_library_s() -> None:
    module = FlexiHashEmbedding(n_features=64, dim=4)
    X = [{"dog": 1, "cat": "x"}]
    expected = flexi_hash_embedding.FlexiHashEmbedding(n_features=64, dim=4, embedding=lambda n, dim: module.embed)
    assert torch.equal(module(X), expected(X))
    hashed = flexi_hash_embedding.hash_rows(X, 64)
    assert [list(part) for part in module.find_rows(X)] == [list(part) for part in hashed]
