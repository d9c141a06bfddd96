"""The state that a training run carries from one step to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rpn_jax.typing import Array


class TrainState(NamedTuple):
    """The run after `step` steps; state and config determine all later steps."""

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any = None  # averages of the trainable params and of batch_stats, see `averaged`


def partition(params, mask):
    """Returns `(trainable, frozen)`: the tree twice, each leaf in one and None in the other.

    JAX treats None as a subtree without leaves. Gradients, momentum and the sum over devices
    therefore exist for trainable leaves alone.
    """
    trainable = jax.tree.map(lambda leaf, keep: leaf if keep else None, params, mask)
    frozen = jax.tree.map(lambda leaf, keep: None if keep else leaf, params, mask)
    return trainable, frozen


def merge(trainable, frozen):
    """Returns the tree that `partition` split."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda leaf: leaf is None
    )


def initial_state(
    variables: dict[str, Any], mask, optimizer, *, with_ema: bool = False
) -> TrainState:
    """Returns the state before the first step, with averages where `config.ema_decay` is not 0."""
    trainable, _ = partition(variables["params"], mask)
    batch_stats = variables.get("batch_stats", {})
    averages = {"params": trainable, "batch_stats": batch_stats}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=batch_stats,
        opt_state=jax.jit(optimizer.init)(trainable),
        # Copies, because a buffer can be donated to the step only once.
        ema=jax.tree.map(jnp.copy, averages) if with_ema else None,
    )


def averaged(ema, trainable, batch_stats, step: int | Array, decay: float):
    """Returns the averages after step `step + 1`.

    They move towards the new values by 1 - decay, or by 9 / (10 + step) if that is more, so that
    the initial values are soon forgotten (as in TensorFlow's `ExponentialMovingAverage`). Batch
    statistics are averaged like their parameters; constant ones keep their bits.
    """
    share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    new = {"params": trainable, "batch_stats": batch_stats}
    return jax.tree.map(lambda average, value: average + share * (value - average), ema, new)


def evaluation_variables(state: TrainState) -> dict[str, Any]:
    """Returns the variables for evaluation and use: the averages if there are any."""
    if state.ema is None:
        return {"params": state.params, "batch_stats": state.batch_stats}
    params = merge(state.ema["params"], state.params)
    return {"params": params, "batch_stats": state.ema["batch_stats"]}
