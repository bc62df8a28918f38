"""On JAX and PyTorch a model is saved without TensorFlow, in the same file."""

import importlib.util
import os
import subprocess
import sys

import keras
import pytest

from tests.helpers import ROOT

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="TensorFlow is not installed"),
]

SAVE = """
import sys
import keras
if sys.argv[2] == "remedied":
    import unet.model
keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(sys.argv[1])
print("tensorflow" in sys.modules)
"""
SERIALIZE = """
import keras, unet.model
import tensorflow as tf
for value in (tf.TensorShape([1, None]), tf.float32):
    print(keras.saving.serialize_keras_object(value))
"""


def run(backend: str, program: str, *arguments: str) -> subprocess.CompletedProcess:
    pytest.importorskip(backend)
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("remedied", "imported"), [("remedied", "False"), pytest.param("as it is", "True", marks=pytest.mark.slow)]
)
def test_saving_imports_tensorflow_only_without_the_remedy(tmp_path, backend, remedied, imported):
    file = tmp_path / "model.keras"
    done = run(backend, SAVE, str(file), remedied)
    assert done.stdout == f"{imported}\n", done.stderr
    # Whether the imported TensorFlow prints its message depends on the processor.
    assert imported == "True" or "oneDNN" not in done.stderr
    assert keras.saving.load_model(file).count_params() == 10


@pytest.mark.slow
def test_types_of_tensorflow_are_recognized_once_it_is_imported():
    done = run("jax", SERIALIZE)
    assert done.stdout == "[1, None]\nfloat32\n", done.stderr
