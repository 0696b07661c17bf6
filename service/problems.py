"""Every error of the HTTP API: ``application/problem+json``, as RFC 9457 has it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from flexihash.service.messages import ProblemDetails
from flexihash.service.service_errors import ServiceError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1  # what a 503 asks for: the learner reports several times a second, a broker takes about as long

MEANINGS = {
    400: "The body is not JSON",
    401: "The token is missing or wrong",
    406: "None of the types that are accepted can be given",
    408: "The body took too long to arrive",
    409: "The model that answers has no embeddings of this choice",
    413: "The body or the number of instances is over the limit",
    415: "The content type is not one that this call reads",
    422: "A part of the body can't be used; names it and its key",
    500: "A defect in the service; the request id finds it in the logs",
    503: "The learner, its tables or the broker can't be reached now",
    504: "The learner didn't save in time",
}


class Problem(ServiceError):
    """An error that a client is told of.

    Args:
        status: the HTTP status.
        detail: what is wrong, where, and what to do.
        where: the instance or event, such as ``instances[3]``.
        key: the feature's flat name.
        reason: a short slug for programs.
        headers: sent along.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        where: str | None = None,
        key: str | None = None,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.where = where
        self.key = key
        self.reason = reason
        self.headers = headers


def unavailable(detail: str, reason: str) -> Problem:
    """A 503 that asks to come back soon."""
    return Problem(503, detail, reason=reason, headers={"retry-after": str(RETRY_AFTER_S)})


def render_problem(problem: Problem, request_id: str | None) -> Response:
    """`problem` as a response."""
    details = ProblemDetails(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=_printable(problem.detail),
        where=problem.where,
        key=None if problem.key is None else _printable(problem.key),
        reason=problem.reason,
        request_id=request_id,
    )
    return Response(msgspec.json.encode(details), problem.status, problem.headers, MEDIA_TYPE)


def _printable(text: str) -> str:
    """`text` with lone surrogates, which UTF-8 does not have, written out."""
    return text.encode(errors="backslashreplace").decode()


async def answer_problem(request: Request, error: Exception) -> Response:
    """Exception handler for `Problem`."""
    assert isinstance(error, Problem)
    return render_problem(error, request.state.request_id)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for what the router raises: no such route, or not this method."""
    assert isinstance(error, HTTPException)
    details = {
        404: f"there is no {request.url.path}; /docs lists every route",
        405: f"{request.url.path} doesn't take {request.method}",
    }
    headers = dict(error.headers or {})
    if error.status_code == 405 and (documented := request.app.openapi()["paths"].get(request.url.path)):
        # The router names the path's first route only, and none of those to HEAD.
        headers["Allow"] = ", ".join(sorted([*documented, *(["head"] if "get" in documented else [])])).upper()
    problem = Problem(error.status_code, details.get(error.status_code, error.detail), headers=headers)
    return render_problem(problem, request.state.request_id)
