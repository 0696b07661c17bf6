"""Request bodies: read within the limit, cut into instances or events, and checked one by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from email.message import Message
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

import msgspec
from fastapi import Request

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.wire import UNREADABLE, describe_unreadable
from flexihash.model.config import MOST_CLASSES
from flexihash.model.features import Batch, hash_features
from flexihash.model.model_errors import FeatureError
from flexihash.model.pooled import Choice, Kind, Pooling
from flexihash.service.phrasing import TOP_K
from flexihash.service.problems import Problem

JSON = "application/json"
NDJSON = "application/x-ndjson"
UTF_8 = ("utf-8", "utf8")
BODY_S = 60.0  # for a whole body: 8 MB at a megabit a second
SECOND_LOOK_BYTES = 1_000_000  # a broken body up to here is parsed again, to name the culprit: up to 50 ms of work


QUERY = "query"  # of a comparison: the one instance that is no item of a list


class RawInstances(msgspec.Struct, forbid_unknown_fields=True):
    """``{"instances": [...]}`` with the instances unparsed, so that a big body can be walked in chunks."""

    instances: list[msgspec.Raw]

    SHAPE: ClassVar[str] = '{"instances": [{...}, ...]}'


class InstancesToPredict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same for a model of classes or labels: how many probabilities each answer has."""

    instances: list[msgspec.Raw]
    top_k: Annotated[int, msgspec.Meta(ge=1, le=MOST_CLASSES)] = TOP_K

    SHAPE: ClassVar[str] = RawInstances.SHAPE


