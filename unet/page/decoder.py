"""Decoding of a photograph from a stranger, run as a program of its own with little memory and time.

``python -P decoder.py IMAGES MEMORY SECONDS`` reads an image file from standard input. It writes a line of JSON to
standard output: ``{"size": [height, width]}``, followed by the pixels, uint8 ``(H, W, 3)``, or ``{"message": ...}``.
``IMAGES`` is the path of ``unet/data/images.py``; importing it by its name would load the rest of the package, which
takes longer than decoding.
"""

import contextlib
import io
import json
import runpy
import sys

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
"""Formats that are read. Pillow knows more, some of which run other programs or have seen little scrutiny."""
MAX_PIXELS = 50_000_000
"""Photographs with more pixels are rejected before they are decoded."""
MAX_SIDE = 65_535
"""Largest height and width in pixels, that of JPEG. Interpolating along a longer side takes gigabytes."""
MEMORY = 2 * 2**30
"""Bytes of address space of the program, where the system has such a limit."""
SECONDS = 20
"""Processor time of the program."""

_NOT_AN_IMAGE = "The file is not an image. JPEG, PNG, WebP, GIF, TIFF and BMP files can be read."
_TOO_LARGE = (
    f"The photograph has more than {MAX_PIXELS // 10**6} million pixels, or more than {MAX_SIDE:,} in a row or column; "
    "scale it down."
)
UNREADABLE = "The photograph cannot be read: it is damaged or incomplete, or its pixels do not have 8 or 16 bits."
"""Message for anything else that goes wrong, even if the program dies. It quotes nothing from the file."""


def main(images: str, memory: str, seconds: str) -> None:
    """Decode standard input to standard output with ``to_rgb`` of the module at the path ``images``."""
    to_rgb = runpy.run_path(images)["to_rgb"]
    limit_resources(int(memory), int(seconds))
    try:
        with Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS or max(file.size) > MAX_SIDE:
                raise Image.DecompressionBombError
            pixels = to_rgb(file)
    except UnidentifiedImageError:
        answer = {"message": _NOT_AN_IMAGE}
    except Image.DecompressionBombError:
        answer = {"message": _TOO_LARGE}
    except Exception:  # decoders raise all kinds of errors for damaged files
        answer = {"message": UNREADABLE}
    else:
        answer = {"size": pixels.shape[:2]}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    if "size" in answer:
        sys.stdout.buffer.write(pixels.data)


def limit_resources(memory: int, seconds: int) -> None:
    """Limit address space in bytes and processor time of this process, on systems other than Windows."""
    with contextlib.suppress(ImportError):
        import resource

        for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
            with contextlib.suppress(ValueError, OSError):  # the system knows no such limit, or has set a lower one
                resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main(*sys.argv[1:])
