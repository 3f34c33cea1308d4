"""What the commands share: the flag that turns logging on. A command's other imports wait until it runs."""

import logging

import click


def _log(_ctx: click.Context, _param: click.Parameter, count: int) -> None:
    if count:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("rocforge").setLevel(logging.INFO if count == 1 else logging.DEBUG)


# Before the command's name or after it.
verbose = click.option(
    *("-v", "--verbose"),
    count=True,
    expose_value=False,
    show_default=False,
    callback=_log,
    help="Log what is done; -vv logs more.",
)