class InstancesToEmbed(Choice, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same with a choice of embeddings."""

    instances: list[msgspec.Raw]

    SHAPE: ClassVar[str] = RawInstances.SHAPE


class RawComparison(Choice, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An instance and those that it is compared with."""

    query: msgspec.Raw
    candidates: list[msgspec.Raw]

    SHAPE: ClassVar[str] = '{"query": {...}, "candidates": [{...}, ...]}'


class QueriedChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A choice and nothing else, as a query spells it."""

    kind: Kind | msgspec.UnsetType = msgspec.UNSET
    pooling: Pooling = "sum"
    normalize: Literal["false", "true"] = "false"
    output: str = ""


Shape = TypeVar("Shape", RawInstances, InstancesToPredict, InstancesToEmbed, RawComparison)


def read_choice(request: Request) -> Choice:
    """The choice of embeddings in a request's query: lines have no place for it.

    Raises:
        Problem: 422; there is no such choice.
    """
    try:
        given = msgspec.convert(dict(request.query_params), QueriedChoice)
        kind = None if isinstance(given.kind, msgspec.UnsetType) else given.kind
        return Choice(kind=kind, pooling=given.pooling, normalize=given.normalize == "true", output=given.output)
    except msgspec.ValidationError as error:
        detail = f"the query may have kind, pooling, normalize and output: {error}"
        raise Problem(422, detail, reason="shape") from None


def check_content_type(request: Request, *allowed: str) -> str:
    """The request's media type.

    A browser sends none of ours to a foreign site without asking it first, so this also keeps other pages' scripts out.

    Raises:
        Problem: 415; it isn't one of `allowed`, or the body is compressed, or not in UTF-8.
    """
    given = request.headers.get("content-type", "")
    media_type, _, parameters = (part.strip().lower() for part in given.partition(";"))
    if media_type not in allowed:
        detail = f'content type "{given}" is not read here; send {" or ".join(allowed)}'
        raise Problem(415, detail, reason="content_type", headers={"accept": ", ".join(allowed)})
    if (charset := _find_charset(parameters)) not in UTF_8:
        raise Problem(415, f'charset "{charset}" is not read here; send UTF-8', reason="charset")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        detail = f'content encoding "{encoding}" is not read here; send the body as it is'
        raise Problem(415, detail, reason="content_encoding", headers={"accept-encoding": "identity"})
    return media_type


def _find_charset(parameters: str) -> str:
    """The charset among what stands behind a media type; UTF-8 where none is named."""
    if "charset" not in parameters:
        return UTF_8[0]
    message = Message()
    message["content-type"] = f"text/plain; {parameters}"
    return str(message.get_param("charset", UTF_8[0]))


async def read_body(request: Request, max_body_bytes: int) -> bytes:
    """The body. No more than the limit is ever held, whatever the client announced.

    Raises:
        Problem: 408, it takes longer than `BODY_S`; 413, it is larger.
    """
    check_announced(request, max_body_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > max_body_bytes:
                    raise refuse_size("the body is", max_body_bytes)
    except TimeoutError:
        raise refuse_slowness(len(body)) from None
    return bytes(body)


def split_body(body: bytes, shape: type[Shape], decoder: EventDecoder) -> Shape:
    """A body of this shape, with its instances still to be parsed.

    Raises:
        Problem: 400, it isn't JSON; 422, another shape, or an instance that JSON cannot hold (NaN).
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise Problem(422, f"the body must be {shape.SHAPE}: {error}", reason="shape") from None
    except UNREADABLE as error:
        if isinstance(parsed := _parse_laxly(body), dict):
            for name in (QUERY, "instances", "candidates"):
                items = parsed.get(name, [])
                _blame(name, items if isinstance(items, list) else [items], _hashing(decoder))
        raise _not_json(error) from None


def split_events(body: bytes, media_type: str, decoder: EventDecoder, max_events: int) -> tuple[list[bytes], int]:
    """The events of a body: the lines of NDJSON (empty ones are skipped), the items of an array, or one event.

    Returns:
        The events, and how many of them have no label.

    Raises:
        Problem: 400, it isn't JSON; 413, too many; 422, none, or one that cannot be learned, which it names.
    """
    if media_type == NDJSON:
        events = [line for line in body.split(b"\n") if line.strip()]
    elif body.lstrip().startswith(b"["):
        events = _split_array(body, decoder, max_events)
    else:
        events = [body] if body.strip() else []
    if not events:
        raise Problem(422, "there are no events in the body", reason="shape")
    check_count(len(events), max_events, "events")
    n_labelled = sum(_check_event(event, index, decoder) for index, event in enumerate(events))
    return events, len(events) - n_labelled


def hash_instances(
    instances: Sequence[bytes], first: int, decoder: EventDecoder, n_rows: int, name: str = "instances"
) -> Batch:
    """Hashed features of instances, of which `first` is the first one's index in the request's `name`.

    Raises:
        Problem: 422; one isn't an object, or cannot be learned from; names the instance and the key.
    """
    decoded = decoder.decode_instances(instances, n_rows)
    if decoded.rejections:
        place, rejected = decoded.rejections[0]
        _refuse(name, first + place, bytes(instances[place]), rejected, _hashing(decoder))
    return decoded.batch


def _split_array(body: bytes, decoder: EventDecoder, max_events: int) -> list[bytes]:
    try:
        events = msgspec.json.decode(body, type=list[msgspec.Raw])
    except UNREADABLE as error:
        match _parse_laxly(body):
            case [*items]:
                _blame("events", items, decoder.read)
        raise _not_json(error) from None
    if (n_events := len(events)) > max_events:
        del events  # which the problem's traceback would keep, while other bodies come
        check_count(n_events, max_events, "events")
    return [bytes(event) for event in events]


def _check_event(event: bytes, index: int, decoder: EventDecoder) -> bool:
    """Whether an event has a label."""
    try:
        return decoder.decode_one(event).label is not None
    except EventRejected as rejected:
        _refuse("events", index, event, rejected, decoder.read)


def _refuse(name: str, index: int, item: bytes, rejected: EventRejected, read: Callable[[Any], object]) -> NoReturn:
    """Raises the problem of an item that was rejected, with the key, where a second look by `read` finds it."""
    if not rejected.key and (parsed := _parse_laxly(item)) is not None:
        _blame(name, [parsed], read, index)
    raise _unusable(_place(name, index), rejected) from None


def _place(name: str, index: int) -> str:
    return name if name == QUERY else f"{name}[{index}]"


def _parse_laxly(text: bytes) -> Any:
    """What Python's parser makes of a text that msgspec refused; None where it refuses too.

    It takes NaN, 1e999 and lone surrogates, so that the features that hold one can be named.
    """
    if len(text) > SECOND_LOOK_BYTES:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _blame(name: str, items: Iterable[Any], read: Callable[[Any], object], first: int = 0) -> None:
    """Raises the problem of the first item that `read` refuses."""
    for index, item in enumerate(items, first):
        try:
            read(item)
        except (EventRejected, FeatureError) as error:
            raise _unusable(_place(name, index), error) from None


def _hashing(decoder: EventDecoder) -> Callable[[Any], object]:
    return lambda features: hash_features([decoder.read_instance(features)], decoder.n_rows)


def check_count(n_items: int, most: int, name: str, limit: str = "max_instances") -> None:
    """Raises a `Problem`, 413, where a request has more items than it may."""
    if n_items > most:
        detail = f"{n_items} {name} are more than {limit}, {most}; send them in several requests"
        raise Problem(413, detail, reason="too_many")


def check_announced(request: Request, most: int, limit: str = "max_body_bytes") -> None:
    """Raises a `Problem`, 413, where a body is said to be too large before it comes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise refuse_size(f"{announced} bytes are", most, limit)


def refuse_size(what: str, most: int, limit: str = "max_body_bytes") -> Problem:
    """What is said of a body that is too large."""
    return Problem(413, f"{what} more than {limit}, {most}; send several requests", reason="too_large")


def refuse_slowness(n_bytes: int) -> Problem:
    """What is said of a body that does not come in time."""
    detail = f"{n_bytes} bytes of the body came within {BODY_S:g} s; send it faster, or in several requests"
    return Problem(408, detail, reason="timeout")


def _unusable(where: str, error: EventRejected | FeatureError) -> Problem:
    return Problem(422, f"{where}: {error}", where=where, key=error.key or None, reason=error.reason)


def _not_json(error: Exception) -> Problem:
    return Problem(400, f"the body is not JSON: {describe_unreadable(error)}", reason="not_json")
