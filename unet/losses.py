"""Segmentation losses on logits that leave out ignored pixels, and their weighted sum.

Each takes ``mask`` int ``(B, H, W)`` with class ids (255 is ignored) and ``logits`` float32 ``(B, H, W, C)``, and
returns a float32 scalar. Overlap losses (Dice, Tversky, Lovász) treat the batch as one image and average over the
classes that occur in its masks.

With ``labels`` a pixel has a set of labels instead of a class: bit k of its value in the mask is label k, whose logit
is channel k. Every label of a valid pixel is then a decision between two classes with the logits 0 and z, so that the
cross-entropy and the focal loss are the binary ones, averaged over decisions; overlap losses compare each label's
sigmoid with where it is set. ``class_weights`` are weights of labels.
"""

from typing import Any

import keras
from keras import ops

from unet.config import LossConfig
from unet.data.sources import IGNORE
from unet.errors import InputError, nearest


def cross_entropy(
    mask, logits, class_weights=None, label_smoothing: float = 0.0, hardest: float = 1.0, labels: bool = False
):
    """Mean cross-entropy over valid pixels: ``Σ w_y · (−log p_y) / Σ w_y``.

    Args:
        mask: Class ids.
        logits: Output of the network.
        class_weights: Weights w ``(C,)``; ``None`` for 1.
        label_smoothing: Fraction ε of the uniform distribution in the target, ``(1 − ε)·onehot + ε/C``; of labels,
            which are set or not, C is 2.
        hardest: Share of the valid pixels (or decisions on labels) of the batch that count, 0 to 1: those with the
            largest −log p_y, with ties (online hard example mining, Shrivastava et al. 2016).
        labels: Whether a pixel may have several labels or none.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> cross_entropy(mask, logits).shape == ()
        True
    """
    if labels:
        mask, logits = _decisions(mask, logits)
    target, valid = _one_hot(mask, logits)
    weights = _weights(target, valid, class_weights, labels)
    log_p = ops.log_softmax(logits, axis=-1)
    loss = -ops.sum(target * log_p, axis=-1)
    if hardest < 1:
        valid = valid * _largest(loss, valid, hardest)
        weights = weights * valid
    if label_smoothing:
        smooth = log_p if class_weights is None or labels else log_p * ops.cast(class_weights, "float32")
        uniform = -ops.mean(smooth, axis=-1) * (weights if labels else valid)
        total = (1 - label_smoothing) * ops.sum(loss * weights) + label_smoothing * ops.sum(uniform)
        return total / _positive(ops.sum(weights))
    return ops.sum(loss * weights) / _positive(ops.sum(weights))


def focal(mask, logits, gamma: float = 2.0, class_weights=None, labels: bool = False):
    """Focal loss (Lin et al. 2017): mean of ``w_y · (1 − p_y)^γ · (−log p_y)`` over valid pixels.

    The sum is divided by the number of pixels, not by the sum of weights, as in the paper's α-balanced form.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> focal(mask, logits).shape == ()
        True
    """
    if labels:
        mask, logits = _decisions(mask, logits)
    target, valid = _one_hot(mask, logits)
    log_p = ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)
    weights = _weights(target, valid, class_weights, labels)
    # 1 − p is kept above 0, where the derivative of a power below 1 is infinite.
    modulation = ops.power(ops.maximum(1.0 - ops.exp(log_p), 1e-7), gamma)
    return -ops.sum(weights * modulation * log_p) / _positive(ops.sum(valid))


def tversky(mask, logits, alpha: float = 0.3, beta: float = 0.7, class_weights=None, labels: bool = False):
    """Tversky loss (Salehi et al. 2017): mean over classes of ``1 − TP / (TP + α·FP + β·FN)``, with soft counts.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> tversky(mask, logits).shape == ()
        True
    """
    target, p, valid = _shares(mask, logits, labels)
    p = p * valid[..., None]
    axes = (0, 1, 2)
    true_positive = ops.sum(p * target, axis=axes)
    false_positive = ops.sum(p, axis=axes) - true_positive
    false_negative = ops.sum(target, axis=axes) - true_positive
    index = true_positive / _positive(true_positive + alpha * false_positive + beta * false_negative)
    return _mean_over_present(1.0 - index, target, class_weights)


def dice(mask, logits, class_weights=None, labels: bool = False):
    """Soft Dice loss (Milletari et al. 2016): mean over classes of ``1 − 2·TP / (2·TP + FP + FN)``.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> dice(mask, logits).shape == ()
        True
    """
    return tversky(mask, logits, 0.5, 0.5, class_weights, labels)


