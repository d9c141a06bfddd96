"""The training step and the evaluation step: what each device does with its share of a batch."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

from rpn_jax.detectors.targets import assign_targets
from rpn_jax.models.rcnn import RegionProposalNetwork, trainable_mask
from rpn_jax.ops.losses import rpn_loss
from rpn_jax.ops.matching import Label
from rpn_jax.runs.devices import AXIS
from rpn_jax.training.build import anchors_at_origin, anchors_per_level, forward, propose_batch
from rpn_jax.training.state import TrainState, averaged, merge, partition
from rpn_jax.typing import Array, DeviceBatch


def image_losses(config: ConfigDict, keys, logits, deltas, anchors, batch: DeviceBatch):
    """Returns each image's loss (B,), its parts and counts as a dict of (B,), and its `Targets`.

    `logits` and `deltas` are tuples of levels; an image is labelled, sampled and judged by its own
    key, wherever in the batch it stands.
    """
    cells = anchors_at_origin(config)
    num_positions = sum(len(a) // len(cell) for a, cell in zip(anchors, cells, strict=True))
    anchors = jnp.concatenate(anchors)

    def one_image(key, logits, deltas, ground_truth, image_hw):
        logits, deltas = jnp.concatenate(logits), jnp.concatenate(deltas)
        targets = assign_targets(
            key, anchors, ground_truth, image_hw, box_weights=config.box_weights, **config.targets
        )
        loss, parts = rpn_loss(
            logits,
            deltas,
            targets,
            batch_size_per_image=config.targets.batch_size_per_image,
            num_positions=num_positions,
            **config.loss,
        )
        is_positive = targets.labels == Label.POSITIVE
        is_sampled = targets.labels != Label.IGNORE
        correct = is_sampled & ((logits > 0) == is_positive)
        parts = {
            "loss": loss,
            **parts,
            "objectness_accuracy": correct.sum() / jnp.maximum(is_sampled.sum(), 1),
            "positives": (targets.matches.labels == Label.POSITIVE).sum(),
            "sampled_positives": is_positive.sum(),
            "sampled_negatives": (targets.labels == Label.NEGATIVE).sum(),
        }
        return loss, parts, targets

    return jax.vmap(one_image)(keys, logits, deltas, batch.ground_truth, batch.image_hw)


def image_keys(key: jax.Array, step: int | Array, first: int | Array, count: int) -> jax.Array:
    """Returns a random key for each image: of (run, step, index in the global batch) alone."""
    key = jax.random.fold_in(jax.random.fold_in(key, 1), step)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(first + jnp.arange(count))


def micro_batches(count: int, share):
    """Returns the arrays (b, …) of a device's share as (count, b / count, …) for `lax.scan`.

    Image i is in micro-batch i mod `count`. For its index in the global batch it is the same one,
    so that a micro-batch of all devices has the same images however many devices there are, and
    synchronised statistics are theirs.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), share)


