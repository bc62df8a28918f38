"""Remedies for Keras on TensorFlow, without XLA."""

import functools
from collections.abc import Callable

import tensorflow as tf
from keras import layers
from keras.src.backend.tensorflow import nn

from unet.backend import compiled_by_xla, emulates_bfloat16
from unet.speed import Remedy


def in_one_operation(call: Callable) -> Callable:
    """``BatchNormalization.call`` in training by TensorFlow's batch normalization.

    Keras casts the input to float32, then takes moments and normalizes in several passes over it, and so it does for
    the gradient. The operation takes bfloat16 as it is. Where XLA compiles the step, it fuses the passes itself.
    """

    @functools.wraps(call)
    def normalize(self: layers.BatchNormalization, inputs, training=None, mask=None):
        if not (training and self.trainable and mask is None and _is_plain(self)) or compiled_by_xla():
            return call(self, inputs, training=training, mask=mask)
        inputs = tf.cast(inputs, self.compute_dtype)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.cast(self.gamma, "float32"),
            tf.cast(self.beta, "float32"),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), "float32")
        biased = variance * (count - 1) / count  # as Keras averages it
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, biased)):
            moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return outputs

    return normalize


def _is_plain(layer: layers.BatchNormalization) -> bool:
    """Whether the operation can do what a layer does: scale and shift the last axis of four by their own moments."""
    maps = layer.input_spec.ndim == 4 and layer.axis in (3, -1) and layer.compute_dtype != "float64"
    return maps and layer.scale and layer.center and not (layer.renorm or layer.synchronized)


def in_float32(convolve: Callable) -> Callable:
    """Convolution of maps in bfloat16, computed in float32 and rounded, on processors without AVX-512.

    TensorFlow takes 10 to 25 times as long in bfloat16 there, for gradients and transposed convolutions. Maps are kept
    in bfloat16 for the gradient.
    """

    @functools.wraps(convolve)
    def convolve_accurately(inputs, kernel, *args, **kwargs):
        inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)  # which casts a weight of Keras
        if inputs.dtype != kernel.dtype or inputs.dtype != "bfloat16" or not emulates_bfloat16() or compiled_by_xla():
            return convolve(inputs, kernel, *args, **kwargs)

        @tf.custom_gradient
        def rounded(*given):
            def gradient(upstream):
                accurate = [tf.cast(x, "float32") for x in given]
                with tf.GradientTape() as tape:
                    tape.watch(accurate)
                    y = convolve(*accurate, *args, **kwargs)  # not computed again in a graph: its value is not used
                slopes = tape.gradient(y, accurate, tf.cast(upstream, "float32"))
                return [tf.cast(slope, "bfloat16") for slope in slopes]

            y = convolve(*(tf.cast(x, "float32") for x in given), *args, **kwargs)
            return tf.cast(y, "bfloat16"), gradient

        return rounded(inputs, kernel)

    return convolve_accurately


REMEDIES: tuple[Remedy, ...] = (
    (layers.BatchNormalization, "call", in_one_operation),
    (nn, "conv", in_float32),
    (nn, "depthwise_conv", in_float32),
    (nn, "conv_transpose", in_float32),
)
