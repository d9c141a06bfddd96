"""Training a Region Proposal Network, as the paper's section 3.1.3 has it.

Read it downward: the data, the network and its optimiser, the state (new, or that of the last
checkpoint), and the loop over steps. Everything that happens at step s follows from (config, s) and
the state, so that a run that was cut off goes on as if nothing had been.
"""

import pathlib
import time
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset
from rpn_jax.data.loader import train_batches
from rpn_jax.data.plan import BatchPlan
from rpn_jax.errors import UserError
from rpn_jax.models import trainable_mask
from rpn_jax.progress import progress_bar
from rpn_jax.training import devices
from rpn_jax.training.checkpoint import Checkpoints
from rpn_jax.training.evaluate import (
    buckets,
    check_devices,
    evaluate,
    loader_fields,
    split_results,
)
from rpn_jax.training.metrics import MetricsWriter, NonFiniteLossError, PendingMetrics
from rpn_jax.training.network import (
    build_network,
    device_batch,
    initial_variables,
    open_split,
)
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.pictures import draw_first
from rpn_jax.training.sources import load_pretrained
from rpn_jax.training.state import TrainState, initial_state
from rpn_jax.training.step import make_eval_step, make_train_step
from rpn_jax.training.workdir import claim_workdir, record_run


def train(config: ConfigDict, workdir: pathlib.Path) -> TrainState:
    """Trains until `config.steps`, from the newest checkpoint in `workdir` if there is one.

    Raises:
        UserError: what the config asks for cannot be done, or the loss is no longer finite.
    """
    check_devices(config)
    train_set = open_split(config, config.data.train_split)
    eval_set = open_split(config, config.data.eval_split) if config.evaluation.every else None
    network = build_network(config)
    schedule, optimizer = build_optimizer(config)
    pretrained = load_pretrained(config, network)
    claim_workdir(workdir, config)
    # All that can be wrong with the config has been found; from here on programs are compiled.

    variables = initial_variables(config, network, pretrained)
    mask = trainable_mask(variables["params"], config.model.frozen_stages)
    state = devices.replicate(initial_state(variables, mask, optimizer))
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(state)
    start = int(state.step)
    record_run(workdir, step=start, dataset=train_set.fingerprint)

    train_step = devices.parallel_update(make_train_step(config, network, optimizer, schedule))
    eval_step = devices.parallel_map(make_eval_step(config, network))
    writer = MetricsWriter(workdir, start)
    progress = Progress(config, writer, start)
    try:
        for step, (batch, on_device) in enumerate(batches(config, train_set, start), start + 1):
            # The host runs ahead of the devices: nothing here waits for them but the logging.
            state, metrics = train_step(state, on_device)
            progress.add(step, batch.image_index, metrics)
            is_last = step == config.steps
            is_save = is_last or step % config.checkpoint.every == 0
            if is_save or step % config.log_every == 0:
                # Before every save, so that no state is kept of which a loss was not finite.
                progress.log(step)
            if is_save:
                checkpoints.save(state)
            if eval_set and (is_last or step % config.evaluation.every == 0):
                variables = {"params": state.params, "batch_stats": state.batch_stats}
                results = split_results(
                    config, eval_step, variables, eval_set, description="validating"
                )
                folder = workdir / "pictures" / f"step_{step:06d}"
                results = draw_first(config, network, results, folder, writer, step)
                progress.validated(step, *evaluate(config, results))
    except NonFiniteLossError as error:
        last = checkpoints.latest_step()
        kept = "none was kept yet" if last is None else f"step {last} in {checkpoints.folder}"
        raise UserError(
            f"{error}, on images {error.images} of split {config.data.train_split}; last good "
            f"checkpoint: {kept}; try a lower config.optimizer.learning_rate or a "
            "config.optimizer.clip_norm"
        ) from error
    finally:
        progress.close()
        checkpoints.close()
    return state


def batches(config: ConfigDict, dataset: Dataset, start: int) -> Iterator:
    """Yields `(host batch, device batch)` of steps `start` to the last, this process's share."""
    canvases = buckets(config, dataset)
    plan = BatchPlan(
        canvases.of_example,
        config.batch_size,
        config.seed,
        flip_probability=config.data.flip_probability,
    )
    host_batches = train_batches(
        dataset,
        plan,
        canvases,
        start_step=start,
        num_steps=config.steps - start,
        **loader_fields(config),
    )
    return devices.prefetch(host_batches, lambda batch: devices.shard(device_batch(batch)))


class Progress:
    """What a run tells as it goes: the bar, the metrics files, a line for each validation."""

    def __init__(self, config: ConfigDict, writer: MetricsWriter, start: int):
        self._batch_size = config.batch_size
        self._writer = writer
        self._pending = PendingMetrics()
        self._bar = progress_bar(
            total=config.steps,
            initial=start,
            description="training",
            unit="step",
            smoothing=0.05,
            disable=jax.process_index() > 0,
        )
        self._since = None
        self._steps = 0

    def add(self, step: int, image_index, metrics: dict[str, jax.Array]) -> None:
        """Takes note of a step whose metrics may not have been computed yet."""
        self._pending.add(step, image_index, metrics)
        self._bar.update()
        self._steps += 1
        if self._since is None:
            # The rate counts from here: the first call was held up by compilation.
            self._since, self._steps = time.perf_counter(), 0

    def log(self, step: int) -> None:
        """Waits for the steps so far and writes the mean of their metrics."""
        values = self._pending.fetch()
        if self._steps:
            seconds = time.perf_counter() - self._since
            values["images_per_second"] = self._steps * self._batch_size / seconds
        self._writer.write(step, values)
        self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        self._since, self._steps = time.perf_counter(), 0

    def validated(self, step: int, recall, losses: dict[str, float]) -> None:
        """Writes a validation's figures; its time does not count in the rate."""
        self._writer.write(step, {**losses, **recall.scalars()}, prefix="validation")
        figures = "  ".join(f"AR@{n} {recall.average_recall(n):.3f}" for n in recall.top_ns)
        self._bar.write(f"step {step}: validation loss {losses['loss']:.3f}  {figures}")
        self._since, self._steps = time.perf_counter(), 0

    def close(self) -> None:
        """Closes the bar and the files."""
        self._bar.close()
        self._writer.close()
