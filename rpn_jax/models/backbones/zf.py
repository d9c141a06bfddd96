"""The ZF net (Zeiler & Fergus, arXiv 1311.2901) up to conv5, as py-faster-rcnn trained it in Caffe.

AlexNet with a first convolution of 7x7/2, a second that strides too, and normalised maps. Every
layer is padded by half its window, so the receptive field of cell (i, j) of c5 is centred on the
middle (16 j + 0.5, 16 i + 0.5) of a pixel, 7.5 pixels above and to the left of anchors with
`offset=0.5`. py-faster-rcnn has its anchors there too: the box regression learns the shift.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from rpn_jax.models.backbones.alexnet import AlexNet, Layer
from rpn_jax.typing import Array

STAGES = {
    "c1": Layer(96, 7, 2, 3),
    "c2": Layer(256, 5, 2, 2, pool_padding=1),
    "c3": Layer(384, 3, 1, 1, pool_padding=1),
    "c4": Layer(384, 3, 1, 1),
    "c5": Layer(256, 3, 1, 1),
}


def within_channel_norm(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Returns `x / (1 + 5e-5 * mean)^0.75`, with the mean of the squares of 3x3 pixels around.

    This is Caffe's LRN layer with `norm_region: WITHIN_CHANNEL` and ZF's constants in
    py-faster-rcnn. Pixels beyond the border count as 0, among the nine as well.
    """
    # In float32 whatever the type: bfloat16 cannot tell 1 + 5e-5 * 50 from 1.
    pixels = x.astype(jnp.float32)
    mean = nn.avg_pool(jnp.square(pixels), (3, 3), padding=((1, 1), (1, 1)))
    return (pixels * (1 + 5e-5 * mean) ** -0.75).astype(x.dtype)


class ZF(AlexNet):
    """Features of the ZF net at the ends of stages c1 (conv1) to c5 (conv5).

    The fields are AlexNet's; the pools round up unless told otherwise, as in Caffe.
    """

    ceil_pools: bool = True

    layers = STAGES
    local_norm = staticmethod(within_channel_norm)
