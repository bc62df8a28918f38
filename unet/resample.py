"""Interpolation as matrix multiplication: which source pixels contribute to which target pixel.

Bilinear upsampling, random resized crops and resizing of logits are separable, so one matrix per axis describes each of
them: ``y = A_rows · x · A_columnsᵀ`` for every channel. The matrices are built from run-time shapes with ``keras.ops``,
so the same code trains with XLA in every precision and accepts any image size. Only rotations and deformations of
training images sample every pixel at a position of its own.

Positions are in *source pixel coordinates*: pixel ``j`` has its centre at ``j``, and the image covers
``[-1/2, n_in - 1/2]``.
"""

from collections.abc import Callable

import keras
from keras import ops

from unet.arguments import flag, whole
from unet.backend import compiled_by_xla
from unet.gradients import differentiable


def scale_positions(n_in, n_out, align_corners: bool = False):
    """Source position of the centre of each target pixel when ``n_in`` pixels are resized to ``n_out``.

    Args:
        n_in: Source length in pixels, int or scalar tensor.
        n_out: Target length in pixels, int or scalar tensor.
        align_corners: ``False`` aligns the edges of the images, ``u = (v + ½)·n_in/n_out − ½`` (the default of
            ``torch.nn.Upsample`` and ``keras.layers.UpSampling2D``); ``True`` aligns the centres of the first and the
            last pixels, ``u = v·(n_in − 1)/(n_out − 1)``.

    Returns:
        float32 tensor ``(n_out,)``; values may be up to half a pixel outside ``[0, n_in − 1]``.

    Raises:
        ValueError: ``align_corners`` is not a bool.
    """
    align_corners = flag("align_corners", align_corners)
    target = ops.arange(n_out, dtype="float32")
    n_in, n_out = ops.cast(n_in, "float32"), ops.cast(n_out, "float32")
    if align_corners:
        return target * ((n_in - 1.0) / ops.maximum(n_out - 1.0, 1.0))
    return (target + 0.5) * (n_in / n_out) - 0.5


def crop_positions(start, extent, n_out):
    """Source position of each target pixel when the window ``[start, start + extent)`` is resized to ``n_out`` pixels.

    Args:
        start: float32 ``(B,)``, left edge of each window in pixels from the edge of the image.
        extent: float32 ``(B,)``, length of each window in pixels; a negative extent flips (then ``start`` is the
            right edge).
        n_out: Target length in pixels.

    Returns:
        float32 tensor ``(B, n_out)``.
    """
    start, extent = ops.convert_to_tensor(start), ops.convert_to_tensor(extent)
    target = (ops.arange(n_out, dtype="float32") + 0.5) / ops.cast(n_out, "float32")
    return start[:, None] + target[None, :] * extent[:, None] - 0.5


def linear_weights(positions, n_in, columns=None):
    """Linear interpolation: row v is ``max(0, 1 − |positions[v] − j|)``, with positions clamped to the image.

    Args:
        positions: float32 ``(..., n_out)`` in source pixel coordinates.
        n_in: Source length in pixels.
        columns: Source pixels ``(..., n)`` whose weights are returned; ``None`` for all, in order. Pixels outside the
            image have weight 0.

    Returns:
        float32 tensor ``(..., n_out, n_in)`` whose rows sum to 1 with at most two non-zero entries.
    """
    positions = ops.clip(ops.convert_to_tensor(positions), 0.0, ops.cast(n_in, "float32") - 1.0)
    return ops.maximum(0.0, 1.0 - ops.abs(positions[..., None] - _columns(n_in, columns)))


