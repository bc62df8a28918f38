"""Training a run: data, network, step, resume, epochs, checkpoints."""

import contextlib
import logging
import random
import signal

import keras

from unet import config as configuration
from unet import data, interrupts, tracking
from unet.backend import is_out_of_memory
from unet.config import Config, Normalization
from unet.data.balance import class_pixels, describe, inverse_log_weights
from unet.data.batches import Batches
from unet.data.heads import Head, head_of
from unet.data.resident import resident
from unet.errors import InputError, RunError
from unet.runs import Run
from unet.training import batch_size, checkpoints, devices
from unet.training.callbacks import (
    CallbackList,
    Checkpoint,
    DivergenceGuard,
    EarlyStopping,
    EpochSetup,
    History,
    Progress,
    StopRequest,
    TensorBoard,
    Tracking,
    Validation,
    patience_exhausted,
)
from unet.training.initial_weights import InitialWeights
from unet.training.optimizer import make_optimizer, make_schedule
from unet.training.step import SegmentationTrainer, compiles, make_trainer

log = logging.getLogger("unet")


def train(run: Run, overrides: tuple[str, ...] | list[str] = ()) -> None:
    """Train the run's configuration to its last epoch, resuming from its last checkpoint if there is one.

    The random state of an epoch (data order, augmentation, dropout) is a function of the seed and the epoch, and
    ``last.keras`` holds everything else, so an interrupted run ends with the numbers of an uninterrupted one. Before
    the first step the fingerprint of the data is added to run.json; a run is resumed on the same data only.

    Args:
        run: Directory to read the configuration from and to write to.
        overrides: ``"data.key=value"`` each, where the data are now; recorded in the run's config.yaml. See
            :func:`unet.config.with_data_at`.

    Raises:
        InputError: The data cannot be used or have changed, or another process trains in the directory.
        RunError: The loss became infinite or NaN, memory is exhausted, the prepared data became shorter, or a file
            cannot be written, for example because the disk is full.
        KeyboardInterrupt: Ctrl-C; calling ``train`` again resumes from the last checkpoint.
        SystemExit: SIGTERM or SIGHUP, with exit code 143 or 129; likewise.
    """
    config = configuration.with_data_at(run.config, overrides)
    with run.locked(), run.logging(), interrupts.sigterm_as_exit(), contextlib.ExitStack() as stack:
        tracking.prepare(config)  # a missing package is reported at once

        # === Batch size ===
        if config.training.batch_size == "auto":  # before this process uses the device
            size = batch_size.find(run, overrides)
            if not size:
                raise RunError(_out_of_memory(config.with_training(batch_size=1), 0))
            log.info("training.batch_size: auto: %d images", size)
            run.record_config(run.config.with_training(batch_size=size))
            config = config.with_training(batch_size=size)

        stack.enter_context(devices.parallel(config.training.devices, config.training.images_per_step))

        # === Data ===
        run.record_environment(jit=compiles(config))
        resumes = run.last_file.exists()
        initial = None if resumes else InitialWeights(config)  # before the data are prepared, which takes longer
        dataset = data.prepare(config.data, verify=True)
        devices.check_data(dataset)
        if resumes:
            checkpoints.check_data(run, dataset)
        if config.data.normalization == "auto":
            config = config.with_data(normalization=Normalization.of(*dataset.train.moments()))
        if config != run.config:
            run.record_config(config)

        # === The step ===
        random.seed(config.seed)  # Keras draws from it the seed of whatever is not seeded by name
        weights = None
        weighted = config
        if config.loss.class_weights == "auto":
            weights = _class_weights(run, dataset, resumes)
            weighted = config.with_class_weights(dict(zip(dataset.classes, weights, strict=True)))
        trainer = make_trainer(weighted, dataset.classes)
        training = config.training
        batches = Batches(
            resident(dataset.train), training.images_per_step, config.seed, training.accumulate, devices.own_rows
        )
        trainer.compile(
            optimizer=make_optimizer(training, steps_per_epoch=len(batches)),
            jit_compile=compiles(config),
        )
        trainer.optimizer.build(trainer.trainable_variables)

        # === Resume ===
        if initial is not None:
            initial.assign(trainer.network)
        done = checkpoints.restore(run, trainer, len(batches))
        rows = [row for row in run.history() if row["epoch"] <= done]
        if len(rows) < done:
            raise InputError(
                f"{run.history_file}: has {len(rows)} epochs, and last.keras was saved after {done}; restore it from a "
                "copy, or delete last.keras to start again"
            )
        if len(dataset.validation) and not all("val_mean_iou" in row for row in rows):
            raise InputError(f"{run.history_file}: has no validation scores (val_mean_iou); restore it from a copy")
        if not resumes or run.info.data is None:
            run.record_data(dataset, weights)
        if done and (done >= config.training.epochs or patience_exhausted(rows, config.training)):
            log.info("%s is finished after epoch %d", run.path, done)
            tracking.complete(run, rows)
            return
        if done:
            log.info("resuming after epoch %d of %d", done, config.training.epochs)
        else:
            _log_start(config, dataset, trainer, len(batches), weights)

        # === Epochs ===
        stop = StopRequest()
        validation = Validation(dataset.validation, training.images_per_step, rows, stop)
        checkpoint = Checkpoint(run, validation, stop, done)
        with (
            interrupts.stop_gracefully(stop.request),
            batches.raising_own_errors(),
            tracking.following(run, continues=bool(done)) as tracker,
            TensorBoard(run, dataset.validation, rows) as tensorboard,
            Progress(config.training.epochs, len(batches), rows) as progress,
        ):
            try:
                trainer.fit(
                    batches,
                    epochs=config.training.epochs,
                    initial_epoch=done,
                    callbacks=CallbackList(
                        [
                            stop,
                            EpochSetup(batches, config.seed, config.training.freeze_epochs),
                            DivergenceGuard(checkpoint, len(batches)),
                            History(batches, rows),
                            validation,
                            tensorboard,
                            progress,
                            EarlyStopping(config.training, rows),
                            checkpoint,
                            Tracking(tracker, checkpoint, rows),
                        ],
                        add_history=True,
                        model=trainer,
                    ),
                    shuffle=False,  # the batches are shuffled already; Keras would reorder them from its own state
                    verbose=0,
                )
            except (KeyboardInterrupt, SystemExit):
                name = interrupts.name(stop.signal or signal.SIGINT)
                log.warning("stopped by %s; epochs saved in %s: %d", name, run.path, checkpoint.saved_epochs)
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise RunError(_out_of_memory(config, checkpoint.saved_epochs)) from error
        log.info("finished after epoch %d", checkpoint.saved_epochs)


