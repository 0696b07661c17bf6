"""Settings as environment variables: how one is named, and how its value is written."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

PREFIX = "FLEXIHASH_"


def env_name(name: str) -> str:
    """The variable of a setting."""
    return PREFIX + name.upper()


def to_text(value: Any) -> str:
    """A value as one writes it in the environment."""
    match value:
        case None:
            return ""
        case SecretStr():
            return str(value.get_secret_value())
        case bool():
            return str(value).lower()
        case dict():
            return ",".join(f"{key}:{one}" for key, one in value.items())
        case tuple() | list():
            return ",".join(map(str, value))
        case _:
            return str(value)
