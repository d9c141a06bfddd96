"""What backbones have in common: their stages run one after another, the first of them frozen."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.typing import Array


class Backbone(nn.Module):
    """Features of a network at the ends of its stages c1 to c5.

    A subclass says what its stages are, how they stride and how many cells they leave.

    Fields:
      frozen_stages: the first so many stages get no gradient and use their running statistics.
      output_stages: the stages whose features to return, finest first; none beyond is computed.
      remat: the stages that are not frozen keep only their input for the backward pass, which runs
        them once more: all maps within a stage have to be in memory for one stage at a time.
      dtype: what to compute in; parameters and statistics are float32.
    """

    frozen_stages: int = 0
    output_stages: tuple[str, ...] = ("c5",)
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def stages(self) -> Mapping[str, Callable]:
        """Returns the stages in order: modules of that name, which map `(x, train)` to features."""
        raise NotImplementedError("the subclass has no stages()")

    def stage_strides(self) -> dict[str, int]:
        """Returns the input pixels from one cell to the next, for each stage."""
        raise NotImplementedError("the subclass has no stage_strides()")

    def stage_cells(self, size: int) -> dict[str, int]:
        """Returns the cells along a side of `size` input pixels, for each stage."""
        raise NotImplementedError("the subclass has no stage_cells()")

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels from one cell to the next, for each output."""
        strides = self.stage_strides()
        return tuple(strides[stage] for stage in self.output_stages)

    def grid_hw(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Returns the rows and columns of each output for a canvas of `height` x `width` pixels."""
        rows, columns = self.stage_cells(height), self.stage_cells(width)
        return tuple((rows[stage], columns[stage]) for stage in self.output_stages)

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Returns one feature map for each output stage.

        With `train`, stages that are not frozen and have `sync_batch_norm` want a mapped axis
        "data" and a mutable collection `batch_stats`.
        """
        features = {}
        x = images
        for number, (name, stage) in enumerate(self.stages().items(), start=1):
            learns = train and number > self.frozen_stages
            x = (_run_again if self.remat and learns else _run)(stage, x, learns)
            if number <= self.frozen_stages:
                # Here, and not at each parameter, so that nothing below is differentiated. At each
                # frozen stage, because any may be an output.
                x = lax.stop_gradient(x)
            features[name] = x
            if name == self.output_stages[-1]:
                break
        return tuple(features[name] for name in self.output_stages)


def _run(stage, x, train):
    return stage(x, train)


_run_again = nn.remat(_run, static_argnums=(2,))  # in the backward pass
