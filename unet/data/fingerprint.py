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
    """Read what :func:`to_csv` wrote.

    Raises:
        KeyError: A column or value is missing, or a split is unknown.
    """
    listing: Listing = {split: {} for split in SPLITS}
    for row in csv.DictReader(io.StringIO(text, newline="")):
        if None in row.values():
            raise KeyError("value")
        listing[row["split"]][row["name"]] = row["digest"]
    return listing


def changes(before: dict[str, dict], old: Listing | None, new: Listing) -> list[str]:
    """Describe what differs between recorded data and present data; empty if they are the same.

    Args:
        before: Recorded fingerprint, as :func:`of` gives it.
        old: Recorded listing, which lets the lines name images; ``None`` if it is lost.
        new: Present listing.

    Returns:
        A line for each split that has changed, and one for each kind of change.
    """
    now = of(new)
    lines = [
        f"{split}: {before[split]['images']:,} images before, {now[split]['images']:,} now"
        for split in SPLITS
        if before[split] != now[split]
    ]
    return lines + (_differences(old, new) if lines and old else [])


def _differences(old: Listing, new: Listing) -> list[str]:
    """One line for each kind of change, with a few names."""
    (was, was_in), (now, now_in) = (_by_name(listing) for listing in (old, new))
    both = [name for name in now if name in was]
    kinds = {
        "added": [name for name in now if name not in was],
        "removed": [name for name in was if name not in now],
        "altered": [name for name in both if now[name] != was[name]],
        "moved to another split": [name for name in both if now_in[name] != was_in[name]],
    }
    return [f"{len(names):,} {kind} ({_some(names)})" for kind, names in kinds.items() if names] or [
        "the same images in another order"
    ]


def _by_name(listing: Listing) -> tuple[dict[str, str], dict[str, str]]:
    """Digest and split of every image."""
    rows = [(name, digest, split) for split, digests in listing.items() for name, digest in digests.items()]
    return {name: digest for name, digest, _ in rows}, {name: split for name, _, split in rows}


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