def make_train_step(
    config: ConfigDict,
    network: RegionProposalNetwork,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> Callable[[TrainState, DeviceBatch, jax.Array], tuple[TrainState, dict[str, Array]]]:
    """Returns `(state, batch, key) -> (state, metrics)`, to be mapped over the axis "data".

    It sees the whole state and one device's share of the batch, and leaves every device with the
    same new state and the metrics of the global batch. With `config.accumulation` it works through
    its share in micro-batches, and sums their gradients before those of the devices are. The key
    is `network.random_key`'s; it is an argument so that one program serves all seeds.
    """
    accumulation = config.accumulation

    def train_step(state: TrainState, batch: DeviceBatch, key: jax.Array):
        _, height, width, _ = batch.images.shape
        anchors = anchors_per_level(config, network, height, width)
        count = batch.images.shape[0]
        keys = image_keys(key, state.step, lax.axis_index(AXIS) * count, count)
        mask = trainable_mask(state.params, config.model.frozen_stages)
        trainable, frozen = partition(state.params, mask)

        def loss_of(trainable, batch_stats, keys, batch):
            variables = {"params": merge(trainable, frozen), "batch_stats": batch_stats}
            (logits, deltas), updated = forward(
                config,
                network,
                variables,
                batch.images,
                batch.image_hw,
                features=batch.features,
                train=True,
                mutable=["batch_stats"],
            )
            losses, parts, _ = image_losses(config, keys, logits, deltas, anchors, batch)
            return losses.mean(), (parts, updated.get("batch_stats", batch_stats))

        gradient_of = jax.grad(loss_of, has_aux=True)

        def add_gradient(carry, micro_batch):
            total, batch_stats = carry
            grads, (parts, batch_stats) = gradient_of(trainable, batch_stats, *micro_batch)
            return (jax.tree.map(jnp.add, total, grads), batch_stats), parts

        if accumulation == 1:
            grads, (parts, batch_stats) = gradient_of(trainable, state.batch_stats, keys, batch)
        else:
            zeros = jax.tree.map(jnp.zeros_like, trainable)
            (grads, batch_stats), parts = lax.scan(
                add_gradient,
                (zeros, state.batch_stats),
                micro_batches(accumulation, (keys, batch)),
            )
            grads = jax.tree.map(lambda grad: grad / accumulation, grads)
        parts = jax.tree.map(lambda values: values.astype(jnp.float32).mean(), parts)
        # Synchronised batch statistics are those of the global batch already.
        grads, parts = lax.pmean((grads, parts), AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        metrics = {
            **parts,
            "grad_norm": optax.global_norm(grads),
            "learning_rate": schedule(state.step),
        }
        trainable = optax.apply_updates(trainable, updates)
        ema = state.ema
        if config.ema_decay:
            ema = averaged(ema, trainable, batch_stats, state.step, config.ema_decay)
        params = merge(trainable, frozen)
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics

    return train_step


def make_eval_step(
    config: ConfigDict, network: RegionProposalNetwork, without: Sequence[str] = ()
) -> Callable:
    """Returns `(variables, batch, key) -> (proposals, losses, targets)` for each image of a share.

    Anchors are sampled by the run's key and the image's index in the split, so that the
    validation loss of a state is always the same, however the images are batched.

    `without` leaves parts of the network out of its proposals, as the paper's Table 2 does: "nms";
    "ranking", which draws them from all anchors at random, without NMS; "regression", whose
    proposals are the anchors themselves.
    """

    def eval_step(variables, batch: DeviceBatch, key: jax.Array):
        _, height, width, _ = batch.images.shape
        anchors = anchors_per_level(config, network, height, width)
        logits, deltas = forward(
            config, network, variables, batch.images, batch.image_hw, features=batch.features
        )
        key_of = functools.partial(jax.random.fold_in, jax.random.fold_in(key, 2))
        keys = jax.vmap(key_of)(batch.image_index)
        _, parts, targets = image_losses(config, keys, logits, deltas, anchors, batch)
        if "ranking" in without:
            logits = random_logits(keys, logits)
        if "regression" in without:
            deltas = jax.tree.map(jnp.zeros_like, deltas)
        proposals = propose_batch(
            config,
            logits,
            deltas,
            anchors,
            batch.image_hw,
            settings="test",
            min_outputs=max(config.evaluation.top_ns),
            with_nms=not {"nms", "ranking"} & set(without),
        )
        return proposals, parts, targets

    return eval_step


def random_logits(keys, logits_per_level):
    """Returns logits that rank all anchors of an image at random, by the image's key."""

    def one_image(key, logits_per_level):
        return tuple(
            jax.random.normal(jax.random.fold_in(key, level), logits.shape)
            for level, logits in enumerate(logits_per_level)
        )

    return jax.vmap(one_image)(keys, logits_per_level)


def make_propose_step(
    config: ConfigDict, network: RegionProposalNetwork, settings: str
) -> Callable:
    """Returns `(variables, (images, image_hw)) -> proposals`, for images without annotations."""

    def propose_step(variables, batch):
        images, image_hw = batch
        _, height, width, _ = images.shape
        anchors = anchors_per_level(config, network, height, width)
        logits, deltas = forward(config, network, variables, images, image_hw)
        return propose_batch(config, logits, deltas, anchors, image_hw, settings=settings)

    return propose_step
