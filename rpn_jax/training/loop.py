"""Training a detector: the RPN alone as in the paper's section 3.1.3, or jointly with its head.

Read it downward: the data, the network and its optimiser, the state (new, or of the last
checkpoint), and the loop over steps. Step s depends on (config, s) and the state alone, so that a
resumed run gives the same bits as an uninterrupted one.
"""

import contextlib
import errno
import pathlib
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset
from rpn_jax.data.loader import train_batches
from rpn_jax.data.plan import BatchPlan, rescaled
from rpn_jax.data.scales import Jitter, Scale, one_canvas
from rpn_jax.errors import StoppedError, UserError, first_line
from rpn_jax.evaluation.figures import Figures
from rpn_jax.loggers import Loggers
from rpn_jax.progress import progress_bar
from rpn_jax.runs import devices
from rpn_jax.runs.best import Validations, read_validations
from rpn_jax.runs.config import random_key
from rpn_jax.runs.fingerprint import record_run
from rpn_jax.runs.metrics import MetricsWriter, NonFiniteError, PendingMetrics, check_finite
from rpn_jax.runs.processes import StopRequest, is_first, on_first, together
from rpn_jax.runs.profile import StepProfiler
from rpn_jax.runs.workdir import claim_workdir
from rpn_jax.training.begin import check_run, training_augmentations
from rpn_jax.training.build import build_train_step
from rpn_jax.training.checkpoint import Checkpoints, saved_steps
from rpn_jax.training.evaluate import (
    buckets,
    evaluate,
    loader_fields,
    split_results,
)
from rpn_jax.training.features import FeatureCache
from rpn_jax.training.optimizer import optimizer_numbers
from rpn_jax.training.pictures import draw_first
from rpn_jax.training.predict_steps import make_eval_step
from rpn_jax.training.splits import device_batch, sampling_weights
from rpn_jax.training.state import TrainState, evaluation_variables
from rpn_jax.typing import Images


def train(config: ConfigDict, workdir: pathlib.Path, profile_steps: range = range(0)) -> TrainState:
    """Trains until `config.steps`, from the newest checkpoint in `workdir` if there is one.

    A profiler trace of `profile_steps` goes to the folder `profile` there. With several processes
    (see `processes.join_processes`), all call this function.

    Raises:
        UserError: the config is impossible, the loss is no longer finite, or the disk is full.
        StoppedError: a signal asked the run to stop, see `processes.StopRequest`; it has saved.
    """
    with StopRequest() as stop, contextlib.ExitStack() as at_end:
        with together():
            run = check_run(config, workdir)
        config, detector, eval_set = run.config, run.detector, run.eval_set
        forked = None if saved_steps(workdir) else run.forked()
        # All checks of the config come before this line; compilation begins after it.
        at_end.enter_context(claim_workdir(workdir, config))
        train_step = build_train_step(config, detector, run.optimizer, run.schedule)
        train_step = devices.compiled_first(devices.parallel_update(train_step))
        eval_step = devices.parallel_map(make_eval_step(detector))

        checkpoints = Checkpoints(workdir, config.checkpoint.keep)
        plan, scales = training_plan(config, run.train_set)
        at_end.enter_context(_explained(config, workdir, checkpoints, plan))
        at_end.callback(checkpoints.close)
        state = run.state(checkpoints, forked)
        # All that differs between the runs of a sweep is an argument of the step, so that they
        # share its program. The rate of a step is computed by a small one of its own.
        key, numbers = devices.replicate((random_key(config), optimizer_numbers(config)))
        rate_of = jax.jit(lambda step: jnp.float32(run.schedule(step)))
        # Of a copy: newer JAX versions do not donate what the host has read, on a CPU.
        start = int(state.step.copy())
        features = FeatureCache(config, detector.network, evaluation_variables(state))
        record_run(config, workdir, run.train_set, eval_set, step=start)
        progress = Progress(config, workdir, start)
        at_end.callback(progress.close)
        found = on_first(lambda: read_validations(workdir))
        validations = Validations(dict(found), config.evaluation.patience)
        checkpoints.hold(validations.best if config.checkpoint.keep_best else None)
        ends = StepEnds(config)
        profiler = StepProfiler(workdir, profile_steps)
        at_end.callback(profiler.close)

        def validate(state, step):
            variables = evaluation_variables(state)
            results = split_results(
                config, eval_step, variables, eval_set, features, description="validating"
            )
            folder = workdir / "pictures" / f"step_{step:06d}"
            results = draw_first(config, detector, results, folder, progress.writer, step)
            with stop.at_once(f"in the validation after step {step}"):
                figures, losses = evaluate(config, results)
            check_finite(step, losses)
            progress.validated(step, figures, losses)
            validations.add(step, figures.scalars[figures.headline])
            if config.checkpoint.keep_best:
                checkpoints.hold(validations.best)

        if start and ends.validates(start) and not progress.has_validation(start):
            validate(state, start)  # the earlier start was cut off before it
        stop.steps_begin()
        last = start if validations.are_over() else config.steps
        steps = progress.watch(batches(config, run.train_set, plan, scales, features, start, last))
        for step, on_device in enumerate(steps, start + 1):
            # The host runs ahead of the devices and waits for them only to log and to save.
            numbers["learning_rate"] = rate_of(state.step)
            state, metrics = profiler.run(step, train_step, state, on_device, key, numbers)
            progress.add(step, metrics)
            is_stop = stop.reached(step)
            is_save = is_stop or ends.saves(step)
            if is_save or step % config.log_every == 0:
                # Before every save, so that no state after a non-finite loss is kept.
                progress.log(step)
                checkpoints.confirm(step)
            if is_save:
                checkpoints.save(state)
            if is_stop:
                raise stop.stopped(f"after step {step}")
            if ends.validates(step):
                try:
                    validate(state, step)
                except StoppedError:
                    checkpoints.save(state)
                    raise
                if validations.are_over():
                    progress.ended(step, validations.best)
                    break
        checkpoints.latest_step()  # waits for the last save
        checkpoints.confirm(config.steps + 1)
    return state


