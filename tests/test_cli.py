"""The command ``unet`` as a user calls it: output, exit codes, speed, and one message instead of a traceback."""

import json
import os
import pty
import re
import resource
import select
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers import BACKEND, ROOT, TINY, slow_beyond_tensorflow
from tests.helpers.commands import run_unet, run_unet_process
from unet import config
from unet.commands import COMMANDS
from unet.data.augmentation import OFF
from unet.runs import Run

BI = ["bilinear", "bicubic", "bilinear_additive"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run trained by the command, in another directory than the project's."""
    where = tmp_path_factory.mktemp("elsewhere")
    code, out, err = run_unet("train", "demo", "name=tiny", *TINY, cwd=where)
    assert code == 0, err
    assert "next: unet evaluate runs/tiny" in out
    assert "unet predict runs/tiny" in out
    assert re.search(r"epoch 1/1  loss \d", err)
    return where / "runs" / "tiny"


# === Training and evaluation ===


def test_train_then_evaluate(run):
    code, out, err = run_unet("evaluate", run)
    assert code == 0, err
    for part in ("mean IoU", "IoU border", "Boundary IoU pet", "pet IoU, border as pet", "predictions_test.png"):
        assert part in out
    assert json.loads((run / "metrics.json").read_text())["test"]["images"] == 4
    code, out, err = run_unet("evaluate", run, "--native", "--split", "validation")
    assert code == 0, err
    assert "native size" in out
    code, _, err = run_unet("train", run)
    assert code == 0
    assert "is finished after epoch 1" in err


def test_the_chosen_backend_is_the_one_used(run):
    start = json.loads((run / "environment.json").read_text())["starts"][0]
    assert start["backend"] == BACKEND


@pytest.mark.backend_free
def test_settings_of_an_existing_run_cannot_be_changed(run):
    code, _, err = run_unet("train", run, "training.epochs=3")
    assert code == 2
    assert "training.epochs: cannot be changed for a trained network" in err


@pytest.mark.backend_free
def test_a_failed_run_is_exit_code_1_and_debug_shows_the_traceback(tmp_path):
    diverging = [
        *("data.validation=0", "training.learning_rate=1e30", "training.optimizer=sgd", "training.clip_norm=null"),
        *("model.normalization=none", "training.epochs=3", "--root", tmp_path),
    ]
    code, _, err = run_unet("train", "demo", *TINY, *diverging)
    assert code == 1
    assert "error: the loss became NaN or infinite at step" in err
    assert "Traceback" not in err
    code, _, err = run_unet("train", "demo", *TINY, *diverging, "--debug")
    assert code == 1
    assert "Traceback" in err


# === The other commands ===


@pytest.mark.backend_free
def test_summary_prints_every_stage():
    code, out, err = run_unet("summary", "seed_unet")
    assert code == 0, err
    for part in ("encoder_1", "64×64×128", "32×32×256", "decoder_2_up", "131,200", "total", "MiB"):
        assert part in out, out


@pytest.mark.backend_free
def test_summary_draws_training_images_under_every_augmentation(tmp_path):
    """Rows of eight images: as they are, under each setting of the demo that does something, and under all together."""
    small = ["data.size=32", "data.shapes.train=20", "data.shapes.test=2", "model.width=4"]
    file = tmp_path / "samples.png"
    done = run_unet("summary", "demo", *small, "augmentation.blur=2", "--augmentations", file)
    assert done.code == 0, done.err
    assert f"augmentations: {file}" in done.out
    active = [key for key, value in config.load("demo", ["augmentation.blur=2"]).augmentation if value != OFF[key]]
    with Image.open(file) as picture:
        assert picture.width == 8 * (32 + 8)
        assert picture.height - (len(active) + 2) * (32 + 24) < 60  # the legend
        pixels = np.asarray(picture)
    rows = [pixels[row * 56 + 4 : row * 56 + 36, 4:36] for row in range(len(active) + 2)]
    assert all((row != rows[0]).any() for row in rows[-3:])
    refused = run_unet("summary", "demo", *small, "--augmentations", tmp_path / "samples.jpg")
    assert (refused.code, refused.err.count("must end in .png")) == (2, 1)


@slow_beyond_tensorflow
def test_summary_of_a_run_needs_no_data(tmp_path):
    settings = ["data.source=folder", f"data.data_dir={tmp_path / 'moved'}", "name=mine", "data.size=64"]
    run = Run.create(config.load("demo", settings), tmp_path)
    code, out, err = run_unet("summary", run.path, "model.upsampler=carafe")
    assert code == 0, err
    assert "mine: plain, carafe, 64×64, 3 classes" in out, out


@pytest.mark.backend_free
def test_check_data_lists_problems(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "images" / "a.png").write_text("broken")
    settings = ["data.source=folder", f"data.data_dir={tmp_path}", "data.folder.classes=[x, y]"]
    code, out, err = run_unet("check-data", "demo", *settings)
    assert code == 2
    assert "error: missing mask" in out
    assert err.startswith("error: 1 of these")
    code, out, err = run_unet("check-data", "demo", "data.shapes.train=6", "data.shapes.test=2")
    assert code == 0
    assert "8 pairs read; no problems found" in out


# === The group ===


@pytest.mark.backend_free
def test_help_fits_a_screen_and_lists_every_command():
    code, out, _ = run_unet("--help", COLUMNS="80")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    for name, text in COMMANDS.items():
        assert any(line.split() == [name, *text.split()] for line in lines), name
    names = {path.stem.replace("_", "-") for path in (ROOT / "unet" / "commands").glob("[!_]*.py")}
    assert set(COMMANDS) == names


@pytest.mark.backend_free
def test_version():
    import unet

    assert run_unet("--version") == (0, f"unet {unet.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.backend_free
def test_help_shows_an_example_and_the_script_does_the_same(name):
    code, out, _ = run_unet(name, "--help")
    assert code == 0
    assert re.search(rf"^  unet {name} [^\[{{]", out, re.MULTILINE)
    script = (ROOT / "scripts" / f"{name.replace('-', '_')}.py").read_text()
    assert f'    main("{name}")\n' in script


@pytest.mark.backend_free
def test_a_script_is_its_subcommand():
    command = [sys.executable, "scripts/arithmetic.py", "conv", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == run_unet("arithmetic", "conv", 5)[:2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "unet has no command 'trian'; did you mean train?"),
        (
            ["train", "configs/pet.yaml"],
            "there is no such file or shipped configuration; did you mean configs/pets.yaml?",
        ),
        (["train", "pets_cup"], "did you mean pets_cpu? (shipped: ablation/upsamplers, "),
        (["train", "demo", "model.widht=3"], "command line: model.widht: unknown key; did you mean width?"),
        (["train", "tests"], "tests is not a run directory"),
        (["evaluate", "runs/nothing"], "is not a run directory"),
        (["evaluate", "runs/x", "--split", "tset"], "did you mean test?"),
        (["summary", "demo", "model.depth=99"], "must be ≤ 8, received 99"),
    ],
)
@pytest.mark.backend_free
def test_bad_input_is_one_message_and_exit_code_2(arguments, expected):
    code, out, err = run_unet(*arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err
    assert err.startswith("error: ")


@pytest.mark.backend_free
def test_an_unknown_backend_is_an_input_error():
    code, _, err = run_unet("summary", "demo", KERAS_BACKEND="pytorch")
    assert (code, err) == (2, "error: KERAS_BACKEND: 'pytorch' is not one of tensorflow, jax, torch\n")


# === Speed ===


@pytest.fixture(scope="module")
def slowness():
    """How many times as long this machine takes as one that imports NumPy in 0.1 s of processor time; at least 1."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(1, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 0.1)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", 0),
        *((f"{name} --help", 0) for name in COMMANDS),
        ("train nothing.yaml", 2),
        ("train demo model.widht=3", 2),
        ("train demo model.upsampler=carfe", 2),
        ("summary demo model.upsampler.groups=3", 2),
        ("check-data demo data.size=small", 2),
        ("evaluate runs/nothing", 2),
        ("export runs/nothing", 2),
        ("predict runs/nothing README.md", 2),
        ("ablate nothing.yaml", 2),
        ("ablate upsamplers vary.sed=[0]", 2),
        ("compare runs/nothing runs/neither", 2),
        ("benchmark upsamplers --only nothing", 2),
        ("arithmetic conv 2", 2),
    ],
)
@pytest.mark.backend_free
def test_answers_at_once(line, code, slowness):
    """In less than a second of processor time, as Keras is not imported; in more on a slow machine."""
    limit, seconds = slowness, []
    while not seconds or (
        min(seconds) >= limit and len(seconds) < 3
    ):  # a busy processor takes longer for the same work
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run_unet_process(*line.split(), PYTHONPROFILEIMPORTTIME="1")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append((after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime))
    assert done.code == code, done.err
    imported = set(re.findall(r"^import time: .*\| +(\S+)$", done.err, re.MULTILINE))
    assert "unet.commands" in imported
    assert not imported & {"keras", "tensorflow", "jax", "torch"}
    assert min(seconds) < limit


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unet tr", ["train"]),
        ("unet che", ["check-data"]),
        ("unet evaluate --n", ["--native"]),
        ("unet train pets", ["pets", "pets_256", "pets_cpu", "pets_encoder"]),
        ("unet train configs/d", ["configs/debug/", "configs/demo.yaml"]),
        ("unet train configs/deb", ["configs/debug/", "configs/debug/overfit.yaml"]),
        ("unet train demo training.w", ["training.weight_decay=", "training.warmup="]),
        ("unet train demo training.ep", ["training.epochs=", "training.epochs=VALUE"]),
        ("unet summary demo model.upsampler=bi", BI),
        ("unet train demo training.jit=", ["true", "false"]),
        ("unet train demo seed=1 training.jit=t", ["true"]),
    ],
)
@pytest.mark.backend_free
def test_the_shell_completes(line, expected):
    words = re.findall("=|[^= ]+", line)  # as bash splits them
    completion = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    assert run_unet_process(**completion, _UNET_COMPLETE="complete_bash").out.split() == expected


@pytest.mark.slow
@pytest.mark.backend_free
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_tab_key_completes_in_bash(tmp_path):
    command = tmp_path / "unet"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m unet "$@"\n')
    command.chmod(0o755)
    ours, terminal = pty.openpty()
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PS1": "", "TERM": "dumb"}
    bash = ["bash", "--norc", "--noprofile", "-i"]
    with subprocess.Popen(
        bash, cwd=ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as shell:
        seen = ""

        def types(text, expected):
            nonlocal seen
            os.write(ours, text.encode())
            while expected not in seen:
                if not select.select([ours], [], [], 60)[0]:
                    shell.kill()
                    raise AssertionError(f"no {expected!r} in {seen!r}")
                seen += os.read(ours, 1024).decode().replace("\a", "")  # the bell, for several completions

        types('eval "$(_UNET_COMPLETE=source_bash unet)"; echo ready$((1 + 1))\n', "ready2")
        types("unet summ\t", "unet summary ")
        types("pets_c\t", "summary pets_cpu ")
        types("model.upsampler=ca\t", "model.upsampler=carafe ")
        types("training.ep\t", "training.epochs=")
        types("7", "training.epochs=7")
        shell.kill()
