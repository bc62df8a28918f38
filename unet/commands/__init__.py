"""The command ``unet``: one module per subcommand, loaded when it is called.

Adding one: a module with a function ``main`` for typer, whose docstring is the help, and a line in ``COMMANDS``.
"""

import importlib
import sys

import typer

from unet import console

COMMANDS = {
    "train": "Train a configuration, or continue an interrupted run.",
    "evaluate": "Score a run or an exported file on a split of its data.",
    "predict": "Segment images of any size with a run or an exported file.",
    "export": "Write a run's network for another runtime, and compare it there.",
    "ablate": "Train every cell of a grid of upsamplers and seeds, then report.",
    "compare": "Write the same report for any finished runs.",
    "summary": "Show what a configuration's network costs, stage by stage.",
    "check-data": "List everything that is wrong with a data set.",
    "arithmetic": "Sizes, paddings and matrices of (transposed) convolutions.",
    "benchmark": "Measure time and memory of the upsamplers.",
    "demo": "Try networks on photographs in a browser.",
}


def main(name: str | None = None) -> None:
    """Run the command line: ``unet NAME ...``, or one subcommand alone."""
    if name is None:
        if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
            print("\n".join(f"{key:11} {text}" for key, text in COMMANDS.items()))
            return
        name = sys.argv.pop(1)
    command = importlib.import_module(f"unet.commands.{name.replace('-', '_')}").main
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
    console.run(app)
