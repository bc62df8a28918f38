"""Short names of variants and run directories, by what distinguishes their configurations."""

import hashlib
import json
import re

from unet.config import Config, ModelConfig
from unet.settings import flattened

MAX_VARIANT = 150
"""Most characters of a variant in the name of a run directory."""
ALONE = ("model.upsampler", "model.encoder")
"""Keys whose values are names that say enough without the key."""


def label_configs(configs: list[Config]) -> list[str]:
    """Short names of configurations by what distinguishes them, apart from seeds and names.

    The upsampler or the encoder alone if it is enough to tell the variants apart, otherwise every key that differs:
    ``carafe, data.size=96``. Settings that have the encoder's own default, such as its depth, go without saying.
    """
    flat = [flattened(config.model_dump(mode="json"), whole=("model.upsampler",)) for config in configs]
    implied = set.intersection(*map(_implied, configs)) if configs else set()
    keys = [
        key
        for key in dict.fromkeys(key for values in flat for key in values)
        if key not in ("seed", "name", "tracking", *implied)
        and len({json.dumps(values.get(key)) for values in flat}) > 1
    ]
    variants = [tuple(json.dumps(values.get(key)) for key in keys) for values in flat]
    for key in ALONE:
        names = [_as_text(values[key]) for values in flat]
        if len(set(zip(variants, names))) == len(set(names)):
            return names
    return [
        ", ".join(
            _as_text(values[key]) if key == "model.upsampler" else f"{key}={_as_text(values.get(key))}"
            for key in sorted(keys, key=lambda key: key != "model.upsampler")
            if key in values
        )
        for values in flat
    ]


def _implied(config: Config) -> set[str]:
    """Keys of the model whose values are defaults that follow from its encoder."""
    model = config.model
    given = {"encoder": model.encoder}
    return {
        f"model.{name}"
        for name, field in ModelConfig.model_fields.items()
        if field.default_factory_takes_validated_data
        and getattr(model, name) == field.get_default(call_default_factory=True, validated_data=given)
    }


def run_name(variant: str, seed: int) -> str:
    """Name of a cell's run directory: ``conv_transpose-kernel_size-4-seed0``; a long one ends with a digest."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", variant).strip("-")
    if len(name) > MAX_VARIANT:
        name = f"{name[:MAX_VARIANT]}-{hashlib.sha256(variant.encode()).hexdigest()[:8]}"
    return f"{name}-seed{seed}"


def _as_text(value) -> str:
    """A value in short notation: ``96``, ``96×160``, ``conv_transpose kernel_size=4``."""
    if isinstance(value, dict) and "name" in value:
        return " ".join([value["name"], *(f"{key}={_as_text(v)}" for key, v in value.items() if key != "name")])
    if isinstance(value, list | tuple):
        return str(value[0]) if len(set(value)) == 1 else "×".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
