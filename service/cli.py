"""The `flexihash` command line: finds the command that is asked for, and tells in a line what a user did wrong."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flexihash.service.commands.broker import broker
from flexihash.service.commands.dead_letters import dead_letters
from flexihash.service.commands.demo import demo
from flexihash.service.commands.embed import embed
from flexihash.service.commands.inspect import inspect
from flexihash.service.commands.learn import learn
from flexihash.service.commands.options import SETTINGS_NOTE, with_settings
from flexihash.service.commands.outcome import EXIT_USER
from flexihash.service.commands.produce import EXAMPLES, produce
from flexihash.service.commands.serve import serve
from flexihash.service.commands.verify import verify


class _Commands(TyperGroup):
    """The commands, of which the one that is called gets the options that are settings; the list does without."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The name, the command and the arguments for it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, complete(name), rest


app = typer.Typer(
    name="flexihash",
    cls=_Commands,
    help="Learn from a stream of JSON events while serving predictions and embeddings of it.\n\n"
    "New here? Run [bold]flexihash demo[/bold] and watch real flights being learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve", epilog=SETTINGS_NOTE)(serve)
app.command("learn")(learn)
app.command("embed")(embed)
app.command("produce", epilog=EXAMPLES)(produce)
app.command("inspect")(inspect)
app.command("verify", epilog=SETTINGS_NOTE)(verify)
app.command("dead-letters", epilog=SETTINGS_NOTE)(dead_letters)
app.command("demo")(demo)
app.command("broker")(broker)


def complete(name: str | None) -> Any:
    """A command with all of its options."""
    (info,) = (info for info in app.registered_commands if info.name == name)
    assert info.callback is not None
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    alone.command(name, epilog=info.epilog)(with_settings(info.callback))
    return typer.main.get_command(alone)


def main() -> None:
    """Entry point of the `flexihash` command: what a user did wrong is told in a line and ends with exit code 2."""
    try:
        app(prog_name="flexihash")  # as `python -m flexihash` too
    except Exception as error:
        if not (lines := explain(error)):
            raise
        for line in lines:
            print(f"flexihash: {line}", file=sys.stderr)
        sys.exit(EXIT_USER)


def explain(error: Exception) -> list[str]:
    """Lines for an error that tells a user what to mend; none for a fault of ours, which deserves its traceback."""
    from flexihash.consumer.consumer_errors import ConsumerError
    from flexihash.model.model_errors import ModelError
    from flexihash.producer.producer_errors import ProducerError
    from flexihash.service.advice import advise
    from flexihash.service.service_errors import ServiceError

    if isinstance(error, ServiceError | ModelError | ConsumerError | ProducerError):
        return advise(error).splitlines()
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return [f"{error.filename}: {error.strerror.lower()}"]
    return []


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"flexihash {version('flexihash')}")
        raise typer.Exit


@app.callback()
def _flexihash(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass
