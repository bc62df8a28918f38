"""Fine-tuning: the encoder's learning rate and its frozen epochs, compared with what PyTorch and Keras do."""

import itertools
import shutil
import signal
import zipfile

import keras
import numpy as np
import pytest
import torch
from keras import ops

from tests.helpers import BACKEND, JIT, SLOW_BEYOND_TENSORFLOW
from tests.helpers.weights import weights
from unet import config, data
from unet.data.batches import Batches
from unet.encoders import ENCODERS
from unet.encoders.weights import is_encoder
from unet.errors import InputError
from unet.model import build_unet
from unet.runs import Run
from unet.training import initial_weights, make_optimizer, make_trainer, train
from unet.training.callbacks import EpochSetup, StopRequest
from unet.training.freezing import with_frozen_encoder
from unet.training.initial_weights import InitialWeights

TINY = f"""
data: {{source: shapes, size: [9, 12], shapes: {{train: 20, test: 2}}, validation: 0.2}}
model: {{width: 2, depth: 1}}
training: {{epochs: 4, batch_size: 4, warmup: 0, jit: {JIT}, checkpoint_seconds: 0, learning_rate: 0.01}}
"""


@pytest.fixture
def load(tmp_path):
    """Load the tiny configuration with overrides."""

    def load(*overrides):
        (tmp_path / "tiny.yaml").write_text(TINY)
        return config.load(tmp_path / "tiny.yaml", overrides)

    return load


