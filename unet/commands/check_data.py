"""The command ``unet check-data``."""

from pathlib import Path
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
    every: Annotated[
        bool, typer.Option("--all", help="List every file of an error or warning that many files have.")
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also draw some images under their masks: .png, or .html with all that is found."
        ),
    ] = None,
):
    """Read every image and mask of CONFIG's data, and print what they hold and all errors and warnings.

    Errors (an unreadable image, a missing mask, a mask of the wrong size or with an undefined value) prevent training:
    exit code 2. Warnings (an empty mask, near-identical images in train and test) do not: exit code 0.

    unet check-data pets data.source=folder data.data_dir=my_data
    """
    from unet import config
    from unet.backend import use_backend
    from unet.console import say
    from unet.errors import InputError, shortened

    if sheet is not None and sheet.suffix.lower() not in (".png", ".html"):
        raise InputError(f"must end in .png or .html, received {shortened(str(sheet))}", "sheet")
    loaded = config.load(path, overrides or ())
    use_backend()
    from unet import data
    from unet.colours import chosen_colours
    from unet.data import cache, checks
    from unet.data.heads import head_of
    from unet.files import write_text
    from unet.sheet import as_html
    from unet.tables import contents_table

    source = data.make_source(loaded.data)
    head = head_of(loaded.model.head)
    contents = checks.Contents(source.classes, head)
    examples = checks.Examples(source.count(), head=head)

    def use(sample: data.Sample) -> None:
        contents.add(sample)
        if sheet is not None:
            examples.add(sample)

    problems = cache.inspect(source, use)
    errors = [problem for problem in problems if problem.fatal]
    warnings = [problem for problem in problems if not problem.fatal]
    for heading, group in (("error", errors), ("warning", warnings)):
        for problem in group if every else checks.grouped(group):
            say(f"{heading}: {problem.kind}: {problem}")
    if any(contents.images.values()):
        for line in contents.lines():
            say(line)
        contents_table(contents.rows(), "labels" if head.labels else "classes")
    print(f"{source.count()} pairs read; {checks.summary(problems) or 'no problems found'}")
    if sheet is not None and (chosen := examples.chosen()):
        colours = head.table(chosen_colours(source.classes, loaded.data.colors or {}))
        if sheet.suffix.lower() == ".png":
            _draw(chosen, source.classes, colours, sheet, head)
        else:
            title = loaded.data.data_dir.name if loaded.data.data_dir else loaded.data.source
            shown = problems if every else checks.grouped(problems)
            write_text(sheet, as_html(title, contents, chosen, shown, colours))
        say(f"contact sheet: {sheet}")
    if errors:
        raise InputError(f"{len(errors)} of these are errors; fix them before training")


def _draw(samples, classes: tuple[str, ...], colours, path: Path, head) -> None:
    """Write a contact sheet."""
    from unet import figures

    examples = [(f"{sample.name} ({sample.split})", sample.image, sample.mask) for sample in samples]
    figures.save_picture(figures.contact_sheet(examples, classes, colours, head=head), path)
