"""The optimizer and its learning-rate schedule."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from unet.config import TrainingConfig
from unet.encoders.weights import is_encoder_variable


def make_optimizer(config: TrainingConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Build the optimizer with its learning-rate schedule, gradient clipping and weight averaging.

    Args:
        config: Training section of the configuration.
        steps_per_epoch: Number of batches; several of them make an update if gradients are accumulated.
    """
    shared = {
        "learning_rate": make_schedule(config, steps_per_epoch // config.accumulate),
        "global_clipnorm": config.clip_norm,
        "use_ema": config.ema is not None,
        "ema_momentum": config.ema or 0.99,
    }
    sgd, adam, adamw = keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW
    if config.encoder_learning_rate != 1 or config.freeze_epochs or config.accumulate > 1:
        sgd, adam, adamw = FineTuningSGD, FineTuningAdam, FineTuningAdamW
        shared["encoder_factor"] = config.encoder_learning_rate
        shared["gradient_accumulation_steps"] = config.accumulate if config.accumulate > 1 else None
    if config.optimizer == "sgd":
        return sgd(momentum=config.momentum, nesterov=config.momentum > 0, **shared)
    if config.optimizer == "adam":
        return adam(**shared)
    optimizer = adamw(weight_decay=config.weight_decay, **shared)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def make_schedule(config: TrainingConfig, steps_per_epoch: int):
    """Build the learning rate by update: linear warm-up from 0, then cosine decay to 0, or constant."""
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


class FineTuning(keras.optimizers.Optimizer):
    """Mixin for optimizers of Keras with what the training of large pretrained networks needs.

    The weights of the encoder, for which :func:`unet.encoders.weights.is_encoder_variable` is true, are treated
    differently. Their learning rate, and with it their weight decay, is multiplied by a factor. While they are frozen
    they do not change, and neither do their moments; the number of their own updates corrects the bias of the moments.
    All this is what PyTorch does with parameter groups and with parameters without a gradient.

    If gradients are accumulated, learning-rate schedule and moving averages count updates; in Keras they count batches.

    Args:
        encoder_factor: Factor of the encoder's learning rate.
        **kwargs: Arguments of the optimizer.

    Attributes:
        frozen: Whether the encoder's weights keep their values. It takes effect when a step is traced, so a model's
            train function must be made again after a change.
    """

    weight_decay: float | None

    def __init__(self, *args, encoder_factor: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.encoder_factor = encoder_factor
        self.frozen = False
        self._counts_encoder = False

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._encoder_iterations = self.add_variable((), dtype="int", name="encoder_iteration")

    @property
    def iterations(self):
        return self._encoder_iterations if self._counts_encoder else super().iterations

    def _get_current_learning_rate(self):
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def _filter_empty_gradients(self, grads, variables):
        if self.frozen:
            rest = [(grad, variable) for grad, variable in zip(grads, variables) if not is_encoder_variable(variable)]
            grads, variables = zip(*rest)
        return super()._filter_empty_gradients(grads, variables)

    def _apply_weight_decay(self, variables):
        weight_decay = self.weight_decay
        for encoder in (False, True):
            group = [v for v in variables if is_encoder_variable(v) == encoder and self._use_weight_decay(v)]
            if weight_decay is not None and group:
                self.weight_decay = weight_decay * (self.encoder_factor if encoder else 1)
                super()._apply_weight_decay(group)
        self.weight_decay = weight_decay

    def _backend_update_step(self, grads, variables, learning_rate):
        for encoder in (False, True):
            pairs = [(grad, v) for grad, v in zip(grads, variables) if is_encoder_variable(v) == encoder]
            if not pairs:
                continue
            group_grads, group = map(list, zip(*pairs))
            if not encoder:
                super()._backend_update_step(group_grads, group, learning_rate)
                continue
            with self._counting_encoder():
                super()._backend_update_step(group_grads, group, learning_rate * self.encoder_factor)
            self._encoder_iterations.assign_add(1)

    @contextlib.contextmanager
    def _counting_encoder(self) -> Iterator[None]:
        """Let ``iterations`` be the number of updates of the encoder."""
        self._counts_encoder = True
        try:
            yield
        finally:
            self._counts_encoder = False

    def _update_model_variables_moving_average(self, variables):
        """Average as Keras does, but at updates only, and keep the averages of frozen weights equal to these."""
        if not self.use_ema:
            return
        momentum = ops.multiply(ops.cast(ops.not_equal(self.iterations, 0), "float32"), self.ema_momentum)
        if self.gradient_accumulation_steps:
            updated = ops.equal((self._iterations + 1) % self.gradient_accumulation_steps, 0)
            momentum = ops.where(updated, momentum, 1.0)
        for variable, average in zip(variables, self._model_variables_moving_average):
            keep = ops.zeros_like(momentum) if self.frozen and is_encoder_variable(variable) else momentum
            average.assign(ops.add(ops.multiply(keep, average), ops.multiply(ops.subtract(1, keep), variable)))

    def get_config(self):
        return super().get_config() | {"encoder_factor": self.encoder_factor}


def _of_backend(optimizer: Any) -> Any:
    """The class that Keras makes an instance of: on PyTorch, a faster subclass."""
    return type(optimizer.__new__(optimizer))


SGD: Any = _of_backend(keras.optimizers.SGD)
Adam: Any = _of_backend(keras.optimizers.Adam)
AdamW: Any = _of_backend(keras.optimizers.AdamW)


@keras.saving.register_keras_serializable("unet")
class FineTuningSGD(FineTuning, SGD):
    """SGD with a learning rate of its own for the encoder."""


@keras.saving.register_keras_serializable("unet")
class FineTuningAdam(FineTuning, Adam):
    """Adam with a learning rate of its own for the encoder."""


@keras.saving.register_keras_serializable("unet")
class FineTuningAdamW(FineTuning, AdamW):
    """AdamW with a learning rate of its own for the encoder."""
