"""Oxford-IIIT Pets through TFDS: the real code on real data, and what happens without them."""

import importlib.util
import socket
import time

import numpy as np
import pytest

from tests.helpers import BACKEND
from unet import config, data
from unet.data.sources import native_samples
from unet.errors import InputError

needs_tfds = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is None, reason="tensorflow-datasets is not installed"
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Configuration of the Pets source, with overrides, and one cache for all tests."""
    directory = tmp_path_factory.mktemp("pets")
    (directory / "p.yaml").write_text("data: {source: pets, download: false}\n")
    cache = f"data.cache_dir={directory / 'cache'}"
    return lambda *overrides: config.load(directory / "p.yaml", [cache, *overrides]).data


# The faults of the data set itself, named by its keepers.
ALL_BACKGROUND = {
    *("Egyptian_Mau_162", "Egyptian_Mau_165", "Egyptian_Mau_196", "Egyptian_Mau_20", "saint_bernard_15"),
    *("saint_bernard_60", "saint_bernard_78", "saint_bernard_108", "leonberger_18", "miniature_pinscher_14"),
    *("keeshond_7", "japanese_chin_199", "Persian_259", "wheaten_terrier_195"),
}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the same arrays on every backend: read once")
@needs_tfds
def test_the_official_splits_and_the_known_faults_are_found(pets, settings):
    dataset = data.prepare(settings(f"data.data_dir={pets / 'tfds'}"))
    assert len(dataset.train) + len(dataset.validation) == 3680
    assert (len(dataset.validation), len(dataset.test)) == (368, 3669)
    shares = np.bincount(np.concatenate([dataset.train.masks.ravel(), dataset.test.masks.ravel()]), minlength=3)
    np.testing.assert_allclose(shares / shares.sum(), [0.300, 0.582, 0.118], atol=0.003)
    empty = {p.where for p in dataset.problems if p.kind == "empty mask"}
    assert empty == ALL_BACKGROUND
    pairs = [p for p in dataset.problems if p.kind == "near-identical"]
    assert len(pairs) == 22  # the 21 known ones, and British_Shorthair_186/271, one photograph in another light
    started = time.monotonic()
    data.prepare(settings(f"data.data_dir={pets / 'tfds'}"))
    assert time.monotonic() - started < 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the same arrays on every backend: read once")
@needs_tfds
@pytest.mark.slow
def test_tfds_and_the_archive_layout_give_the_same_masks(pets, settings):
    tfds = data.prepare(settings(f"data.data_dir={pets / 'tfds'}"))
    folder = data.prepare(settings("data.source=folder", f"data.data_dir={pets / 'pets128'}"))
    for split in ("train", "validation", "test"):
        a, b = getattr(tfds, split), getattr(folder, split)
        assert sorted(a.names) == sorted(b.names)
        order = {name: i for i, name in enumerate(b.names)}
        rows = [order[name] for name in a.names]
        np.testing.assert_array_equal(a.masks, b.masks[rows])
        assert np.abs(a.images[:50].astype(int) - b.images[rows[:50]]).mean() < 2  # two JPEG decoders


@pytest.mark.backend_free
def test_photographs_at_their_own_size_are_read_whole(pets, settings):
    source = data.make_source(settings("data.source=folder", f"data.data_dir={pets / 'pets_original'}"))
    sizes = [sample.image.shape for sample in native_samples(source, "test")]
    assert len(sizes) == 164
    assert len(set(sizes)) > 20
    assert max(max(shape[:2]) for shape in sizes) <= 640


@needs_tfds
def test_without_data_and_without_download_it_says_what_to_do(settings, tmp_path):
    with pytest.raises(InputError, match=r"data\.data_dir: .*holds no oxford_iiit_pet.*data\.download=true"):
        data.prepare(settings(f"data.data_dir={tmp_path / 'nothing'}"))


@pytest.mark.backend_free
@needs_tfds
@pytest.mark.parametrize("unknown_host", [False, True])
def test_without_network_it_says_what_to_do(settings, tmp_path, monkeypatch, unknown_host):
    import tensorflow_datasets as tfds

    def unreachable(*args, **kwargs):
        raise ConnectionError("Network is unreachable")

    def asked(*args, **kwargs):
        raise AssertionError("TFDS was asked to download")

    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable if unknown_host else lambda host, port: [])
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", asked if unknown_host else unreachable)
    with pytest.raises(InputError) as caught:
        data.prepare(settings(f"data.data_dir={tmp_path / 'nothing'}", "data.download=true"))
    message = str(caught.value)
    for part in ("could not be downloaded", "Network is unreachable", "data.data_dir=", "data.source=folder"):
        assert part in message


@pytest.mark.backend_free
def test_without_tfds_it_says_what_to_install(settings, monkeypatch):
    import builtins

    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "tensorflow":
            raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"tensorflow is not installed: pip install '\.\[cpu\]'.*data\.source=folder"):
        data.prepare(settings())
