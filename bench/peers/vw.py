"""Vowpal Wabbit: one line of its text format an event, or its own JSON parser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from vowpalwabbit import Workspace

from bench.peers.peer import Peer, Predict, Prepare, parse
from flexihash.model.tasks import Task

ALGORITHMS = {"default": "", "--ftrl": "--ftrl", "--coin": "--coin"}
SEPARATORS = str.maketrans(" :|\n", "____")  # characters that mean something in VW's text format


def vw_line(task: Task, event: Mapping[str, Any]) -> str:
    """An event in VW's text format, all its features in one namespace."""
    return f"{vw_label(task, event)} |f " + " ".join(vw_features(event["features"]))


def vw_label(task: Task, event: Mapping[str, Any]) -> float:
    """VW's binary labels are -1 and 1."""
    label: float = event["label"]
    return label if task is not Task.BINARY else 1 if label else -1


def vw_features(features: Mapping[str, Any]) -> Iterator[str]:
    """Strings as categories `k=v`, numbers as `k:v`."""
    for name, value in features.items():
        if isinstance(value, str):
            yield f"{name}={value}".translate(SEPARATORS)
        else:
            yield f"{name.translate(SEPARATORS)}:{float(value)}"


def vw_json(task: Task, messages: Sequence[bytes]) -> list[str]:
    """Messages in the JSON shape that VW's own parser takes."""
    events = map(parse, messages)
    return [msgspec.json.encode({"_label": vw_label(task, event), "f": event["features"]}).decode() for event in events]


def vw_arguments(task: Task, options: str) -> str:
    """The command line of a workspace."""
    loss = "--loss_function logistic --link logistic" if task is Task.BINARY else "--loss_function squared"
    return f"--quiet {loss} {options}"


def vw(options: str) -> Prepare:
    """Through its Python API: JSON by msgspec, then a line of VW's text format.

    `learn` leaves the prediction made before learning in the example; asking for it first would take twice as long.
    """

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        workspace = Workspace(vw_arguments(task, options))

        def predict() -> list[float]:
            predictions = []
            for message in messages:
                example = workspace.example(vw_line(task, parse(message)))
                workspace.learn(example)
                predictions.append(example.get_simplelabel_prediction())
                workspace.finish_example(example)
            workspace.finish()
            return predictions

        return predict

    return prepare


def vw_api_json(options: str) -> Prepare:
    """Through its Python API and its own JSON parser."""

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        workspace = Workspace(vw_arguments(task, f"--json {options}"))
        lines = vw_json(task, messages)

        def predict() -> list[float]:
            predictions = []
            for line in lines:
                parsed = workspace.parse(line)
                example = parsed[0] if isinstance(parsed, list) else parsed
                workspace.learn(example)
                predictions.append(example.get_simplelabel_prediction())
                workspace.finish_example(parsed)
            workspace.finish()
            return predictions

        return predict

    return prepare


def vw_file_json(options: str) -> Prepare:
    """As its command line does: the library reads a file of JSON and writes the predictions to another."""

    def prepare(task: Task, messages: Sequence[bytes]) -> Predict:
        folder = TemporaryDirectory()
        data, written = Path(folder.name, "events.json"), Path(folder.name, "predictions")
        data.write_text("\n".join(vw_json(task, messages)) + "\n")

        def predict() -> list[float]:
            Workspace(vw_arguments(task, f"--json -d {data} -p {written} {options}")).finish()
            with folder:
                return [float(line.split()[0]) for line in written.read_text().splitlines()]

        return predict

    return prepare


PEERS = (
    *(
        Peer("VW", f"{name}{suffix}", vw(algorithm + interactions), n_turns=3)
        for interactions, suffix in (("", ""), (" -q ::", " -q"))
        for name, algorithm in ALGORITHMS.items()
    ),
    *(
        Peer("VW", f"default{suffix}, own JSON parser, {how}", prepare(options), n_turns=3, is_quality=False)
        for options, suffix in (("", ""), ("-q ::", " -q"))
        for how, prepare in (("API", vw_api_json), ("file", vw_file_json))
    ),
)
