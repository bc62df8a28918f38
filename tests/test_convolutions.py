"""The measurement of convolutions on a CPU."""

import json

import numpy as np
import pytest

from benchmarks import convolutions

pytestmark = pytest.mark.backend_free


def test_both_libraries_compute_the_same():
    (result, of_image, of_kernel), theirs = (
        [np.asarray(function()) for function in functions] for functions in convolutions.passes(2, 5, 3, 4).values()
    )
    np.testing.assert_allclose(result, theirs[0].transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(of_image, theirs[1].transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(of_kernel, theirs[2].transpose(2, 3, 1, 0), atol=1e-4)


def test_the_layers_are_those_of_the_network():
    found = dict(convolutions.layers(16))
    assert found[16, 128, 3, 16] == 1
    assert found[16, 8, 256, 256] == 1


def test_the_committed_table_is_that_of_the_measurements():
    content = json.loads(convolutions.RESULTS.read_text())
    found = [convolutions.Measurement(**one) for one in content["measurements"]]
    text = convolutions.RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert text == convolutions.as_markdown(found, content["environment"])
    whole = sum(one.layers * sum(one.xla) for one in found) / sum(one.layers * sum(one.torch) for one in found)
    assert text.rstrip().endswith(f"| {whole:.1f} |")
    readme = (convolutions.RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert f"[convolutions](convolutions.md) take {whole:.1f} times as long as PyTorch's" in readme