def lovasz(mask, logits, class_weights=None, labels: bool = False):
    """Lovász-softmax (Berman et al. 2018): convex surrogate of ``1 − IoU``, mean over the classes present.

    Errors ``|onehot − p|`` are sorted in descending order, and each is weighted by how much it raises the Jaccard loss.
    Of labels, p is the sigmoid; with it, this is the paper's Lovász-sigmoid loss of each label.

    Example:
        >>> mask, logits = ops.ones((1, 4, 4), "int32"), ops.zeros((1, 4, 4, 3))
        >>> lovasz(mask, logits).shape == ()
        True
    """
    target, p, valid = _shares(mask, logits, labels)
    classes = logits.shape[-1]
    truth = ops.transpose(ops.reshape(target, (-1, classes)))  # (C, N)
    p = ops.transpose(ops.reshape(p, (-1, classes)))
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
        labels: Whether a pixel may have several of them or none.
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

    def __init__(self, settings: dict, classes: tuple[str, ...], labels: bool = False, **kwargs):
        super().__init__(**{"name": "segmentation_loss", "dtype": "float32"} | kwargs)
        self.settings, self.classes, self.labels = dict(settings), tuple(classes), labels
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
    def from_settings(cls, config: LossConfig, classes: tuple[str, ...], labels: bool = False) -> "SegmentationLoss":
        """Create the loss that a configuration describes."""
        return cls(config.model_dump(), classes, labels)

    def call(self, y_true, y_pred):
        s, weights = self.settings, self.class_weights
        mask, logits = ops.cast(y_true, "int32"), ops.cast(y_pred, "float32")
        common: dict[str, Any] = {"class_weights": weights, "labels": self.labels}
        terms = {
            "cross_entropy": lambda: cross_entropy(
                mask, logits, label_smoothing=s["label_smoothing"], hardest=s.get("hardest", 1.0), **common
            ),
            "focal": lambda: focal(mask, logits, s["focal_gamma"], **common),
            "dice": lambda: dice(mask, logits, **common),
            "tversky": lambda: tversky(mask, logits, s["tversky_alpha"], s["tversky_beta"], **common),
            "lovasz": lambda: lovasz(mask, logits, **common),
        }
        return sum(s[name] * term() for name, term in terms.items() if s[name])

    def get_config(self):
        return super().get_config() | {"settings": self.settings, "classes": self.classes, "labels": self.labels}


def bits(mask, labels: int):
    """Whether each label is set, int32 ``(..., L)`` of 0 and 1, for sets of labels ``(...)``."""
    powers = ops.convert_to_tensor([2**index for index in range(labels)], "int32")
    return ops.mod(ops.floor_divide(mask[..., None], powers), 2)


def _decisions(mask, logits):
    """Sets of labels and logits as decisions between two classes: ids ``(B, H, W, L)``, logits ``(B, H, W, L, 2)``."""
    ids = ops.where(ops.not_equal(mask, IGNORE)[..., None], bits(mask, logits.shape[-1]), IGNORE)
    return ids, ops.stack([ops.zeros_like(logits), logits], axis=-1)


def _shares(mask, logits, labels: bool):
    """Target and probabilities ``(B, H, W, C)``, and validity ``(B, H, W)``; the target is zero at ignored pixels."""
    if not labels:
        target, valid = _one_hot(mask, logits)
        return target, ops.softmax(logits, axis=-1), valid
    valid = ops.cast(ops.not_equal(mask, IGNORE), "float32")
    target = ops.cast(bits(mask, logits.shape[-1]), "float32") * valid[..., None]
    return target, ops.sigmoid(logits), valid


def _weights(target, valid, class_weights, labels: bool):
    """Weight of each pixel, or of each decision on a label, 0 where it is ignored."""
    if class_weights is None:
        return valid
    if labels:
        return valid * ops.cast(class_weights, "float32")
    return valid * ops.matmul(target, _column(class_weights))[..., 0]


def _one_hot(mask, logits):
    """One-hot target ``(B, H, W, C)``, zero at ignored pixels, and validity ``(B, H, W)``, both float32."""
    mask = ops.cast(mask, "int32")
    valid = ops.cast(ops.not_equal(mask, IGNORE), "float32")
    target = ops.cast(ops.equal(mask[..., None], ops.arange(logits.shape[-1], dtype="int32")), "float32")
    return target, valid


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
