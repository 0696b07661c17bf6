"""Embeddings of many instances as bytes, piece by piece: lines of JSON, a NumPy file, or a stream of Arrow."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import msgspec
import numpy as np

from flexihash.model.pooled import Embedded, write_head
from flexihash.service.bodies import JSON, NDJSON
from flexihash.service.messages import EmbeddingLine, Version
from flexihash.service.problems import Problem

NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"


class Answer(NamedTuple):
    """What is known of all instances, in their order: at least one part, which may be of no instances."""

    parts: Sequence[Embedded]
    version: Version


def write_lines(answer: Answer) -> Iterator[bytes]:
    """A line of JSON for each instance."""
    encoder = msgspec.json.Encoder()
    for part in answer.parts:
        yield encoder.encode_lines(list(map(EmbeddingLine, *(column.tolist() for column in part))))


def write_npy(answer: Answer) -> Iterator[bytes]:
    """NumPy's file of one array (B, D), float32."""
    yield write_head(sum(len(part.vectors) for part in answer.parts), answer.parts[0].vectors.shape[1])
    for part in answer.parts:
        yield np.ascontiguousarray(part.vectors).tobytes()


def write_arrow(answer: Answer) -> Iterator[bytes]:
    """Arrow's stream of record batches, with the version in the schema's metadata."""
    import pyarrow as pa

    size = answer.parts[0].vectors.shape[1]
    fields = [("embedding", pa.list_(pa.float32(), size)), ("known_features", pa.int64()), ("features", pa.int64())]
    schema = pa.schema(fields, {"version": msgspec.json.encode(answer.version)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as stream:
        for part in answer.parts:
            vectors = pa.FixedSizeListArray.from_arrays(part.vectors.ravel(), size)
            stream.write(pa.record_batch([vectors, pa.array(part.known), pa.array(part.features)], schema))
            yield _take(sink)
    yield _take(sink)


def _take(sink: io.BytesIO) -> bytes:
    written = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return written


WRITERS: dict[str, Callable[[Answer], Iterator[bytes]]] = {NDJSON: write_lines, NPY: write_npy, ARROW: write_arrow}


def choose_form(accept: str, sent: str) -> str:
    """The media type of the answer: of those that are accepted, the one that is liked best; else that of the request.

    Args:
        accept: the header of that name.
        sent: the request's media type. To lines no whole JSON is answered: it would have to be held.

    Raises:
        Problem: 406; none that is accepted can be given.
    """
    forms = [*WRITERS] if sent == NDJSON else [JSON, *WRITERS]
    liked = [media_type for _, media_type in sorted(_read_accept(accept), key=lambda one: -one[0])]
    for media_type in liked:
        if media_type == ARROW and find_spec("pyarrow") is None:
            continue
        if media_type in forms:
            return media_type
        if media_type in ("*/*", "application/*"):
            return sent
    if not liked or (sent == JSON and ARROW not in liked):
        return sent
    lacking = "; Arrow needs pip install 'flexihash[arrow]' where the service runs" if ARROW in liked else ""
    detail = f'accept "{accept}" names nothing that can be given here; accept {" or ".join(forms)}{lacking}'
    raise Problem(406, detail, reason="accept")


def _read_accept(accept: str) -> Iterator[tuple[float, str]]:
    """Weights and media types, but for those of no weight."""
    for one in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in one.split(";"))
        weights = [_read_weight(parameter) for parameter in parameters if parameter.startswith("q=")]
        weight = weights[0] if weights else 1.0
        if media_type and weight > 0.0:
            yield weight, media_type


def _read_weight(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q="))
    except ValueError:
        return 1.0
