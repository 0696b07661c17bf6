"""Who may call: everybody, or whoever carries the token."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from flexihash.service.problems import Problem

bearer = HTTPBearer(auto_error=False, description="FLEXIHASH_API_TOKEN, where one is set.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


async def require_token(request: Request, credentials: Credentials) -> None:
    """Dependency of every call on the model.

    Raises:
        Problem: 401; a token is set and the call carries none or another.
    """
    _compare(request.app.state.parts.settings.api_token, credentials)


async def require_metrics_token(request: Request, credentials: Credentials) -> None:
    """Dependency of /metrics, which may be public though the rest is not.

    Raises:
        Problem: 401; see `require_token`.
    """
    settings = request.app.state.parts.settings
    if not settings.public_metrics:
        _compare(settings.api_token, credentials)


def _compare(token: SecretStr | None, credentials: HTTPAuthorizationCredentials | None) -> None:
    if token is None:
        return
    given = credentials.credentials if credentials else ""
    if not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
        what = "is not the right one" if given else 'is missing; send "Authorization: Bearer <FLEXIHASH_API_TOKEN>"'
        raise Problem(401, f"the token {what}", reason="token", headers={"www-authenticate": "Bearer"})
