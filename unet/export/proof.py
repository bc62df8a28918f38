"""Proofs that a file does what the trained network does: both are run on the same images and compared."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np

from unet import data
from unet.console import track
from unet.data.images import resize_image
from unet.errors import RunError
from unet.formats import LoadedNetwork, Metadata
from unet.metrics import Tally
from unet.upsamplers import layer_class

LARGEST_DIFFERENCE = 1e-3
"""Largest accepted difference of logits between a float32 file and the network."""
WITHIN = 0.99
"""Share of pixels within that difference if the network is not continuous: max-unpooling jumps where two values of a
window are equal up to rounding, and every runtime rounds differently."""
SAME_CLASS = 0.999
"""Share of pixels that get the same class."""
SAME_CLASS_FLOAT16 = 0.99
"""The same for float16 weights, if there are no masks to compute mean IoU with."""
LARGEST_LOSS = 0.01
"""Largest accepted loss of mean IoU by quantization."""
SURE = 7.0
"""Logit from which on float32 probabilities of a label, over 0.999, do not determine it to ``LARGEST_DIFFERENCE``."""
BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatProof:
    """Comparison of logits, pixel by pixel."""

    kind: ClassVar[str] = "float"
    images: int
    """Number of images compared."""
    compared_on: str = "test images"
    """What the images are: ``"test images"``, ``"training images"`` or ``"drawn images"``."""
    largest_logit_difference: float
    within: float = 1.0
    """Share of pixels whose logits differ by no more than ``LARGEST_DIFFERENCE``."""
    same_class: float
    """Share of pixels that get the same class."""

    def judge(self, metadata: Metadata) -> str:
        """Return why the file is rejected, or an empty string if it is accepted."""
        passed, least = _judge_pixels(metadata, self.within, self.same_class)
        return (
            ""
            if passed
            else (
                f"its logits differ by up to {self.largest_logit_difference:.2g} (allowed: {LARGEST_DIFFERENCE:g}) and "
                f"{self.same_class:.3%} of the pixels get the same class (at least {least:.1%})"
            )
        )

    def rows(self) -> dict[str, str]:
        """Results as text, by title."""
        rows = {
            "compared on": f"{self.images:,} {self.compared_on}",
            "largest difference in logits": f"{self.largest_logit_difference:.2g}",
        }
        if self.within < 1:
            rows[f"pixels that differ by {LARGEST_DIFFERENCE:g} or less"] = f"{self.within:.3%}"
        return rows | {"pixels with the same class": f"{self.same_class:.3%}"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedProof:
    """Comparison of mean IoU on a split."""

    kind: ClassVar[str] = "quantized"
    images: int
    """Number of images compared."""
    compared_on: str = "test images"
    """What the images are: ``"test images"`` or ``"training images"``."""
    mean_iou: float
    """Mean IoU of the file."""
    mean_iou_float: float
    """Mean IoU of the network in float32."""
    same_class: float
    """Share of pixels that get the same class."""

    def judge(self, metadata: Metadata) -> str:
        """Return why the file is rejected, or an empty string if it is accepted."""
        loss = self.mean_iou_float - self.mean_iou
        passed = loss <= LARGEST_LOSS
        return "" if passed else f"it loses {100 * loss:.2f} points of mean IoU (allowed: {100 * LARGEST_LOSS:g})"

    def rows(self) -> dict[str, str]:
        """Results as text, by title."""
        return {
            "compared on": f"{self.images:,} {self.compared_on}",
            "mean IoU": f"{self.mean_iou:.4f} (float32: {self.mean_iou_float:.4f})",
            "pixels with the same class": f"{self.same_class:.3%}",
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassesProof:
    """Comparison of class ids, pixel by pixel."""

    kind: ClassVar[str] = "classes"
    images: int
    """Number of images compared."""
    compared_on: str = "test images"
    """What the images are: ``"test images"``, ``"training images"`` or ``"drawn images"``."""
    same_class: float
    """Share of pixels that get the same class."""
    largest_gap: float
    """Largest difference, over pixels that get another class, between the network's logits of the two classes; of
    labels, largest logit of one that differs."""
    within: float = 1.0
    """Share of pixels that get the same class, or another one with a gap of at most ``LARGEST_DIFFERENCE``: a tie."""

    def judge(self, metadata: Metadata) -> str:
        """Return why the file is rejected, or an empty string if it is accepted."""
        passed, least = _judge_pixels(metadata, self.within, self.same_class)
        return (
            ""
            if passed
            else (
                f"{self.same_class:.3%} of the pixels get the same class (at least {least:.1%}), and the logits of "
                f"others differ by up to {self.largest_gap:.2g} (ties: {LARGEST_DIFFERENCE:g})"
            )
        )

    def rows(self) -> dict[str, str]:
        """Results as text, by title."""
        rows = {
            "compared on": f"{self.images:,} {self.compared_on}",
            "pixels with the same class": f"{self.same_class:.3%}",
        }
        return rows | ({"largest gap of another class": f"{self.largest_gap:.2g}"} if self.largest_gap else {})


Proof = FloatProof | QuantizedProof | ClassesProof


def _judge_pixels(metadata: Metadata, within: float, same_class: float) -> tuple[bool, float]:
    """Whether a pixel-by-pixel comparison is accepted, and the least accepted share of pixels with the same class."""
    if metadata.quantization == "float16":
        return same_class >= SAME_CLASS_FLOAT16, SAME_CLASS_FLOAT16
    continuous = not layer_class(metadata.upsampler).needs_argmax
    return within >= (1 if continuous else WITHIN) and same_class >= SAME_CLASS, SAME_CLASS


def to_json(proof: Proof) -> dict:
    """Entry ``proof`` of export.json."""
    return {"kind": proof.kind} | dataclasses.asdict(proof)


def read_proof(content: dict) -> Proof:
    """Read the entry ``proof`` of export.json, of this version or an earlier one."""
    kind = content.get("kind") or ("quantized" if "mean_iou" in content else "float")  # versions up to 0.1 had no kind
    kinds: dict[str, type[Proof]] = {proof.kind: proof for proof in (QuantizedProof, ClassesProof)}
    proof = kinds.get(kind, FloatProof)
    return proof(**{field.name: content[field.name] for field in dataclasses.fields(proof) if field.name in content})


def prove(
    loaded: LoadedNetwork, network: keras.Model, images: np.ndarray, compared_on: str = "test images"
) -> FloatProof:
    """Compare a loaded file with the network, at the file's size and, if it accepts any, also at an odd one.

    Args:
        loaded: The file, in its runtime.
        network: ``keras.Model`` from pixels to logits.
        images: uint8 ``(N, *size, 3)`` at the size of ``loaded.metadata``.
        compared_on: See :class:`FloatProof`.

    Raises:
        RunError: The file's output has another shape.
    """
    difference, within, same, pixels = 0.0, 0, 0, 0
    for batch in _batches(loaded.metadata, images):
        expected = np.asarray(network.predict_on_batch(batch), np.float32)
        found = loaded.logits(batch)
        if found.shape != expected.shape:
            raise RunError(
                f"the file returns an array {found.shape} for images {batch.shape}, the network {expected.shape}"
            )
        head = loaded.metadata.meaning
        same += int((head.mask(found) == head.mask(expected)).sum())
        pixels += expected[..., 0].size
        if loaded.metadata.activation != "none":
            expected = head.logits(head.probabilities(expected))
        if loaded.metadata.activation == "sigmoid":
            found, expected = (np.clip(logits, -SURE, SURE) for logits in (found, expected))
        apart = np.nan_to_num(np.abs(found - expected).max(-1), nan=np.inf)  # NaN must not count as small
        within += int((apart <= LARGEST_DIFFERENCE).sum())
        difference = max(difference, float(apart.max()))
    return FloatProof(
        images=len(images),
        compared_on=compared_on,
        largest_logit_difference=difference,
        within=within / pixels,
        same_class=same / pixels,
    )


def prove_classes(
    loaded: LoadedNetwork, network: keras.Model, images: np.ndarray, compared_on: str = "test images"
) -> ClassesProof:
    """Compare the class ids that a file returns with the network's logits; arguments as for :func:`prove`."""
    gaps, head = [], loaded.metadata.meaning
    for batch in _batches(loaded.metadata, images):
        logits = np.asarray(network.predict_on_batch(batch), np.float32)
        ids = loaded.class_ids(batch)
        gap = np.nan_to_num(head.gap(logits, ids), nan=np.inf)  # NaN must not count as a tie
        gaps.append(np.where(ids == head.mask(logits), -1, gap).ravel())
    gap = np.concatenate(gaps)
    return ClassesProof(
        images=len(images),
        compared_on=compared_on,
        same_class=float((gap < 0).mean()),
        largest_gap=max(0.0, float(gap.max())),
        within=float((gap <= LARGEST_DIFFERENCE).mean()),
    )


