"""Sizes and matrices of convolution, pooling and transposed convolution, on one channel and in plain numpy.

The formulas of the five seed documents and of Dumoulin & Visin (2016, arXiv:1603.07285), as functions. A convolution is
a matrix C; the transposed convolution is Cᵀ. Three independent implementations of it give identical results on whole
numbers: by the matrix, by zero insertion (an ordinary convolution over a spread input) and by overlap-add (every pixel
adds a copy of the kernel).

Symbols as in those texts: input size i, output size o, kernel size k, stride s, padding p, dilation d, output padding
op, all in pixels. "Convolution" is the cross-correlation of deep learning: the kernel is not flipped.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from unet.arguments import flag, whole

Size = int | tuple[int, int]
"""One number for a square, or (height, width), in pixels."""


def extent(kernel_size: int, dilation: int = 1) -> int:
    """Extent of a kernel in pixels, ``d·(k − 1) + 1``; its taps are ``dilation`` pixels apart."""
    _check(kernel_size=kernel_size, dilation=dilation)
    return dilation * (kernel_size - 1) + 1


def same_padding(kernel_size: int, dilation: int = 1) -> int:
    """Half padding ``d·(k − 1)/2``, with which a convolution of stride 1 keeps the size.

    Raises:
        ValueError: d·(k − 1) is odd, so no padding that is equal on both sides keeps the size.
    """
    reach = extent(kernel_size, dilation) - 1
    if reach % 2:
        raise ValueError(f"kernel_size must make d·(k − 1) even, received {dilation}·({kernel_size} − 1)")
    return reach // 2


def full_padding(kernel_size: int, dilation: int = 1) -> int:
    """Full padding ``d·(k − 1)``, the largest with which the first window overlaps the input; the size grows by it."""
    return extent(kernel_size, dilation) - 1


def conv_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Output size of a convolution, ``o = ⌊(i + 2p − d·(k − 1) − 1)/s⌋ + 1``; remaining pixels are dropped.

    Source: Dumoulin & Visin 2016, relationships 6 and 15; seed document 003.

    Raises:
        ValueError: An argument is out of range, or the kernel is larger than the padded input.
    """
    _check(size=size, stride=stride, padding=padding)
    room = size + 2 * padding - extent(kernel_size, dilation)
    if room < 0:
        raise ValueError(
            f"size: {size} pixels and {padding} of padding on both sides must contain a kernel that extends over "
            f"{extent(kernel_size, dilation)} pixels"
        )
    return room // stride + 1


