"""Runs in MLflow and Weights & Biases, each in a store on the disk that is read back without this package."""

import importlib.util
import json
import signal
import sys
import time

import pytest

from tests.helpers import JIT
from tests.helpers.commands import start_unet
from unet import config, tracking
from unet.errors import InputError, RunError
from unet.runs import Run
from unet.tracking import dataset_scores

pytestmark = pytest.mark.backend_free
TINY = f"""
data: {{source: shapes, size: 24, shapes: {{train: 10, test: 4}}, validation: 0.2}}
model: {{width: 4, depth: 2}}
training: {{epochs: 3, batch_size: 4, warmup: 0, jit: {JIT}, checkpoint_seconds: 0}}
"""
ROWS = [{"epoch": 1, "loss": 2.5, "peak_memory_mib": float("nan")}, {"epoch": 2, "loss": 1.25}]
SCORES = {"size": [24, 24], "mean_iou": {"dataset": 0.5, "per_image": 0.4}, "iou": {"a/b": {"dataset": 0.25}}}


@pytest.fixture
def make(tmp_path):
    """Create a run that is tracked by a service."""

    def make(service, *overrides):
        path = tmp_path / "tiny.yaml"
        path.write_text(TINY)
        return Run.create(config.load(path, [f"tracking={service}", *overrides]), tmp_path / "runs")

    return make


@pytest.fixture
def client(tmp_path, monkeypatch):
    """MLflow with a store of files."""
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return mlflow.MlflowClient()


def only_run(client):
    """The only run of the store."""
    experiment = client.get_experiment_by_name("unet-upsamplers").experiment_id
    (found,) = client.search_runs([experiment])
    return found


def ended_by(error, run, rows, continues):
    """Track rows of a training that an exception ends."""
    following = tracking.following(run, continues)
    following.__enter__().log(rows)
    with pytest.raises(type(error)):
        following.gen.throw(error)


def epochs(client, key):
    """Epoch and value of every point of a metric."""
    return [(point.step, point.value) for point in client.get_metric_history(only_run(client).info.run_id, key)]


def test_mlflow_gets_configuration_labels_epochs_and_scores(client, make):
    run = make("mlflow", "model.upsampler=carafe")
    tracking.label(run, ablation="upsamplers", variant="carafe", seed=0)
    with tracking.following(run, continues=False) as tracker:
        tracker.log(ROWS[:1])
        assert only_run(client).info.status == "RUNNING"
        tracker.log(ROWS)
    tracking.add_scores(run, "test", SCORES)
    found = only_run(client)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "tiny")
    assert found.data.params["model.upsampler.name"] == "carafe"
    assert found.data.params["training.batch_size"] == "4"
    assert "data.cache_dir" not in found.data.params
    assert {key: found.data.tags[key] for key in ("ablation", "variant", "seed")} == {
        "ablation": "upsamplers",
        "variant": "carafe",
        "seed": "0",
    }
    assert epochs(client, "loss") == [(1, 2.5), (2, 1.25)]
    assert found.data.metrics == {"loss": 1.25, "test/mean_iou": 0.5, "test/iou/a_b": 0.25}


def test_a_resumed_run_continues_the_same_tracked_run(client, make):
    run = make("mlflow")
    ended_by(KeyboardInterrupt(), run, ROWS[:1], continues=False)
    assert only_run(client).info.status == "KILLED"
    ended_by(RunError("the loss became NaN"), run, ROWS, continues=True)
    assert only_run(client).info.status == "FAILED"
    assert epochs(client, "loss") == [(1, 2.5), (2, 1.25)]


def test_a_service_that_fails_does_not_end_the_training(client, make, monkeypatch, caplog):
    run = make("mlflow")
    with tracking.following(run, continues=False) as tracker:
        tracker.log(ROWS[:1])
        monkeypatch.setattr("mlflow.MlflowClient.log_batch", lambda *args, **options: 1 / 0)
        tracker.log(ROWS)
    assert "MLflow fails and is left alone (division by zero)" in caplog.text
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    with tracking.following(run, continues=True) as tracker:
        tracker.log(ROWS)
    assert epochs(client, "loss") == [(1, 2.5), (2, 1.25)]


def test_a_run_killed_before_its_first_epoch_was_sent_continues_the_same_tracked_run(client, make):
    run = make("mlflow")
    tracking.Tracker(run, tracking.Record(), trains=True)
    with tracking.following(run, continues=False) as tracker:
        tracker.log(ROWS)
    assert only_run(client).info.status == "FINISHED"
    with tracking.following(run, continues=False) as tracker:  # last.keras was deleted: other numbers may follow
        tracker.log(ROWS[:1])
    experiment = client.get_experiment_by_name("unet-upsamplers").experiment_id
    assert len(client.search_runs([experiment])) == 2


def test_a_run_killed_after_its_last_checkpoint_is_completed(client, make, monkeypatch):
    run = make("mlflow")
    tracking.Tracker(run, tracking.Record(), trains=True).log(ROWS[:1])
    tracking.complete(run, ROWS)
    assert epochs(client, "loss") == [(1, 2.5), (2, 1.25)]
    assert only_run(client).info.status == "FINISHED"
    monkeypatch.setattr(tracking, "following", None)
    tracking.complete(run, ROWS)  # nothing is missing


