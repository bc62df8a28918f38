"""Oxford-IIIT Pets (Parkhi, Vedaldi, Zisserman, Jawahar 2012) through TensorFlow Datasets."""

import logging
import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from unet.config.schema import PETS_CLASSES
from unet.data.images import RGB
from unet.data.sources import Problem, Sample, draw
from unet.environment import environment_variables
from unet.errors import InputError
from unet.files import expanded

log = logging.getLogger("unet")

CLASSES = PETS_CLASSES
DATASET = "oxford_iiit_pet:4.*.*"


class PetsSource:
    """The official 3,680 train and 3,669 test photographs with trimaps; validation is drawn from train.

    Trimap labels 1, 2, 3 (pet, background, border) become ids 0, 1, 2.

    Args:
        data_dir: The TFDS directory; ``None``: TFDS' own default (``~/tensorflow_datasets``).
        download: Download the data set if it is missing.
        validation: Share of the training photographs held out.
    """

    classes = CLASSES
    pixels = RGB

    def __init__(self, data_dir: Path | None, download: bool, validation: float):
        self.data_dir = expanded(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
        self.download = download
        self.validation = validation

    def key(self) -> dict:
        """Names and sizes of the prepared files, so that a cached data set is recognized without TensorFlow."""
        versions = self.data_dir / "oxford_iiit_pet"
        found = versions.glob("4.*/*") if os.path.isdir(versions) else ()
        files = sorted(path for path in found if os.path.isfile(path))
        return {
            "source": "pets",
            "files": [[str(path.relative_to(versions)), path.stat().st_size] for path in files],
            "validation": self.validation,
        }

    def count(self) -> int | None:
        """Published number of photographs, 7,349."""
        return 3680 + 3669

    def samples(self, split: str | None = None) -> Iterator[Sample | Problem]:
        """Decode through TFDS, in its order."""
        tfds, builder = self._builder()
        for official in ("train", "test"):
            if split is not None and (split == "test") != (official == "test"):
                continue
            # The names first, without decoding: the choice of validation photographs depends on all of them.
            skip = {key: tfds.decode.SkipDecoding() for key in ("image", "segmentation_mask")}
            listing = tfds.as_numpy(builder.as_dataset(split=official, decoders=skip))
            names = [_stem(example) for example in listing] if official == "train" else []
            held_out = draw(names, self.validation, "validation")
            for example in tfds.as_numpy(builder.as_dataset(split=official)):
                name = _stem(example)
                assigned = "validation" if name in held_out else official
                if split in (None, assigned):
                    mask = example["segmentation_mask"][..., 0] - 1
                    yield Sample(name, assigned, example["image"], mask)

    def _builder(self):
        try:
            verbosity = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")
            with environment_variables(TF_CPP_MIN_LOG_LEVEL=verbosity):
                import tensorflow as tf
                import tensorflow_datasets as tfds
        except ImportError as error:
            raise InputError(
                f"data.source pets is read through TensorFlow Datasets, and {error.name} is not installed: "
                "pip install '.[cpu]', or use the official archive with data.source=folder data.data_dir=<archive>"
            ) from None
        import keras

        if keras.backend.backend() != "tensorflow":
            tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads files here
        try:
            builder = tfds.builder(DATASET, data_dir=str(self.data_dir))
            if not builder.data_path.exists():
                if not self.download:
                    raise InputError(
                        f"data.data_dir: {self.data_dir} holds no oxford_iiit_pet 4.*.* prepared by TFDS, and "
                        "data.download is false: give data.data_dir=NEW, where the prepared data are, or set "
                        "data.download=true"
                    )
                _check_network(builder)
                log.info("downloading Oxford-IIIT Pets (about 800 MB) to %s", self.data_dir)
                builder.download_and_prepare()
        except InputError:
            raise
        except Exception as error:
            if not self.download:
                raise InputError(
                    f"data.data_dir: {self.data_dir} cannot be opened as TFDS data ({_first_line(error)}), and "
                    "data.download is false: give data.data_dir=NEW, where the prepared data are, or set "
                    "data.download=true"
                ) from error
            raise InputError(
                f"Oxford-IIIT Pets is not in {self.data_dir} and could not be downloaded ({_first_line(error)}). "
                "On a machine without network: prepare it elsewhere with "
                "python -c \"import tensorflow_datasets as t; t.load('oxford_iiit_pet')\", copy "
                "~/tensorflow_datasets here and give data.data_dir=<that folder> data.download=false; or unpack the "
                "official archive and give data.source=folder data.data_dir=<archive>"
            ) from error
        return tfds, builder


def _check_network(builder) -> None:
    """Resolve the server's name before TFDS tries to connect, which takes minutes to time out; not behind a proxy.

    Raises:
        OSError: The name cannot be resolved.
    """
    address = getattr(sys.modules[type(builder).__module__], "_BASE_URL", None)
    if address and not urllib.request.getproxies():
        socket.getaddrinfo(urllib.parse.urlsplit(address).hostname, 443)


def _stem(example) -> str:
    return Path(example["file_name"].decode()).stem


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
