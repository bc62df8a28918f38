"""Training images in the memory of the accelerator: the same batches, and when they are put there."""

from dataclasses import dataclass, field

import keras
import numpy as np
import pytest

from tests.helpers import BACKEND, TINY
from unet import backend, data
from unet import config as configuration
from unet.data import resident
from unet.data.batches import Batches
from unet.data.cache import Split
from unet.training.optimizer import make_optimizer
from unet.training.step import make_trainer

only_where_batches_stay = pytest.mark.skipif(BACKEND == "tensorflow", reason="fit takes batches from the host's memory")


@pytest.fixture
def split(rng):
    images = rng.integers(0, 256, (10, 6, 5, 3)).astype("uint8")
    return Split(images, rng.integers(0, 3, (10, 6, 5)).astype("uint8"), [str(index) for index in range(10)])


@only_where_batches_stay
def test_batches_are_the_same_and_arrays_of_the_backend(split):
    placed = resident.placed(split)
    for seed in (None, 3):
        host, device = Batches(split, 4, seed), Batches(placed, 4, seed)
        assert len(host) == len(device)
        for index in range(len(host)):
            for name, expected in host[index].items():
                found = device[index][name]
                assert keras.ops.is_tensor(found)
                assert keras.backend.standardize_dtype(found.dtype) == "uint8"
                np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), expected)


@only_where_batches_stay
def test_training_has_the_same_losses(tmp_path):
    config = configuration.load("demo", [*TINY, f"data.cache_dir={tmp_path}"])
    dataset = data.prepare(config.data)
    losses = []
    for split in (dataset.train, resident.placed(dataset.train)):
        keras.utils.set_random_seed(0)
        trainer = make_trainer(config, dataset.classes)
        trainer.compile(make_optimizer(config.training, steps_per_epoch=2), jit_compile=BACKEND == "jax")
        history = trainer.fit(Batches(split, 4, 0), epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(("memory", "placed"), [(0, False), (11_999, False), (12_000, BACKEND != "tensorflow")])
def test_a_split_is_placed_if_it_takes_a_tenth_of_the_memory_at_most(split, memory, placed, monkeypatch):
    assert split.images.nbytes + split.masks.nbytes == 1200
    if BACKEND != "tensorflow":
        monkeypatch.setattr(backend, "accelerator_memory", lambda: memory)
    assert isinstance(resident.resident(split), resident.Resident) == placed


def test_windows_stay_in_the_memory_of_the_host(split, monkeypatch):
    @dataclass(frozen=True)
    class Windows(Split):
        sizes: list = field(default_factory=list)

    monkeypatch.setattr(backend, "accelerator_memory", lambda: 1e12)
    windows = Windows(split.images, split.masks, split.names)
    assert resident.resident(windows) is windows


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX trains on several devices")
def test_several_devices_take_their_parts_from_the_memory_of_the_host(split, monkeypatch):
    monkeypatch.setattr(backend, "accelerator_memory", lambda: 1e12)
    with keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:1]).scope():
        assert resident.resident(split) is split
