"""Who may call: everybody, or whoever carries the token."""

from __future__ import annotations

import hmac

from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from flexihash.service.problems import Problem


class Token(HTTPBearer):
    """Dependency of every call on the model: one and no more, as each costs a request some microseconds.

    Raises:
        Problem: 401, when called; a token is set and the call carries none or another.
    """

    def __init__(self) -> None:
        description = "FLEXIHASH_API_TOKEN, where one is set."
        super().__init__(auto_error=False, scheme_name="HTTPBearer", description=description)

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        token = request.app.state.parts.settings.api_token
        if token is None:
            return None
        credentials = await super().__call__(request)
        _compare(token, credentials)
        return credentials


class MetricsToken(Token):
    """Dependency of /metrics, which may be public though the rest is not."""

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        return None if request.app.state.parts.settings.public_metrics else await super().__call__(request)


require_token = Token()
require_metrics_token = MetricsToken()


def _compare(token: SecretStr, credentials: HTTPAuthorizationCredentials | None) -> None:
    given = credentials.credentials if credentials else ""
    if not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
        what = "is not the right one" if given else 'is missing; send "Authorization: Bearer <FLEXIHASH_API_TOKEN>"'
        raise Problem(401, f"the token {what}", reason="token", headers={"www-authenticate": "Bearer"})
