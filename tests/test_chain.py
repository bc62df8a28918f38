"""Train, resume and evaluate, from every source, on this backend."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers import JIT
from tests.helpers.training import stopping_after_an_epoch
from unet.evaluation import evaluate
from unet.runs import Run
from unet.training import train

TINY = [
    *("model.width=2", "model.depth=2", "training.batch_size=4", "training.warmup=0", f"training.jit={JIT}"),
    *("training.epochs=2", "training.checkpoint_seconds=0"),
]


def my_folder(root):
    """Twelve photographs with a bright square, and masks in two colours."""
    rng = np.random.default_rng(0)
    for k in range(12):
        image = rng.integers(0, 120, (20, 26, 3)).astype("uint8")
        mask = np.zeros((20, 26, 3), "uint8")
        top, left = rng.integers(2, 10, 2)
        image[top : top + 8, left : left + 9] += 120
        mask[top : top + 8, left : left + 9] = (255, 0, 0)
        for name, pixels, ending in (("images", image, "jpg"), ("masks", mask, "png")):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{k}.{ending}")
    return root


def settings(source, tmp_path, pets):
    if source == "shapes":
        return ["data.source=shapes", "data.size=16", "data.shapes.train=12", "data.shapes.test=4"]
    if source == "folder":
        classes = "data.folder.classes={ground: [0, 0, 0], square: [255, 0, 0]}"
        return ["data.source=folder", f"data.data_dir={my_folder(tmp_path / 'mine')}", "data.size=[20, 26]", classes]
    if source == "archive":
        return ["data.source=folder", f"data.data_dir={pets() / 'pets_original'}", "data.size=[24, 32]"]
    pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    return [f"data.data_dir={pets() / 'tfds'}", "data.download=false", "data.size=16", "training.batch_size=64"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "shapes", "archive", "pets"])
def test_train_resume_and_evaluate(source, tmp_path, request, config):
    overrides = [*TINY, *settings(source, tmp_path, lambda: request.getfixturevalue("pets")), f"name={source}"]
    run = Run.create(config("demo.yaml", *overrides), tmp_path)
    # An interrupted first half: the run as it was after its first epoch.
    stopped = Run.create(config("demo.yaml", *overrides, "name=stopped"), tmp_path)
    with stopping_after_an_epoch():
        train(stopped)
    train(stopped)
    train(run)
    assert [row["loss"] for row in stopped.history()] == [row["loss"] for row in run.history()]
    scores = evaluate(run)
    native = evaluate(run, native=source != "pets")
    assert 0 < scores["mean_iou"]["dataset"] < 1
    assert scores["images"] == native["images"]
    assert ("pet_iou" in scores) == (source != "folder")
