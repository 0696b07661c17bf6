"""Settings of the API: where it listens, who may ask, and how much."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from flexihash.service.setting_types import Panel, Token

HTTP = Panel("HTTP")


class HttpSettings(BaseSettings):
    """Of the API; see `service.settings`."""

    host: Annotated[str, HTTP] = Field(
        "127.0.0.1", min_length=1, description="Address that the API listens on; 0.0.0.0 for all."
    )
    port: Annotated[int, HTTP] = Field(
        8080, ge=0, le=65_535, description="Port that the API listens on; 0 takes a free one."
    )
    workers: Annotated[int, HTTP] = Field(
        1, ge=1, le=64, description="Processes that answer requests, all on the one port."
    )
    api_token: Annotated[Token, HTTP] = Field(
        None, description="Bearer token that calls must carry; empty: none needed."
    )
    public_metrics: Annotated[bool, HTTP] = Field(True, description="Whether /metrics answers without the token.")
    max_body_bytes: Annotated[int, HTTP] = Field(8_000_000, ge=1_000, description="Largest request body, in bytes.")
    max_instances: Annotated[int, HTTP] = Field(10_000, ge=1, description="Most instances in one request.")
