"""What a detector is to everything that trains, measures or uses one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from flax import linen as nn
from jaxtyping import Float, Int, Key

from rpn_jax.typing import Array, Detections, Images, Proposals

Variables = Mapping[str, Any]  # "params" and "batch_stats", as `network.init` makes them


class Losses(NamedTuple):
    """What a batch costs, image by image.

    Fields:
      of_image: what is minimised, its mean over the batch.
      parts: what is logged: the loss, its parts, and counts, of each image.
      batch_stats: the network's running statistics after the batch.
      labels: of each image's anchors in its mini-batch, IGNORE outside of it.
    """

    of_image: Float[Array, " B"]
    parts: dict[str, Array]
    batch_stats: Any
    labels: Int[Array, "B A"]


class Found(NamedTuple):
    """What a detector finds in a batch of annotated images, to be measured.

    Fields:
      proposals: of the RPN, or those that came with the images.
      detections: of the second stage, None without one.
    """

    proposals: Proposals
    detections: Detections | None = None


@runtime_checkable
class Detector(Protocol):
    """A network and what is made of its outputs: losses in training, boxes afterwards.

    Every function is pure and knows nothing of devices. An image's random draws follow from its
    own key, so that they do not depend on how images are batched.
    """

    network: nn.Module

    def losses(
        self, variables: Variables, keys: Key[jax.Array, " B"], batch: Images, *, train: bool
    ) -> Losses:
        """Returns what the batch costs; `train` makes norms use the batch's statistics."""
        ...

    def predict(
        self, variables: Variables, images: Array, image_hw: Float[Array, "B 2"]
    ) -> Proposals | Detections:
        """Returns what is found in each image, in pixels of the network's input.

        One without an RPN takes `Proposals` as a fourth argument.
        """
        ...

    def assess(
        self,
        variables: Variables,
        keys: Key[jax.Array, " B"],
        batch: Images,
        without: Sequence[str] = (),
    ) -> tuple[Found, Losses]:
        """Returns what is found in each annotated image, and what it costs, of one look at it.

        `without` names parts to leave out of what is found, for ablations.
        """
        ...

    def with_counts(self, name: str) -> "Detector":
        """Returns the detector that makes as many proposals as for "train" or "test"."""
        ...

    def rpn(self) -> "Detector":
        """Returns the detector whose `predict` returns the proposals of the first stage."""
        ...

    def anchors(self, height: int, width: int) -> tuple[Array, ...]:
        """Returns the anchors of each level for a canvas of `height` x `width` pixels."""
        ...
