"""What a run records about its data, and what happens when the data change or move."""

import json
import os
import shutil
import types
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tests.helpers import JIT, TINY
from tests.helpers.commands import run_unet
from tests.helpers.training import stopping_after_an_epoch
from unet import config
from unet.errors import InputError
from unet.runs import FORMAT, Run
from unet.training import checkpoints, train
from unet.training.callbacks import Checkpoint

pytestmark = pytest.mark.backend_free


def write_pairs(folder, numbers):
    """Pairs images/K.png and masks/K.png of 16×16 pixels."""
    for number in numbers:
        rng = np.random.default_rng(number)
        for kind, pixels in (
            ("images", rng.integers(0, 256, (16, 16, 3), "uint8")),
            ("masks", rng.integers(0, 2, (16, 16), "uint8")),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{number:02}.png")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory with a folder of ten pairs and a run that stopped after its first epoch, and a copy of both."""
    root = tmp_path_factory.mktemp("root")
    write_pairs(root / "mine", range(10))
    (root / "small.yaml").write_text(
        "data: {source: folder, size: 16, folder: {classes: [ground, thing]}, validation: 0.2}\n"
        "model: {width: 2, depth: 1}\n"
        f"training: {{epochs: 3, batch_size: 2, warmup: 0, jit: {JIT}, checkpoint_seconds: 0}}\n"
    )
    with stopping_after_an_epoch():
        train(create(root))
    return root, Path(shutil.copytree(root, root.with_name("untouched")))


def create(root, *overrides):
    """Create a run of the smallest network on the folder."""
    places = [f"data.data_dir={root / 'mine'}", f"data.cache_dir={root / 'cache'}"]
    return Run.create(config.load(root / "small.yaml", [*places, *overrides]), root / "runs")


@pytest.fixture
def root(prepared):
    """The directory as it was at first; run and folder stay at the paths they were made at."""
    used, untouched = prepared
    shutil.rmtree(used)
    shutil.copytree(untouched, used)
    return used


@pytest.fixture
def folder(root):
    return root / "mine"


@pytest.fixture
def make(root):
    return lambda *overrides: create(root, "name=new", *overrides)


@pytest.fixture
def half_trained(root):
    return Run.open(root / "runs" / "small")


def as_written_by_an_earlier_version(run):
    """Remove what earlier versions did not write."""
    run.info_file.unlink()
    run.data_file.unlink()
    with zipfile.ZipFile(run.last_file) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != checkpoints.MEMBER}
    with zipfile.ZipFile(run.last_file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# === The record ===


def test_a_new_run_records_what_later_steps_need_without_opening_its_data(make, folder):
    shutil.rmtree(folder)
    info = make().info
    assert info.version == FORMAT
    assert info.classes == ("ground", "thing")
    assert info.colours == ("#E69F00", "#0072B2")
    assert (info.ignore, info.channels, info.data_licence, info.data) == (255, 3, None, None)


def test_training_records_number_names_and_content_of_every_split(half_trained):
    recorded = half_trained.info.data
    assert [recorded[split]["images"] for split in ("train", "validation", "test")] == [6, 2, 2]
    rows = half_trained.data_file.read_text().splitlines()
    assert rows[0] == "split,name,digest"
    assert len({row.split(",")[2] for row in rows[1:]}) == 10


@pytest.mark.parametrize(
    ("settings", "classes"),
    [
        ("data.source=shapes", ("pet", "background", "border")),
        ("data.folder.classes=null", ("pet", "background", "border")),  # only the Pets archive needs no names
        ("data.folder.classes={road: 7, car: 9}", ("road", "car")),
    ],
)
def test_the_record_of_an_earlier_run_is_derived_from_its_configuration(make, folder, settings, classes):
    run = make(settings)
    shutil.rmtree(folder)
    run.info_file.unlink()
    assert (run.info.version, run.info.classes) == (0, classes)


def test_the_record_of_a_later_version_is_refused(make):
    run = make()
    run.info_file.write_text(json.dumps(json.loads(run.info_file.read_text()) | {"version": FORMAT + 1}))
    with pytest.raises(InputError, match=r"run\.json: format version 2 is newer .* upgrade it"):
        _ = run.info


# === Changed data ===


def change(folder, kind):
    if kind == "added":
        write_pairs(folder, range(10, 20))
    elif kind == "removed":
        for path in folder.glob("*/05.png"):
            path.unlink()
    else:
        Image.fromarray(np.zeros((16, 16, 3), "uint8")).save(folder / "images" / "05.png")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("added", r"train: 6 images before, 13 now\n(.*\n)+  10 added \(1\d, 1\d, 1\d, \.\.\.\)"),
        ("removed", r"test: 2 images before, 2 now\n  1 removed \(05\)"),
        ("altered", r"test: 2 images before, 2 now\n  1 altered \(05\)\n[^ ]"),
    ],
)
def test_resuming_on_changed_data_is_refused_with_what_changed(half_trained, folder, kind, message):
    before = {path: path.read_bytes() for path in (half_trained.last_file, half_trained.history_file)}
    change(folder, kind)
    with pytest.raises(InputError, match=r"cannot be resumed: the data are not those it was started on") as caught:
        train(half_trained)
    assert caught.match(message)
    assert caught.match(r"data\.data_dir=NEW")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_run_without_a_checkpoint_starts_on_the_data_as_they_are(make, folder):
    run = make()
    train(run)
    run.last_file.unlink()
    change(folder, "removed")
    train(run)
    assert sum(split["images"] for split in run.info.data.values()) == 9
    assert len(run.history()) == 3


