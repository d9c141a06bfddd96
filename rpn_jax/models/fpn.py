"""The Feature Pyramid Network (Lin et al., arXiv 1612.03144), with torchvision's geometry."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import variance_scaling
from jaxtyping import Float

from rpn_jax.models.layers.convolution import Conv
from rpn_jax.models.layers.norms import normalize
from rpn_jax.models.neck import Neck
from rpn_jax.ops.barriers import computed_once
from rpn_jax.typing import Array

STAGES = ("c2", "c3", "c4", "c5")


class FPN(Neck):
    """Levels p2 to p6, all with as many channels, from the stages c2 to c5 of a backbone.

    From coarse to fine, each level's 1x1 "lateral" convolution of its stage is added to what was
    summed up for the level above; a 3x3 "output" convolution then makes the level of the sum. p6 is
    every second row and column of p5 (section 4.1 of the FPN paper), and is not pooled.
    """

    stages = STAGES

    def strides(self, strides: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the levels' strides, given those of the stages."""
        return (*strides, 2 * strides[-1])

    def grid_hw(self, grids: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """Returns the levels' rows and columns, given those of the stages."""
        rows, columns = grids[-1]
        return (*grids, (-(-rows // 2), -(-columns // 2)))

    def pooled(self, strides: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the strides of p2 to p5."""
        return strides[:-1]

    @nn.compact
    def __call__(
        self, features: tuple[Float[Array, "B _ _ _"], ...]
    ) -> tuple[Float[Array, "B _ _ {self.channels}"], ...]:
        """Returns the levels, finest first, of the stages' features, finest first."""
        levels, above = [], None
        for stage, feature in reversed(list(zip(STAGES, features, strict=True))):
            number = stage.removeprefix("c")
            merged = self._conv(1, f"lateral{number}", feature)
            if above is not None:
                merged += _enlarge(_enlarge(above, 1, merged.shape[1]), 2, merged.shape[2])
            levels.insert(0, computed_once(self._conv(3, f"output{number}", merged)))
            above = merged
        return (*levels, levels[-1][:, ::2, ::2])

    def _conv(self, kernel: int, name: str, x: Array) -> Array:
        x = Conv(
            self.channels,
            (kernel, kernel),
            padding=kernel // 2,
            use_bias=self.norm is None,
            dtype=self.dtype,
            kernel_init=variance_scaling(1.0, "fan_in", "uniform"),
            name=name,
        )(x)
        if self.norm:
            x = normalize(x, self.norm, train=False, dtype=self.dtype, name=f"norm_{name}")
        return x


def _enlarge(x: Float[Array, "B _ _ C"], axis: int, size: int) -> Float[Array, "B _ _ C"]:
    """Returns `x` with `size` rows (or columns), about twice as many, each a copy of the nearest.

    Row i is row `i * n // size` of the n, as in PyTorch. Where a backbone's rounding leaves
    `size = 2n - 1`, that is each row twice but for the last; where it leaves `2n + 1`, each twice
    and the first once more.
    """
    doubled = jnp.repeat(x, 2, axis)
    if size > doubled.shape[axis]:
        doubled = jnp.concatenate([lax.slice_in_dim(x, 0, 1, axis=axis), doubled], axis)
    return lax.slice_in_dim(doubled, 0, size, axis=axis)
