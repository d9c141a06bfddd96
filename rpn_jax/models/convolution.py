"""Convolution and pooling as the models call them."""

from flax import linen as nn
from jax import lax

conv_general_dilated = lax.conv_general_dilated


def max_pool(x, window=2, stride=2, padding=0):
    """Returns the maximum over each `window` x `window` patch (floor rounding of the output size)."""
    return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))
