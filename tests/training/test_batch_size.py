"""``training.batch_size: auto``: what fits is found by trying, in a process of its own, and recorded."""

import subprocess
import sys

import pytest

from tests.helpers import JIT, ROOT
from tests.helpers.commands import run_unet
from unet import backend, config, processes
from unet.ablation.plan import grid
from unet.errors import InputError, RunError
from unet.runs import Run
from unet.training import batch_size, train
from unet.training.step import SegmentationTrainer

TINY = f"""
data: {{source: shapes, size: 8, shapes: {{train: 100, test: 2}}, validation: 0.1}}
model: {{width: 2, depth: 1}}
training: {{epochs: 1, batch_size: auto, warmup: 0, jit: {JIT}, pictures_every: 0}}
"""


@pytest.fixture
def make(tmp_path):
    """Create a run of the tiny configuration with 90 training images."""

    def make(*overrides):
        (tmp_path / "tiny.yaml").write_text(TINY)
        return Run.create(config.load(tmp_path / "tiny.yaml", overrides), tmp_path / "runs")

    return make


@pytest.fixture
def stand_in(monkeypatch):
    """Let a program stand in for the process that tries; it finds the file that it writes to in ``file``."""

    def use(program: str):
        program = f"import os, signal, sys; file = open(sys.argv[2], 'a', buffering=1)\n{program}"
        monkeypatch.setattr(
            processes, "command", lambda module, *arguments: [sys.executable, "-c", program, *arguments]
        )

    return use


def size_in(run: Run):
    return run.config.training.batch_size


# === What is tried ===


@pytest.mark.parametrize(
    ("accumulate", "most", "expected"), [(1, 100, [1, 2, 4, 8]), (3, 100, [1, 2]), (1, 3, [1, 2]), (1, 0, [])]
)
def test_numbers_double_until_memory_is_exhausted_or_an_epoch_has_fewer_than_ten_updates(
    make, monkeypatch, accumulate, most, expected
):
    """Of 90 images: 9 leave ten updates, and 3 if each takes three batches."""
    tried = []

    def fit(self, batches, **settings):
        images = batches[0]["image"]
        assert len(batches) == max(2, accumulate)
        assert images.shape[1:] == (8, 8, 3)
        tried.append(len(images))
        if len(images) > most:
            raise MemoryError

    monkeypatch.setattr(SegmentationTrainer, "fit", fit)
    run = make(f"training.accumulate={accumulate}", "loss.class_weights=auto")
    assert list(batch_size.fitting_sizes(run)) == expected
    assert tried[: len(expected)] == expected
    assert len(tried) - len(expected) == (most < 100)


def test_other_errors_are_not_taken_for_exhausted_memory(make, monkeypatch):
    def fit(self, batches, **settings):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(SegmentationTrainer, "fit", fit)
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(batch_size.fitting_sizes(make()))


# === How it ends ===


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("end", "expected"),
    [("", 4), (f"os._exit({batch_size.EXHAUSTED})", 4), ("os.kill(os.getpid(), signal.SIGKILL)", 4)],
)
def test_the_last_number_that_fitted_is_used_however_the_process_ends(make, stand_in, end, expected):
    stand_in(f"print('1\\n2\\n4', file=file)\n{end}")
    assert batch_size.find(make()) == expected


@pytest.mark.backend_free
def test_if_not_one_image_fits_the_message_names_the_settings_to_change(make, stand_in):
    stand_in(f"os._exit({batch_size.EXHAUSTED})")
    run = make()
    message = (
        r"^out of memory with training\.batch_size=1; epochs saved: 0\. Start a new run with "
        r"training\.remat=true, which takes longer; or training\.precision=mixed_bfloat16; "
        r"or a smaller data\.size \(now 8×8\); or a smaller model\.width"
    )
    with pytest.raises(RunError, match=message):
        train(run)
    assert size_in(run) == "auto"


@pytest.mark.backend_free
def test_mistakes_and_failures_of_the_process_are_reported(make, stand_in):
    stand_in("sys.exit('error: data: no images')")
    with pytest.raises(RunError, match=r"^training\.batch_size: auto: data: no images$"):
        batch_size.find(make())
    stand_in("print('error: data.data_dir: there is no such folder', file=sys.stderr); sys.exit(2)")
    with pytest.raises(InputError, match=r"^training\.batch_size: auto: data\.data_dir: there is no such folder$"):
        batch_size.find(make())


@pytest.mark.slow
def test_a_process_ends_when_it_takes_more_memory_than_it_may():
    program = (
        "import numpy, time\nfrom unet import backend\nfrom unet.training import batch_size\n"
        "batch_size._end_beyond(backend.resident_memory() + 200)\n"
        "fits = numpy.ones(2**24); time.sleep(1); print('128 MiB fit', flush=True)\n"
        "more = numpy.ones(2**25); time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (batch_size.EXHAUSTED, "128 MiB fit\n")


@pytest.mark.backend_free
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_process_and_machine_are_known():
    before = backend.resident_memory()
    assert 10 < before < backend.available_memory() + before < 2**24
    array = bytearray(2**26)
    assert 60 < backend.resident_memory() - before < 100
    del array


# === In a run ===


@pytest.mark.slow
def test_a_run_trains_with_the_number_found_and_resumes_with_it(make, tmp_path):
    run = make("training.epochs=2")
    train(run)
    assert size_in(run) == 8
    assert int(run.history()[-1]["epoch"]) == 2
    assert "training.batch_size: auto: 8 images" in (run.path / "log.txt").read_text()
    assert "2 epochs of 11 steps" in (run.path / "log.txt").read_text()
    again = run_unet("train", tmp_path / "tiny.yaml", "training.epochs=2", "--root", tmp_path / "runs")
    assert again.code == 0, again.err
    assert "is finished after epoch 2" in (run.path / "log.txt").read_text()


@pytest.mark.slow
def test_a_number_that_was_found_is_not_searched_again(make, stand_in):
    stand_in("print(4, file=file)")
    run = make()
    train(run)
    assert size_in(run) == 4
    stand_in("sys.exit('error: not again')")
    train(make())
    with pytest.raises(InputError, match=r"training\.epochs: 1 there, 2 here\n") as caught:
        make("training.epochs=2")
    assert "batch_size" not in str(caught.value)


@pytest.mark.backend_free
def test_a_grid_needs_a_number(tmp_path):
    (tmp_path / "grid.yaml").write_text(f"base: {ROOT / 'configs/demo.yaml'}\nvary: {{model.width: [4, 8]}}\n")
    with pytest.raises(InputError, match=r"grid\.yaml: training\.batch_size: auto may give .*; give a number$"):
        grid.load(tmp_path / "grid.yaml", ["training.batch_size=auto"])
    done = run_unet("ablate", tmp_path / "grid.yaml", "--dry-run", "training.batch_size=auto")
    assert done.code == 2


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0", "must be ≥ 1, received 0"),
        ("automatic", 'must be a whole number, or auto, received "automatic"'),
        ("1.5", "must be a whole number, or auto, received 1.5"),
        ("[8]", "must be a whole number, or auto, received [8]"),
    ],
)
def test_other_values_are_refused(make, value, message):
    with pytest.raises(InputError) as caught:
        make(f"training.batch_size={value}")
    assert str(caught.value) == f"command line: training.batch_size: {message}"