def arrays(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A network of two stages and three classes with weights of its own, and the same as a run."""
    root = tmp_path_factory.mktemp("source")
    (root / "tiny.yaml").write_text(TINY)
    run = Run.create(config.load(root / "tiny.yaml", ["seed=5", "name=source"]), root)
    network = make_trainer(run.config, ("a", "b", "c")).network
    rng = np.random.default_rng(0)
    network.set_weights([rng.uniform(0.1, 0.5, weight.shape) for weight in network.weights])
    network.save(run.best_file)
    return run, {weight.path: array for weight, array in zip(network.weights, arrays(network.weights))}


def compiled(optimizer, variables):
    """Apply gradients in a compiled step where the backend compiles."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda grads: optimizer.apply(grads, variables), jit_compile=True)
    if BACKEND == "torch":
        return lambda grads: optimizer.apply([torch.tensor(grad) for grad in grads], variables)

    import jax

    step = jax.jit(optimizer.stateless_apply)

    def apply(grads):
        state = [v.value for v in optimizer.variables], list(grads), [v.value for v in variables]
        for group, values in zip((variables, optimizer.variables), step(*state)):
            for variable, value in zip(group, values):
                variable.assign(value)

    return apply


# === The encoder's learning rate ===


class Layers:
    """Variables of an encoder, a stem and a decoder, with the same ones in PyTorch in two parameter groups."""

    def __init__(self):
        layers = [keras.layers.Dense(50, name=n) for n in ("encoder_1_conv", "bottleneck_conv", "stem_conv", "decoder")]
        for layer in layers:
            layer.build((None, 4))
        rng = np.random.default_rng(0)
        self.variables = [variable for layer in layers for variable in layer.trainable_variables]
        for variable in self.variables:
            variable.assign(rng.normal(size=variable.shape))
        self.encoder = [True] * 4 + [False] * 4
        self.parameters = [torch.nn.Parameter(torch.tensor(array)) for array in arrays(self.variables)]

    def groups(self, rate, factor, decay):
        """Parameter groups of PyTorch: encoder or not, kernels or biases."""
        return [
            {
                "params": [p for p, own in zip(self.parameters, self.encoder) if own == encoder and p.ndim == ndim],
                "lr": rate * (factor if encoder else 1),
                "weight_decay": decay if ndim == 2 else 0.0,
            }
            for encoder, ndim in itertools.product((True, False), (1, 2))
        ]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_updates_are_those_of_parameter_groups_in_pytorch(load, name):
    """With a frozen encoder in the first three of seven steps, clipping, weight decay and averaging."""
    training = load(
        *(f"training.optimizer={name}", "training.encoder_learning_rate=0.3", "training.freeze_epochs=1"),
        *("training.schedule=constant", "training.weight_decay=0.5", "training.clip_norm=2.0", "training.ema=0.8"),
    ).training
    layers = Layers()
    optimizer = make_optimizer(training, 3)
    optimizer.epsilon = 1e-12  # Keras and PyTorch add it in different places
    optimizer.build(layers.variables)
    torch_optimizer = {
        "adamw": lambda: torch.optim.AdamW(layers.groups(0.01, 0.3, 0.5), eps=1e-12),
        "adam": lambda: torch.optim.Adam(layers.groups(0.01, 0.3, 0.0), eps=1e-12),
        "sgd": lambda: torch.optim.SGD(layers.groups(0.01, 0.3, 0.0), momentum=0.9, nesterov=True),
    }[name]()
    rng = np.random.default_rng(1)
    averages = None
    for step in range(7):
        frozen = step < 3
        if step in (0, 3):
            optimizer.frozen = frozen
            apply = compiled(optimizer, layers.variables)
        grads = [rng.normal(size=v.shape).astype("float32") for v in layers.variables]
        for parameter, grad, own in zip(layers.parameters, grads, layers.encoder):
            parameter.grad = None if frozen and own else torch.tensor(grad)
        torch.nn.utils.clip_grad_norm_(layers.parameters, 2.0)
        torch_optimizer.step()
        before = arrays(layers.variables)
        apply(grads)
        expected = [parameter.detach().numpy().copy() for parameter in layers.parameters]
        averages = expected if step == 0 else [0.8 * a + 0.2 * w for a, w in zip(averages, expected)]
        actual = arrays(layers.variables)
        for a, b, old, own in zip(actual, expected, before, layers.encoder):
            np.testing.assert_allclose(a, b, atol=3e-6)
            assert np.array_equal(a, old) == (frozen and own)
        for a, weight, own in zip(arrays(optimizer._model_variables_moving_average), actual, layers.encoder):
            assert not (frozen and own) or np.array_equal(a, weight), "averages of frozen weights are these, unrounded"
    optimizer.finalize_variable_values(layers.variables)
    for a, b in zip(arrays(layers.variables), averages):
        np.testing.assert_allclose(a, b, atol=3e-6)


def test_plain_runs_have_the_optimizers_of_keras(load):
    """Their last.keras is what it was, and an older one can be resumed."""
    for name, kind in (
        ("adamw", keras.optimizers.AdamW),
        ("adam", keras.optimizers.Adam),
        ("sgd", keras.optimizers.SGD),
    ):
        assert type(make_optimizer(load(f"training.optimizer={name}").training, 3)) is type(kind())


def test_a_factor_of_one_gives_the_bits_of_the_plain_optimizer(load):
    values = []
    for kind in ("training.freeze_epochs=0", "training.freeze_epochs=1"):
        layers = Layers()
        optimizer = make_optimizer(load(kind, "training.ema=0.8").training, 3)
        optimizer.build(layers.variables)
        rng = np.random.default_rng(1)
        for _ in range(3):
            optimizer.apply(
                [ops.convert_to_tensor(rng.normal(size=v.shape).astype("float32")) for v in layers.variables]
            )
        values.append(arrays(layers.variables))
    for a, b in zip(*values):
        np.testing.assert_array_equal(a, b)


def test_the_optimizer_survives_saving(load, tmp_path):
    settings = load("training.encoder_learning_rate=0.3", "training.schedule=constant")
    trainer = make_trainer(settings, ("a", "b", "c"))
    trainer.compile(optimizer=make_optimizer(settings.training, 3))
    trainer.optimizer.build(trainer.trainable_variables)
    trainer.save(tmp_path / "last.keras")
    optimizer = keras.saving.load_model(tmp_path / "last.keras").optimizer
    assert type(optimizer) is type(trainer.optimizer)
    assert optimizer.get_config() == trainer.optimizer.get_config()
    assert optimizer.get_config()["encoder_factor"] == 0.3


@pytest.mark.slow
@pytest.mark.backend_free
@pytest.mark.parametrize("encoder", ENCODERS)
def test_kernels_decay_in_every_encoder_and_nothing_else_does(load, encoder):
    """Without a gradient, AdamW moves a weight by decay alone; kernels are the arrays of four dimensions."""
    settings = load(
        *(f"model.encoder={encoder}", "model.weights=none", "training.weight_decay=0.5", "training.schedule=constant"),
        *("training.encoder_learning_rate=0.2", f"model.depth={max(ENCODERS[encoder].depth, 1)}"),
    )
    network = make_trainer(settings, ("a", "b", "c")).network
    variables = network.trainable_variables
    optimizer = make_optimizer(settings.training, 3)
    optimizer.build(variables)
    depthwise = 0
    for layer in network.layers:
        for variable in layer.trainable_variables:
            variable.assign(ops.ones(variable.shape))
    optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    for layer in network.layers:
        for variable in layer.trainable_variables:
            rate = 0.01 * (0.2 if is_encoder(layer) else 1)
            expected = 1 - rate * 0.5 if len(variable.shape) == 4 else 1.0
            np.testing.assert_allclose(ops.convert_to_numpy(variable), expected, rtol=1e-6, err_msg=variable.path)
            depthwise += isinstance(layer, keras.layers.DepthwiseConv2D)
    assert bool(depthwise) == (encoder not in ("plain", "resnet50", "vgg16"))


# === Frozen epochs ===


def trained(settings, *, epochs, trainable=lambda layer: True):
    """Train the network of a configuration; return the trainer and a snapshot of its network after every epoch."""
    dataset = data.prepare(settings.data)
    trainer = make_trainer(settings, dataset.classes)
    batches = Batches(dataset.train, settings.training.batch_size, settings.seed, settings.training.accumulate)
    for layer in trainer.network.layers:
        layer.trainable = trainable(layer)
    trainer.compile(
        optimizer=make_optimizer(settings.training, len(batches)),
        jit_compile=settings.training.jit and BACKEND != "torch",
    )
    trainer.optimizer.build(trainer.trainable_variables)
    snapshots = [{v.path: a for v, a in zip(trainer.network.weights, arrays(trainer.network.weights))}]

    class Snapshot(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            snapshots.append({v.path: a for v, a in zip(trainer.network.weights, arrays(trainer.network.weights))})

    setup = EpochSetup(batches, settings.seed, settings.training.freeze_epochs)
    trainer.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[setup, Snapshot()])
    return trainer, snapshots


MODELS = [
    pytest.param(("model.upsampler=max_unpool", "model.block=residual"), id="plain", marks=SLOW_BEYOND_TENSORFLOW),
    pytest.param(
        ("model.encoder=mobilenet_v2", "model.weights=none", "model.depth=2"), id="mobilenet_v2", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize("model", MODELS)
def test_frozen_epochs_are_those_of_layers_that_keras_does_not_train(load, model):
    """Weights, batch statistics and the clipping of what remains equal those after ``layer.trainable = False``."""
    settings = load(*model, "training.ema=0.9", "training.freeze_epochs=2", "training.clip_norm=0.1")
    trainer, snapshots = trained(settings, epochs=3)
    settings = load(*model, "training.ema=0.9", "training.clip_norm=0.1")
    _, expected = trained(settings, epochs=2, trainable=lambda layer: not is_encoder(layer))
    own = {w.path for layer in trainer.network.layers if is_encoder(layer) for w in layer.weights}
    for path, start in snapshots[0].items():
        for epoch in (1, 2):
            np.testing.assert_allclose(snapshots[epoch][path], expected[epoch][path], atol=1e-5, err_msg=path)
            assert np.array_equal(snapshots[epoch][path], start) == (path in own), path
        assert not np.array_equal(snapshots[3][path], snapshots[2][path]), f"{path} is trained after the freeze"


@pytest.mark.parametrize(
    "name", [name if name == "efficientnet_lite0" else pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS]
)
def test_a_network_can_be_saved_while_its_encoder_is_frozen(name):
    network = build_unet(3, encoder=name, width=2, depth=1)
    before = network.get_config()
    with_frozen_encoder(network)
    assert network.get_config() == before


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [(2,), (1, 2, 3)])
def test_interrupted_in_at_and_after_the_freeze_a_run_ends_with_the_same_bits(tmp_path, monkeypatch, source, epochs):
    """The freeze ends after epoch 1, counted from 0; an interrupted epoch is repeated when the run resumes.

    The source of the initial weights may be gone by then.
    """
    shutil.copy(source[0].best_file, tmp_path / "there.keras")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    settings = (
        *("training.encoder_learning_rate=0.3", "training.freeze_epochs=2", "training.accumulate=2"),
        *("training.ema=0.8", "model.dropout=0.1", "init_from=there.keras", "data.validation=0"),
        *(f"training.epochs={epochs[-1] + 1}", "training.pictures_every=0"),
    )
    whole, interrupted = (
        Run.create(config.load(tmp_path / "tiny.yaml", (*settings, f"name={name}")), tmp_path) for name in ("a", "b")
    )
    assert whole.config.init_from == tmp_path / "there.keras"
    train(whole)
    for epoch in epochs:
        with monkeypatch.context() as patched:
            interrupt_in_epoch(patched, epoch)
            with pytest.raises(KeyboardInterrupt):
                train(interrupted)
        assert len(interrupted.history()) == epoch
        (tmp_path / "there.keras").unlink(missing_ok=True)
    train(interrupted)
    for file in ("best_file", "last_file"):
        a, b = (weights(getattr(run, file)) for run in (whole, interrupted))
        assert a.keys() == b.keys()
        assert [key for key in a if not np.array_equal(a[key], b[key])] == []
    assert "from epoch 3 on, the encoder is trained too" in (whole.path / "log.txt").read_text()
    assert (interrupted.path / "log.txt").read_text().count("initial weights from") == 1


@pytest.mark.slow
def test_the_file_of_the_encoders_weights_may_be_gone_when_a_run_resumes(tmp_path, monkeypatch, mobilenet_weights):
    (tmp_path / "tiny.yaml").write_text(TINY)
    runs = []
    for name in ("whole", "interrupted"):
        file = shutil.copy(mobilenet_weights, tmp_path / f"{name}.weights.h5")
        settings = "model.encoder=mobilenet_v2", f"model.weights={file}", "training.epochs=2", f"name={name}"
        runs.append(Run.create(config.load(tmp_path / "tiny.yaml", settings), tmp_path))
    train(runs[0])
    with monkeypatch.context() as patched:
        interrupt_in_epoch(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            train(runs[1])
    (tmp_path / "interrupted.weights.h5").unlink()
    train(runs[1])
    a, b = (weights(run.last_file) for run in runs)
    assert [key for key in a if not np.array_equal(a[key], b[key])] == []


def interrupt_in_epoch(monkeypatch, epoch):
    """Let Ctrl-C arrive after the second batch of an epoch, counted from 0."""
    epochs = []
    monkeypatch.setattr(StopRequest, "on_epoch_begin", lambda self, index, logs=None: epochs.append(index))
    original = StopRequest.on_train_batch_end

    def interrupt(self, index, logs=None):
        if epochs[-1] == epoch and index == 1:
            signal.raise_signal(signal.SIGINT)
        original(self, index, logs)

    monkeypatch.setattr(StopRequest, "on_train_batch_end", interrupt)


# === Accumulated gradients ===

PLAIN_MEANS = (
    *("model.normalization=none", "loss.cross_entropy=1", "augmentation.flip=0", "augmentation.scale=[1, 1]"),
    *("augmentation.ratio=[1, 1]", "augmentation.brightness=0", "augmentation.contrast=0", "augmentation.saturation=0"),
)
"""Settings with which the gradient of a large batch is the mean of those of its parts."""


@pytest.mark.parametrize("name", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_accumulated_batches_train_as_one_large_batch(load, name):
    """With warm-up, cosine schedule, clipping, decay and averaging: all of them count updates."""
    shared = (
        *PLAIN_MEANS,
        *(f"training.optimizer={name}", "training.ema=0.6", "training.warmup=0.4", "training.clip_norm=0.3"),
        *("training.epochs=2", "training.weight_decay=0.5"),
    )
    large, parts = (
        trained(load(*shared, *sizes), epochs=2)
        for sizes in (("training.batch_size=6",), ("training.batch_size=2", "training.accumulate=3"))
    )
    moved = 0.0
    for path, expected in large[1][-1].items():
        np.testing.assert_allclose(parts[1][-1][path], expected, atol=2e-5, err_msg=path)
        moved = max(moved, np.abs(expected - large[1][0][path]).max())
    assert moved > 1e-3
    for (trainer, _), updates in ((large, 4), (parts, 4)):
        assert int(trainer.optimizer.iterations) == updates
        trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
    for a, b in zip(arrays(parts[0].trainable_variables), arrays(large[0].trainable_variables)):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_an_incomplete_group_of_batches_is_left_out(load):
    split = data.prepare(load().data).train  # 16 images
    batches = Batches(split, 2, 0, accumulate=3)
    assert len(batches) == 6
    large = Batches(split, 6, 0)
    assert len(large) == 2
    parts = np.concatenate([batches[i]["image"] for i in range(6)])
    np.testing.assert_array_equal(parts, np.concatenate([large[i]["image"] for i in range(2)]))
    with pytest.raises(InputError, match=r"training\.accumulate: 9 batches of 2 .* 16 training images; .* at most 8"):
        Batches(split, 2, 0, accumulate=9)


# === Starting from another network ===


def started(settings, classes=("a", "b", "c")):
    """Initial weights of a configuration, and those that it would have without ``init_from``."""
    network = make_trainer(settings, classes).network
    before = dict(zip((w.path for w in network.weights), arrays(network.weights)))
    InitialWeights(settings).assign(network)
    return dict(zip((w.path for w in network.weights), arrays(network.weights))), before


@pytest.mark.parametrize(
    ("overrides", "classes", "fresh", "report"),
    [
        (("data.size=20",), 3, set(), "14 of 14 layers, 521 of 521 weights\n"),
        ((), 5, {"logits"}, "13 of 14 layers, 512 of 527 weights; other shapes: 1 (logits)\n"),
        (("model.upsampler=resize_conv",), 3, {"decoder_1_up"}, "13 of 14 layers, 487 of 559"),
        (
            ("model.depth=2",),
            3,
            {"bottleneck_conv_1", "encoder_2_conv_1", "decoder_2_up"},
            "not in it: 9 (",
        ),
        (("model.normalization=group",), 3, {"encoder_1_conv_1_norm"}, "other shapes: 6 (encoder_1_conv_1_norm, "),
        (("model.normalization=none",), 3, {"encoder_1_conv_1"}, "not needed: 6 (encoder_1_conv_1_norm, "),
    ],
)
def test_what_fits_is_loaded_and_the_rest_is_listed(load, source, caplog, overrides, classes, fresh, report):
    """From a run with three classes, of 9×12 pixels, depth 1 and batch normalization."""
    run, weights_there = source
    with caplog.at_level("INFO", "unet"):
        after, before = started(load(*overrides, f"init_from={run.path}"), [str(i) for i in range(classes)])
    assert sum(record.message.startswith(f"initial weights from {run.path}") for record in caplog.records) == 1
    assert report in caplog.text
    loaded = 0
    for path, array in after.items():
        there = weights_there.get(path)
        if there is not None and there.shape == array.shape and np.array_equal(array, there):
            loaded += 1
        else:
            np.testing.assert_array_equal(array, before[path], err_msg=path)
    assert loaded
    for layer in fresh:
        paths = [path for path in after if path.split("/")[0] == layer]
        assert paths
        assert all(np.array_equal(after[path], before[path]) for path in paths)


def test_init_from_takes_precedence_over_pretrained_weights(load, source, monkeypatch):
    """They are not even read if all of the encoder is in ``init_from``."""
    run, there = source
    calls = []

    def assign(network, pretrained):
        for layer in network.layers:
            if is_encoder(layer):
                layer.set_weights([np.full(weight.shape, pretrained) for weight in layer.weights])

    monkeypatch.setattr(initial_weights, "read_pretrained", lambda *arguments: calls.append(arguments) or 7.0)
    monkeypatch.setattr(initial_weights, "assign_pretrained", assign)
    after, _ = started(load(f"init_from={run.best_file}").with_model(weights="other.h5"))
    assert calls == []
    after, _ = started(load(f"init_from={run.path}", "model.depth=2").with_model(weights="other.h5"))
    assert calls == [("plain", "other.h5")]
    np.testing.assert_array_equal(after["encoder_1_conv_1/kernel"], there["encoder_1_conv_1/kernel"])
    np.testing.assert_array_equal(after["bottleneck_conv_1/kernel"], 7.0)


def test_a_source_that_cannot_be_used_is_reported(load, source, tmp_path):
    run, _ = source
    lambda_file, broken = tmp_path / "lambda.keras", tmp_path / "broken.keras"
    with zipfile.ZipFile(run.best_file) as archive, zipfile.ZipFile(lambda_file, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, content.replace(b'"Conv2D"', b'"Lambda"') if name == "config.json" else content)
    broken.write_bytes(run.best_file.read_bytes()[:1000])
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "absent", "init_from: .*absent: there is no such run or .keras file"),
        (tmp_path / "empty", "is not a run directory"),
        (lambda_file, "contains a Lambda layer, which is code, and is refused"),
        (broken, "broken.keras: is damaged"),
    ):
        with pytest.raises(InputError, match=message):
            started(load(f"init_from={path}"))
    with pytest.raises(InputError, match=r"no layer fits this network; other shapes: 14 \(encoder_1_conv_1, "):
        started(load(f"init_from={run.path}", "model.width=3"), ["a", "b"])


def test_a_source_that_is_missing_is_reported_before_data_are_prepared(tmp_path, load, monkeypatch):
    monkeypatch.setattr(data, "prepare", lambda *arguments, **settings: pytest.fail("data were prepared"))
    with pytest.raises(InputError, match=r"init_from: .*absent: there is no such run or \.keras file"):
        train(Run.create(load(f"init_from={tmp_path / 'absent'}"), tmp_path))
