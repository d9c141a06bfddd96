"""All that a training run carries from one step to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rpn_jax.typing import Array


class TrainState(NamedTuple):
    """The run after `step` steps; together with the config it determines all that follows."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState


def partition(params, mask):
    """Returns `(trainable, frozen)`: the tree twice, each leaf in one and None in the other.

    JAX takes None for a subtree without leaves, so that gradients, momentum and the sum over
    devices exist for trainable leaves alone.
    """
    trainable = jax.tree.map(lambda leaf, keep: leaf if keep else None, params, mask)
    frozen = jax.tree.map(lambda leaf, keep: None if keep else leaf, params, mask)
    return trainable, frozen


def merge(trainable, frozen):
    """Returns the tree that `partition` took apart."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda leaf: leaf is None
    )


def initial_state(variables: dict[str, Any], mask, optimizer) -> TrainState:
    """Returns the state before the first step."""
    trainable, _ = partition(variables["params"], mask)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.jit(optimizer.init)(trainable),
    )
