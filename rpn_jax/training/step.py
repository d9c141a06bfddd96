"""The training step: each device's work on its share of a batch."""

import functools
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rpn_jax.detectors.detector import Detector
from rpn_jax.models.rcnn import trainable_mask
from rpn_jax.runs.devices import AXIS
from rpn_jax.training.state import TrainState, averaged, merge, partition
from rpn_jax.typing import Array, Images

Numbers = dict[str, Array] | None


def image_keys(key: jax.Array, step: int | Array, first: int | Array, count: int) -> jax.Array:
    """Returns a random key for each image, from (run, step, index in the global batch) alone."""
    key = jax.random.fold_in(jax.random.fold_in(key, 1), step)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(first + jnp.arange(count))


def micro_batches(count: int, share):
    """Returns the arrays (b, …) of a device's share as (count, b / count, …) for `lax.scan`.

    Image i is in micro-batch i mod `count`, for its index in the share and in the global batch
    alike. So a micro-batch over all devices has the same images for any number of devices, and the
    same synchronised statistics.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), share)


def make_train_step(
    detector: Detector,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: optax.Schedule,
    *,
    frozen: Collection[tuple[str, ...]] = (),
    accumulation: int = 1,
    ema_decay: float = 0.0,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Returns `(state, batch, key, numbers) -> (state, metrics)`, for a map over the axis "data".

    It takes the whole state and one device's share of the batch. It returns, on every device, the
    same new state and the metrics of the global batch. The run's key is an argument so that one
    program serves all seeds, and so are the numbers of its optimiser: the step's learning rate and
    `optimizer.optimizer_numbers`. Without them, they are constants of the program.

    Args:
        detector: detector to train; the step uses its losses alone.
        optimizer: optimiser of the trainable parameters.
        schedule: function from a step to its learning rate, where that is not given.
        frozen: path prefixes of parameters that are not trained.
        accumulation: number of micro-batches of a share. Their gradients are summed before the sum
            over devices.
        ema_decay: see `state.averaged`; 0 keeps no averages.
    """

    def train_step(state: TrainState, batch: Images, key: jax.Array, numbers: Numbers = None):
        numbers = numbers or {"learning_rate": schedule(state.step)}
        count = batch.images.shape[0]
        keys = image_keys(key, state.step, lax.axis_index(AXIS) * count, count)
        trainable, kept = partition(state.params, trainable_mask(state.params, frozen))

        def loss_of(trainable, batch_stats, keys, batch):
            variables = {"params": merge(trainable, kept), "batch_stats": batch_stats}
            losses = detector.losses(variables, keys, batch, train=True)
            return losses.of_image.mean(), (losses.parts, losses.batch_stats)

        gradient_of = jax.grad(loss_of, has_aux=True)
        if accumulation == 1:
            grads, (parts, batch_stats) = gradient_of(trainable, state.batch_stats, keys, batch)
        else:
            grads, (parts, batch_stats) = accumulated(
                gradient_of,
                trainable,
                state.batch_stats,
                micro_batches(accumulation, (keys, batch)),
            )
        parts = jax.tree.map(lambda values: values.astype(jnp.float32).mean(), parts)
        # Synchronised batch statistics already cover the global batch.
        grads, parts = lax.pmean((grads, parts), AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable, **numbers)
        metrics = {
            **parts,
            "grad_norm": optax.global_norm(grads),
            "learning_rate": numbers["learning_rate"],
        }
        trainable = optax.apply_updates(trainable, updates)
        ema = state.ema
        if ema_decay:
            ema = averaged(ema, trainable, batch_stats, state.step, ema_decay)
        params = merge(trainable, kept)
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics

    return train_step


def accumulated(gradient_of: Callable, trainable, batch_stats, batches):
    """Returns the mean of `gradient_of` over micro-batches, and the parts of all of them."""

    def add_gradient(carry, micro_batch):
        total, batch_stats = carry
        grads, (parts, batch_stats) = gradient_of(trainable, batch_stats, *micro_batch)
        return (jax.tree.map(jnp.add, total, grads), batch_stats), parts

    zeros = jax.tree.map(jnp.zeros_like, trainable)
    (grads, batch_stats), parts = lax.scan(add_gradient, (zeros, batch_stats), batches)
    count = len(jax.tree.leaves(batches)[0])
    return jax.tree.map(lambda grad: grad / count, grads), (parts, batch_stats)
