"""Mask files to class ids, by the grey value or colour of each class, and the number of pixels of each id."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unet.config.schema import Mark
from unet.data.images import load_image
from unet.data.sources import IGNORE

PIXELS = {"L": "grey values", "P": "palette", "1": "one bit"}
"""What the pixels of a mask with one channel are, by Pillow's mode."""
FEW = 3
"""Undefined values of a mask up to which each may be meant, such as a value for unlabelled pixels."""
COUNTED = 2**20
"""Pixels that are counted at a time, for which numpy needs 8 bytes each."""


def class_counts(mask: np.ndarray) -> np.ndarray:
    """Number of pixels of each class id, int64 ``(256,)``, in a mask, uint8 of any shape."""
    parts = np.split(mask.ravel(), range(COUNTED, mask.size, COUNTED))
    return sum((np.bincount(part, minlength=256) for part in parts), np.zeros(256, np.int64))


class BadMask(ValueError):
    """A mask whose pixels are not marks of classes.

    Args:
        message: What is wrong with the file.
        cause: The same without what is true of this file only; by default the message.
    """

    def __init__(self, message: str, cause: str = ""):
        super().__init__(message)
        self.cause = cause or message


class MaskReader:
    """Reads mask files as class ids.

    Args:
        marks: Grey value or (r, g, b) colour of each class in the masks, by class name, in the order of the ids.
        ignore: Grey value or colour of ignored pixels, or several of them; ``None``: no pixel is ignored. Three numbers
            are one colour if the classes have colours, and otherwise three grey values.
    """

    def __init__(self, marks: dict, ignore: Mark | tuple[Mark, ...] | None):
        self.marks = marks
        self.by_colour = any(isinstance(mark, tuple) for mark in marks.values())
        given: list = list(ignore) if isinstance(ignore, tuple) else [] if ignore is None else [ignore]
        if self.by_colour and isinstance(ignore, tuple) and isinstance(ignore[0], int):
            given = [ignore]
        # A grey value to ignore (the default is 255) has no meaning among colours, or if it marks a class.
        meant = (mark for mark in given if isinstance(mark, tuple) == self.by_colour and mark not in marks.values())
        self.ignored = tuple(dict.fromkeys(meant))
        self.table = np.full(256, -1, np.int16)
        if not self.by_colour:
            self.table[list(self.ignored)] = IGNORE
            for index, mark in enumerate(marks.values()):
                self.table[mark] = index

    def read(self, path: Path) -> tuple[np.ndarray, str]:
        """Read a mask as class ids, uint8 ``(H, W)``, and the type of its file.

        Raises:
            OSError: The file cannot be read as an image.
            BadMask: Its pixels are not marks of classes; the message says which, and what is allowed.
        """
        image = load_image(path)
        try:
            if self.by_colour:
                ids, pixels = self._from_colours(np.asarray(image.convert("RGB"))), "colours"
            else:
                ids, pixels = self._from_values(image), PIXELS[image.mode]
        except BadMask:
            if image.format == "JPEG":
                raise BadMask(
                    "is a JPEG file, whose compression has changed its pixels; save masks as PNG, from their source: "
                    "converting the JPEG file does not restore them"
                ) from None
            raise
        return ids, f"{image.format}, {pixels}"

    def _from_values(self, image: Image.Image) -> np.ndarray:
        if image.mode not in PIXELS:
            raise BadMask(self._wrong_mode(image.mode))
        pixels = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.uint8)
        if image.mode == "1" and 255 not in self.marks.values():
            pixels = pixels // 255
        ids = self.table[pixels]
        if (ids < 0).any():
            wrong = [str(value) for value in np.unique(pixels[ids < 0])]
            values = f"{'values' if len(wrong) > 1 else 'the value'} {', '.join(wrong[:8])}{', …' * (len(wrong) > 8)}"
            raise self._undefined(f"holds {values} in {(ids < 0).mean():.1%} of its pixels", wrong, "values")
        if (ids == IGNORE).any() and set(np.unique(pixels)) == {0, 255} and len(self.marks) == 2:
            raise BadMask(
                "holds only 0 and 255, and 255 is ignored; if 255 is the second class, set "
                f"data.folder.classes='{{{', '.join(f'{n}: {v}' for n, v in zip(self.marks, (0, 255)))}}}'"
            )
        return ids.astype(np.uint8)

    def _from_colours(self, pixels: np.ndarray) -> np.ndarray:
        codes = pixels.astype(np.int32) @ np.array([65536, 256, 1])
        known = {mark: index for index, mark in enumerate(self.marks.values())}
        known |= dict.fromkeys(self.ignored, IGNORE)
        table = np.array([r * 65536 + g * 256 + b for r, g, b in known])
        order = np.argsort(table)
        place = np.clip(np.searchsorted(table[order], codes), 0, len(table) - 1)
        found = table[order][place] == codes
        if not found.all():
            colours, counts = np.unique(codes[~found], return_counts=True)
            wrong = [f"[{c >> 16}, {c >> 8 & 255}, {c & 255}]" for c in colours[np.argsort(-counts)]]
            message = f"holds {len(wrong)} colour(s) that belong to no class, most often {', '.join(wrong[:4])}"
            raise self._undefined(message, wrong, "colours")
        return np.array(list(known.values()), np.uint8)[order][place]

    def _undefined(self, message: str, wrong: list[str], kind: str) -> BadMask:
        """The fault of a mask that holds values or colours without a meaning."""
        hint = f"; allowed: {self._allowed()}"
        if len(wrong) == 1:
            hint += f"; if {wrong[0]} means ignored, set data.folder.ignore={wrong[0].replace(' ', '')}"
        elif len(wrong) > FEW:
            hint += "; if masks were resized or compressed, make them again: to the nearest pixel, as PNG"
        shown = ", ".join(sorted(wrong)) if len(wrong) <= FEW else f"more than {FEW} {kind} that stand for no class"
        return BadMask(message + hint, f"holds {shown}{' (no class)' * (len(wrong) <= FEW)}{hint}")

    def _wrong_mode(self, mode: str) -> str:
        if mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA"):
            return (
                f"is a colour image ({mode}) but the classes are given as ids; expected one channel of ids, or give "
                "the colour of each class: data.folder.classes='{name: [r, g, b], ...}'"
            )
        return f"has {'16' if '16' in mode else '32'}-bit pixels ({mode}); expected 8-bit class ids (PNG, one channel)"

    def _allowed(self) -> str:
        allowed = [f"{list(m) if isinstance(m, tuple) else m} ({name})" for name, m in self.marks.items()]
        ignored = [f"{list(mark) if isinstance(mark, tuple) else mark} (ignored)" for mark in self.ignored]
        return ", ".join([*allowed, *ignored])


