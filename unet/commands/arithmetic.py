"""The command ``unet arithmetic``: sizes, padding and matrices of convolution, pooling and transposed convolution."""

from typing import Annotated

import numpy as np
import typer

from unet import arithmetic
from unet.errors import InputError, nearest

OPERATIONS = {"conv": "convolution", "pool": "pooling", "conv_transpose": "transposed convolution"}
WIDEST_MAP = 12
"""Largest output whose overlap is printed pixel by pixel."""
LARGEST_MATRIX = (64, 25)
"""Most rows and columns of a matrix that a terminal can show."""


def main(
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="conv, pool or conv_transpose.")],
    size: Annotated[int, typer.Argument(metavar="SIZE", help="Input height and width in pixels.")],
    kernel: Annotated[int, typer.Option("--kernel", "-k", help="Kernel size.")] = 3,
    stride: Annotated[int | None, typer.Option("--stride", "-s", help="Default: 1; for pool, the kernel size.")] = None,
    padding: Annotated[
        int, typer.Option("--padding", "-p", help="Pixels added on every side; conv_transpose crops them instead.")
    ] = 0,
    output_padding: Annotated[
        int, typer.Option(help="conv_transpose: extra rows at the bottom and columns on the right.")
    ] = 0,
    dilation: Annotated[int, typer.Option("--dilation", "-d", help="Distance between kernel taps, in pixels.")] = 1,
    ceil: Annotated[bool, typer.Option("--ceil", help="pool: round the size up, so that no pixel is dropped.")] = False,
    reach: Annotated[int | None, typer.Option(help="List every padding that gives this output size.")] = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="Print the operation as a matrix (small sizes).")] = False,
):
    """Print the output size of an operation.

    For a transposed convolution it also prints the equivalent convolution and the overlap of the kernels.

    unet arithmetic conv_transpose 3 -k 3 -s 2 --padding 1

    unet arithmetic conv_transpose 3 -k 3 -s 2 --reach 6

    unet arithmetic conv 4 -k 3 --matrix
    """
    if operation not in OPERATIONS:
        raise InputError(
            f"OPERATION: {operation!r} is not one of {', '.join(OPERATIONS)}{nearest(operation, OPERATIONS)}"
        )
    for option, given, operations in (
        ("--output-padding", output_padding, ["conv_transpose"]),
        ("--ceil", ceil, ["pool"]),
        ("--reach", reach is not None, ["conv", "conv_transpose"]),
        ("--matrix", matrix, ["conv", "conv_transpose"]),
    ):
        if given and operation not in operations:
            raise InputError(f"{option} is for {' and '.join(operations)}, not for {operation}")
    if reach is not None and (padding or output_padding or matrix):
        raise InputError("--reach determines the padding: leave out --padding, --output-padding and --matrix")
    if stride is None:
        stride = kernel if operation == "pool" else 1
    try:
        if reach is not None:
            lines = reaching(operation, size, reach, kernel, stride, dilation)
        elif operation == "conv":
            lines = [conv_formula(size, kernel, stride, padding, dilation)]
            if matrix:
                lines += matrix_lines("C", arithmetic.conv_matrix, kernel, size, stride, padding, dilation)
        elif operation == "pool":
            lines = [pool_formula(size, kernel, stride, padding, dilation, ceil)]
        else:
            parameters = (stride, padding, output_padding, dilation)
            lines = conv_transpose_lines(size, kernel, *parameters)
            if matrix:
                lines += matrix_lines("Cᵀ", arithmetic.conv_transpose_matrix, kernel, size, *parameters)
    except ValueError as error:
        raise InputError(str(error)) from error
    print(f"{OPERATIONS[operation]} over {size}×{size}, kernel {kernel}×{kernel}, stride {stride}, dilation {dilation}")
    print("\n".join(f"  {line}".rstrip() for line in lines))


