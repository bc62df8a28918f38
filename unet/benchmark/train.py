"""Speed and memory of training steps: backends, precisions, upsamplers and batch sizes, also against plain PyTorch.

Every case has a process of its own. All of them take turns within a round, so that whatever slows the machine slows all
alike; a round of one case is a few steps on random images, and the first round is not counted.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from unet import data
from unet.benchmark.measuring import fresh_process, markdown_table
from unet.config import Config
from unet.errors import RunError

PLAIN = "PyTorch program"
"""Name of the program that is not one of this package's backends."""
SKIPPED = 2
"""Steps at the beginning of every round that are not timed."""
PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "T4": 65}
"""Largest 10¹² operations per second with 16-bit numbers, dense, by NVIDIA's data sheets; part of the device's name."""


@dataclass(frozen=True)
class Case:
    """What is measured together."""

    program: str
    """A backend, or ``PLAIN``."""
    config: Config


@dataclass
class Measurement:
    """Speed of one case."""

    program: str
    precision: str
    upsampler: str
    batch_size: int
    compiled: bool
    """By XLA, or ``torch.compile``."""
    rounds: list[float] = field(default_factory=list)
    """Seconds per step of every round."""
    rounds_without_input: list[float] = field(default_factory=list)
    """The same if every step gets the same batch, which is in memory already."""
    multiply_adds: int = 0
    """Of the network's forward pass for one image."""
    peak_mib: float = 0.0
    """Peak memory on the GPU, or else of the whole process."""
    device: str = ""
    remat: bool = False
    """Whether the gradient computes activations again."""

    @property
    def images_per_second(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.batch_size / seconds for seconds in self.rounds)

    @property
    def waiting(self) -> float | None:
        """Share of the time that the steps wait for their batch; ``None`` for the PyTorch program, which reads none."""
        if not self.rounds_without_input:
            return None
        pairs = zip(self.rounds, self.rounds_without_input, strict=True)
        return statistics.median(1 - without / with_input for with_input, without in pairs)

    @property
    def utilization(self) -> float | None:
        """Share of the device's operations per second that are the network's multiply-adds (MFU).

        A multiply-add is two operations, and the backward pass has twice the work of the forward pass. ``None`` for
        float32, and on devices that are not in ``PEAK_TFLOPS``.
        """
        peak = next((value for name, value in PEAK_TFLOPS.items() if name in self.device), None)
        if peak is None or self.precision == "float32":
            return None
        return 6 * self.multiply_adds * self.images_per_second / (peak * 1e12)

    def speed(self, reference: "Measurement") -> tuple[float, float, float]:
        """Speed divided by that of a reference: median, least and largest ratio of a round."""
        ratios = [theirs / ours for ours, theirs in zip(self.rounds, reference.rounds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def run(cases: list[Case], rounds: int, steps: int) -> Iterator[list[Measurement]]:
    """Measure all cases; after every round yield what has been measured so far.

    Args:
        cases: The cases.
        rounds: Number of rounds.
        steps: Timed steps of a case in a round.

    Raises:
        RunError: The process of a case has ended.
        InputError: There is no PyTorch program for a network.
    """
    with contextlib.ExitStack() as stack:
        try:
            processes = [stack.enter_context(_process(case)) for case in cases]
            started: dict[int, Measurement] = {}
            for index in sorted(range(len(cases)), key=lambda index: cases[index].program != PLAIN):  # it may not exist
                started[index] = processes[index].submit(_start, cases[index], steps).result()
                processes[index].submit(_round).result()
            found = [started[index] for index in range(len(cases))]
            for _ in range(rounds):
                for one, process in zip(found, processes):
                    seconds, without_input, one.peak_mib = process.submit(_round).result()
                    one.rounds.append(seconds)
                    if without_input is not None:
                        one.rounds_without_input.append(without_input)
                yield found
        except BrokenProcessPool as error:
            raise RunError("a process of the benchmark has ended, probably as memory was exhausted") from error


def _process(case: Case) -> contextlib.AbstractContextManager[ProcessPoolExecutor]:
    """A process with the case's backend."""
    backend = "torch" if case.program == PLAIN else case.program
    return fresh_process(KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3")


_round_of: Callable[[], tuple[float, float | None]]
"""In the process of a case: takes the steps of a round."""


def _round() -> tuple[float, float | None, float]:
    """Seconds per step, the same without input, and the peak memory in MiB."""
    from unet import backend

    return *_round_of(), backend.peak_memory()


def _start(case: Case, steps: int) -> Measurement:
    """Prepare the process of a case."""
    global _round_of
    from unet import backend, cost
    from unet.model import from_config

    config, training = case.config, case.config.training
    network = from_config(config, len(data.recorded_class_names(config.data)), fixed_size=True)
    make = _plain if case.program == PLAIN else _ours
    compiled, _round_of = make(config, network, steps)
    return Measurement(
        case.program,
        training.precision,
        config.model.upsampler.name,
        training.images_per_step,
        compiled,
        multiply_adds=cost.total(cost.stages(network)).multiply_adds,
        device=backend.device_name(),
        remat=training.remat and case.program != PLAIN,
    )


def _ours(config: Config, network, steps: int):
    """Whole steps of this package in ``fit``: augmentation, network, loss, metric, optimizer."""
    import keras

    from unet.data.batches import Batches
    from unet.data.noise import noise
    from unet.data.resident import resident
    from unet.training.callbacks import CallbackList
    from unet.training.optimizer import make_optimizer
    from unet.training.step import compiles, make_trainer

    class Clock(keras.callbacks.Callback):
        """Time from the end of the skipped steps to that of the last; reading the loss waits for the device."""

        started = seconds = 0.0

        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 in (SKIPPED, SKIPPED + steps):
                float(logs["loss"])
                now = time.perf_counter()
                self.started, self.seconds = now, now - self.started

    class Same(keras.utils.PyDataset):
        """One batch again and again."""

        def __init__(self, batch):
            super().__init__()
            self.batch = batch

        def __len__(self):
            return SKIPPED + steps

        def __getitem__(self, index):
            return self.batch

    classes = network.output_shape[-1]
    size = config.training.images_per_step
    split = resident(noise(config.data, (SKIPPED + steps) * size, classes))
    names = tuple(str(index) for index in range(classes))
    trainer = make_trainer(config, names)
    trainer.compile(make_optimizer(config.training, steps_per_epoch=len(split) // size), jit_compile=compiles(config))
    clock = Clock()

    def timed(batches) -> float:
        trainer.fit(batches, callbacks=CallbackList([clock], add_history=True, model=trainer), shuffle=False, verbose=0)
        return clock.seconds / steps

    def take_round():
        return timed(Batches(split, size, shuffle_seed=0)), timed(Same(Batches(split, size)[0]))

    return compiles(config), take_round


def _plain(config: Config, network, steps: int):
    """Steps of the PyTorch program: network, loss and optimizer."""
    import torch

    from unet.benchmark.torch_program import training_step
    from unet.data.noise import noise

    compiled = torch.cuda.is_available()
    size = config.training.images_per_step
    images, masks = noise(config.data, size, network.output_shape[-1]).read(slice(None))
    step = training_step(network, config, compiled)

    def take_round():
        for _ in range(SKIPPED):
            float(step(images, masks))
        start = time.perf_counter()
        for _ in range(steps):
            loss = step(images, masks)
        float(loss)
        return (time.perf_counter() - start) / steps, None

    return compiled, take_round


def groups(found: list[Measurement]) -> list[list[Measurement]]:
    """Measurements that are compared; in each group the reference is first: the PyTorch program if there is one."""
    by_group: dict[tuple, list[Measurement]] = {}
    for one in found:
        by_group.setdefault((one.precision, one.upsampler, one.batch_size), []).append(one)
    return [sorted(members, key=lambda one: one.program != PLAIN) for members in by_group.values()]


def table(found: list[Measurement], on_gpu: bool) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: speed relative to the reference of its group, on a GPU images per second as well."""
    titles = ["program", "precision", "upsampler", "batch", "speed", "waiting", "peak MiB"]
    rows = []
    for members in groups(found):
        for one in members:
            median, low, high = one.speed(members[0])
            speed = "1 (reference)" if one is members[0] else f"{median:.2f} ({low:.2f}–{high:.2f})"
            name = one.program + ", compiled" * one.compiled + ", remat" * one.remat
            waiting = "–" if one.waiting is None else f"{100 * one.waiting:.1f} %"
            row = [name, one.precision, one.upsampler, str(one.batch_size), speed, waiting, f"{one.peak_mib:.0f}"]
            if on_gpu:
                share = "–" if one.utilization is None else f"{100 * one.utilization:.0f} %"
                row += [f"{one.images_per_second:.0f}", share]
            rows.append(row)
    return [*titles, *(["images/s", "MFU"] if on_gpu else [])], rows


def as_markdown(found: list[Measurement], environment: dict[str, Any], config: Config, on_gpu: bool) -> str:
    """Table and its explanation as Markdown."""
    titles, rows = table(found, on_gpu)
    height, width = config.data.size
    model = f"{config.model.encoder} encoder, width {config.model.width}, {height}×{width}"
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = [
        "# Speed of training",
        "",
        f"Whole training steps on {environment['device']} ({environment['cpu_count']} cores): {model}; "
        f"{len(found[0].rounds)} rounds in which all programs take turns. {versions}.",
        "Written by `unet benchmark train`.",
        "",
        "- **speed**: images per second divided by those of the reference; median of the rounds, with the least and",
        "  largest. The PyTorch program has the same layers, loss and optimizer in channels-last memory, compiled by",
        "  `torch.compile` on a GPU. It neither augments nor counts a metric.",
        "- **waiting**: share of the time in which steps wait for their batch, found by giving them one that is in",
        "  memory already; it can be slightly negative by chance.",
        f"- **peak MiB**: largest memory {'on the GPU' if on_gpu else 'of the process, libraries included'}.",
        *(["- **MFU**: the network's multiply-adds per second, as a share of what the GPU can do."] if on_gpu else []),
        "",
        *markdown_table(titles, rows, left=3),
    ]
    return "\n".join(lines) + "\n"
