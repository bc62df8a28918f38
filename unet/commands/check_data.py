"""The command ``unet check-data``."""

from typing import Annotated

import typer

from unet.commands._arguments import Configuration, settings


def main(
    path: Configuration,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings to change, as in data.data_dir=DIR.", autocompletion=settings
        ),
    ] = None,
):
    """Read every image and mask of CONFIG's data, and list all errors and warnings.

    Errors (an unreadable image, a missing mask, a mask of the wrong size or with an undefined value) prevent training:
    exit code 2. Warnings (an empty mask, near-identical images in train and test) do not: exit code 0.

    unet check-data pets data.source=folder data.data_dir=my_data
    """
    from unet import config
    from unet.backend import use_backend
    from unet.console import say
    from unet.errors import InputError

    loaded = config.load(path, overrides or ())
    use_backend()
    from unet import data
    from unet.data import cache, checks

    source = data.make_source(loaded.data)
    problems = cache.inspect(source)
    errors = [problem for problem in problems if problem.fatal]
    warnings = [problem for problem in problems if not problem.fatal]
    for heading, group in (("error", errors), ("warning", warnings)):
        for problem in group:
            say(f"{heading}: {problem.kind}: {problem}")
    print(f"{source.count()} pairs read; {checks.summary(problems) or 'no problems found'}")
    if errors:
        raise InputError(f"{len(errors)} of these are errors; fix them before training")
