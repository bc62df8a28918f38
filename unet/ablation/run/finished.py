"""Which runs are finished, and runs arranged by variant and seed."""

from dataclasses import dataclass

from unet.ablation.plan.labels import label_configs
from unet.errors import InputError, nearest
from unet.runs import Run

SPLIT = "test"
"""The split on which runs are compared."""


def is_finished(run: Run) -> bool:
    """Whether a run has been trained and evaluated, and its cost measured."""
    metrics = run.metrics()
    return SPLIT in metrics and "cost" in metrics and run.counts_file(SPLIT).is_file()


@dataclass(frozen=True)
class RunsByVariant:
    """Runs by variant and seed."""

    runs: dict[tuple[str, int], Run]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    """Seeds that every variant has."""

    @property
    def shown(self) -> dict[str, Run]:
        """One run of each variant, with the first common seed."""
        return {variant: self.runs[variant, self.seeds[0]] for variant in self.variants}

    def check_baseline(self, name: str | None) -> str:
        """Return the name of the baseline, the first variant for ``None``.

        Raises:
            InputError: There is no such variant.
        """
        if name is None:
            return self.variants[0]
        if name not in self.variants:
            choices = ", ".join(self.variants)
            raise InputError(f"{name!r} is not one of {choices}{nearest(name, self.variants)}", argument="baseline")
        return name


def arrange(runs: list[Run]) -> RunsByVariant:
    """Group runs by what distinguishes their configurations, and by seed.

    Raises:
        InputError: The runs cannot be compared; the message says why and what to do.
    """
    configs = [run.config for run in runs]
    labels = label_configs(configs)
    found: dict[tuple[str, int], Run] = {}
    for run, config, variant in zip(runs, configs, labels, strict=True):
        if other := found.get((variant, config.seed)):
            raise InputError(f"{other.path} and {run.path} have the same configuration and seed {config.seed}")
        found[variant, config.seed] = run
    variants = tuple(dict.fromkeys(labels))
    if len(variants) < 2:
        raise InputError(
            f"nothing to compare: {len(runs)} run{'s' if len(runs) != 1 else ''} of a single variant; "
            "runs of at least two variants are needed"
        )
    seeds = dict.fromkeys(config.seed for config in configs)
    common = tuple(seed for seed in seeds if all((variant, seed) in found for variant in variants))
    if not common:
        have = "; ".join(f"{v}: {', '.join(str(s) for w, s in found if w == v)}" for v in variants)
        raise InputError(f"no seed is common to all variants, and runs are compared seed by seed (seeds: {have})")
    return RunsByVariant(found, variants, common)
