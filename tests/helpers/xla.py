"""What XLA compiles in a graph of TensorFlow."""

import pytest

from tests.helpers import BACKEND
from unet.gradients import fusing

ONLY_TENSORFLOW = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="on JAX XLA compiles everything, on PyTorch nothing"
)


def as_in_training(function, input_signature=None):
    """The function in a graph of TensorFlow, of which XLA compiles the parts that ask for it."""
    import tensorflow as tf

    @tf.function(autograph=False, input_signature=input_signature)
    def step(*tensors):
        with fusing():
            return function(*tensors)

    return step


def compiled_parts(function):
    """Number of functions called by a function that XLA compiles."""
    return sum(
        definition.attr["_XlaMustCompile"].b
        for definition in function.graph.as_graph_def().library.function
        if definition.signature.name != function.name
    )