def cubic_weights(positions, n_in, columns=None, a: float = -0.75):
    """Cubic convolution (Keys 1981): row v is ``k(positions[v] − j)``; taps beyond the image fall on its edge pixel.

    ``k(d) = (a+2)|d|³ − (a+3)|d|² + 1`` for |d| ≤ 1, ``a(|d|³ − 5|d|² + 8|d| − 4)`` for 1 < |d| < 2, else 0.

    Args:
        positions: float32 ``(..., n_out)`` in source pixel coordinates, at most half a pixel outside the image.
        n_in: Source length in pixels.
        columns: See :func:`linear_weights`.
        a: Slope at distance 1: −0.75 in PyTorch and OpenCV, −0.5 (Keys' third-order choice) in Pillow and TensorFlow.

    Returns:
        float32 tensor ``(..., n_out, n_in)`` whose rows sum to 1 with at most four non-zero entries.
    """
    positions, columns = ops.convert_to_tensor(positions)[..., None], _columns(n_in, columns)
    last = ops.cast(n_in, "float32") - 1.0

    def kernel(distance):
        d = ops.abs(distance)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return ops.where(d <= 1, near, ops.where(d < 2, far, 0.0))

    inside = ops.cast(ops.logical_and(columns >= 0, columns <= last), "float32")
    beyond_first = ops.cast(columns == 0, "float32") * sum(kernel(positions + t) for t in (1, 2))
    beyond_last = ops.cast(columns == last, "float32") * sum(kernel(positions - last - t) for t in (1, 2))
    return kernel(positions - columns) * inside + beyond_first + beyond_last


def _columns(n_in, columns):
    """Source pixels as float32 ``(..., 1, n)``, to compare with positions ``(..., n_out, 1)``."""
    columns = ops.arange(n_in, dtype="float32") if columns is None else ops.cast(columns, "float32")
    return columns[..., None, :]


def nearest_weights(positions, n_in):
    """Nearest neighbour: row v is one-hot at the source pixel whose area contains ``positions[v]``.

    Arguments and shapes as in :func:`linear_weights`. A position midway between two centres belongs to the
    right one, as in ``torch.nn.functional.interpolate(mode="nearest-exact")``.
    """
    index = ops.clip(ops.floor(ops.convert_to_tensor(positions) + 0.5), 0.0, ops.cast(n_in, "float32") - 1.0)
    return ops.cast(ops.equal(index[..., None], _columns(n_in, None)), "float32")


def resample(x, rows, columns):
    """``y = rows · x · columnsᵀ`` for every image and channel.

    Args:
        x: ``(B, H, W, C)``.
        rows: ``(H', H)``, or ``(B, H', H)`` for a matrix per image.
        columns: ``(W', W)``, or ``(B, W', W)`` for a matrix per image.

    Returns:
        ``(B, H', W', C)`` in the dtype of ``x``, or float32 if ``x`` holds integers.
    """
    x = _floating(x)
    height, width, channels = ops.shape(x)[1:]
    rows, columns = ops.cast(rows, x.dtype), ops.cast(columns, x.dtype)
    new_height, new_width = ops.shape(rows)[-2], ops.shape(columns)[-2]
    y = ops.matmul(rows, ops.reshape(x, (-1, height, width * channels)))  # (B, H', W·C)
    if len(columns.shape) == 2:
        y = ops.matmul(columns, ops.reshape(y, (-1, new_height, width, channels)))
        return ops.reshape(y, (-1, new_height, new_width, channels))
    # One product per image: PyTorch would copy the matrix for every row, and TensorFlow compute many small products.
    y = ops.transpose(ops.reshape(y, (-1, new_height, width, channels)), (0, 2, 1, 3))
    y = ops.matmul(columns, ops.reshape(y, (-1, width, new_height * channels)))  # (B, W', H'·C)
    return ops.transpose(ops.reshape(y, (-1, new_width, new_height, channels)), (0, 2, 1, 3))


