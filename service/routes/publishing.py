"""Events sent to the topic."""

from __future__ import annotations

from fastapi import Request, Response

from flexihash.consumer.consumer_errors import ConsumerError
from flexihash.service.advice import advise
from flexihash.service.bodies import JSON, NDJSON, check_content_type, read_body, split_events
from flexihash.service.messages import Published
from flexihash.service.openapi import EVENTS_BODY, describe_answers
from flexihash.service.parts import Parts
from flexihash.service.problems import Problem, unavailable
from flexihash.service.routes.responding import make_router, parts_of, respond

router = make_router("events")


@router.post(
    "/events",
    responses=describe_answers(Published, 400, 401, 408, 413, 415, 422, 503),
    openapi_extra={"requestBody": EVENTS_BODY},
)
async def publish(request: Request) -> Response:
    """Publishes events to the topic, all or, where one of them is wrong, none. They are learned a moment later."""
    parts = parts_of(request)
    media_type = check_content_type(request, JSON, NDJSON)
    body = await read_body(request, parts.settings.max_body_bytes)

    def check_and_publish() -> Published:
        with parts.splitting:
            events, n_unlabelled = split_events(body, media_type, parts.decoder, parts.settings.max_instances)
        positions: dict[str, int] = {}
        for partition, offset in parts.publisher.publish(events):
            name = f"{parts.settings.topic}:{partition}"
            positions[name] = max(offset + 1, positions.get(name, 0))
        return Published(len(events), positions, n_unlabelled, _warn(n_unlabelled, len(events), parts))

    try:
        return respond(await parts.publish(check_and_publish))
    except ConsumerError as error:
        detail = f"the events were not published: {advise(error)}"
        raise unavailable(detail, "broker") if error.retriable else Problem(503, detail, reason="broker") from error


def _warn(n_unlabelled: int, n_events: int, parts: Parts) -> list[str]:
    if not n_unlabelled:
        return []
    label = '" or "'.join(parts.settings.event_format.label_names)
    return [f'predictions learn nothing from {n_unlabelled} of {n_events} events: no "{label}" in them']
