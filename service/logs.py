"""Logs of every process: structlog over the standard library, on stderr, for people or as JSON lines."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from flexihash.service.settings import Settings

# A line per request, or several a second while the broker is away; what matters of it is raised, and logged by us.
QUIET_LOGGERS = ("kafka", "uvicorn.access", "httpx", "httpcore", "numba")
HIDDEN = "(not shown)"


def configure_logs(settings: Settings, process: str) -> None:
    """Send all logs of this process to stderr; every line carries the name `process`.

    Secrets in `settings` never appear in a line, whoever logs it. Uncaught exceptions are logged as one line too.
    """
    shared = _shared_processors(process)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        HidingFormatter(
            _secrets_of(settings),
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings.log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    _route_libraries(settings.log_level)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


class HidingFormatter(structlog.stdlib.ProcessorFormatter):
    """Formatter that takes secrets out of the finished line, however they are written in it.

    As they are, as repr writes them as text and as bytes (kafka-python logs its requests so), and all that in JSON.
    """

    def __init__(self, secrets: list[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        written = {form for secret in secrets for form in _write(secret)}
        in_json = {json.dumps(form, ensure_ascii=is_ascii)[1:-1] for form in written for is_ascii in (True, False)}
        self._secrets = sorted(written | in_json, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        return line


def _write(secret: str) -> Iterator[str]:
    yield secret
    for form in (repr(secret)[1:-1], repr(secret.encode())[2:-1]):
        yield form
        yield form.replace("\\'", "'")  # repr escapes ' only where there is " as well


def _shared_processors(process: str) -> list[Processor]:
    def add_process(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        event.pop("color_message", None)  # uvicorn says everything a second time, for terminals
        event["process"] = process
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        add_process,
    ]


def _renderers(log_format: str) -> list[Processor]:
    is_terminal = sys.stderr.isatty()
    if log_format == "console" or (log_format == "auto" and is_terminal):
        # Plain tracebacks: the pretty ones print local variables, and with them secrets and users' data.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain, pad_event_to=0)]
    return [
        structlog.processors.format_exc_info,
        _put_event_first,
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
    ]


def _put_event_first(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    first = ("timestamp", "level", "process", "event")
    return {key: event[key] for key in sorted(event, key=lambda key: first.index(key) if key in first else len(first))}


def _secrets_of(settings: Settings) -> list[str]:
    return [secret.get_secret_value() for secret in (settings.api_token, settings.sasl_password) if secret]


def _route_libraries(level: str) -> None:
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.CRITICAL)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    info: ExcInfo | Any = (kind, error, traceback)
    structlog.stdlib.get_logger("crash").critical(f"crashed: {error}", exc_info=info)
