"""Model, on paper, of data-parallel training on 1 to 64 H200: docs/results/scaling.md. ``make scaling`` runs it.

Nothing is timed: weights and multiply-adds are counted on the networks, and speeds are those of data sheets.
"""

from pathlib import Path

from unet import config, cost, data
from unet.benchmark.measuring import markdown_table
from unet.files import write_text
from unet.model import from_config

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "scaling.md"
CONFIGURATIONS = ("pets", "pets_encoder")
BATCHES = (32, 128)
"""Images per device and step."""
DEVICES = (1, 2, 8, 16, 64)
PER_HOST = 8
"""Devices of one host."""
PEAK = 989e12
"""Operations per second of an H200 in bfloat16, without sparsity (data sheet)."""
UTILIZATION = 0.45
"""Share of the peak that a step is assumed to reach on one device."""
WITHIN_HOST, BETWEEN_HOSTS = 450e9, PER_HOST * 50e9
"""Bytes per second around a ring of devices: NVLink, 900 GB/s in both directions; and 400 Gbit/s of each device of a
host at the same time, on rings that leave the host at different devices, as NCCL does."""
BYTES = 4
"""Size of a gradient in float32."""
BACKWARD = 2 / 3
"""Share of a step in which gradients become available, and can be sent."""
INTRODUCTION = f"""\
# Scaling of data-parallel training, on paper

A model, not a measurement. Every device computes the gradients of its own images, and a ring all-reduce sums them:
each of N devices sends 2·(N − 1)/N times the gradients, {BYTES} bytes per weight. A step takes 6 operations per
multiply-add and image, at {UTILIZATION:.0%} of {PEAK / 1e12:.0f} TFLOP/s (H200, bfloat16). Gradients travel at
{WITHIN_HOST / 1e9:.0f} GB/s within a host of {PER_HOST} devices (NVLink), and at {BETWEEN_HOSTS / 1e9:.0f} GB/s
between hosts (400 Gbit/s for each device). *Efficiency* is the speed per device relative to one device, if
gradients are sent after the step; *with overlap*, if they are sent during the backward pass, two thirds of the
step. Latencies, batch statistics and input are left out.
"""


def step_seconds(multiply_adds: int, batch: int) -> float:
    """Time of a training step: a multiply-add is two operations, and backward takes twice as many as forward."""
    return 6 * multiply_adds * batch / (PEAK * UTILIZATION)


def sent_bytes(parameters: int, devices: int) -> float:
    """Bytes that each device sends in a ring all-reduce of all gradients (Patarasuk and Yuan 2009)."""
    return 2 * (devices - 1) / devices * parameters * BYTES


def efficiency(step: float, transfer: float, overlap: float) -> float:
    """Speed per device relative to one device, if a share of the step can hide the transfer."""
    return step / (step + max(0.0, transfer - overlap * step))


def as_markdown() -> str:
    rows, counted = [], []
    for name in CONFIGURATIONS:
        loaded = config.load(name)
        network = from_config(loaded, len(data.recorded_class_names(loaded.data)), fixed_size=True)
        total = cost.total(cost.stages(network))
        counted.append(
            f"- `{name}`: {total.parameters / 1e6:.1f} million weights, "
            f"{total.multiply_adds / 1e9:.2f} billion multiply-adds per image"
        )
        for batch in BATCHES:
            step = step_seconds(total.multiply_adds, batch)
            for devices in DEVICES:
                sent = sent_bytes(total.parameters, devices)
                transfer = sent / (WITHIN_HOST if devices <= PER_HOST else BETWEEN_HOSTS)
                shares = (f"{efficiency(step, transfer, overlap):.0%}" for overlap in (0.0, BACKWARD))
                numbers = f"{sent / 1e6:.0f}", f"{1e3 * step:.2f}", f"{1e3 * transfer:.2f}"
                rows.append([f"`{name}`", str(batch), str(devices), *numbers, *shares])
    titles = ["configuration", "images per device", "devices", "MB sent", "step, ms", "transfer, ms"]
    titles += ["efficiency", "with overlap"]
    return "\n".join(
        [INTRODUCTION, *counted, "", *markdown_table(titles, rows, left=1), "", "Written by `make scaling`.", ""]
    )


if __name__ == "__main__":
    write_text(RESULTS, as_markdown())
