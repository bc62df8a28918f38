"""Segmentation losses on logits that leave out ignored pixels, and their weighted sum.

Each takes ``mask`` int ``(B, H, W)`` with class ids (255 is ignored) and ``logits`` float32 ``(B, H, W, C)``, and
returns a float32 scalar. Overlap losses (Dice, Tversky, Lovász) treat the batch as one image and average over the
classes that occur in its masks.
"""

import keras
from keras import ops

from unet.config import LossConfig
from unet.data.sources import IGNORE
from unet.errors import InputError, nearest


def cross_entropy(mask, logits, class_weights=None, label_smoothing: float = 0.0, hardest: float = 1.0):
    """Mean cross-entropy over valid pixels: ``Σ w_y · (−log p_y) / Σ w_y``.

    Args:
        mask: Class ids.
        logits: Output of the network.
        class_weights: Weights w ``(C,)``; ``None`` for 1.
        label_smoothing: Fraction ε of the uniform distribution in the target, ``(1 − ε)·onehot + ε/C``.
        hardest: Share of the valid pixels of the batch that count, 0 to 1: those with the largest −log p_y, with ties
            (online hard example mining, Shrivastava et al. 2016).

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> cross_entropy(mask, logits).shape == ()
        True
    """
    target, valid = _one_hot(mask, logits)
    weights = valid if class_weights is None else valid * ops.matmul(target, _column(class_weights))[..., 0]
    log_p = ops.log_softmax(logits, axis=-1)
    loss = -ops.sum(target * log_p, axis=-1)
    if hardest < 1:
        valid = valid * _largest(loss, valid, hardest)
        weights = weights * valid
    if label_smoothing:
        smooth = log_p if class_weights is None else log_p * ops.cast(class_weights, "float32")
        uniform = -ops.mean(smooth, axis=-1) * valid
        total = (1 - label_smoothing) * ops.sum(loss * weights) + label_smoothing * ops.sum(uniform)
        return total / _positive(ops.sum(weights))
    return ops.sum(loss * weights) / _positive(ops.sum(weights))


def focal(mask, logits, gamma: float = 2.0, class_weights=None):
    """Focal loss (Lin et al. 2017): mean of ``w_y · (1 − p_y)^γ · (−log p_y)`` over valid pixels.

    The sum is divided by the number of pixels, not by the sum of weights, as in the paper's α-balanced form.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> focal(mask, logits).shape == ()
        True
    """
    target, valid = _one_hot(mask, logits)
    log_p = ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)
    weights = valid if class_weights is None else valid * ops.matmul(target, _column(class_weights))[..., 0]
    # 1 − p is kept above 0, where the derivative of a power below 1 is infinite.
    modulation = ops.power(ops.maximum(1.0 - ops.exp(log_p), 1e-7), gamma)
    return -ops.sum(weights * modulation * log_p) / _positive(ops.sum(valid))


def tversky(mask, logits, alpha: float = 0.3, beta: float = 0.7, class_weights=None):
    """Tversky loss (Salehi et al. 2017): mean over classes of ``1 − TP / (TP + α·FP + β·FN)``, with soft counts.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> tversky(mask, logits).shape == ()
        True
    """
    target, valid = _one_hot(mask, logits)
    p = ops.softmax(logits, axis=-1) * valid[..., None]
    axes = (0, 1, 2)
    true_positive = ops.sum(p * target, axis=axes)
    false_positive = ops.sum(p, axis=axes) - true_positive
    false_negative = ops.sum(target, axis=axes) - true_positive
    index = true_positive / _positive(true_positive + alpha * false_positive + beta * false_negative)
    return _mean_over_present(1.0 - index, target, class_weights)


def dice(mask, logits, class_weights=None):
    """Soft Dice loss (Milletari et al. 2016): mean over classes of ``1 − 2·TP / (2·TP + FP + FN)``.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> dice(mask, logits).shape == ()
        True
    """
    return tversky(mask, logits, 0.5, 0.5, class_weights)


def lovasz(mask, logits, class_weights=None):
    """Lovász-softmax (Berman et al. 2018): convex surrogate of ``1 − IoU``, mean over the classes present.

    Errors ``|onehot − p|`` are sorted in descending order, and each is weighted by how much it raises the Jaccard loss.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> lovasz(mask, logits).shape == ()
        True
    """
    target, valid = _one_hot(mask, logits)
    classes = logits.shape[-1]
    truth = ops.transpose(ops.reshape(target, (-1, classes)))  # (C, N)
    p = ops.transpose(ops.reshape(ops.softmax(logits, axis=-1), (-1, classes)))
    errors = ops.abs(truth - p) * ops.reshape(valid, (1, -1))  # ignored pixels have error 0 and no effect
    order = ops.argsort(-ops.stop_gradient(errors), axis=-1)
    errors, truth = ops.take_along_axis(errors, order, axis=-1), ops.take_along_axis(truth, order, axis=-1)
    positives = ops.sum(truth, axis=-1, keepdims=True)
    intersection = positives - ops.cumsum(truth, axis=-1)
    union = positives + ops.cumsum(1.0 - truth, axis=-1)
    jaccard = 1.0 - intersection / union
    gradient = ops.concatenate([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], axis=-1)
    return _mean_over_present(ops.sum(errors * ops.stop_gradient(gradient), axis=-1), target, class_weights)


