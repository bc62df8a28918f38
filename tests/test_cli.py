"""The scripts as a user calls them: output, exit codes, and one message instead of a traceback."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import BACKEND, JIT, ROOT

TINY = [
    *("data.size=16", "data.shapes.train=12", "data.shapes.test=4", "model.width=2", "model.depth=1"),
    *("training.epochs=1", "training.batch_size=4", "training.warmup=0", f"training.jit={JIT}"),
]


def script(name, *arguments, cwd=ROOT, **environment):
    """Run a script; return exit code, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run made by the train script, from another directory than the project's."""
    where = tmp_path_factory.mktemp("elsewhere")
    code, out, err = script("train", ROOT / "configs" / "demo.yaml", "name=tiny", *TINY, cwd=where)
    assert code == 0, err
    assert "next: unet evaluate runs/tiny" in out
    assert re.search(r"epoch 1/1  loss \d", err)
    assert "Traceback" not in err
    return where / "runs" / "tiny"


def test_train_then_evaluate_from_the_command_line(run):
    code, out, err = script("evaluate", run)
    assert code == 0, err
    for part in ("mean IoU", "IoU border", "Boundary IoU pet", "pet IoU, border as pet", "predictions_test.png"):
        assert part in out
    assert json.loads((run / "metrics.json").read_text())["test"]["images"] == 4
    code, out, err = script("evaluate", run, "--native", "--split", "validation")
    assert code == 0, err
    assert "native size" in out
    code, _, err = script("train", run)
    assert code == 0
    assert "is finished: 1 epochs" in err


@pytest.mark.backend_free
def test_overrides_of_a_finished_run_are_refused(run):
    code, _, err = script("train", run, "training.epochs=3")
    assert code == 2
    assert "overrides such as training.epochs=3 need a YAML file" in err


@pytest.mark.backend_free
def test_summary_prints_every_stage():
    code, out, err = script("summary", "configs/seed_unet.yaml")
    assert code == 0, err
    for part in ("encoder_1", "64×64×128", "32×32×256", "decoder_2_up", "131,200", "total", "MiB"):
        assert part in out, out


@pytest.mark.backend_free
def test_check_data_lists_problems(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "images" / "a.png").write_text("broken")
    settings = ["data.source=folder", f"data.data_dir={tmp_path}", "data.folder.classes=[x, y]"]
    code, out, err = script("check_data", "configs/demo.yaml", *settings)
    assert code == 2
    assert "fault: missing mask" in out
    assert err.startswith("error: 1 of these")
    code, out, err = script("check_data", "configs/demo.yaml", "data.shapes.train=6", "data.shapes.test=2")
    assert code == 0
    assert "8 pairs read; nothing wrong" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "configs/pet.yaml"], "there is no such file; did you mean configs/pets.yaml?"),
        (
            ["train", "configs/demo.yaml", "model.widht=3"],
            "command line: model.widht: unknown key; did you mean width?",
        ),
        (["train", "tests"], "tests is not a run directory"),
        (["evaluate", "runs/nothing"], "is not a run directory"),
        (["evaluate", "runs/x", "--split", "tset"], "did you mean test?"),
        (["summary", "configs/demo.yaml", "model.depth=99"], "must be ≤ 8, received 99"),
    ],
)
@pytest.mark.backend_free
def test_bad_input_is_one_message_and_exit_code_2(arguments, expected):
    code, _, err = script(*arguments)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert err.startswith("error: ")


@pytest.mark.backend_free
def test_a_failed_run_is_exit_code_1_and_debug_shows_the_traceback(tmp_path):
    bad = [
        *("data.validation=0", "training.learning_rate=1e30", "training.optimizer=sgd", "training.clip_norm=null"),
        *("model.normalization=none", "training.epochs=3", "--root", str(tmp_path)),
    ]
    code, _, err = script("train", "configs/demo.yaml", *TINY, *bad)
    assert code == 1
    assert "error: the loss became NaN or infinite at step" in err
    assert "Traceback" not in err
    code, _, err = script("train", "configs/demo.yaml", *TINY, *bad, "--debug")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.backend_free
def test_an_unknown_or_missing_backend_is_told():
    code, _, err = script("summary", "configs/demo.yaml", KERAS_BACKEND="pytorch")
    assert (code, err) == (2, "error: KERAS_BACKEND: 'pytorch' is not one of tensorflow, jax, torch\n")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scripts").glob("[!_]*.py")))
@pytest.mark.backend_free
def test_help_shows_how_to_call_it(name):
    code, out, _ = script(name, "--help")
    assert code == 0
    assert f"unet {name}" in out


def test_the_backend_asked_for_is_the_one_used(run):
    start = json.loads((run / "environment.json").read_text())["starts"][0]
    assert start["backend"] == BACKEND
