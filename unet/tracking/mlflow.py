"""Runs in MLflow. Its own environment variables, above all MLFLOW_TRACKING_URI, say where."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from unet.environment import environment_variables
from unet.runs import Run
from unet.tracking import PROJECT, Outcome, Record

STATUS: dict[Outcome, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MAX_PARAMETERS = 100
"""Most parameters in one request."""
MAX_VALUE = 6000
"""Most characters of the value of a parameter."""


class TrackedRun:
    """A run of an MLflow experiment."""

    stores_at_once = True

    def __init__(self, client: MlflowClient, identifier: str):
        self.id, self._client = identifier, client
        self.place = f"run {identifier} at {client.tracking_uri}"

    def log(self, values: dict[str, float], epoch: int) -> None:
        now = int(1000 * time.time())
        with _few_retries():
            self._client.log_batch(self.id, [Metric(key, value, now, epoch) for key, value in values.items()])

    def summarize(self, values: dict[str, float]) -> None:
        self.log(values, 0)

    def close(self, outcome: Outcome | None) -> None:
        if outcome:
            with _few_retries():
                self._client.set_terminated(self.id, STATUS[outcome])


def prepare() -> None:
    """Reach the store, and make the experiment and, in a new local store, the tables of its database."""
    with _few_retries():
        _experiment(MlflowClient())


def open_run(run: Run, record: Record, parameters: dict[str, Any], trains: bool) -> TrackedRun:
    """Begin a run, or continue one; see :class:`unet.tracking.Service`."""
    client = MlflowClient()
    with _few_retries():
        if record.id is None:
            identifier = client.create_run(_experiment(client), run_name=run.name, tags=record.labels).info.run_id
            entries = [Param(key, str(value)[:MAX_VALUE]) for key, value in parameters.items()]
            for start in range(0, len(entries), MAX_PARAMETERS):
                client.log_batch(identifier, params=entries[start : start + MAX_PARAMETERS])
            return TrackedRun(client, identifier)
        client.get_run(record.id)
        if trains:
            client.update_run(record.id, status="RUNNING")
        return TrackedRun(client, record.id)


def _experiment(client: MlflowClient) -> str:
    """Identifier of the experiment, which is created if there is none."""
    if identifier := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return identifier
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException:
        if found := client.get_experiment_by_name(name):  # another process has created it
            return found.experiment_id
        raise


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Give up within seconds on a server that does not answer; by default MLflow tries for minutes."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    with environment_variables(**{name: os.environ.get(name, value) for name, value in wanted.items()}):
        yield