class StepEnds:
    """What comes at the end of a step."""

    def __init__(self, config: ConfigDict):
        self._last, self._save, self._validate = (
            config.steps,
            config.checkpoint.every,
            config.evaluation.every,
        )
        # What is validated may then be the best, or the last.
        self._saves_validated = bool(config.checkpoint.keep_best or config.evaluation.patience)

    def validates(self, step: int) -> bool:
        """Returns whether the state after a step is measured."""
        return bool(self._validate) and (step == self._last or step % self._validate == 0)

    def saves(self, step: int) -> bool:
        """Returns whether it is saved."""
        is_last = step == self._last or (self._saves_validated and self.validates(step))
        return is_last or step % self._save == 0


@contextlib.contextmanager
def _explained(
    config: ConfigDict, workdir: pathlib.Path, checkpoints: Checkpoints, plan: BatchPlan
) -> Iterator[None]:
    """Turns a run's failures into one line with the remedy and the last good checkpoint."""

    def last_good():
        last = checkpoints.latest_step()
        kept = "none was kept yet" if last is None else f"step {last} in {checkpoints.folder}"
        return f"last good checkpoint: {kept}"

    try:
        yield
    except NonFiniteError as error:
        if error.useless_from is not None:
            checkpoints.reject(error.useless_from, str(error))
        images = plan.batch(error.step - 1).examples.tolist()
        raise UserError(
            f"{error}, on images {images} of split {config.data.train_split}; {last_good()}; try a "
            "lower config.optimizer.learning_rate or a config.optimizer.clip_norm"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"config.batch_size={config.batch_size}: out of memory ({first_line(error)}); "
            f"{last_good()}; give a smaller one, --config.accumulation=N or "
            "--config.model.remat=true"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{workdir}: {error.strerror}; {last_good()}; make room there and give the same "
            "command again"
        ) from error


def training_plan(
    config: ConfigDict, dataset: Dataset
) -> tuple[BatchPlan, list[Scale] | list[Jitter]]:
    """Returns the images of each step, and the scales of which it draws one."""
    scales = training_scales(config, dataset)
    plan = BatchPlan(
        scales[0].buckets.of_example,
        config.batch_size,
        config.seed,
        flip_probability=config.data.flip_probability,
        num_scales=len(scales),
        weights=sampling_weights(config, dataset),
    )
    return plan, scales