@keras.saving.register_keras_serializable("unet")
class SegmentationLoss(keras.losses.Loss):
    """Weighted sum of the losses of this module; the weights are those of :class:`~unet.config.LossConfig`.

    Args:
        settings: Fields of ``LossConfig``.
        classes: Class names in the order of their ids.
        **kwargs: Arguments of ``keras.losses.Loss``.

    Raises:
        InputError: ``class_weights`` names a class that does not exist, or is ``"auto"``, which training replaces by
            the weights of its data.

    Example:
        >>> from unet.config import LossConfig
        >>> loss = SegmentationLoss.from_settings(LossConfig(dice=1.0), classes=("cat", "dog", "grass"))
        >>> loss(ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))).shape == ()
        True
    """

    def __init__(self, settings: dict, classes: tuple[str, ...], **kwargs):
        super().__init__(**{"name": "segmentation_loss", "dtype": "float32"} | kwargs)
        self.settings, self.classes = dict(settings), tuple(classes)
        self.class_weights = None
        named = self.settings["class_weights"]
        if named == "auto":
            raise InputError("loss.class_weights: auto needs the training data; give the weight of each class")
        if named:
            for name in named:
                if name not in self.classes:
                    raise InputError(
                        f"loss.class_weights: there is no class {name!r}{nearest(name, self.classes)} "
                        f"(classes: {', '.join(self.classes)})"
                    )
            self.class_weights = [float(named.get(name, 1.0)) for name in self.classes]

    @classmethod
    def from_settings(cls, config: LossConfig, classes: tuple[str, ...]) -> "SegmentationLoss":
        """Create the loss that a configuration describes."""
        return cls(config.model_dump(), classes)

    def call(self, y_true, y_pred):
        s, weights = self.settings, self.class_weights
        mask, logits = ops.cast(y_true, "int32"), ops.cast(y_pred, "float32")
        terms = {
            "cross_entropy": lambda: cross_entropy(mask, logits, weights, s["label_smoothing"], s.get("hardest", 1.0)),
            "focal": lambda: focal(mask, logits, s["focal_gamma"], weights),
            "dice": lambda: dice(mask, logits, weights),
            "tversky": lambda: tversky(mask, logits, s["tversky_alpha"], s["tversky_beta"], weights),
            "lovasz": lambda: lovasz(mask, logits, weights),
        }
        return sum(s[name] * term() for name, term in terms.items() if s[name])

    def get_config(self):
        return super().get_config() | {"settings": self.settings, "classes": self.classes}


def _one_hot(mask, logits):
    """One-hot target ``(B, H, W, C)``, zero at ignored pixels, and validity ``(B, H, W)``, both float32."""
    valid = ops.not_equal(mask, IGNORE)
    ids = ops.where(valid, mask, 0)
    valid = ops.cast(valid, "float32")
    return ops.one_hot(ids, logits.shape[-1], dtype="float32") * valid[..., None], valid


def _mean_over_present(loss, target, class_weights):
    """Weighted mean of a loss per class ``(C,)`` over the classes that occur in ``target``."""
    weights = ops.cast(ops.sum(target, axis=(0, 1, 2)) > 0, "float32")
    if class_weights is not None:
        weights = weights * ops.cast(class_weights, "float32")
    return ops.sum(loss * weights) / _positive(ops.sum(weights))


def _largest(loss, valid, share):
    """1 for the share of the valid pixels with the largest loss, and for those equal to the last of them; else 0."""
    loss = ops.where(valid > 0, ops.stop_gradient(loss), -1.0)
    last = ops.ceil(share * ops.sum(valid)) - 1.0
    least = ops.take(-ops.sort(ops.reshape(-loss, (-1,))), ops.maximum(ops.cast(last, "int32"), 0))
    return ops.cast(loss >= least, "float32")


def _column(values):
    return ops.reshape(ops.cast(values, "float32"), (-1, 1))


def _positive(denominator):
    """Keep a sum of non-negative terms above zero; where it is zero, so is the numerator."""
    return ops.maximum(denominator, 1e-7)
