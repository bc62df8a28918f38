"""The command ``unet``, with one module for each subcommand.

To add a subcommand, write a module with a function ``main`` for typer, whose docstring is the help text, and add a line
to ``COMMANDS``. A module with subcommands of its own has a dictionary ``COMMANDS`` of such functions instead, and its
docstring is the help text. A module is imported only when its subcommand is called. It must not import Keras at import
time, and ``main`` checks its arguments and the configuration before it does, so that mistakes are reported at once.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup, TyperOption

from unet import console
from unet.commands import _completion
from unet.errors import InputError, nearest

COMMANDS = {
    "train": "Train a configuration, or resume an interrupted run.",
    "evaluate": "Score a run or an exported file on a split of its data.",
    "predict": "Segment images of any size with a run or an exported file.",
    "export": "Convert a run's network for another runtime and verify it there.",
    "ablate": "Train a grid of upsamplers and seeds, then report.",
    "compare": "Write the same report for any finished runs.",
    "summary": "Show the cost of a network, stage by stage.",
    "check-data": "List everything that is wrong with a data set.",
    "arithmetic": "Show sizes, padding and matrices of (transposed) convolutions.",
    "benchmark": "Measure time and memory of the upsamplers, or of training.",
    "demo": "Try networks on photographs in a browser.",
}


class _Commands(TyperGroup):
    """A group with one message for a name that it does not have."""

    def resolve_command(self, ctx, args):
        names = self.list_commands(ctx)
        if args[0] not in names:
            path = ctx.command_path
            hint = nearest(args[0], names)
            raise InputError(f"{path} has no command {args[0]!r}{hint} ({path} --help lists the commands)")
        return super().resolve_command(ctx, args)


class _Group(_Commands):
    """A group that imports a subcommand's module when the subcommand is called."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, cmd_name):
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"unet.commands.{cmd_name.replace('-', '_')}")
        app = typer.Typer(
            cls=_Commands,
            help=module.__doc__,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
        )
        if not hasattr(module, "COMMANDS"):
            app.command(cmd_name, short_help=COMMANDS[cmd_name])(module.main)
            (command,) = typer.main.get_group(app).commands.values()
            return command
        for name, function in module.COMMANDS.items():
            app.command(name)(function)
        return typer.main.get_group(app)

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from unet import __version__

        print(f"unet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error; allowed anywhere.")] = False,
):
    """Train U-Nets with different upsamplers, compare them, and export the best."""


def invoke(arguments: Sequence[str]) -> int:
    """Run ``unet`` with these arguments in this process.

    Args:
        arguments: What follows ``unet`` on the command line.

    Returns:
        The exit code, see :func:`unet.console.exit_code`.
    """
    command = typer.main.get_command(app)
    for parameter in command.params:
        if (
            isinstance(parameter, TyperOption) and parameter.name == "show_completion"
        ):  # typer's own text does not fit on a line
            parameter.help = "Print the completion script of the current shell."
    rest = [argument for argument in arguments if argument != "--debug"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # about images that can be read: large, or with odd metadata
        return console.exit_code(lambda: command.main(rest, prog_name="unet"), debug=len(rest) < len(arguments))


def main(*subcommand: str) -> None:
    """Run the command line of this process and exit; with ``main("train")`` it is that of ``unet train``."""

    def command() -> int:
        return invoke([*subcommand, *sys.argv[1:]])

    console.run(lambda: sys.exit(_completion.complete(command) if _completion.is_requested() else command()))