def training_scales(config: ConfigDict, dataset: Dataset) -> list[Scale] | list[Jitter]:
    """Returns how large images are in training, and on which canvases."""
    data = config.data
    if data.jitter.scales:
        canvas = one_canvas(data.jitter.canvas, len(dataset))
        return [Jitter(*data.jitter.scales, data.jitter.min_side, canvas)]
    canvases, sizes = buckets(config, dataset), (dataset.heights, dataset.widths)
    return [
        Scale(
            side,
            data.longer_side,
            rescaled(canvases, *sizes, shorter_side=side, longer_side=data.longer_side),
        )
        for side in data.shorter_sides
    ] or [Scale(data.shorter_side, data.longer_side, canvases)]


def batches(
    config: ConfigDict,
    dataset: Dataset,
    plan: BatchPlan,
    scales: Sequence[Scale | Jitter],
    features: FeatureCache,
    start: int,
    last: int | None = None,
) -> Iterator[Images]:
    """Yields this process's share of the batches from step `start` to `last`, on its devices."""
    host_batches = train_batches(
        dataset,
        plan,
        scales,
        augmentations=training_augmentations(config, dataset),
        start_step=start,
        num_steps=(config.steps if last is None else last) - start,
        **loader_fields(config),
    )
    return devices.prefetch(
        (features.add(device_batch(batch)) for batch in host_batches), devices.shard
    )


class Progress:
    """The output of a running training: the bar, the metrics files, a line for each validation.

    With several processes only the first writes.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, start: int):
        self.writer = MetricsWriter(workdir, start) if is_first() else None
        self._loggers = Loggers(config, workdir) if is_first() else None
        self._batch_size = config.batch_size
        self._pending = PendingMetrics()
        self._bar = progress_bar(
            total=config.steps,
            initial=start,
            description="training",
            unit="step",
            smoothing=0.05,
            disable=not is_first(),
        )
        self._start = time.perf_counter()
        self._since = None
        self._steps = 0
        self._waited = 0.0

    def watch(self, batches: Iterator[Images]) -> Iterator[Images]:
        """Passes the batches on and measures how long the devices wait for them.

        The loop waits longer than the devices, because it runs ahead of them.
        """
        asked = time.perf_counter()
        for batch in batches:
            if self._pending.are_ready():
                self._waited += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Adds the metrics of a step, which may still be running."""
        self._pending.add(step, metrics)
        self._bar.update()
        self._steps += 1
        if self._since is None:
            # The rate counts from here, because the first call includes compilation.
            self._restart_clock()

    def log(self, step: int) -> None:
        """Waits for the steps so far and writes the mean of their metrics."""
        values = self._pending.fetch()
        if self._steps:
            seconds = time.perf_counter() - self._since
            values["images_per_second"] = self._steps * self._batch_size / seconds
            values["input_wait"] = self._waited / seconds
        values["seconds"] = time.perf_counter() - self._start
        values["peak_memory_bytes"] = devices.peak_memory_bytes()
        self._write(step, values, "train")
        self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        self._restart_clock()

    def validated(self, step: int, figures: Figures, losses: dict[str, float]) -> None:
        """Writes a validation's figures; the rate does not count its time."""
        self._write(step, {**losses, **figures.scalars}, "validation")
        if self.writer:
            loss = losses["loss"]
            self._bar.write(f"step {step}: validation loss {loss:.3f}  {figures.line()}")
        self._restart_clock()

    def _write(self, step: int, values: dict[str, float], prefix: str) -> None:
        """Writes a row `{"step": …, "train/loss": …}` everywhere."""
        if self.writer:
            self._loggers.log(step, self.writer.write(step, values, prefix))

    def ended(self, step: int, best: int | None) -> None:
        """Says that the run stops early."""
        self._bar.write(
            f"step {step}: no validation was better than that of step {best} for "
            "config.evaluation.patience; the training ends"
        )

    def has_validation(self, step: int) -> bool:
        """Returns whether the files have the figures of a validation after `step`."""
        return on_first(lambda: self.writer.has(step, "validation"))

    def _restart_clock(self) -> None:
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def close(self) -> None:
        """Closes the bar and the files."""
        self._bar.close()
        if self.writer:
            self.writer.close()
            self._loggers.close()