def sample(x, rows, columns, method: str = "linear"):
    """Interpolate at any positions, those outside clamped to the image: for warps that are not separable.

    Args:
        x: ``(B, H, W, C)``.
        rows: float32 ``(B, H', W')``, vertical positions in source pixel coordinates.
        columns: Horizontal positions, likewise.
        method: ``"linear"`` or ``"nearest"``.

    Returns:
        ``(B, H', W', C)`` in the dtype of ``x``, or float32 if ``x`` holds integers.
    """
    x = _floating(x)
    height, width, channels = ops.shape(x)[1:]
    size, new_height, new_width = ops.shape(rows)
    rows = ops.clip(rows, 0.0, ops.cast(height, "float32") - 1.0)
    columns = ops.clip(columns, 0.0, ops.cast(width, "float32") - 1.0)
    image = ops.reshape(ops.arange(size, dtype="int32"), (-1, 1, 1))

    def pixels(y, x_):
        y, x_ = ops.cast(y, "int32"), ops.cast(x_, "int32")
        index = ops.reshape((image * height + ops.minimum(y, height - 1)) * width + ops.minimum(x_, width - 1), (-1,))
        return ops.reshape(
            ops.take(ops.reshape(x, (-1, channels)), index, axis=0), (-1, new_height, new_width, channels)
        )

    if method == "nearest":
        return pixels(ops.floor(rows + 0.5), ops.floor(columns + 0.5))
    top, left = ops.floor(rows), ops.floor(columns)
    down, right = (ops.cast(part, x.dtype)[..., None] for part in (rows - top, columns - left))
    upper = (1 - right) * pixels(top, left) + right * pixels(top, left + 1)
    lower = (1 - right) * pixels(top + 1, left) + right * pixels(top + 1, left + 1)
    return (1 - down) * upper + down * lower


def gaussian_weights(deviations, n):
    """Blur of ``n`` pixels: row v is a Gaussian around v that sums to 1.

    Args:
        deviations: float32 ``(B,)``, standard deviations in pixels; 0 leaves an image as it is.
        n: Length in pixels.

    Returns:
        float32 tensor ``(B, n, n)``.
    """
    at = ops.arange(n, dtype="float32")
    variance = ops.square(ops.maximum(ops.convert_to_tensor(deviations), 1e-3))[:, None, None]
    return ops.softmax(-ops.square(at[:, None] - at) / (2.0 * variance), axis=-1)


def resize(x, height, width, method: str = "linear", align_corners: bool = False):
    """Resize ``(B, H, W, C)`` to ``(B, height, width, C)``.

    Args:
        x: Images or feature maps.
        height: Target height in pixels.
        width: Target width in pixels.
        method: ``"linear"`` or ``"cubic"``, both without antialiasing and meant for enlarging, or ``"nearest"``.
        align_corners: See :func:`scale_positions`.

    Raises:
        ValueError: There is no such method, or a size is less than 1.
    """
    methods = {"linear": linear_weights, "cubic": cubic_weights, "nearest": nearest_weights}
    if method not in methods:
        raise ValueError(f"method must be one of {', '.join(methods)}, received {method!r}")
    weights = methods[method]
    n_rows, n_columns = ops.shape(x)[1:3]
    for name, size in (("height", height), ("width", width), ("rows of x", n_rows), ("columns of x", n_columns)):
        if isinstance(size, int | float | str):  # a tensor if the size is dynamic
            whole(name, size, least=1)
    return resample(
        x,
        weights(scale_positions(n_rows, height, align_corners), n_rows),
        weights(scale_positions(n_columns, width, align_corners), n_columns),
    )


