"""The Region Proposal Network: a backbone, and one head that slides over each level of features.

Here and in what calls it: L levels, finest first; level l has H_l rows and W_l columns; K anchors
stand at each position. Anchors are ordered row, column, anchor.
"""

import functools
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import normal
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.layers.convolution import Conv
from rpn_jax.models.layers.relu import relu
from rpn_jax.typing import Array

# "New layers" of the paper, section 3.1.3: weights from N(0, 0.01), biases 0.
_Conv = functools.partial(Conv, padding="SAME", kernel_init=normal(0.01))


class RPNHead(nn.Module):
    """A 3x3 convolution with ReLU, then two sibling 1x1 convolutions (the paper, section 3.1).

    With `objectness="softmax"` the classifier has the paper's 2K channels: K scores for
    background, then K for object, as py-faster-rcnn lays them out. The head returns object minus
    background: its sigmoid *is* the softmax probability of an object, so that the log loss, and its
    gradient with respect to both scores, are those of the softmax, and nothing after the head need
    know which it was. `"sigmoid"` has that logit as its only channel, as later systems do.

    Fields:
      num_anchors: K.
      channels: of the 3x3 convolution; 512 for VGG-16, 256 for ZF and FPN.
      objectness: "sigmoid" or "softmax".
      dtype: what to compute in; parameters and outputs are float32.
      convolutions: how many 3x3 convolutions there are.
    """

    num_anchors: int
    channels: int = 512
    objectness: Literal["sigmoid", "softmax"] = "sigmoid"
    dtype: DTypeLike = jnp.float32
    convolutions: int = 1

    @nn.compact
    def __call__(
        self, features: Float[Array, "B H W C"]
    ) -> tuple[
        Float[Array, "B H*W*{self.num_anchors}"], Float[Array, "B H*W*{self.num_anchors} 4"]
    ]:
        """Returns the objectness logits and the box deltas (x, y, width, height) of a level."""
        num_images, K = features.shape[0], self.num_anchors
        scores_per_anchor = {"sigmoid": 1, "softmax": 2}[self.objectness]
        x = features
        for i in range(1, self.convolutions + 1):
            name = "conv" if i == 1 else f"conv{i}"
            x = relu(_Conv(self.channels, (3, 3), dtype=self.dtype, name=name)(x))
        scores = _Conv(scores_per_anchor * K, (1, 1), dtype=self.dtype, name="objectness")(x)
        deltas = _Conv(4 * K, (1, 1), dtype=self.dtype, name="deltas")(x)
        logits = scores.astype(jnp.float32)
        if self.objectness == "softmax":
            logits = logits[..., K:] - logits[..., :K]
        return (
            logits.reshape(num_images, -1),
            deltas.astype(jnp.float32).reshape(num_images, -1, 4),
        )
