"""Interpolation as matrices: the one place that says which source pixel feeds which target pixel.

Every resampling in the project (bilinear upsampling, random resized crops, resizing logits) is separable, so a
1-D matrix per axis describes it whole: ``y = A_rows · x · A_columnsᵀ`` for every channel. The matrices are
built from run-time shapes with ``keras.ops``, so the same code trains under XLA in every precision and takes
any image size.

Positions are in *source pixel coordinates*: pixel ``j`` has its centre at ``j``, the image covers
``[-1/2, n_in - 1/2]``.
"""

from keras import ops


def scale_positions(n_in, n_out, align_corners: bool = False):
    """Where the centre of each target pixel lies in the source when ``n_in`` pixels become ``n_out``.

    Args:
        n_in: Source length in pixels, int or scalar tensor.
        n_out: Target length in pixels, int or scalar tensor.
        align_corners: ``False`` scales the pixel *areas*, ``u = (v + ½)·n_in/n_out − ½`` (the default of
            ``torch.nn.Upsample`` and ``keras.layers.UpSampling2D``); ``True`` maps the first and the last pixel
            centre onto each other, ``u = v·(n_in − 1)/(n_out − 1)``.

    Returns:
        float32 tensor ``(n_out,)``; values may lie up to half a pixel outside ``[0, n_in − 1]``.
    """
    target = ops.arange(n_out, dtype="float32")
    n_in, n_out = ops.cast(n_in, "float32"), ops.cast(n_out, "float32")
    if align_corners:
        return target * ((n_in - 1.0) / ops.maximum(n_out - 1.0, 1.0))
    return (target + 0.5) * (n_in / n_out) - 0.5


def crop_positions(start, extent, n_out):
    """Where each target pixel lies in the source when the window ``[start, start + extent)`` fills ``n_out`` pixels.

    Args:
        start: float32 ``(B,)``, left edge of each window in pixels from the image's edge.
        extent: float32 ``(B,)``, length of each window in pixels; a negative extent flips (then ``start`` is the
            right edge).
        n_out: Target length in pixels.

    Returns:
        float32 tensor ``(B, n_out)``.
    """
    start, extent = ops.convert_to_tensor(start), ops.convert_to_tensor(extent)
    target = (ops.arange(n_out, dtype="float32") + 0.5) / ops.cast(n_out, "float32")
    return start[:, None] + target[None, :] * extent[:, None] - 0.5


def linear_weights(positions, n_in):
    """Linear interpolation: row v holds ``max(0, 1 − |positions[v] − j|)``, positions clamped to the image.

    Args:
        positions: float32 ``(..., n_out)`` in source pixel coordinates.
        n_in: Source length in pixels.

    Returns:
        float32 tensor ``(..., n_out, n_in)`` whose rows sum to 1 with at most two non-zero entries.
    """
    positions = ops.clip(ops.convert_to_tensor(positions), 0.0, ops.cast(n_in, "float32") - 1.0)
    return ops.maximum(0.0, 1.0 - ops.abs(positions[..., None] - ops.arange(n_in, dtype="float32")))


def nearest_weights(positions, n_in):
    """Nearest neighbour: row v is one-hot at the source pixel whose area holds ``positions[v]``.

    Arguments and shapes as in :func:`linear_weights`. A position midway between two centres goes to the right
    one, as in ``torch.nn.functional.interpolate(mode="nearest-exact")``.
    """
    index = ops.clip(ops.floor(ops.convert_to_tensor(positions) + 0.5), 0.0, ops.cast(n_in, "float32") - 1.0)
    return ops.cast(ops.equal(index[..., None], ops.arange(n_in, dtype="float32")), "float32")


def resample(x, rows, columns):
    """``y = rows · x · columnsᵀ`` for every image and channel.

    Args:
        x: ``(B, H, W, C)``.
        rows: ``(H', H)``, or ``(B, H', H)`` for a matrix per image.
        columns: ``(W', W)``, or ``(B, W', W)`` for a matrix per image.

    Returns:
        ``(B, H', W', C)`` in the dtype of ``x``.
    """
    height, width, channels = ops.shape(x)[1:]
    rows, columns = ops.cast(rows, x.dtype), ops.cast(columns, x.dtype)
    new_height, new_width = ops.shape(rows)[-2], ops.shape(columns)[-2]
    y = ops.matmul(rows, ops.reshape(x, (-1, height, width * channels)))  # (B, H', W·C)
    if len(columns.shape) == 2:
        y = ops.matmul(columns, ops.reshape(y, (-1, new_height, width, channels)))
    else:
        y = ops.matmul(columns[:, None], ops.reshape(y, (-1, new_height, width, channels)))
    return ops.reshape(y, (-1, new_height, new_width, channels))


def resize(x, height, width, method: str = "linear", align_corners: bool = False):
    """Resize ``(B, H, W, C)`` to ``(B, height, width, C)``.

    Args:
        x: Images or feature maps.
        height: Target height in pixels.
        width: Target width in pixels.
        method: ``"linear"`` (no antialiasing: made for enlarging) or ``"nearest"``.
        align_corners: See :func:`scale_positions`.
    """
    weights = {"linear": linear_weights, "nearest": nearest_weights}[method]
    n_rows, n_columns = ops.shape(x)[1:3]
    return resample(
        x,
        weights(scale_positions(n_rows, height, align_corners), n_rows),
        weights(scale_positions(n_columns, width, align_corners), n_columns),
    )