def _floating(x):
    """Integers and bools as float32: weights cast to their dtype would be 0 and 1."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)) else ops.cast(x, "float32")


BLOCK = 16
"""Source pixels per matrix product in :func:`double`."""


def double(x, weights: Callable = linear_weights, reach: int = 1, align_corners: bool = False):
    """Enlarge ``(B, H, W, C)`` to ``(B, 2H, 2W, C)``: a fast :func:`resize` for decoders.

    The interpolation matrix is a band: target pixels 2i and 2i + 1 depend on source pixels ``i − reach … i + reach``.
    The product is therefore computed in blocks, each with the few source pixels around it, in time proportional to the
    number of pixels instead of its square. The gradient is the same product with the transposed band. Where XLA
    compiles the code, linear interpolation is a sum of three shifted copies, which XLA makes one loop: on a CPU that
    takes 0.6 to 0.9 times as long. The five copies of the cubic one take as long as products.

    In blocks, a source pixel that is infinite or NaN is multiplied with zeros too, so a block of 16 source pixels
    along each axis becomes NaN instead of the few that PyTorch's interpolation reaches; a pixel within ``reach`` of a
    neighbouring block affects that one too. Farther pixels and other images are unaffected.

    Args:
        x: Feature maps; integers are computed in float32.
        weights: :func:`linear_weights`, or :func:`cubic_weights`.
        reach: Distance in source pixels on which a target pixel depends: 1 for linear, 2 for cubic.
        align_corners: See :func:`scale_positions`.

    Raises:
        ValueError: ``x`` has no pixels.
    """
    height, width, channels = ops.shape(x)[1:]
    if any(isinstance(n, int) and n == 0 for n in (height, width, channels)):
        raise ValueError(f"x must have at least one pixel and channel, received the shape {tuple(x.shape)}")
    double_rows = _double_by_shifts if reach == 1 and compiled_by_xla() else _double_by_products
    y = double_rows(ops.reshape(_floating(x), (-1, height, width * channels)), weights, reach, align_corners)
    y = double_rows(ops.reshape(y, (-1, width, channels)), weights, reach, align_corners)
    return ops.reshape(y, (-1, 2 * height, 2 * width, channels))


def _double_by_shifts(x, weights, reach, align_corners):
    """``(B, n, m)`` to ``(B, 2n, m)``, computed in float32 if x is in half precision."""
    n, features = ops.shape(x)[1:]
    taps = 2 * reach + 1
    sources = ops.repeat(ops.arange(n, dtype="int32"), 2)[:, None] + ops.arange(-reach, reach + 1, dtype="int32")
    band = weights(scale_positions(n, 2 * n, align_corners)[:, None], n, sources)  # (2n, 1, taps)
    dtype = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    band = ops.cast(ops.reshape(band, (n, 2, 1, taps)), dtype)
    padded = ops.pad(ops.cast(x, dtype), [[0, 0], [reach, reach], [0, 0]])
    y = sum(band[..., tap] * padded[:, tap : tap + n, None] for tap in range(taps))
    return ops.cast(ops.reshape(y, (-1, 2 * n, features)), x.dtype)


def _double_by_products(x, weights, reach, align_corners):
    """``(B, n, m)`` to ``(B, 2n, m)``."""
    n, features = ops.shape(x)[1:]
    block = min(BLOCK, n) if isinstance(n, int) else BLOCK

    def around(length, halo):
        """Pixels of each block of ``length`` and ``halo`` pixels on both sides of it: ``(blocks, length + 2·halo)``."""
        first = ops.arange((n + block - 1) // block, dtype="int32")[:, None] * length
        return first + ops.arange(-halo, length + halo, dtype="int32")[None, :]

    def matrices(targets, sources, dtype):
        """Matrices ``(blocks, targets, sources)``; targets beyond the image have weight 0."""
        inside = ops.logical_and(targets >= 0, targets < 2 * n)
        positions = scale_positions(n, 2 * n, align_corners)
        at = ops.take(positions, ops.clip(targets, 0, 2 * n - 1), axis=0)
        return ops.cast(weights(at, n, sources) * ops.cast(inside, "float32")[..., None], dtype)

    def product(blocks, x, indices, n_in, n_out):
        """Multiply each block of rows with the pixels at ``indices``: ``(B, n_in, m)`` to ``(B, n_out, m)``."""
        pixels = ops.take(x, ops.reshape(ops.clip(indices, 0, n_in - 1), (-1,)), axis=1)
        pixels = ops.reshape(pixels, (-1, *ops.shape(indices), features))
        rows = ops.shape(blocks)[0] * ops.shape(blocks)[1]
        y = ops.reshape(ops.matmul(blocks, pixels), (-1, rows, features))
        return y if isinstance(n, int) and rows == n_out else y[:, :n_out]

    def forward(x):
        targets, sources = around(2 * block, 0), around(block, reach)
        return product(matrices(targets, sources, x.dtype), x, sources, n, 2 * n)

    def backward(dy, x):
        targets, sources = around(2 * block, 2 * reach), around(block, 0)
        band = ops.transpose(matrices(targets, sources, dy.dtype), (0, 2, 1))
        return product(band, dy, targets, 2 * n, n)

    return differentiable(forward, backward)(x)
