"""The optimizer and its learning-rate schedule."""

import keras

from unet.config import TrainingConfig


def make_optimizer(config: TrainingConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Build the optimizer with its learning-rate schedule, gradient clipping and weight averaging."""
    shared = {
        "learning_rate": make_schedule(config, steps_per_epoch),
        "global_clipnorm": config.clip_norm,
        "use_ema": config.ema is not None,
        "ema_momentum": config.ema or 0.99,
    }
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.momentum > 0, **shared)
    if config.optimizer == "adam":
        return keras.optimizers.Adam(**shared)
    optimizer = keras.optimizers.AdamW(weight_decay=config.weight_decay, **shared)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def make_schedule(config: TrainingConfig, steps_per_epoch: int):
    """Build the learning rate by step: linear warm-up from 0, then cosine decay to 0, or constant."""
    warmup = round(config.warmup * config.epochs * steps_per_epoch)
    if config.schedule == "constant":
        if not warmup:
            return config.learning_rate
        return keras.optimizers.schedules.PolynomialDecay(0.0, warmup, config.learning_rate)
    remaining = max(config.epochs * steps_per_epoch - warmup, 1)  # at least the one step that Keras requires
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, remaining)
    return keras.optimizers.schedules.CosineDecay(
        0.0, remaining, warmup_target=config.learning_rate, warmup_steps=warmup
    )
