"""One cell of an ablation, in a process of its own: train, evaluate, measure what it costs.

``python -m unet.ablation.run.cell RUN`` finishes a run directory, resuming from its last checkpoint.
"""

from pathlib import Path

from unet.ablation.run.finished import SPLIT
from unet.runs import Run


def finish(path: Path) -> None:
    """Train, evaluate and measure the run in ``path``, as far as that has not been done yet.

    Raises:
        InputError: Its configuration or data cannot be used.
        RunError: The training failed.
    """
    from unet.ablation.run import costs
    from unet.evaluation import evaluate
    from unet.training import train

    run = Run.open(path)
    train(run)
    if SPLIT not in run.metrics() or not run.counts_file(SPLIT).is_file():
        evaluate(run, SPLIT)
    if "cost" not in run.metrics():
        run.write_metrics("cost", costs.measure(run))


if __name__ == "__main__":
    import typer

    from unet import backend, console
    from unet.ablation.run.devices import stay_on_cores

    def main(run: Path):
        """Finish a run."""
        stay_on_cores()
        backend.use_backend()
        finish(run)

    console.run(lambda: typer.run(main))
