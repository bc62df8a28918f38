"""Remedies for Keras on PyTorch: the same results without needless copies, passes and loops.

Each says what Keras does instead. Programs exported by ``torch.export`` consist of the operations that Keras writes.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from keras import layers
from keras.src.backend.torch import core, nn, numpy
from keras.src.backend.torch.optimizers import torch_adam
from keras.src.optimizers import base_optimizer
from torch import Tensor

from unet.backend import emulates_bfloat16
from unet.speed import Remedy

SHORT = 8
"""A last axis with fewer values is short; PyTorch's softmax has vector instructions for 8 values (AVX2) or more."""


def without_copy(transpose: Callable) -> Callable:
    """``(B, H, W, C)`` as ``(B, C, H, W)`` for convolution and pooling, as a view.

    Keras copies every feature map to channels-first memory, and for a convolution back again; so it does with the
    gradients. The view of channels-last memory is what PyTorch calls channels last, and needs no copy.
    """

    @functools.wraps(transpose)
    def spatial_inputs(inputs: Tensor) -> Tensor:
        if inputs.ndim != 4 or torch.compiler.is_exporting():
            return transpose(inputs)
        return inputs.permute(0, 3, 1, 2)

    return spatial_inputs


def in_float32(convolve: Callable) -> Callable:
    """Convolution of maps in bfloat16, computed in float32 and rounded, on processors without AVX-512.

    PyTorch takes 10 times as long in bfloat16 there. Maps are kept in bfloat16 for the gradient.
    """

    @functools.wraps(convolve)
    def convolve_accurately(inputs, kernel, *args, **kwargs) -> Tensor:
        inputs, kernel = core.convert_to_tensor(inputs), core.convert_to_tensor(kernel)
        if (
            inputs.dtype != torch.bfloat16
            or inputs.device.type != "cpu"
            or not emulates_bfloat16()
            or torch.compiler.is_exporting()
        ):
            return convolve(inputs, kernel, *args, **kwargs)
        with torch.autograd.graph.saved_tensors_hooks(Tensor.bfloat16, Tensor.float):
            y = convolve(inputs.float(), kernel.float(), *args, **kwargs)
        return y.bfloat16()

    return convolve_accurately


def in_one_operation(call: Callable) -> Callable:
    """``BatchNormalization.call`` by PyTorch's batch normalization.

    Keras casts 16-bit feature maps to float32 and computes mean, variance and result in several operations. Each of
    them reads and writes the whole map, and some keep a copy for the gradient.
    """

    @functools.wraps(call)
    def normalize(self: layers.BatchNormalization, inputs, training=None, mask=None):
        values = inputs.numel() // max(inputs.shape[self.axis], 1)  # of a channel
        if (
            mask is not None
            or self.renorm
            or values < 2
            or inputs.dtype not in (torch.float32, torch.bfloat16, torch.float16)
            or self.variable_dtype != "float32"
            or inputs.is_meta
            or torch.compiler.is_exporting()
        ):
            return call(self, inputs, training=training, mask=mask)
        x = inputs.movedim(self.axis, 1)
        gamma, beta = (None if weight is None else weight.value for weight in (self.gamma, self.beta))
        mean, variance = self.moving_mean.value, self.moving_variance.value
        if not (training and self.trainable):
            y = F.batch_norm(x, mean, variance, gamma, beta, eps=self.epsilon)
        else:
            batch_mean, batch_variance = torch.zeros_like(mean), torch.zeros_like(variance)
            y = F.batch_norm(x, batch_mean, batch_variance, gamma, beta, training=True, momentum=1, eps=self.epsilon)
            batch_variance = batch_variance * ((values - 1) / values)  # Keras averages the biased variance
            self.moving_mean.assign(mean * self.momentum + batch_mean * (1.0 - self.momentum))
            self.moving_variance.assign(variance * self.momentum + batch_variance * (1.0 - self.momentum))
        return core.cast(y.movedim(1, self.axis), self.compute_dtype)

    return normalize


def without_loop(scatter: Callable) -> Callable:
    """Zeros to which each value is added at its index.

    Keras adds them one by one in Python. In a training step these are the pixels that ``MeanIoU`` counts in its
    confusion matrix, and they took longer than everything else.
    """

    @functools.wraps(scatter)
    def add_all(indices, values, shape) -> Tensor:
        indices, values = core.convert_to_tensor(indices, "int64"), core.convert_to_tensor(values)
        zeros = torch.zeros(tuple(shape), dtype=values.dtype, device=values.device)
        length = indices.shape[-1]
        index = tuple(indices.reshape(-1, length).unbind(-1))
        return zeros.index_put(index, values.reshape(-1, *zeros.shape[length:]), accumulate=True)

    return add_all


