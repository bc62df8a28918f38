"""Drawn scenes: animal-like shapes with real fur on real ground, for the demo and the tests.

A scene is a patch of grass, gravel or brick with an animal on it: a body, a head, ears, legs and a tail, filled
with cat fur. Other blobs, filled with ground textures, surround it, so that neither "a blob" nor "an edge" is
enough to find the animal. Classes and trimap as in Oxford-IIIT Pets: pet, background, and a border band between them.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

from unet.config import ShapesConfig
from unet.data.images import RGB
from unet.data.pets import CLASSES
from unet.data.sources import Problem, Sample, draw

SIDE = (112, 160)
"""Range of a scene's height and width in pixels: every scene has its own size, as photographs do."""
BORDER = 0.02
"""Half width of the border band, as a share of the longer side."""
VERSION = 1
"""Part of the cache key: increase it when scenes change."""


class ShapesSource:
    """Seeded scenes.

    Args:
        config: Number of scenes and seed.
        validation: Share of the training scenes held out.
    """

    classes = CLASSES
    pixels = RGB

    def __init__(self, config: ShapesConfig, validation: float):
        self.config = config
        self.validation = validation

    def key(self) -> dict:
        """Arguments, and version of the drawing."""
        return {
            "source": "shapes",
            "version": VERSION,
            **self.config.model_dump(),
            "validation": self.validation,
        }

    def count(self) -> int | None:
        """Number of scenes."""
        return self.config.train + self.config.test

    def samples(self, split: str | None = None) -> Iterator[Sample | Problem]:
        """Draw the scenes one after another; each depends only on the seed and its own number."""
        names = [f"train_{i:05d}" for i in range(self.config.train)]
        held_out = draw(names, self.validation, "validation")
        names += [f"test_{i:05d}" for i in range(self.config.test)]
        for index, name in enumerate(names):
            assigned = "validation" if name in held_out else name.split("_")[0]
            if split in (None, assigned):
                image, mask = draw_scene(np.random.default_rng((self.config.seed, index)))
                yield Sample(name, assigned, image, mask)


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Returns:
        image uint8 ``(H, W, 3)`` and mask uint8 ``(H, W)`` with 0 pet, 1 background, 2 border.
    """
    height, width = (int(n) for n in rng.integers(*SIDE, size=2))
    ground = rng.choice(["grass", "gravel", "brick"])
    image = _patch(ground, height, width, rng)
    for _ in range(rng.integers(1, 5)):  # distractors: ground textures in blobs
        blob = _ellipse(height, width, rng.uniform(0, 1, 2), rng.uniform(0.05, 0.22, 2), rng.uniform(0, np.pi))
        image = _lay(image, _patch(rng.choice(["grass", "gravel", "brick"]), height, width, rng), blob)
    animal = _animal(height, width, rng)
    image = _lay(image, _patch("fur", height, width, rng), animal)
    image = image * rng.uniform(0.7, 1.2) + rng.normal(0, 4, image.shape)

    distance = ndimage.distance_transform_edt(animal) + ndimage.distance_transform_edt(~animal)
    mask = np.where(animal, 0, 1)
    mask[distance <= max(1.0, BORDER * max(height, width))] = 2
    return np.clip(image, 0, 255).astype(np.uint8), mask.astype(np.uint8)


def _animal(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Silhouette: ellipses for body, head, ears, legs and tail, in a random pose; bool ``(H, W)``."""
    size = rng.uniform(0.16, 0.30)
    facing = rng.choice([-1, 1])
    tilt = rng.uniform(-0.4, 0.4)
    centre = rng.uniform([0.35, 0.35], [0.65, 0.65])

    def part(along, up, radius_along, radius_up, angle=0.0):
        """Ellipse at (along, up) in body sizes from the body's centre, turned with the body."""
        x, y = facing * along * size, -up * size
        turned = (x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt))
        at = (centre[0] + turned[1], centre[1] + turned[0])
        return _ellipse(height, width, at, (radius_up * size, radius_along * size), facing * angle + tilt)

    body = part(0, 0, 1.0, rng.uniform(0.5, 0.75))
    head_at = (rng.uniform(0.9, 1.15), rng.uniform(0.35, 0.75))
    head = part(*head_at, 0.45, 0.42)
    ears = [part(head_at[0] + d, head_at[1] + 0.42, 0.13, 0.26, d) for d in (-0.25, 0.2)]
    legs = [part(d, -0.75, 0.13, rng.uniform(0.4, 0.6)) for d in (-0.7, -0.4, 0.4, 0.7)]
    tail = part(-1.2, rng.uniform(0.1, 0.6), 0.5, 0.1, rng.uniform(0.2, 1.0))
    return np.logical_or.reduce([body, head, *ears, *legs, tail])


def _ellipse(height, width, centre, radii, angle) -> np.ndarray:
    """Filled ellipse, bool ``(H, W)``; centre and radii as (vertical, horizontal) shares of the shorter side."""
    side = min(height, width)
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y - centre[0] * height) / side, (x - centre[1] * width) / side
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    return (u / radii[1]) ** 2 + (v / radii[0]) ** 2 <= 1


def _lay(image: np.ndarray, texture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Lay a texture over an image with an edge softened by about a pixel."""
    alpha = ndimage.gaussian_filter(where.astype(np.float32), 0.7)[..., None]
    return image * (1 - alpha) + texture * alpha


def _patch(kind: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Random window of a texture in a random tint and light; float ``(H, W, 3)``."""
    texture = _textures()[kind]
    top, left = (rng.integers(0, n - m + 1) for n, m in zip(texture.shape, (height, width), strict=False))
    patch = texture[top : top + height, left : left + width]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    grey = patch.mean(axis=2, keepdims=True)
    tint = rng.uniform(0.75, 1.25, 3)
    return (grey + rng.uniform(0.3, 1.0) * (patch - grey)) * tint * rng.uniform(0.6, 1.3)


@cache
def _textures() -> dict[str, np.ndarray]:
    """The photographs in scikit-image's wheel: grass, gravel, brick, and fur from Chelsea the cat; float arrays."""
    from skimage import data

    textures = {}
    for name, hue in (("grass", (0.75, 1.1, 0.6)), ("gravel", (1.05, 1.0, 0.9)), ("brick", (1.2, 0.85, 0.7))):
        textures[name] = getattr(data, name)()[..., None] * np.array(hue)
    fur = data.chelsea()[90:290, 0:110]  # flank and neck, no face
    tile = np.concatenate([fur, fur[:, ::-1]], axis=1)
    textures["fur"] = np.asarray(Image.fromarray(tile).resize((330, 300)), float)
    return textures
