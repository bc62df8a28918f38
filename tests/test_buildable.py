"""Every configuration that is accepted can be built: random ones, drawn from the annotations of the sections."""

import types
import typing

import numpy as np
import pytest
from pydantic import ValidationError

from unet import upsamplers
from unet.config import AugmentationConfig, Config, DecoderConfig, LossConfig, ModelConfig, TrainingConfig
from unet.training.optimizer import make_optimizer
from unet.training.step import make_trainer

pytestmark = pytest.mark.backend_free
CLASSES = ("pet", "background", "border")


def draw(rng, annotation):
    """A value of the annotated type, at the edge of what is accepted or beyond it."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        part = parts[rng.integers(len(parts))]
        return None if part is types.NoneType else draw(rng, part)
    if origin is typing.Annotated:
        return draw(rng, parts[0])
    if origin is typing.Literal:
        return parts[rng.integers(len(parts))]
    if origin is tuple:
        length = rng.integers(1, 5) if parts[-1] is Ellipsis else len(parts)
        return [draw(rng, parts[0]) for _ in range(length)]
    if origin is dict:
        return {str(name): draw(rng, parts[1]) for name in rng.choice(CLASSES, rng.integers(1, 4), replace=False)}
    if annotation is bool:
        return bool(rng.integers(2))
    if annotation is int:
        return int(rng.integers(0, 10))
    return float(rng.choice([-0.75, -0.0, 0.0, 5e-324, 1e-6, 0.1, 0.5, 0.999, 1.0, 2.5, 1e30]))


def draw_accepted(rng, section, **given):
    """Values of a section that it accepts, most of them drawn."""
    while True:
        values = {
            name: draw(rng, field.annotation) for name, field in section.model_fields.items() if rng.random() < 0.6
        } | {name: make() for name, make in given.items()}
        try:
            return section.model_validate(values)
        except ValidationError:
            continue


def upsampler(rng):
    """A random upsampler with random options."""
    name = str(rng.choice(list(upsamplers.UPSAMPLERS)))
    options = {key: draw(rng, field.annotation) for key, field in upsamplers.options(name).items()}
    return {"name": name} | {key: value for key, value in options.items() if rng.random() < 0.7}


def decoder(rng):
    """Random options of a decoder other than its widths, which few encoders and upsamplers accept."""
    fields = {name: DecoderConfig.model_fields[name] for name in ("attention", "deep_supervision")}
    return {name: draw(rng, field.annotation) for name, field in fields.items() if rng.random() < 0.6}


def random_config(rng) -> Config:
    model = draw_accepted(
        rng, ModelConfig, depth=lambda: int(rng.integers(1, 4)), width=lambda: int(rng.integers(1, 9)),
        upsampler=lambda: upsampler(rng), decoder=lambda: decoder(rng),
        head=lambda: "softmax",  # the only one for three classes
    )  # fmt: skip
    sections = {"augmentation": AugmentationConfig, "loss": LossConfig, "training": TrainingConfig}
    drawn = {name: draw_accepted(rng, section) for name, section in sections.items()}
    return Config(model=model, **drawn)


def check_builds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    automatic = config.loss.class_weights == "auto"  # training puts in the weights of its data
    trainer = make_trainer(config.with_class_weights({}) if automatic else config, CLASSES)
    optimizer = make_optimizer(config.training, steps_per_epoch=int(rng.integers(1, 4)))
    size = (6, 6) if config.augmentation.rotate_90 else (5, 7)
    batch = {"image": rng.integers(0, 256, (2, *size, 3), dtype="uint8"), "mask": np.ones((2, *size), "uint8")}
    found = trainer(batch, training=True)
    assert tuple(found["logits"].shape) == (2, *size, len(CLASSES))
    assert tuple(trainer.segmentation_loss(found["mask"], found["logits"]).shape) == ()
    optimizer.build(trainer.trainable_variables)


@pytest.mark.parametrize("seed", range(6))
def test_an_accepted_configuration_builds(seed):
    check_builds(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 200))
def test_many_accepted_configurations_build(seed):
    check_builds(seed)