@dataclass(frozen=True)
class LabelMasks:
    """The mask files of one image: one for each label, ``None`` where there is none."""

    files: tuple[Path | None, ...]

    def __str__(self):
        return str(next(file for file in self.files if file))


class LabelReader(MaskReader):
    """Reads the mask file of one label: 1 where it is set, 0 where it is not, 255 where pixels are ignored.

    Args:
        ignore: Grey values of ignored pixels other than 0 and 255; ``None``: no pixel is ignored.
    """

    def __init__(self, ignore: Mark | tuple[Mark, ...] | None):
        super().__init__({"not set": 0, "set": 255}, ignore)
        if 1 not in self.ignored:
            self.table[1] = 1

    def _from_values(self, image: Image.Image) -> np.ndarray:
        if (
            image.mode in PIXELS
            and 1 not in self.ignored
            and {1, 255} <= set(np.unique(np.asarray(image.convert("L"))))
        ):
            raise BadMask("holds both 1 and 255; the mask of a label holds 0, and either 1 or 255 where it is set")
        return super()._from_values(image)

    def _wrong_mode(self, mode: str) -> str:
        return f"has pixels of the kind {mode}; the mask of a label has one channel of 0, and 1 or 255 where it is set"

    @staticmethod
    def together(masks: Sequence[np.ndarray | None]) -> np.ndarray:
        """The masks of all labels as one, uint8 ``(H, W)``: bit k is label k, and 255 is ignored.

        Args:
            masks: What :meth:`read` returns for each label, of one size; ``None``: the label is not set anywhere.
        """
        present = [(index, mask) for index, mask in enumerate(masks) if mask is not None]
        whole = np.zeros(present[0][1].shape, np.uint8)
        for index, mask in present:
            whole |= (mask == 1).astype(np.uint8) << index
        for _, mask in present:
            whole[mask == IGNORE] = IGNORE
        return whole
