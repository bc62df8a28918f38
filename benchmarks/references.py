"""Independent implementations of the upsamplers: the formulas of the papers in plain numpy, pixel by pixel.

Nothing here is written for speed, and nothing is shared with ``unet``. Weights have Keras' layout: a convolution's
kernel is ``(k, k, in, out)``.
"""

import itertools

import numpy as np
from scipy.special import expit, softmax


def same_convolution(x, kernel, bias=0.0):
    """'Same' convolution of ``(B, H, W, C)`` by its definition."""
    size = kernel.shape[0]
    padded = np.pad(x, [(0, 0), *[((size - 1) // 2, size // 2)] * 2, (0, 0)])
    y = np.zeros((*x.shape[:3], kernel.shape[3]))
    for i, j in itertools.product(range(size), repeat=2):
        y += padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j]
    return y + bias


def pixel_at(x, b, row, column):
    """Channels of a pixel, zeros outside the image."""
    inside = 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
    return x[b, row, column] if inside else np.zeros(x.shape[3])


def targets(x):
    """Every target pixel of a ×2 enlargement: image, row, column."""
    return itertools.product(range(x.shape[0]), range(2 * x.shape[1]), range(2 * x.shape[2]))


def gather(x, kernel_at, k, groups=1):
    """CARAFE's second step: y[r, c] = Σ_Δ m(r, c)[group, Δ] · x[⌊r/2⌋ + Δ_h, ⌊c/2⌋ + Δ_w]."""
    y = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]))
    depth = x.shape[3] // groups
    for b, r, c in targets(x):
        kernel = kernel_at(b, r, c)  # (groups, k²)
        for tap, (down, right) in enumerate(itertools.product(range(-(k // 2), k // 2 + 1), repeat=2)):
            pixel = pixel_at(x, b, r // 2 + down, c // 2 + right)
            y[b, r, c] += np.repeat(kernel[:, tap], depth) * pixel
    return y


def carafe(x, compressor, encoder, k_up, groups):
    """Wang et al. 2019, equations 1 to 4: the channels of a source pixel contain the kernels of the cell's pixels."""
    logits = same_convolution(same_convolution(x, *compressor), *encoder)

    def kernel_at(b, r, c):
        cell = logits[b, r // 2, c // 2].reshape(groups, 2, 2, k_up**2)
        return softmax(cell[:, r % 2, c % 2], axis=-1)

    return gather(x, kernel_at, k_up, groups)


def layer_norm(x, gamma, beta):
    """Normalization over the channels."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta


def sapa(x, skip, query_norm, query, key_norm, key, k_up):
    """Lu et al. 2022 (SAPA-B): kernels are the softmax of inner products of the skip's pixel with its source pixels."""
    queries = layer_norm(skip, *query_norm) @ query[0] + query[1]
    keys = layer_norm(x, *key_norm) @ key[0] + key[1]

    def kernel_at(b, r, c):
        if r >= skip.shape[1] or c >= skip.shape[2]:
            return np.zeros((1, k_up**2))
        around = itertools.product(range(-(k_up // 2), k_up // 2 + 1), repeat=2)
        products = [pixel_at(keys, b, r // 2 + i, c // 2 + j) @ queries[b, r, c] for i, j in around]
        return softmax(products)[None]

    return gather(x, kernel_at, k_up)[:, : skip.shape[1], : skip.shape[2]]


def fade(x, skip, skip_compressor, compressor, encoder, gate, k_up):
    """Lu et al. 2022 (FADE): semi-shift convolution, reassembly, gated sum with the skip."""
    fine = same_convolution(same_convolution(skip, *skip_compressor), *encoder)
    coarse = same_convolution(same_convolution(x, compressor), *encoder)
    share = expit(same_convolution(x, *gate))

    def kernel_at(b, r, c):
        if r >= skip.shape[1] or c >= skip.shape[2]:
            return np.zeros((1, k_up**2))
        return softmax(fine[b, r, c] + coarse[b, r // 2, c // 2])[None]

    y = gather(x, kernel_at, k_up)[:, : skip.shape[1], : skip.shape[2]]
    g = share.repeat(2, 1).repeat(2, 2)[:, : skip.shape[1], : skip.shape[2]]
    return g * skip + (1 - g) * y


def bilinear_at(x, row, column):
    """Value of an image ``(H, W, C)`` between pixels, clamped to its border."""
    row, column = np.clip(row, 0, x.shape[0] - 1), np.clip(column, 0, x.shape[1] - 1)
    top, left = int(row), int(column)
    bottom, right = min(top + 1, x.shape[0] - 1), min(left + 1, x.shape[1] - 1)
    fy, fx = row - top, column - left
    upper = (1 - fx) * x[top, left] + fx * x[top, right]
    lower = (1 - fx) * x[bottom, left] + fx * x[bottom, right]
    return (1 - fy) * upper + fy * lower


def dysample(x, style, groups, offset, scope=None):
    """Liu et al. 2023: offsets for each target pixel and group, x first; PL predicts them from the shuffled map."""
    source = x
    if style == "pl":
        b, h, w, c = x.shape
        source = x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)
    predicted = same_convolution(source, *offset)
    predicted = predicted * (0.25 if scope is None else 0.5 * expit(same_convolution(source, scope)))
    y = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]))
    depth = x.shape[3] // groups
    for (b, r, c), g in itertools.product(targets(x), range(groups)):
        if style == "lp":
            right, down = predicted[b, r // 2, c // 2].reshape(2, groups, 2, 2)[:, g, r % 2, c % 2]
        else:
            right, down = predicted[b, r, c].reshape(2, groups)[:, g]
        row, column = r // 2 + (r % 2 - 0.5) / 2 + down, c // 2 + (c % 2 - 0.5) / 2 + right
        channels = slice(g * depth, (g + 1) * depth)
        y[b, r, c, channels] = bilinear_at(x[b][..., channels], row, column)
    return y
