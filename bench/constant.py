"""The yardstick of the section `http`: one FastAPI route that answers with the same bytes every time.

`python -m bench.constant PORT` serves it with the server settings of `service.api`.
"""

from __future__ import annotations

import socket
import sys

from fastapi import FastAPI, Request, Response

from bench.load import HOST, PATH
from flexihash.service.api import create_server
from flexihash.service.doors import Doors

ANSWER = b'{"predictions":[0.25],"version":{"events":1,"seconds_behind":0.0}}'

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@app.post(PATH)
async def answer(request: Request) -> Response:
    """Reads the body, as any route would have to, and looks at nothing in it."""
    await request.body()
    return Response(ANSWER, media_type="application/json")


def main() -> None:
    listening = socket.create_server((HOST, int(sys.argv[1])), backlog=2048)
    create_server(app, Doors()).run(sockets=[listening])


if __name__ == "__main__":
    main()