def test_a_tracked_run_that_is_gone_is_reported(client, make):
    run = make("mlflow")
    run.tracking_file.write_text(json.dumps({"id": "0" * 32, "epochs": 1}))
    following = tracking.following(run, continues=True)
    with pytest.raises(InputError, match=r"not found; to track it as a new run, delete .*tracking\.json"):
        following.__enter__()


@pytest.mark.parametrize("service", ["mlflow", "wandb"])
def test_a_missing_package_is_one_message(service, make, monkeypatch):
    monkeypatch.setitem(sys.modules, service, None)
    monkeypatch.delitem(sys.modules, f"unet.tracking.{service}", raising=False)
    with pytest.raises(InputError, match=rf"which is not installed: pip install '\.\[{service}\]'; or set tracking=no"):
        tracking.prepare(make(service).config)


def test_names_of_scores_suit_mlflow():
    scores = {"iou": {"..": {"dataset": 0.5}, "größe 1": {"dataset": None}, "a:b/c": {"dataset": 1.0}}}
    assert dataset_scores(scores, "test_native") == {"test_native/iou/__": 0.5, "test_native/iou/a_b_c": 1.0}


@pytest.mark.slow
def test_wandb_works_offline(make, monkeypatch):
    if not importlib.util.find_spec("wandb"):
        pytest.skip("W&B is not installed: pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = make("wandb")
    tracking.label(run, ablation="upsamplers", variant="carafe", seed=7)
    ended_by(KeyboardInterrupt(), run, ROWS[:1], continues=False)
    with tracking.following(run, continues=True) as tracker:
        tracker.log(ROWS)
    tracking.add_scores(run, "test", SCORES)
    identifier = json.loads(run.tracking_file.read_text())["id"]
    parts = [wandb_records(path) for path in sorted(run.path.glob("wandb/offline-run-*/*.wandb"))]
    assert len(parts) == 3
    (first,) = [record.run for record in parts[0] if record.HasField("run")]
    settings = {item.key: json.loads(item.value_json) for item in first.config.update}
    assert (first.run_id, first.project, first.run_group) == (identifier, "unet-upsamplers", "upsamplers")
    assert (first.job_type, list(first.tags)) == ("carafe", ["upsamplers", "carafe", "seed 7"])
    assert settings["training.batch_size"] == 4
    assert {record.run.run_id for part in parts for record in part if record.HasField("run")} == {identifier}
    losses = [
        [(values["_step"], values["loss"]) for values in map(row_of, part) if "loss" in values] for part in parts[:2]
    ]
    assert losses == [[(1, 2.5)], [(2, 1.25)]]
    scores = {".".join(item.nested_key) or item.key: item.value_json for r in parts[2] for item in r.summary.update}
    assert json.loads(scores["test/mean_iou"]) == 0.5


def row_of(record):
    """Values of a row of a W&B history by name."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}


def wandb_records(path):
    """Records of a file of an offline run: protocol buffers in the log format of LevelDB, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, partial, found = path.read_bytes(), 7, b"", []
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        partial += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # complete, or the last part
            found.append(Record.FromString(partial))
            partial = b""
    return found


@pytest.mark.slow
def test_a_killed_run_loses_no_epoch_in_wandb(make, monkeypatch):
    """Also those that W&B still has in memory when its process is gone."""
    if not importlib.util.find_spec("wandb"):
        pytest.skip("W&B is not installed: pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # otherwise the process would share the service of this one
    run = make("wandb", "training.epochs=60")
    process = start_unet("train", run.path, UNET_CACHE=str(run.path.parent / "cache"))
    while process.poll() is None and not (run.tracking_file.is_file() and tracked_epochs(run)):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    sent = tracked_epochs(run)
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, sent + 2)]
    with tracking.following(run, continues=True) as tracker:
        tracker.log(rows)
    *_, resumed = [wandb_records(path) for path in sorted(run.path.glob("wandb/offline-run-*/*.wandb"))]
    (first, *_) = [record.run for record in resumed if record.HasField("run")]
    assert "training.batch_size" in {item.key for item in first.config.update}
    losses = [(values["_step"], values["loss"]) for values in map(row_of, resumed) if "loss" in values]
    assert losses == [(row["epoch"], row["loss"]) for row in rows]


def tracked_epochs(run):
    """Number of epochs sent so far."""
    return json.loads(run.tracking_file.read_text())["epochs"]


@pytest.mark.slow
def test_training_is_tracked_from_its_first_to_its_last_epoch(client, make):
    from unet.evaluation import evaluate
    from unet.training import train

    run = make("mlflow")
    train(run)
    evaluate(run)
    assert epochs(client, "val_mean_iou") == [(row["epoch"], row["val_mean_iou"]) for row in run.history()]
    assert only_run(client).data.metrics["test/mean_iou"] == run.metrics()["test"]["mean_iou"]["dataset"]
