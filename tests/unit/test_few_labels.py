"""A small torch classifier on vectors that were learned without labels, beside the same one on random vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from bench.likeness import airports
from flexihash import FlexiHashEmbedding
from flexihash.consumer.files import learn_file
from flexihash.consumer.wire import EventFormat
from flexihash.model.config import ModelConfig
from flexihash.producer.flights import flights

N_FLIGHTS = 100_000
NAMES = ("carrier", "origin", "dest", "hour", "distance")
N_LABELLED = 20  # of some 90 destinations
N_SPLITS = 10
WEST = -95.0  # degrees of longitude


def learn_flights(folder: Path, events: list[dict[str, str | float]]) -> Path:
    """The checkpoint of a model that had no label."""
    lines = [json.dumps({"features": {name: event[name] for name in NAMES}}) for event in events]
    (folder / "flights.ndjson").write_text("\n".join(lines))
    learn_file(folder / "flights.ndjson", ModelConfig(embeddings=True), EventFormat(), folder / "checkpoints")
    return folder / "checkpoints"


def classify(vectors: torch.Tensor, is_west: torch.Tensor, labelled: torch.Tensor) -> float:
    """How many of the other destinations a linear layer, trained on the labelled ones, puts on the right side."""
    vectors = (vectors - vectors[labelled].mean(0)) / (vectors[labelled].std(0) + 1e-9)
    layer = nn.Linear(vectors.shape[1], 1)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(layer(vectors[labelled])[:, 0], is_west[labelled])
        loss = loss + 0.01 * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    others = torch.ones(len(vectors), dtype=torch.bool)
    others[labelled] = False
    return float(((layer(vectors[others])[:, 0] > 0) == is_west[others].bool()).float().mean())


def test_few_labels_go_further_on_learned_vectors(tmp_path: Path) -> None:
    """West or east, of 20 labelled destinations: 0.89 of the others right, 0.57 with random vectors, 0.67 are east."""
    events = [flight["features"] for flight in flights(N_FLIGHTS)]
    embed = FlexiHashEmbedding.from_checkpoint(learn_flights(tmp_path, events))
    places = airports()
    names = [name for name in dict.fromkeys(str(event["dest"]) for event in events) if name in places]
    is_west = torch.tensor([float(places[name][1] < WEST) for name in names])
    learned = embed([{"dest": name} for name in names])
    right = []
    for seed in range(N_SPLITS):
        torch.manual_seed(seed)
        labelled = torch.randperm(len(names))[:N_LABELLED]
        right.append([classify(vectors, is_west, labelled) for vectors in (learned, torch.randn(learned.shape))])
    on_learned, on_random = np.mean(right, axis=0)
    assert on_learned > 0.80
    assert on_random < 0.68
    assert all(mine > other for mine, other in right), right
    assert on_learned > 1 - float(is_west.mean()), "better than to call all of them east"
