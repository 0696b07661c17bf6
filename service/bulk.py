"""Many instances in one request, one a line: read as they come, so that neither body nor answer is ever held whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi import Request

from flexihash.service import bodies
from flexihash.service.bodies import check_announced, check_count, refuse_size, refuse_slowness

TIMES = 10  # as many instances and bytes as a request of JSON may have
HOLD = "flexihash.hold"  # in a request's scope: tells the doors what is held for it, more (or, below 0, less) bytes
VECTOR_BYTES = 16  # held of each instance beside its vector

Hold = Callable[[int], None]


def hold_of(request: Request) -> Hold:
    """What tells the doors of bytes; nothing where no connection has any."""
    hold: Hold = request.scope.get(HOLD, lambda n_bytes: None)
    return hold


async def read_lines(
    request: Request, max_body_bytes: int, max_instances: int, size: int
) -> AsyncIterator[list[bytes]]:
    """The lines of a body that are not empty, `size` at a time. Those that were taken are not held any more.

    Raises:
        Problem: 408, it takes longer than `BODY_S` for each `max_body_bytes`; 413, it is `TIMES` as large as those, has
            `TIMES` `max_instances`, or one line is larger than `max_body_bytes`.
    """
    hold = hold_of(request)
    lines: list[bytes] = []
    n_lines = 0
    async for line in _cut(request, max_body_bytes):
        if not line or line.isspace():
            hold(-len(line) - 1)
            continue
        n_lines += 1
        check_count(n_lines, TIMES * max_instances, "instances", f"{TIMES} times max_instances")
        lines.append(line)
        if len(lines) == size:
            yield lines
            hold(-sum(map(len, lines)) - size)
            lines = []
    if lines:
        yield lines


async def _cut(request: Request, max_body_bytes: int) -> AsyncIterator[bytes]:
    """The lines of a body, whole, however it was cut into pieces."""
    rest = bytearray()
    async for piece in _read(request, max_body_bytes):
        *whole, last = piece.split(b"\n")
        for line in whole:
            yield bytes(rest + line)
            rest.clear()
        rest += last
        if len(rest) > max_body_bytes:
            raise refuse_size("a line is", max_body_bytes)
    yield bytes(rest)


async def _read(request: Request, max_body_bytes: int) -> AsyncIterator[bytes]:
    """A body's pieces, as fast as a small body has to come."""
    most, limit = TIMES * max_body_bytes, f"{TIMES} times max_body_bytes"
    check_announced(request, most, limit)
    pieces, now = request.stream(), asyncio.get_running_loop().time
    n_bytes, n_periods, deadline = 0, 1, now() + bodies.BODY_S
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise refuse_slowness(n_bytes) from None
        if piece is None:
            return
        n_bytes += len(piece)
        if n_bytes > most:
            raise refuse_size("the body is", most, limit)
        if n_bytes > n_periods * max_body_bytes:
            n_periods, deadline = n_periods + 1, now() + bodies.BODY_S
        yield piece