def pool_size(
    size: int, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Output size of pooling: that of a convolution, rounded up with ``ceil_mode`` to include the remaining pixels.

    With ``ceil_mode`` the last window must start inside the input or its left padding; one that would start in the
    right padding is dropped (the rule of ``torch.nn.MaxPool2d``). Keras' padding "same" with stride = kernel size gives
    the same size as ``ceil_mode``.

    Args:
        stride: Distance of the windows in pixels; ``None``: the kernel size, as in Keras and PyTorch.
        padding: Pixels on both sides, at most half the kernel size.

    Raises:
        ValueError: An argument is out of range, or no window fits.
    """
    stride = kernel_size if stride is None else stride
    _check(size=size, kernel_size=kernel_size, stride=stride, padding=padding)
    if padding > kernel_size // 2:
        raise ValueError(f"padding must be at most half the kernel size {kernel_size}, received {padding}")
    if not flag("ceil_mode", ceil_mode):
        return conv_size(size, kernel_size, stride, padding, dilation)
    result = -(-(size + 2 * padding - extent(kernel_size, dilation)) // stride) + 1
    if (result - 1) * stride >= size + padding:
        result -= 1
    if result < 1:
        raise ValueError(f"size: {size} pixels are too few for pooling with kernel {kernel_size} and stride {stride}")
    return result


def conv_transpose_size(
    size: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> int:
    """Output size of a transposed convolution, ``o = (i − 1)·s − 2p + d·(k − 1) + 1 + op``.

    ``padding`` is that of the transposed convolution's counterpart, so it *crops*. With stride s > 1 that convolution
    rounds down: s different sizes shrink to the same one, and ``output_padding`` selects one of them.

    Keras' padding "same" gives ``i·s`` by cropping max(k − s, 0) pixels in all, the smaller half at the top and left;
    for kernel 3 and stride 2 no (padding, output padding) gives the same result.

    Source: Dumoulin & Visin 2016, relationship 14; seed documents 002, 003 and 004; ``torch.nn.ConvTranspose2d``.

    Raises:
        ValueError: An argument is out of range (op must be less than max(s, d), as in PyTorch), or the output is empty.
    """
    _check(size=size, stride=stride, padding=padding, output_padding=output_padding)
    reach = extent(kernel_size, dilation)
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding must be smaller than the stride or the dilation (stride {stride}, dilation {dilation}), "
            f"received {output_padding}"
        )
    result = (size - 1) * stride - 2 * padding + reach + output_padding
    if result < 1:
        raise ValueError(f"padding must leave at least one output pixel, received {padding}, which leaves {result}")
    return result


def conv_sizes(size: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> dict[int, list[int]]:
    """Every output size that a convolution reaches with paddings from 0 to full padding, with those paddings."""
    _check(size=size)
    reached: dict[int, list[int]] = {}
    for padding in range(full_padding(kernel_size, dilation) + 1):
        if size + 2 * padding >= extent(kernel_size, dilation):
            reached.setdefault(conv_size(size, kernel_size, stride, padding, dilation), []).append(padding)
    return reached


def conv_transpose_sizes(
    size: int, kernel_size: int, stride: int = 2, dilation: int = 1
) -> dict[int, list[tuple[int, int]]]:
    """Every output size that a transposed convolution reaches, with its pairs (padding, output padding).

    Paddings are 0 to full padding, output paddings 0 to max(stride, dilation) − 1.
    """
    reached: dict[int, list[tuple[int, int]]] = {}
    largest = conv_transpose_size(size, kernel_size, stride, dilation=dilation)
    for padding in range(full_padding(kernel_size, dilation) + 1):
        for output_padding in range(max(stride, dilation)):
            if (target := largest - 2 * padding + output_padding) >= 1:
                reached.setdefault(target, []).append((padding, output_padding))
    return reached


def conv_paddings(size: int, target: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> list[int]:
    """All paddings from 0 to full padding with which a convolution maps ``size`` to ``target``; empty if none does."""
    _check(target=target)
    return conv_sizes(size, kernel_size, stride, dilation).get(target, [])


def conv_transpose_paddings(
    size: int, target: int, kernel_size: int, stride: int = 2, dilation: int = 1
) -> list[tuple[int, int]]:
    """All (padding, output padding) with which a transposed convolution maps ``size`` to ``target``.

    Empty if none does; :func:`why_unreachable` explains why.
    """
    _check(target=target)
    return conv_transpose_sizes(size, kernel_size, stride, dilation).get(target, [])


def why_unreachable(
    size: int, target: int, kernel_size: int, stride: int = 2, dilation: int = 1, transposed: bool = True
) -> str:
    """Explain why no padding maps ``size`` to ``target``, and which sizes are reached; empty if one does.

    Args:
        transposed: Whether the operation is the transposed convolution or the convolution.
    """
    _check(target=target)
    sizes = conv_transpose_sizes if flag("transposed", transposed) else conv_sizes
    reached = sorted(sizes(size, kernel_size, stride, dilation))
    if target in reached:
        return ""
    least, most = reached[0], reached[-1]
    if least == most:
        choice = f"only {least}"
    elif len(reached) == most - least + 1:
        choice = f"{least} to {most}"
    else:  # stride 1: only padding changes the size, by two pixels
        choice = f"every second size from {least} to {most}, as a pixel of padding counts on both sides"
    distance = min(abs(value - target) for value in reached)
    near = [value for value in reached if abs(value - target) == distance]
    return (
        f"no padding makes {size} into {target}: kernel {kernel_size}, stride {stride} and dilation {dilation} reach "
        f"{choice}; nearest: {' and '.join(map(str, near))}"
    )


def convolve(x: ArrayLike, kernel: ArrayLike, stride: int = 1, padding: int = 0, dilation: int = 1) -> np.ndarray:
    """Convolution by its definition: every output pixel is the sum of a window of the input times the kernel.

    Takes x ``(H, W)`` and kernel ``(k_h, k_w)``, returns float64 ``(o_h, o_w)``; errors as in :func:`conv_size`, or if
    an array is not 2-D.
    """
    x, kernel = _plane("x", x), _plane("kernel", kernel)
    for size, length in zip(x.shape, kernel.shape):
        conv_size(size, length, stride, padding, dilation)
    reach = tuple(extent(length, dilation) for length in kernel.shape)
    windows = sliding_window_view(np.pad(x, padding), reach)  # (H', W', reach_h, reach_w)
    return np.einsum("hwij,ij->hw", windows[::stride, ::stride, ::dilation, ::dilation], kernel)


def conv_matrix(
    kernel: ArrayLike, input_size: Size, stride: int = 1, padding: int = 0, dilation: int = 1
) -> np.ndarray:
    """Convolution as a matrix C: ``convolve(x).ravel() == C @ x.ravel()``.

    One row per output pixel, one column per input pixel, both counted row by row: a 3×3 kernel over 4×4 is 4×16.

    Source: Dumoulin & Visin 2016, section 4.1; seed documents 000, 001 and 003.

    Takes a kernel ``(k_h, k_w)`` and the size H×W of the convolution's input, returns float64 ``(o_h·o_w, H·W)``;
    errors as in :func:`conv_size`, or if the kernel is not 2-D.
    """
    kernel, inputs = _plane("kernel", kernel), _pair("input_size", input_size)
    outputs = [conv_size(size, k, stride, padding, dilation) for size, k in zip(inputs, kernel.shape)]
    return _matrix(kernel, outputs, inputs, stride, padding, dilation)


def conv_transpose_matrix(
    kernel: ArrayLike, input_size: Size, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> np.ndarray:
    """Transposed convolution as a matrix Cᵀ, where C is the convolution from its output to its input.

    Takes the size h×w of the *transposed* convolution's input, returns float64 ``(o_h·o_w, h·w)``; errors as in
    :func:`conv_transpose_size`.
    """
    kernel, inputs = _plane("kernel", kernel), _pair("input_size", input_size)
    outputs = _transposed_shape(inputs, kernel.shape, stride, padding, output_padding, dilation)
    # Back to `inputs`, not to conv_size(outputs), which is larger if op ≥ s (possible with d > s).
    return _matrix(kernel, inputs, outputs, stride, padding, dilation).T


def transpose_by_matrix(
    x: ArrayLike, kernel: ArrayLike, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> np.ndarray:
    """Transposed convolution by its definition, ``y = Cᵀ x`` with :func:`conv_transpose_matrix`.

    Takes x ``(h, w)`` and kernel ``(k_h, k_w)``, returns float64 ``(o_h, o_w)`` with o from
    :func:`conv_transpose_size`; errors as there, or if an array is not 2-D.
    """
    x, kernel = _plane("x", x), _plane("kernel", kernel)
    parameters = stride, padding, output_padding, dilation
    y = conv_transpose_matrix(kernel, (x.shape[0], x.shape[1]), *parameters) @ x.ravel()
    return y.reshape(_transposed_shape(x.shape, kernel.shape, *parameters))


class ZeroInsertion(NamedTuple):
    """Ordinary convolution along one axis that computes a transposed one; its kernel is flipped."""

    zeros: int
    """z = s − 1, number of zeros inserted between neighbouring pixels."""
    padding: int
    """p' = d·(k − 1) − p, zeros on both sides; a negative p' crops."""
    output_padding: int
    """Additional zeros at the end (bottom, right)."""
    inserted_size: int
    """Input size after insertion, before padding: (i − 1)·s + 1."""
    output_size: int
    """Output size of the convolution, and of the transposed one."""
    stride: int = 1


def zero_insertion(
    size: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> ZeroInsertion:
    """Parameters of the equivalent convolution: z = s − 1, p' = k − p − 1 (with dilation d·(k − 1) − p), s' = 1.

    Errors as in :func:`conv_transpose_size`. Source: Dumoulin & Visin 2016, chapter 4; seed documents 002 and 004.
    """
    output_size = conv_transpose_size(size, kernel_size, stride, padding, output_padding, dilation)
    return ZeroInsertion(
        zeros=stride - 1,
        padding=full_padding(kernel_size, dilation) - padding,
        output_padding=output_padding,
        inserted_size=(size - 1) * stride + 1,
        output_size=output_size,
    )


def transpose_by_zero_insertion(
    x: ArrayLike, kernel: ArrayLike, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> np.ndarray:
    """Transposed convolution as a convolution of stride 1 with the flipped kernel over x spread by zeros.

    Arguments, result and errors as in :func:`transpose_by_matrix`; parameters from :func:`zero_insertion`.
    """
    x, kernel = _plane("x", x), _plane("kernel", kernel)
    axes = [
        zero_insertion(size, length, stride, padding, output_padding, dilation)
        for size, length in zip(x.shape, kernel.shape)
    ]
    spread = np.zeros([axis.inserted_size for axis in axes])
    spread[::stride, ::stride] = x
    around = [(axis.padding, axis.padding + axis.output_padding) for axis in axes]
    spread = np.pad(spread, np.maximum(around, 0))
    (top, bottom), (left, right) = np.maximum(np.negative(around), 0)  # cropped where p' is negative
    spread = spread[top : spread.shape[0] - bottom, left : spread.shape[1] - right]
    return convolve(spread, kernel[::-1, ::-1], dilation=dilation)


def transpose_by_overlap_add(
    x: ArrayLike, kernel: ArrayLike, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> np.ndarray:
    """Transposed convolution as a sum: every input pixel adds a multiple of the kernel, ``stride`` pixels apart.

    Then ``padding`` rows and columns are cropped on every side, and ``output_padding`` of them are kept at the bottom
    and right; pixels that no kernel covers are zero. Arguments, result and errors as in :func:`transpose_by_matrix`.

    Source: seed document 004 (which considers the crop a mistake) and Zhang et al., *Dive into Deep Learning*.
    """
    x, kernel = _plane("x", x), _plane("kernel", kernel)
    height, width = _transposed_shape(x.shape, kernel.shape, stride, padding, output_padding, dilation)
    canvas = np.zeros((height + 2 * padding, width + 2 * padding))
    reach_h, reach_w = (extent(length, dilation) for length in kernel.shape)
    for (row, column), value in np.ndenumerate(x):
        top, left = row * stride, column * stride
        canvas[top : top + reach_h : dilation, left : left + reach_w : dilation] += value * kernel
    return canvas[padding : padding + height, padding : padding + width]


def overlap_count(
    size: Size, kernel_size: Size, stride: int, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> np.ndarray:
    """Number of kernel copies of a transposed convolution that cover each output pixel: the untrained checkerboard.

    Returns int ``(o_h, o_w)``, the outer product of one count per axis; errors as in :func:`conv_transpose_size`.

    Source: Odena et al. 2016, doi:10.23915/distill.00003.
    """
    counts = []
    for n, k in zip(_pair("size", size), _pair("kernel_size", kernel_size)):
        length = conv_transpose_size(n, k, stride, padding, output_padding, dilation)
        reached = stride * np.arange(n)[:, None] + dilation * np.arange(k)  # (pixel, tap)
        counts.append(np.bincount(reached.ravel(), minlength=length + 2 * padding)[padding : padding + length])
    return np.outer(*counts)


def taps_per_phase(kernel_size: int, stride: int, dilation: int = 1) -> np.ndarray:
    """Number of kernel copies that cover an inner output pixel along one axis, by its position modulo the stride.

    Returns int ``(stride,)``, positions counted from the first pixel of the uncropped output. All numbers are equal
    exactly if the stride divides the kernel size and has no factor in common with the dilation. ``[2, 1]`` for kernel
    3 and stride 2: twice as many in one dimension, four times in two.
    """
    _check(kernel_size=kernel_size, stride=stride, dilation=dilation)
    return np.bincount(dilation * np.arange(kernel_size) % stride, minlength=stride)


def _matrix(
    kernel: np.ndarray, outputs: Sequence[int], inputs: Sequence[int], stride: int, padding: int, dilation: int
) -> np.ndarray:
    """C: output pixel ``a`` reads input pixel ``h`` through tap ``i`` if ``a·s + i·d − p = h``, on both axes."""
    rows, columns = (
        stride * np.arange(o)[:, None, None] + dilation * np.arange(k)[:, None] - padding == np.arange(n)
        for o, k, n in zip(outputs, kernel.shape, inputs)
    )  # (output, tap, input)
    matrix = np.einsum("aih,bjw,ij->abhw", rows, columns, kernel, optimize=True)
    return matrix.reshape(math.prod(outputs), math.prod(inputs))


def _transposed_shape(shape: tuple[int, ...], kernel_shape: tuple[int, ...], *parameters: int) -> tuple[int, int]:
    height, width = (conv_transpose_size(size, k, *parameters) for size, k in zip(shape, kernel_shape))
    return height, width


def _check(**values: int) -> None:
    for name, value in values.items():
        whole(name, value, least=0 if "padding" in name else 1)


def _pair(name: str, value: Size) -> tuple[int, int]:
    if isinstance(value, tuple) and len(value) != 2:
        raise ValueError(f"{name} must be one number or (height, width), received {value!r}")
    height, width = value if isinstance(value, tuple) else (value, value)
    _check(**{name: height})
    _check(**{name: width})
    return height, width


def _plane(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, "float64")
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be one plane (height, width) of at least one value, received {array.shape}")
    return array
