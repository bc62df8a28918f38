"""One cell of an ablation, in a process of its own: train, evaluate, measure what it costs.

``python -m unet.ablation.run.cell RUN`` goes on where an interrupted one stopped.
"""

import os
from pathlib import Path

SPLIT = "test"


def is_finished(run) -> bool:
    """Whether everything has been measured."""
    metrics = run.metrics()
    return SPLIT in metrics and "cost" in metrics and run.counts_file(SPLIT).is_file()


def work(path: Path) -> None:
    """Bring the run directory at ``path`` to its end.

    Raises:
        InputError: Its configuration or data cannot be used.
        RunError: The training failed.
    """
    from unet.evaluation import evaluate
    from unet.runs import Run
    from unet.training import train

    run = Run.open(path)
    train(run)
    if SPLIT not in run.metrics() or not run.counts_file(SPLIT).is_file():
        evaluate(run, SPLIT)
    if "cost" not in run.metrics():
        run.write_metrics("cost", measure(run))


def measure(run) -> dict:
    """What a trained run costs beside its scores.

    Returns:
        ``parameters``, ``multiply_adds`` (for one image at the run's size), ``surplus_parameters`` and
        ``surplus_multiply_adds`` (of the upsamplers beyond the shared projection), ``images_per_second`` (training, the
        median of the epochs but the first), ``peak_memory_mib`` (training; of the GPU, else of the process),
        ``file_mib`` (best.keras), ``checkerboard`` (phase dependence of the logits, ``initial`` and ``trained``).
    """
    import statistics

    from unet import checkerboard, cost
    from unet.model import from_config, load_saved

    config, history = run.config, run.history()
    classes = len(run.info.classes)
    fixed = from_config(config, classes, fixed_size=True)
    total = cost.total(cost.stages(fixed))
    surplus = cost.surplus(fixed)
    trained = load_saved(run.best_file)
    return {
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "surplus_parameters": surplus[0],
        "surplus_multiply_adds": surplus[1],
        "images_per_second": statistics.median(row["images_per_second"] for row in history[1:] or history),
        "peak_memory_mib": max(row.get("peak_memory_mib", float("nan")) for row in history),
        "file_mib": run.best_file.stat().st_size / 2**20,
        "checkerboard": {
            "initial": checkerboard.of_network(from_config(config, classes), config.model.depth),
            "trained": checkerboard.of_network(trained, config.model.depth),
        },
    }


def stay_on_cores() -> None:
    """Keep to the processor cores in UNET_CORES, so that several workers on one CPU do not disturb each other."""
    if cores := os.environ.get("UNET_CORES"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


if __name__ == "__main__":
    import typer

    from unet import backend, console, interrupts

    def main(run: Path):
        """Bring a run to its end."""
        interrupts.listen_to_parent()
        stay_on_cores()
        backend.use_backend()
        work(run)

    console.run(lambda: typer.run(main))