def is_trained(run: Run) -> bool:
    """Whether a run has reached its last epoch, or stopped early as configured."""
    history, training = run.history(), run.config.training
    return bool(history) and (history[-1]["epoch"] >= training.epochs or patience_exhausted(history, training))


def _out_of_memory(config: Config, saved_epochs: int) -> str:
    """Message with the settings that reduce memory, the one that changes results least first."""
    training, (height, width) = config.training, config.data.size
    size = training.images_per_step
    advice = [
        "" if training.remat else "training.remat=true, which takes longer",
        f"training.batch_size={size // 2} training.accumulate={2 * training.accumulate}, which updates weights as often"
        if size > 1
        else "",
        "training.precision=mixed_bfloat16" if training.precision == "float32" else "",
        f"a smaller data.size (now {height}×{width})",
        f"a smaller model.width (now {config.model.width})" if config.model.encoder == "plain" else "a smaller encoder",
    ]
    return (
        f"out of memory with training.batch_size={size}; epochs saved: {saved_epochs}. Start a new run "
        f"with {'; or '.join(filter(None, advice))}"
    )


def _class_weights(run: Run, dataset: data.Dataset, resumes: bool) -> list[float]:
    """Class weights that were recorded when the training began, or those of the training split if it begins now."""
    if resumes and (recorded := run.info.class_weights):
        return list(recorded)
    head = head_of(run.config.model.head)
    return inverse_log_weights(class_pixels(dataset.train, len(dataset.classes), head)[:-1], _total(dataset, head))


def _total(dataset: data.Dataset, head: Head) -> int | None:
    """Number of training pixels that are not ignored, if it is not the sum over classes."""
    return int(dataset.train.pixels[: data.IGNORE].sum()) if head.labels else None


def _log_start(
    config: Config,
    dataset: data.Dataset,
    trainer: SegmentationTrainer,
    steps_per_epoch: int,
    weights: list[float] | None,
) -> None:
    log.info(
        "%d training, %d validation, %d test images%s of %d×%d; %s parameters; %d epochs of %d steps",
        len(dataset.train),
        len(dataset.validation),
        len(dataset.test),
        " in windows" if config.data.sampling == "crop" else "",
        *config.data.size,
        f"{trainer.network.count_params():,}",
        config.training.epochs,
        steps_per_epoch,
    )
    head = head_of(config.model.head)
    pixels, total = class_pixels(dataset.train, len(dataset.classes), head), _total(dataset, head)
    for line in describe(pixels, dataset.classes, bool(config.loss.class_weights), total):
        log.info("%s", line)
    if weights:
        named = (f"{name} {weight:.3f}" for name, weight in zip(dataset.classes, weights))
        log.info("class weights: %s", ", ".join(named))
    if keras.backend.backend() == "jax" and not config.training.jit:
        log.warning("training.jit is false, so JAX trains much more slowly; training.jit=true compiles the step")


__all__ = ["compiles", "is_trained", "make_optimizer", "make_schedule", "make_trainer", "train"]