# === Checkpoints ===


def test_the_checkpoint_holds_its_epochs_and_is_still_a_keras_file(half_trained):
    assert checkpoints.saved_epochs(half_trained.last_file) == 1
    assert int(keras.saving.load_model(half_trained.last_file).steps) == 3


def test_a_run_of_an_earlier_version_resumes(half_trained):
    as_written_by_an_earlier_version(half_trained)
    train(half_trained)
    assert [row["epoch"] for row in half_trained.history()] == [1, 2, 3]
    assert half_trained.info.data is not None
    assert half_trained.info.version == FORMAT


def test_a_run_of_an_earlier_version_is_refused_where_steps_and_epochs_disagree(half_trained, folder):
    """Three times as many images: three steps would look like a third of an epoch."""
    as_written_by_an_earlier_version(half_trained)
    change(folder, "added")
    with pytest.raises(InputError, match=r"history\.csv has 1 epochs, which are \d steps .* saved after 3 steps"):
        train(half_trained)
    assert not half_trained.info_file.exists()


@pytest.mark.parametrize(("rows", "steps", "epochs"), [(4, 12, 4), (4, 9, 3), (4, 6, None), (2, 3, None)])
@pytest.mark.backend_free
def test_a_kill_between_two_files_of_an_earlier_version_is_told_from_other_data(half_trained, rows, steps, epochs):
    """history.csv may be one epoch ahead; of two epochs, half the steps may also mean doubled data."""
    as_written_by_an_earlier_version(half_trained)
    (row,) = half_trained.history()
    half_trained.write_history([row | {"epoch": float(epoch + 1)} for epoch in range(rows)])
    trainer = types.SimpleNamespace(load_weights=lambda file: None, steps=steps)
    if epochs is None:
        with pytest.raises(InputError, match=f"history.csv has {rows} epochs"):
            checkpoints.restore(half_trained, trainer, steps_per_epoch=3)
    else:
        assert checkpoints.restore(half_trained, trainer, steps_per_epoch=3) == epochs


# === Moved data ===


def test_a_run_whose_data_moved_says_how_to_resume_and_does(half_trained, folder):
    moved = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"there is no folder .*mine.*data\.data_dir=NEW"):
        train(half_trained)
    train(half_trained, [f"data.data_dir={moved}"])
    assert half_trained.config.data.data_dir == moved
    assert len(half_trained.history()) == 3
    train(half_trained)  # the place is recorded


def test_another_setting_of_a_run_cannot_be_changed(half_trained):
    with pytest.raises(InputError, match=r"training\.epochs"):
        train(half_trained, ["training.epochs=9"])


def test_other_data_are_not_recorded_as_the_place_of_a_run(half_trained, folder, tmp_path):
    write_pairs(tmp_path / "others", range(20, 30))
    with pytest.raises(InputError, match="cannot be resumed"):
        train(half_trained, [f"data.data_dir={tmp_path / 'others'}"])
    assert half_trained.config.data.data_dir == folder


@pytest.mark.skipif(os.name != "posix", reason="a mapped file cannot be truncated")
@pytest.mark.parametrize("split", ["train", pytest.param("validation", marks=pytest.mark.slow)])
def test_data_that_are_truncated_during_training_are_reported_and_prepared_again(tmp_path, monkeypatch, split):
    """On every backend as one message; TensorFlow wraps what its input pipeline raises."""
    original = Checkpoint.on_epoch_end

    def truncate(self, epoch, logs=None):
        original(self, epoch, logs)
        (file,) = (tmp_path / "cache").rglob(f"{split}_masks.npy")
        os.truncate(file, 200)

    settings = (*TINY, "training.epochs=2", "training.checkpoint_seconds=0", "training.pictures_every=0")
    command = ("train", "demo", "--root", tmp_path, "name=run", *settings, f"data.cache_dir={tmp_path / 'cache'}")
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "on_epoch_end", truncate)
        result = run_unet(*command)
    assert result.code == 1
    (error,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert f"{split}_masks.npy: has become shorter while it was in use" in error
    assert "Traceback" not in result.err
    again = run_unet(*command)
    assert again.code == 0, again.err
    assert "preparing the data again" in again.err
    assert "resuming after epoch 1 of 2" in again.err