def reaching(operation: str, size: int, target: int, kernel: int, stride: int, dilation: int) -> list[str]:
    """List every padding that gives the output size ``target``, or say why none does."""
    transposed = operation == "conv_transpose"
    if reason := arithmetic.why_unreachable(size, target, kernel, stride, dilation, transposed):
        return [reason]
    if transposed:
        return [
            f"padding {p}, output padding {op}: {conv_transpose_formula(size, kernel, stride, p, op, dilation)}"
            for p, op in arithmetic.conv_transpose_paddings(size, target, kernel, stride, dilation)
        ]
    return [
        f"padding {p}: {conv_formula(size, kernel, stride, p, dilation)}"
        for p in arithmetic.conv_paddings(size, target, kernel, stride, dilation)
    ]


def conv_formula(i: int, k: int, s: int, p: int, d: int) -> str:
    """Formula of a convolution's output size, with its numbers."""
    return f"o = floor(({i} + 2*{p} - {d}*({k} - 1) - 1) / {s}) + 1 = {arithmetic.conv_size(i, k, s, p, d)}"


def pool_formula(i: int, k: int, s: int, p: int, d: int, ceil: bool) -> str:
    """Formula of a pooling's output size, with its numbers."""
    o = arithmetic.pool_size(i, k, s, p, d, ceil)
    numerator = i + 2 * p - arithmetic.extent(k, d)
    rounding = "ceil" if ceil else "floor"
    unused = ceil and -(-numerator // s) + 1 > o
    dropped = " - 1 (the last window would start outside)" if unused else ""
    return f"o = {rounding}(({i} + 2*{p} - {d}*({k} - 1) - 1) / {s}) + 1{dropped} = {o}"


def conv_transpose_formula(i: int, k: int, s: int, p: int, op: int, d: int) -> str:
    """Formula of a transposed convolution's output size, with its numbers."""
    o = arithmetic.conv_transpose_size(i, k, s, p, op, d)
    return f"o = ({i} - 1)*{s} - 2*{p} + {d}*({k} - 1) + 1 + {op} = {o}"


def conv_transpose_lines(size: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int):
    """Size, equivalent convolution and overlap of a transposed convolution."""
    parameters = (stride, padding, output_padding, dilation)
    same = arithmetic.zero_insertion(size, kernel, *parameters)
    least, most = (int(taps) ** 2 for taps in np.sort(arithmetic.taps_per_phase(kernel, stride, dilation))[[0, -1]])
    if least == most:
        overlap = f"even: inner pixels are covered {counted(most, 'time')}"
    else:
        pattern = "a checkerboard" if least else "holes"
        overlap = f"uneven: inner pixels are covered {least} to {most} times: {pattern}"
    around = f"padding p' = {same.padding}" + (" (a crop)" if same.padding < 0 else "")
    more = f" and {same.output_padding} more at the bottom and right" if same.output_padding else ""
    lines = [
        conv_transpose_formula(size, kernel, *parameters),
        f"as a convolution: {counted(same.zeros, 'zero')} between pixels ({size} → {same.inserted_size}), "
        f"{around}{more}, stride {same.stride}, kernel flipped",
        f"overlap {overlap}",
    ]
    if same.output_size <= WIDEST_MAP:
        lines += indented(arithmetic.overlap_count(size, kernel, *parameters))
    return lines


def matrix_lines(name: str, make, kernel: int, size: int, *parameters: int) -> list[str]:
    """Format the operation's matrix, with w00, w01, … for the weights of the kernel.

    Raises:
        ValueError: The matrix is too large to be printed.
    """
    if kernel > 10 or size**2 > LARGEST_MATRIX[1]:
        raise ValueError("--matrix prints the matrix of inputs up to 5×5 and kernels up to 10×10")
    values = make(np.arange(1, kernel**2 + 1).reshape(kernel, kernel), size, *parameters).astype(int)
    if len(values) > LARGEST_MATRIX[0]:
        raise ValueError(f"--matrix prints up to {LARGEST_MATRIX[0]} output pixels, received {len(values)}")
    weights = np.array(["0", *(f"w{row}{column}" for row, column in np.ndindex(kernel, kernel))])
    shape = "{}×{}".format(*values.shape)
    return [f"{name}, {shape}: a row per output pixel, a column per input pixel", *indented(weights[values])]


def indented(values: np.ndarray) -> list[str]:
    """Format the rows of an array, with its columns aligned."""
    width = max(len(str(value)) for value in values.flat)
    return ["  " + " ".join(str(value).rjust(width) for value in row) for row in values]


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
