"""What a trained run costs."""

import statistics

from unet import checkerboard, cost
from unet.model import from_config, load_saved
from unet.runs import Run


def measure(run: Run) -> dict:
    """Measure what a trained run costs, and the checkerboard pattern of its network.

    Returns:
        ``parameters``, ``multiply_adds`` (for one image of the run's size), ``surplus_parameters`` and
        ``surplus_multiply_adds`` (of the upsamplers, beyond the shared projection), ``images_per_second`` (training;
        median of all epochs but the first), ``peak_memory_mib`` (training; of the GPU, otherwise of the process),
        ``file_mib`` (best.keras), ``checkerboard`` (phase dependence of the logits, ``initial`` and ``trained``).
    """
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
