"""Mask files to class ids, by the grey value or colour of each class."""

from pathlib import Path

import numpy as np

from unet.config.schema import Mark
from unet.data.images import load_image
from unet.data.sources import IGNORE


class MaskReader:
    """Reads mask files as class ids.

    Args:
        marks: Grey value or (r, g, b) colour of each class in the masks, by class name, in the order of the ids.
        ignore: Grey value or colour of ignored pixels; ``None``: no pixel is ignored.
    """

    def __init__(self, marks: dict, ignore: Mark | None):
        self.marks = marks
        self.by_colour = any(isinstance(mark, tuple) for mark in marks.values())
        # A grey value to ignore (the default is 255) has no meaning among colours, or if it marks a class.
        means_nothing = isinstance(ignore, tuple) != self.by_colour or ignore in marks.values()
        self.ignore = None if means_nothing else ignore
        self.table = np.full(256, -1, np.int16)
        if not self.by_colour:
            if self.ignore is not None:
                self.table[self.ignore] = IGNORE
            for index, mark in enumerate(marks.values()):
                self.table[mark] = index

    def read(self, path: Path) -> np.ndarray:
        """Read a mask as class ids, uint8 ``(H, W)``.

        Raises:
            OSError: The file cannot be read as an image.
            ValueError: Its pixels are not marks of classes; the message says which, and what is allowed.
        """
        image = load_image(path)
        if self.by_colour:
            return self._from_colours(np.asarray(image.convert("RGB")))
        if image.mode not in ("L", "P", "1"):
            raise ValueError(self._wrong_mode(image.mode))
        pixels = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.uint8)
        if image.mode == "1" and 255 not in self.marks.values():
            pixels = pixels // 255
        ids = self.table[pixels]
        if (ids < 0).any():
            wrong = np.unique(pixels[ids < 0])
            raise ValueError(
                f"holds {'values' if len(wrong) > 1 else 'the value'} {', '.join(map(str, wrong[:8]))}"
                f"{', …' if len(wrong) > 8 else ''} in {(ids < 0).mean():.1%} of its pixels; allowed: {self._allowed()}"
            )
        if (ids == IGNORE).any() and set(np.unique(pixels)) == {0, 255} and len(self.marks) == 2:
            raise ValueError(
                "holds only 0 and 255, and 255 is ignored; if 255 is the second class, set "
                f"data.folder.classes='{{{', '.join(f'{n}: {v}' for n, v in zip(self.marks, (0, 255)))}}}'"
            )
        return ids.astype(np.uint8)

    def _from_colours(self, pixels: np.ndarray) -> np.ndarray:
        codes = pixels.astype(np.int32) @ np.array([65536, 256, 1])
        known = {mark: index for index, mark in enumerate(self.marks.values())}
        if self.ignore is not None:
            known[self.ignore] = IGNORE
        table = np.array([r * 65536 + g * 256 + b for r, g, b in known])
        order = np.argsort(table)
        place = np.clip(np.searchsorted(table[order], codes), 0, len(table) - 1)
        found = table[order][place] == codes
        if not found.all():
            colours, counts = np.unique(codes[~found], return_counts=True)
            shown = [f"[{c >> 16}, {c >> 8 & 255}, {c & 255}]" for c in colours[np.argsort(-counts)][:4]]
            raise ValueError(
                f"holds {len(colours)} colour(s) that belong to no class, most often {', '.join(shown)}; "
                f"allowed: {self._allowed()} (masks must be saved without compression loss: PNG, not JPEG)"
            )
        return np.array(list(known.values()), np.uint8)[order][place]

    def _wrong_mode(self, mode: str) -> str:
        if mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA"):
            return (
                f"is a colour image ({mode}) but the classes are given as ids; expected one channel of ids, or give "
                "the colour of each class: data.folder.classes='{name: [r, g, b], ...}'"
            )
        return f"has {'16' if '16' in mode else '32'}-bit pixels ({mode}); expected 8-bit class ids (PNG, one channel)"

    def _allowed(self) -> str:
        allowed = [f"{list(m) if isinstance(m, tuple) else m} ({name})" for name, m in self.marks.items()]
        ignored = list(self.ignore) if isinstance(self.ignore, tuple) else self.ignore
        return ", ".join(allowed) + (f", {ignored} (ignored)" if ignored is not None else "")