def _batches(metadata: Metadata, images: np.ndarray) -> list[np.ndarray]:
    """One image, the others, and if the file accepts any size, two images at an odd one."""
    batches = [images[:1], images[1:]] if len(images) > 1 else [images]
    if metadata.dynamic:
        height, width = metadata.size
        odd = (height + height // 4) | 1, (width - width // 8) | 1
        batches.append(np.stack([resize_image(image, odd) for image in images[:2]]))
    return batches


def prove_quantized(
    loaded: LoadedNetwork, network: keras.Model, split: data.Split, compared_on: str = "test images"
) -> QuantizedProof:
    """Compare mean IoU of a loaded file and of the network in float32.

    Args:
        loaded: The file, in its runtime.
        network: ``keras.Model`` from pixels to logits.
        split: Images and masks at the size of ``loaded.metadata``.
        compared_on: See :class:`QuantizedProof`.
    """
    head, count = loaded.metadata.meaning, len(loaded.metadata.classes)
    tallies = {name: Tally(loaded.metadata.classes, head) for name in ("file", "network")}
    same, pixels = 0, 0
    for start in track(range(0, len(split), BATCH), -(-len(split) // BATCH), f"comparing on {compared_on}"):
        chosen = slice(start, start + BATCH)
        images, masks = split.read(chosen)
        if loaded.returns_classes:  # mean IoU depends on the mask only
            ids = loaded.class_ids(images)
            output = np.stack([np.where(head.of(ids, index), 1, -1) for index in range(count)], -1).astype(np.float32)
        else:
            output = loaded.logits(images)
        outputs = {"file": output, "network": np.asarray(network.predict_on_batch(images), np.float32)}
        for name, tally in tallies.items():
            tally.add(split.names[chosen], masks, outputs[name])
        same += int((head.mask(outputs["file"]) == head.mask(outputs["network"])).sum())
        pixels += masks.size
    reached, expected = (tallies[name].scores()["mean_iou"]["dataset"] for name in ("file", "network"))
    return QuantizedProof(
        images=len(split),
        compared_on=compared_on,
        mean_iou=reached,
        mean_iou_float=expected,
        same_class=same / pixels,
    )