def over_second_axis(softmax: Callable) -> Callable:
    """Softmax, or its logarithm, over a short last axis, such as that of classes, on the CPU.

    PyTorch computes it pixel by pixel. Over another axis it computes several pixels at a time.
    """

    @functools.wraps(softmax)
    def over_axis(x, axis=-1) -> Tensor:
        x = core.convert_to_tensor(x)
        if axis not in (-1, x.ndim - 1) or x.ndim < 3 or x.shape[-1] >= SHORT or x.device.type != "cpu":
            return softmax(x, axis)
        if torch.compiler.is_exporting():
            return softmax(x, axis)
        return softmax(x.movedim(-1, 1), 1).movedim(1, -1)

    return over_axis


def for_all_gradients(clip: Callable) -> Callable:
    """Gradients scaled to a norm of at most ``clip_norm`` over all of them; Keras has a loop over the gradients."""

    @functools.wraps(clip)
    def clip_all(value_list, clip_norm) -> list:
        values = [value for value in value_list if value is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
        scale = clip_norm / torch.clamp(norm, min=clip_norm) + (norm - norm)  # NaN if the norm is infinite
        scaled = iter(torch._foreach_mul(values, scale))
        return [None if value is None else next(scaled) for value in value_list]

    return clip_all


def in_rows(add: Callable) -> Callable:
    """Sum, also of a 16-bit feature map ``(B, H, W, C)`` and a bias ``(C,)`` or ``(1, 1, 1, C)``, on the CPU.

    PyTorch adds such a bias without vector instructions, in several times the time of a sum of two maps. A row of the
    map and as many copies of the bias take no longer than that.
    """

    @functools.wraps(add)
    def add_bias(x1, x2):
        if (
            not isinstance(x1, Tensor)
            or x1.ndim != 4
            or x1.dtype not in (torch.bfloat16, torch.float16)
            or x1.device.type != "cpu"
            or not x1.is_contiguous()
            or torch.compiler.is_exporting()
        ):
            return add(x1, x2)
        bias = core.convert_to_tensor(x2)
        width, channels = x1.shape[2:]
        if bias.dtype != x1.dtype or tuple(bias.shape) not in ((channels,), (1, 1, 1, channels)):
            return add(x1, x2)
        return (x1.reshape(-1, width * channels) + bias.reshape(-1).repeat(width)).reshape(x1.shape)

    return add_bias


def in_one_pass(update: Callable) -> Callable:
    """Update of all weights by Adam, on the CPU, in PyTorch's fused operation.

    Keras takes a dozen operations, each of which reads and writes all weights or moments. PyTorch adds its epsilon to
    the root of the unbiased second moment, Keras to that of the biased one, hence the division.
    """

    @functools.wraps(update)
    def step(self, grads, variables, learning_rate) -> None:
        weights = [variable.value for variable in variables]
        indices = [self._get_variable_index(variable) for variable in variables]
        momentums, velocities = ([found[i].value for i in indices] for found in (self._momentums, self._velocities))
        # The operation does not check the layout of what it is given.
        if self.amsgrad or not all(
            one.dtype == torch.float32 and one.device.type == "cpu" and one.is_contiguous()
            for one in (*weights, *grads, *momentums, *velocities)
        ):
            return update(self, grads, variables, learning_rate)
        count = int(self.iterations) + 1
        torch._fused_adam_(
            weights,
            grads,
            momentums,
            velocities,
            [],
            [torch.tensor(float(count))] * len(weights),
            lr=float(learning_rate),
            beta1=self.beta_1,
            beta2=self.beta_2,
            weight_decay=0.0,
            eps=self.epsilon / math.sqrt(1 - self.beta_2**count),
            amsgrad=False,
            maximize=False,
        )

    return step


REMEDIES: tuple[Remedy, ...] = (
    (nn, "_transpose_spatial_inputs", without_copy),
    (nn, "conv", in_float32),
    (nn, "conv_transpose", in_float32),
    (layers.BatchNormalization, "call", in_one_operation),
    (core, "scatter", without_loop),
    (nn, "softmax", over_second_axis),
    (nn, "log_softmax", over_second_axis),
    (numpy, "add", in_rows),
    (torch_adam.Adam, "_parallel_update_step", in_one_pass),
    (base_optimizer, "clip_by_global_norm", for_all_gradients),
)
