"""Fingerprint of prepared data: what a run records about the images it was trained on, and what has changed since."""

import csv
import hashlib
import io
from collections.abc import Iterable

from unet.data.cache import Dataset
from unet.data.sources import SPLITS

SHOWN = 3
"""Most image names in a message about a change."""

Listing = dict[str, dict[str, str]]
"""Digest of every image and its mask, by split and name."""


def of(listing: Listing) -> dict[str, dict]:
    """Number of images of each split, and digests of their names and of their content, both in order."""
    return {
        split: {
            "images": len(digests),
            "names": _digest(digests),
            "content": _digest(digests.values()),
        }
        for split, digests in listing.items()
    }


def listing_of(dataset: Dataset) -> Listing:
    """Digest of every image of prepared data, as training sees it."""
    splits = {split: getattr(dataset, split) for split in SPLITS}
    return {name: dict(zip(split.names, split.digests, strict=True)) for name, split in splits.items()}


def to_csv(listing: Listing) -> str:
    """Rows ``split,name,digest``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "name", "digest"])
    writer.writerows([split, name, digest] for split in SPLITS for name, digest in listing[split].items())
    return text.getvalue()


def from_csv(text: str) -> Listing:
    """Read what :func:`to_csv` wrote."""
    listing: Listing = {split: {} for split in SPLITS}
    for row in csv.DictReader(io.StringIO(text)):
        listing[row["split"]][row["name"]] = row["digest"]
    return listing


def changes(before: dict[str, dict], old: Listing | None, new: Listing) -> list[str]:
    """What differs between recorded data and present data: one line for each split that has changed.

    Args:
        before: Recorded fingerprint, as :func:`of` gives it.
        old: Recorded listing, which lets the lines name images; ``None`` if it is lost.
        new: Present listing.
    """
    now = of(new)
    lines = []
    for split in SPLITS:
        if before[split] == now[split]:
            continue
        line = f"{split}: {before[split]['images']:,} images before, {now[split]['images']:,} now"
        lines.append(line + ("; " + _difference(old[split], new[split]) if old else ""))
    return lines


def _difference(old: dict[str, str], new: dict[str, str]) -> str:
    kinds = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "altered": [name for name in new if name in old and new[name] != old[name]],
    }
    parts = [f"{len(names):,} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    return ", ".join(parts) or "the same images in another order"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
