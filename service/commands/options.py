"""Options of commands: those that are settings have the name, type, default and help of the setting."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from enum import Enum
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from flexihash.consumer.formats.reader import Format

Command = Callable[..., None]
Mark = TypeVar("Mark")

SETTINGS_NOTE = (
    "Every option is also an environment variable, --topic as FLEXIHASH_TOPIC, say; "
    "docs/settings.md lists these and all the others."
)
RATE = "N|max"
SINGLE_BREAK = re.compile(r"(?<!\n)\n(?!\n)")
EventsFile = Annotated[
    Path,
    typer.Argument(
        help="A table (CSV, TSV, Parquet) or events, one JSON object a line (NDJSON); packed by zstd where the name "
        "ends in .zst, gzipped where the name ends in .gz; - reads standard input.",
        metavar="FILE|-",
    ),
]
FileFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="What the file holds, where neither its name nor its first bytes say it.",
        metavar="ndjson|csv|parquet",
        show_default=False,
    ),
]
AS_THEY_ARE = (bool, int, float, Path)  # the types that are read from the command line; all others by the setting


OF_LEARNING = (
    "task",
    "quantile",
    "n_rows",
    "envelope",
    "label_field",
    "targets",
    "positive_labels",
    "label_rule",
    "features_field",
    "weight_field",
    "id_field",
    "ignored_features",
    "categorical_features",
    "numeric_features",
    "time_features",
    "time_zone",
    "text_features",
    "missing_features",
    "crosses",
    "max_classes",
)
"""The settings of what is learned, and from what: options of whoever learns, from a file or a topic."""


def takes(*settings: str) -> Callable[[Command], Command]:
    """Give a command options for these settings.

    The command gets them as keywords, None for what was not given. The options are made only when the command is
    called, or asked for its help: they take settings, and pydantic with them.
    """

    def mark(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        parameters = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        vars(command).update(__signature__=own.replace(parameters=parameters), settings=settings)
        return command

    return mark


def with_settings(command: Command) -> Command:
    """The command, with an option for each setting that it takes in the signature that Typer reads."""

    @wraps(command)
    def complete(*positional: Any, **named: Any) -> None:
        command(*positional, **named)

    complete.__doc__ = SINGLE_BREAK.sub(" ", inspect.getdoc(command) or "")  # Typer breaks lines where the source does
    own = inspect.signature(command, eval_str=True)
    options = [_describe_option(name) for name in vars(command).get("settings", ())]
    vars(complete)["__signature__"] = own.replace(parameters=[*own.parameters.values(), *options])
    return complete


def _describe_option(name: str) -> inspect.Parameter:
    from flexihash.service.setting_types import Panel
    from flexihash.service.settings import Settings

    field = Settings.model_fields[name]
    kind = _find_type(field)
    flag = name.replace("_", "-")
    panel = _find_mark(field, Panel)
    option = typer.Option(
        f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}",
        help=field.description,
        show_default=_describe_default(field),
        metavar=_describe_value(field),
        rich_help_panel=panel.title if panel else None,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _find_type(field: FieldInfo) -> Any:
    """The type that Typer reads; text where it would read the value otherwise than the setting, or not at all."""
    kind = _require_value(field)
    return kind if kind in AS_THEY_ARE else str


def _require_value(field: FieldInfo) -> Any:
    """The type of a setting, without the None of one that may have no value."""
    kinds = [one for one in get_args(field.annotation) if one is not NoneType]
    return kinds[0] if NoneType in get_args(field.annotation) else field.annotation


def _describe_default(field: FieldInfo) -> str | bool:
    from flexihash.service.settings import describe_default

    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    return describe_default(field) or False


def _describe_value(field: FieldInfo) -> str | None:
    """The choices, where there are any, or what the setting's type says."""
    from flexihash.service.setting_types import Metavar

    kind = _require_value(field)
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(one.value for one in kind)
    metavar = _find_mark(field, Metavar)
    return metavar.text if metavar else None


def _find_mark(field: FieldInfo, kind: type[Mark]) -> Mark | None:
    return next((one for one in field.metadata if isinstance(one, kind)), None)


def parse_format(text: str | None) -> Format | None:
    """The format of a file; None where its name or its first bytes say it.

    Raises:
        BadParameter: there is no such format.
    """
    from flexihash.consumer.formats.reader import Format

    if text is not None and text not in [*Format]:
        raise typer.BadParameter(f"{text} is none of {', '.join(Format)}", param_hint="--format")
    return Format(text) if text is not None else None


def parse_rate(text: str) -> float | None:
    """Events a second; None for as many as the broker takes.

    Raises:
        BadParameter: it is no such number.
    """
    if text == "max":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise typer.BadParameter(f"{text} is not a number of events above 0, nor max", param_hint="--rate")
    return rate
