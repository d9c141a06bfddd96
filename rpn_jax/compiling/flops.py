"""The FLOPs of a step, by XLA's analysis of the program before it is compiled."""

from collections.abc import Callable
from typing import Any

import jax

from rpn_jax.runs.devices import AXIS


def step_flops(step: Callable, state: Any, batch: Any, *whole: Any, platform: str) -> float:
    """Returns those of one device's step, without what it exchanges with others.

    For accelerators a convolution is one instruction there. Compiled for a CPU ours are loops, of
    which XLA counts one turn, and the compiler for GPUs does not count at all.

    Args:
      step: a function of the other arguments.
      state: arrays, or their shapes and types.
      batch: the device's share, as above.
      whole: further arguments, as above.
      platform: JAX's name of what the step is lowered for.
    """
    of_one = jax.vmap(step, in_axes=(None, 0, *[None for _ in whole]), axis_name=AXIS)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), batch)
    shapes = jax.eval_shape(lambda *arguments: arguments, state, batch, *whole)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # a GPU's plugin cannot count
        lowered = jax.jit(of_one).trace(*shapes).lower(lowering_platforms=(platform,))
    return lowered.cost_analysis()["flops"]
