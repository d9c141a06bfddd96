"""What necks have in common: they make the levels on which the heads sit of a backbone's stages."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.typing import Array


class Neck(nn.Module):
    """Levels of equally many channels, finest first, from some stages of a backbone.

    A subclass says which stages it takes and what their levels are like.

    Fields:
      channels: of every level.
      dtype: what to compute in; parameters are float32.
      norm: behind each convolution, "frozen_batch_norm" or "group_norm"; None is none.
    """

    stages: ClassVar[tuple[str, ...]] = ("c2", "c3", "c4", "c5")

    channels: int = 256
    dtype: DTypeLike = jnp.float32
    norm: str | None = None

    def strides(self, strides: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the levels' strides, given those of the stages."""
        raise NotImplementedError("the subclass has no strides()")

    def grid_hw(self, grids: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """Returns the levels' rows and columns, given those of the stages."""
        raise NotImplementedError("the subclass has no grid_hw()")

    def pooled(self, strides: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the strides of the levels that a second stage pools, the first of all levels."""
        return strides

    def __call__(
        self, features: tuple[Float[Array, "B _ _ _"], ...]
    ) -> tuple[Float[Array, "B _ _ C"], ...]:
        """Returns the levels, finest first, of the stages' features, finest first."""
        raise NotImplementedError("the subclass has no __call__()")
