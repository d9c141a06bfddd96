"""Box heads: from the pooled features of a region to the scores and the box of each class.

Here and in what calls it: R regions of an image; C classes, of which 0 is background. Each head is
a body, which makes one vector of a region, and two predictors on it (Fast R-CNN, arXiv 1504.08083,
section 2.1).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import normal, variance_scaling
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from rpn_jax.models.layers.convolution import Conv
from rpn_jax.models.layers.norms import normalize
from rpn_jax.models.layers.relu import relu
from rpn_jax.typing import Array

_Dense = functools.partial(nn.Dense, kernel_init=variance_scaling(1.0, "fan_in", "uniform"))


def convolved(
    x: Float[Array, "N h w _"], count: int, channels: int, norm: str | None, dtype: DTypeLike
) -> Float[Array, "N h w _"]:
    """Returns what leaves `count` 3x3 convolutions, `conv1` … of the calling module, with ReLUs.

    With a `norm`, see `norms.normalize`, each has `norm1` … behind it, and no bias.
    """
    for i in range(1, count + 1):
        conv = Conv(
            channels, (3, 3), padding=1, use_bias=norm is None, dtype=dtype, name=f"conv{i}"
        )
        x = conv(x)
        if norm:
            x = normalize(x, norm, train=False, dtype=dtype, name=f"norm{i}")
        x = relu(x)
    return x


class BoxHead(nn.Module):
    """Two sibling layers on a region's vector, which a subclass makes.

    Fields:
      num_classes: C, background included.
      pooled_hw: rows and columns of a region's features.
      class_agnostic: whether all classes share one box.
      dtype: what to compute in; parameters and outputs are float32.
    """

    num_classes: int
    pooled_hw: tuple[int, int] = (7, 7)
    class_agnostic: bool = False
    dtype: DTypeLike = jnp.float32

    def vectors(
        self, pooled: Float[Array, "N h w _"], keys: Key[jax.Array, " B"] | None
    ) -> Float[Array, "N _"]:
        """Returns the vector of each region; the N regions are those of B images in turn."""
        raise NotImplementedError

    def shared(self, pooled: Float[Array, "B R h w _"]) -> Float[Array, "B R _ _ _"]:
        """Returns what a mask head gets of each region: the features, or what a stage makes."""
        return pooled

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "B R h w _"], keys: Key[jax.Array, " B"] | None = None
    ) -> tuple[Float[Array, "B R {self.num_classes}"], Float[Array, "B R _ 4"]]:
        """Returns the class logits and the box deltas (x, y, width, height) of each region.

        With `class_agnostic` there is one box for all classes. `keys`, one for each image, are for
        dropout; without them there is none.
        """
        images, regions = pooled.shape[:2]
        x = self.vectors(pooled.reshape(-1, *pooled.shape[2:]), keys)
        boxes = 1 if self.class_agnostic else self.num_classes
        predictor = functools.partial(nn.Dense, dtype=self.dtype)
        logits = predictor(self.num_classes, kernel_init=normal(0.01), name="scores")(x)
        deltas = predictor(4 * boxes, kernel_init=normal(0.001), name="deltas")(x)
        return (
            logits.astype(jnp.float32).reshape(images, regions, self.num_classes),
            deltas.astype(jnp.float32).reshape(images, regions, boxes, 4),
        )


class FullyConnectedHead(BoxHead):
    """fc6 and fc7 with ReLUs: VGG-16's own two layers of 4096, or the FPN's new ones of 1024.

    Fields beside `BoxHead`'s:
      channels: of both layers.
      dropout: part of each layer's units that is dropped in training; 0.5 for VGG-16.
    """

    channels: int = 4096
    dropout: float = 0.5

    def vectors(self, pooled, keys):
        """Returns what leaves fc7."""
        x = pooled.reshape(len(pooled), -1)
        for number, name in enumerate(("fc6", "fc7")):
            x = relu(_Dense(self.channels, dtype=self.dtype, name=name)(x))
            if keys is not None and self.dropout:
                x = _drop_out(number, keys, x, self.dropout)
        return x


class ConvolutionHead(BoxHead):
    """3x3 convolutions, each with its norm and ReLU, then one fully connected layer.

    torchvision's `fasterrcnn_resnet50_fpn_v2` and detectron2's "4conv1fc" have four of 256.

    Fields beside `BoxHead`'s:
      channels: of the fully connected layer.
      convolutions: how many there are.
      width: their channels.
      norm: see `norms.normalize`; None for none.
    """

    channels: int = 1024
    convolutions: int = 4
    width: int = 256
    norm: str | None = None

    def vectors(self, pooled, keys):
        """Returns what leaves the fully connected layer."""
        x = convolved(pooled, self.convolutions, self.width, self.norm, self.dtype)
        x = x.reshape(len(x), -1)
        return relu(_Dense(self.channels, dtype=self.dtype, name="fc6")(x))


class StageHead(BoxHead, kw_only=True):
    """The last stage of a ResNet, on regions of its stage c4, then the mean over space.

    It is the head of ResNet-C4 (He et al., arXiv 1512.03385, appendix A).

    Fields beside `BoxHead`'s:
      stage: makes the stage, see `ResNet.stage_of`.
    """

    stage: Callable[..., nn.Module]

    def setup(self):
        """Makes the stage, which two methods run."""
        self.c5 = self.stage(name="c5")

    def vectors(self, pooled, keys):
        """Returns the mean of the stage's features."""
        return self.c5(pooled, False).mean((1, 2))

    def shared(self, pooled):
        """Returns the stage's features."""
        features = self.c5(pooled.reshape(-1, *pooled.shape[2:]), False)
        return features.reshape(*pooled.shape[:2], *features.shape[1:])


def _drop_out(number: int, keys: jax.Array, x: Array, rate: float) -> Array:
    """Sets units to 0, each with probability `rate`, and scales the others up.

    What is dropped of an image follows from its key, so that it does not depend on the batch.
    """

    def kept(key):
        shape = (len(x) // len(keys), x.shape[-1])
        return jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, shape)

    return jnp.where(jax.vmap(kept)(keys).reshape(x.shape), x / (1 - rate), 0)
