"""The compiled training step: augmentation, network, loss and training metrics in one Keras model."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from unet.config import Config
from unet.data.augmentation import Augmentation
from unet.data.sources import IGNORE
from unet.gradients import fusing
from unet.losses import SegmentationLoss, bits
from unet.model import from_config
from unet.training.deep_supervision import stage_loss, with_stage_logits
from unet.training.freezing import with_frozen_encoder
from unet.training.remat import with_remat


def make_trainer(config: Config, classes: tuple[str, ...]) -> "SegmentationTrainer":
    """Combine network, augmentation and loss in one model for ``fit``."""
    return SegmentationTrainer(
        from_config(config, len(classes)),
        Augmentation.from_settings(config),
        SegmentationLoss.from_settings(config.loss, classes, config.model.head == "labels"),
        len(classes),
        config.model.decoder.deep_supervision,
        config.model.head == "labels",
        config.training.remat,
        dtype=config.training.precision,
    )


class LabelMeanIoU(keras.metrics.Metric):
    """Mean over labels of the IoU of where each is set and where its logit is positive; labels in neither are left out.

    Args:
        labels: Number of labels L.
        **kwargs: Arguments of ``keras.metrics.Metric``.

    Call arguments:
        mask: Sets of labels ``(B, H, W)``; 255 is ignored.
        logits: ``(B, H, W, L)``.
    """

    def __init__(self, labels: int, **kwargs):
        super().__init__(**kwargs)
        self.labels = labels
        self.intersection = self.add_weight(shape=(labels,), initializer="zeros", name="intersection")
        self.union = self.add_weight(shape=(labels,), initializer="zeros", name="union")

    def update_state(self, mask, logits, sample_weight=None):
        mask = ops.cast(mask, "int32")
        valid = ops.not_equal(mask, IGNORE)[..., None]
        truth = ops.logical_and(ops.equal(bits(mask, self.labels), 1), valid)
        predicted = ops.logical_and(logits > 0, valid)
        for total, found in ((self.intersection, ops.logical_and), (self.union, ops.logical_or)):
            total.assign_add(ops.sum(ops.cast(found(truth, predicted), self.dtype), axis=(0, 1, 2)))

    def result(self):
        present = ops.cast(self.union > 0, self.dtype)
        return ops.sum(self.intersection / ops.maximum(self.union, 1.0)) / ops.maximum(ops.sum(present), 1.0)

    def get_config(self):
        return super().get_config() | {"labels": self.labels}


def compiles(config: Config) -> bool:
    """Whether the step is compiled. On PyTorch it never is: ``fit`` crashes under torch.compile (keras #22282)."""
    return config.training.jit and keras.backend.backend() != "torch"


@keras.saving.register_keras_serializable("unet")
class SegmentationTrainer(keras.Model):
    """Model for ``fit`` and ``evaluate``: maps ``{"image", "mask"}`` batches to ``{"logits", "mask"}``.

    In training the batch is augmented first. Loss and mean IoU compare the logits with the (augmented) mask. With deep
    supervision the training loss also has that of the coarser decoder stages; mean IoU and validation loss have not.

    Args:
        network: Maps pixels to logits.
        augmentation: Layer that transforms image and mask together.
        segmentation_loss: Loss of (mask, logits).
        classes: Number of classes.
        deep_supervision: Weight of :func:`unet.training.deep_supervision.stage_loss`; 0 for none. The trainer then has
            1×1 convolutions that the network has not.
        labels: Whether a pixel may have several labels or none, instead of one class.
        remat: Whether the gradient computes activations again; see :func:`unet.training.remat.with_remat`.
        **kwargs: Arguments of ``keras.Model``; ``dtype`` should be the network's policy, so that ``compile`` scales
            the loss under mixed_float16. Images are not cast to it.

    Attributes:
        steps: int32 variable, number of training steps.
        finite_steps: int32 variable, number of training steps before the first loss that was not finite.
        frozen: Whether the network's encoder keeps its weights and batch statistics in training.
    """

    def __init__(
        self,
        network: keras.Model,
        augmentation: Augmentation,
        segmentation_loss: SegmentationLoss,
        classes: int,
        deep_supervision: float = 0.0,
        labels: bool = False,
        remat: bool = False,
        **kwargs,
    ):
        super().__init__(**{"name": "segmentation_trainer", "autocast": False} | kwargs)
        self.network = network
        self.augmentation = augmentation
        self.segmentation_loss = segmentation_loss
        self.classes = classes
        self.deep_supervision = deep_supervision
        if deep_supervision:  # after `network`, under which Keras then saves the layers that both have
            self.supervised_network = with_stage_logits(network)
        self.labels = labels
        self.remat = remat
        self.frozen = False
        self._training_call = self._make_training_call()
        self.mean_iou = (
            LabelMeanIoU(classes, name="mean_iou", dtype="float32")
            if labels
            else keras.metrics.MeanIoU(
                classes, sparse_y_pred=False, ignore_class=IGNORE, name="mean_iou", dtype="float32"
            )
        )
        counter = {"shape": (), "initializer": "zeros", "dtype": "int32", "trainable": False}
        self.steps = self.add_weight(name="steps", **counter)
        self.finite_steps = self.add_weight(name="finite_steps", **counter)
        self.built = True  # every part is built already

    def __setattr__(self, name, value):
        if name == "_jax_state":  # set by Keras after every step; tracking its hundreds of arrays takes milliseconds
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def call(self, inputs, training=False):
        image, mask = inputs["image"], ops.cast(inputs["mask"], "int32")
        if not training:
            return {"logits": self.network(image, training=False), "mask": mask}
        image, mask = self.augmentation(image, mask)
        with fusing():
            logits, *stage_logits = keras.tree.flatten(self._training_call(image, training=True))
        return {"logits": logits, "mask": mask} | ({"stage_logits": stage_logits} if stage_logits else {})

    def _make_training_call(self) -> Callable:
        """The network in training, with the logits of its coarser stages if they are supervised."""
        network = self.supervised_network if self.deep_supervision else self.network
        if self.remat:
            return with_remat(network, self.frozen)
        return with_frozen_encoder(network) if self.frozen else network.__call__

    def freeze_encoder(self, frozen: bool) -> None:
        """Freeze the encoder, or let it be trained again, from the next step on.

        Args:
            frozen: Whether it is frozen; requires an optimizer of :func:`~unet.training.optimizer.make_optimizer` for
                a configuration with ``freeze_epochs``.
        """
        if frozen == self.frozen:
            return
        self.frozen = frozen
        self._training_call = self._make_training_call()
        optimizer: Any = self.optimizer
        getattr(optimizer, "inner_optimizer", optimizer).frozen = frozen
        self.make_train_function(force=True)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Compute the loss of the batch; in training also count steps, so that a diverged run can name the step."""
        loss = self.segmentation_loss(y_pred["mask"], y_pred["logits"])
        if "stage_logits" in y_pred:
            of_stages = stage_loss(self.segmentation_loss, y_pred["mask"], y_pred["stage_logits"])
            loss = loss + self.deep_supervision * of_stages
        if training:
            so_far = ops.equal(self.steps, self.finite_steps)
            finite = ops.logical_and(so_far, ops.isfinite(loss))
            self.finite_steps.assign(self.finite_steps + ops.cast(finite, "int32"))
            self.steps.assign(self.steps + 1)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        with warnings.catch_warnings():  # Keras asks for int64 indices, which JAX makes int32
            warnings.filterwarnings("ignore", message="Explicitly requested dtype")
            self.mean_iou.update_state(y_pred["mask"], y_pred["logits"])
        return self.get_metrics_result()

    def reseed(self, seeds) -> None:
        """Set the state of every random number generator (augmentation, dropout) from an iterator of ints."""
        for variable, seed in zip(self._random_states(), seeds, strict=False):
            variable.assign([seed, 0])

    def _random_states(self):
        # Augmentation first: it stays the same whatever the network holds.
        variables = [*self.augmentation.variables, *self.network.variables]
        return [variable for variable in variables if variable.path.endswith("seed_generator_state")]

    def get_config(self):
        return super().get_config() | {
            "network": keras.saving.serialize_keras_object(self.network),
            "augmentation": keras.saving.serialize_keras_object(self.augmentation),
            "segmentation_loss": keras.saving.serialize_keras_object(self.segmentation_loss),
            "classes": self.classes,
            "deep_supervision": self.deep_supervision,
            "labels": self.labels,
            "remat": self.remat,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = ("network", "augmentation", "segmentation_loss")
        return cls(**config | {part: keras.saving.deserialize_keras_object(config[part]) for part in parts})
