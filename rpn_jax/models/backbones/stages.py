"""What backbones have in common: their stages run one after another, the first of them frozen."""

from collections.abc import Callable, Mapping

from flax import linen as nn
from jax import lax
from jaxtyping import Float

from rpn_jax.typing import Array


def run_stages(
    stages: Mapping[str, Callable],
    images: Float[Array, "B H W 3"],
    train: bool,
    *,
    frozen_stages: int,
    output_stages: tuple[str, ...],
    remat: bool = False,
) -> tuple[Float[Array, "B _ _ _"], ...]:
    """Returns the features at the ends of `output_stages`; no stage beyond the last is run.

    A stage maps `(x, train)` to its features. The first `frozen_stages` are run with `train` off,
    so that their norms use running statistics, and get no gradient. With `remat` the others keep
    only their input for the backward pass, which runs them once more: all maps within a stage then
    have to be in memory for one stage at a time.
    """
    features = {}
    x = images
    for number, (name, stage) in enumerate(stages.items(), start=1):
        learns = train and number > frozen_stages
        x = (_run_again if remat and learns else _run)(stage, x, learns)
        if number <= frozen_stages:
            # Here, and not at each parameter, so that nothing below is differentiated. At each
            # frozen stage, because any may be an output.
            x = lax.stop_gradient(x)
        features[name] = x
        if name == output_stages[-1]:
            break
    return tuple(features[name] for name in output_stages)


def _run(stage, x, train):
    return stage(x, train)


_run_again = nn.remat(_run, static_argnums=(2,))  # in the backward pass
