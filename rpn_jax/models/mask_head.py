"""The mask head: from the pooled features of a region, and its class, to a mask of its object.

Here and in what calls it: R regions of an image; C classes, of which 0 is background; M rows and
columns of a mask. See He et al., "Mask R-CNN", arXiv 1703.06870, figure 4.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import normal, variance_scaling, zeros
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from rpn_jax.models.box_head import convolved
from rpn_jax.models.layers.convolution import promote_dtype
from rpn_jax.models.layers.relu import relu
from rpn_jax.ops.barriers import computed_once
from rpn_jax.typing import Array


class Upsample(nn.Module):
    """A transposed 2x2 convolution of stride 2: each cell becomes four.

    Their windows do not overlap, so that it is one matrix product. The four stay side by side, for
    what follows sees each cell by itself: to put them where they belong here would copy the
    largest map of the head, twice in a training step.

    Fields:
      channels: of each of the four.
      dtype: what to compute in.
    """

    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N h w _"]) -> Float[Array, "N h w 4*{self.channels}"]:
        """Returns the four of each cell, in the order of rows, columns and channels."""
        shape = (2, 2, x.shape[-1], self.channels)
        kernel = self.param("kernel", variance_scaling(2.0, "fan_out", "normal"), shape)
        bias = self.param("bias", zeros, (self.channels,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        cells = jnp.einsum("nyxc,abco->nyxabo", x, kernel)
        return cells.reshape(*x.shape[:-1], -1) + jnp.tile(bias, 4)[None, None, None]


class MapOfClass(nn.Module):
    """A ReLU, and a 1x1 convolution to a map for each class: a region gets that of its own class.

    The loss and the detections ask for no other (arXiv 1703.06870, section 3). The ReLU is in here
    so that the largest map of the head goes as soon as it has its gradient: see `promote_dtype`.

    Fields:
      num_classes: C.
      dtype: what to compute in.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "N h w _"], labels: Int[Array, " N"]
    ) -> Float[Array, "N 2*h 2*w 1"]:
        """Returns the map of each region's class, of what `Upsample` returns."""
        count, rows, columns, _ = x.shape
        x = x.reshape(count, rows, columns, 2, 2, -1)
        shape = (1, 1, x.shape[-1], self.num_classes)
        kernel = self.param("kernel", normal(0.001), shape)[0, 0]
        bias = self.param("bias", zeros, (self.num_classes,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        # Neither this nor its gradient needs to gather or scatter, nor spreads what is not finite.
        is_class = jnp.arange(self.num_classes)[None] == labels[:, None]
        kernel = jnp.where(is_class[:, None], kernel[None], 0).sum(-1)
        bias = jnp.where(is_class, bias[None], 0).sum(-1)
        cells = _product(relu(x), kernel)
        return cells.reshape(count, 2 * rows, 2 * columns, 1) + bias[:, None, None, None]


@jax.custom_jvp
def _product(
    x: Float[Array, "N h w 2 2 F"], kernel: Float[Array, "N F"]
) -> Float[Array, "N h 2 w 2"]:
    """Returns the product of each cell with its region's kernel, the cells where they belong."""
    return jnp.einsum("nf,nyxabf->nyaxb", kernel, x)


@_product.defjvp
def _jvp(primals, tangents):
    (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
    # Not as a product of matrices, whose gradient XLA would write down before `relu` masks it.
    of_x = (x_tangent * kernel[:, None, None, None, None]).sum(-1)
    of_kernel = _product(x, kernel_tangent)
    return _product(x, kernel), of_x.transpose(0, 1, 3, 2, 4) + of_kernel


class MaskHead(nn.Module):
    """3x3 convolutions, each with its norm and ReLU; a transposed one; and the map of the class.

    On a pyramid there are four convolutions. Behind the last stage of a ResNet, which the head
    shares with the box head, there is none.

    Fields:
      num_classes: C, background included, of whose mask nobody asks.
      pooled_hw: rows and columns of a region's features.
      channels: of the convolutions.
      convolutions: how many there are before the transposed one.
      norm: behind them, see `norms.normalize`; None for none.
      dtype: what to compute in; parameters and outputs are float32.
    """

    num_classes: int
    pooled_hw: tuple[int, int] = (14, 14)
    channels: int = 256
    convolutions: int = 4
    norm: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "B R h w _"], labels: Int[Array, "B R"]
    ) -> Float[Array, "B R 2*h 2*w"]:
        """Returns the logits of each region's mask, as the mask of an object of its class."""
        # XLA's CPU backend would keep the samples of RoIAlign for the gradient, not their means.
        x = computed_once(pooled.reshape(-1, *pooled.shape[2:]))
        x = convolved(x, self.convolutions, self.channels, self.norm, self.dtype)
        x = Upsample(self.channels, dtype=self.dtype, name="upsample")(x)
        map_of_class = MapOfClass(self.num_classes, dtype=self.dtype, name="logits")
        logits = map_of_class(x, labels.reshape(-1)).astype(jnp.float32)
        return logits.reshape(*pooled.shape[:2], *logits.shape[1:3])
