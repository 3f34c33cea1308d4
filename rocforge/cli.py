"""The command line: which commands there are, and how a fault is told. Each command is imported when it is used."""

import importlib
import logging
import sys
from collections.abc import Sequence

import click

from rocforge.commands import verbose
from rocforge.errors import RocForgeError

log = logging.getLogger(__name__)

# name: one line of help. The command is `name` in rocforge/commands/<name>.py; it is not imported for --help.
COMMANDS = {
    "generate": "Continue a text, or answer a question.",
    "explain": "Print what will run where, and what it costs.",
    "bench": "Time a model: tokens a second of prompts and of text.",
    "tune": "Find the best tiles for a GPU, or settings and blocking for a CPU, and keep them.",
    "probe": "Print the devices that are here, and which one would be used.",
}

USER_FAULT, CANCELLED = 2, 130


class _Commands(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"rocforge.commands.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rocforge", prog_name="rocforge")
@verbose
@click.pass_context
def cli(ctx: click.Context) -> None:
    """RocForge runs GGUF language models."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code. A user's fault is one line on stderr and exit code 2."""
    # A terminal that lacks a letter of the text shows "?" for it; it does not end the text.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    try:
        return cli.main(args, prog_name="rocforge", standalone_mode=False) or 0
    except RocForgeError as error:
        log.debug("raised here", exc_info=True)
        message = str(error)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "rocforge"
        message = f"{error.format_message()} See '{command} --help'."
    except click.Abort:
        return CANCELLED
    click.echo(f"rocforge: error: {message}", err=True)
    return USER_FAULT
