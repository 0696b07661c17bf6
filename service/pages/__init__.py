"""/docs: the OpenAPI document as a page that sends requests. All of it comes from here, and nothing in it is inline.

The page and the document tell how to call, nothing about the model, its data or its settings: they need no token.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

OURS = files(__name__)
SWAGGER_UI = "fastapi_swagger.resources"  # the package whose copy of Swagger UI this is
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # its style sheet has its icons inside
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
pages = APIRouter(include_in_schema=False, default_response_class=Response)


def read_assets() -> dict[str, tuple[bytes, str]]:
    """Content and media type of all that the page loads, by the name that it has under /docs/."""
    bundled = files(SWAGGER_UI)
    return {
        "favicon.png": (bundled.joinpath("favicon-32x32.png").read_bytes(), "image/png"),
        "start.js": (OURS.joinpath("start.js").read_bytes(), "text/javascript"),
        "swagger-ui.css": (bundled.joinpath("swagger-ui.css").read_bytes(), "text/css"),
        "swagger-ui.js": (bundled.joinpath("swagger-ui-bundle.js").read_bytes(), "text/javascript"),
    }


PAGE = OURS.joinpath("docs.html").read_bytes()  # once for all: from then on no request leads to a file
ASSETS = read_assets()


@pages.get("/docs")
async def show_docs() -> Response:
    """The page."""
    return Response(PAGE, media_type="text/html", headers={"content-security-policy": POLICY})


@pages.get("/docs/{name}")
async def show_asset(name: str) -> Response:
    """One of the page's assets."""
    if name not in ASSETS:
        raise HTTPException(404)
    content, media_type = ASSETS[name]
    return Response(content, media_type=media_type)
